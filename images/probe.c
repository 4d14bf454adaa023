/* sidecar-probe [PATH]: exit code 0 if the sidecar on this host is ready, 1 if it is not, with a line that says why.
 * sidecar-probe drain [SECONDS]: let what comes in finish, for as long at most (60). For the hook that runs before an app
 * is told to end, so it is 0 in any case, as the app has to end; a line says what went wrong.
 *
 * A container engine runs it every few seconds beside each app, and Python takes fifteen times as long to start as this
 * takes in all. SIDECAR_ADMIN says where the admin API is, as for all commands, SIDECAR_ADMIN_TOKEN its token. PATH is
 * /ready unless given; /health is about the app, too. Linked statically, it runs in any image.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT "http://127.0.0.1:15000"
#define SECONDS 3
#define DRAIN_SECONDS 60

static const char *url;
static int draining;

static int fail(const char *why)
{
    fprintf(stderr, "sidecar-probe: %s: %s\n", url, why);
    return !draining;
}

static void too_late(int number)
{
    static const char text[] = "sidecar-probe: no answer in time\n";
    (void)number;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(!draining);
}

/* Split host and port of [http://]host[:port][/], with the host of IPv6 in brackets. 0 if it is something else. */
static int split(char *rest, char **host, char **port)
{
    size_t scheme = strlen("http://"), length;
    if (strncmp(rest, "http://", scheme) == 0)
        rest += scheme;
    length = strlen(rest);
    if (length && rest[length - 1] == '/')
        rest[--length] = 0;
    *host = rest;
    *port = strrchr(rest, ':');
    if (*rest == '[') {
        char *end = strchr(rest, ']');
        if (!end || (end[1] && end[1] != ':'))
            return 0;
        *port = end[1] ? end + 1 : NULL;
        *end = 0;
        ++*host;
    }
    if (*port)
        *(*port)++ = 0;
    else
        *port = "80";
    return **host && !strchr(*host, '/') && **port && strlen(*port) == strspn(*port, "0123456789");
}

/* A connection to the first address that takes one; -1 with errno. */
static int dial(const struct addrinfo *it)
{
    int sock = -1;
    for (; it; it = it->ai_next) {
        sock = socket(it->ai_family, it->ai_socktype, it->ai_protocol);
        if (sock >= 0 && connect(sock, it->ai_addr, it->ai_addrlen) == 0)
            return sock;
        if (sock >= 0) {
            int why = errno;
            close(sock);
            errno = why;
        }
    }
    return -1;
}

/* The status of the answer; 0 with errno where the connection failed, -1 where the answer is no HTTP. */
static int ask(int sock, const char *host, const char *path)
{
    char text[2048];
    size_t got = 0;
    const char *token = getenv("SIDECAR_ADMIN_TOKEN");
    int known = draining && token && *token;
    int length = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nhost: %s\r\n%s%s%sconnection: close\r\n\r\n",
                          draining ? "POST" : "GET", path, host, known ? "authorization: Bearer " : "",
                          known ? token : "", known ? "\r\n" : "");
    if (length < 0 || (size_t)length >= sizeof text)
        return -1;
    if (write(sock, text, (size_t)length) != length)
        return 0;
    while (got < strlen("HTTP/1.1 200 ")) {
        ssize_t more = read(sock, text + got, sizeof text - 1 - got);
        if (more < 0)
            return 0;
        if (more == 0)
            return -1;
        got += (size_t)more;
    }
    text[got] = 0;
    return strncmp(text, "HTTP/1.", 7) == 0 && strspn(text + 9, "0123456789") == 3 ? atoi(text + 9) : -1;
}

int main(int count, char **arguments)
{
    const char *path = count > 1 ? arguments[1] : "/ready";
    int seconds = SECONDS;
    char *copy, *host, *port, said[64];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error, sock, status;

    signal(SIGALRM, too_late);
    signal(SIGPIPE, SIG_IGN);
    draining = strcmp(path, "drain") == 0;
    if (draining) {
        path = "/drain?wait=1";
        seconds = count > 2 && atoi(arguments[2]) > 0 ? atoi(arguments[2]) : DRAIN_SECONDS;
    }
    alarm((unsigned)seconds);
    url = getenv("SIDECAR_ADMIN");
    if (!url || !*url)
        url = DEFAULT;
    copy = strdup(url);
    if (!copy || !split(copy, &host, &port))
        return fail("not the URL of an admin API; one looks like " DEFAULT);
    error = getaddrinfo(host, port, &hints, &found);
    if (error)
        return fail(gai_strerror(error));
    sock = dial(found);
    if (sock < 0)
        return fail(strerror(errno));
    status = ask(sock, host, path);
    if (status == 200)
        return 0;
    if (status > 0)
        snprintf(said, sizeof said, "answers %d", status);
    return fail(status > 0 ? said : status < 0 ? "what answers is not an admin API" : strerror(errno));
}

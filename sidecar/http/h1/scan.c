/* Heads of HTTP/1.1 messages, read in one pass: pure functions over bytes, without allocation, Python or state.
 *
 * A head is either taken as a whole or not at all, and whatever comes behind it is not looked at. It is taken when every byte is as the grammar wants it (RFC 9112 §2 to
 * §5, RFC 9110 §5) and everything that a proxy acts upon stands there once and in its usual form. All else, and so whatever
 * is to be refused or mended, is for the parser in head.py: this file has no error texts and no second opinion. What
 * it takes, that parser takes too, with the same result; the tests hold them against each other.
 *
 * Bounds: `at` only grows, and is compared with `end` before each read. Each byte is read a fixed number of times at most.
 */

#include "scan.h"

#include <string.h>

/* What becomes of a field: nobody here acts upon it; it is noted; its line ends here, too (RFC 9110 §7.6.1); the head is
 * not for this file. */
enum fate { PASS, NOTE, DROP, LEAVE };

static const struct {
    const char *name;
    uint8_t in_request, in_answer; /* fates */
} RULES[FIELDS] = {
    [CONNECTION] = {"connection", DROP, DROP},
    [CONTENT_LENGTH] = {"content-length", NOTE, NOTE},
    [EXPECT] = {"expect", NOTE, PASS},
    [FORWARDED] = {"forwarded", NOTE, PASS},
    [HOST] = {"host", NOTE, PASS},
    [HTTP2_SETTINGS] = {"http2-settings", LEAVE, PASS},
    [KEEP_ALIVE] = {"keep-alive", DROP, DROP},
    [PROXY_CONNECTION] = {"proxy-connection", DROP, DROP},
    [RETRY_AFTER] = {"retry-after", PASS, NOTE},
    [TE] = {"te", LEAVE, PASS},
    [TRACEPARENT] = {"traceparent", NOTE, PASS},
    [TRACESTATE] = {"tracestate", NOTE, PASS},
    [TRANSFER_ENCODING] = {"transfer-encoding", NOTE, NOTE},
    [UPGRADE] = {"upgrade", LEAVE, DROP},
    [X_FORWARDED_FOR] = {"x-forwarded-for", NOTE, PASS},
    [X_FORWARDED_PROTO] = {"x-forwarded-proto", NOTE, PASS},
    [X_REQUEST_ID] = {"x-request-id", NOTE, PASS},
    [B3] = {"b3", NOTE, PASS},
    [X_B3_FLAGS] = {"x-b3-flags", NOTE, PASS},
    [X_B3_PARENTSPANID] = {"x-b3-parentspanid", NOTE, PASS},
    [X_B3_SAMPLED] = {"x-b3-sampled", NOTE, PASS},
    [X_B3_SPANID] = {"x-b3-spanid", NOTE, PASS},
    [X_B3_TRACEID] = {"x-b3-traceid", NOTE, PASS},
    [SIDECAR_DEADLINE] = {"x-sidecar-deadline", DROP, LEAVE},
    [SIDECAR_LOAD] = {"x-sidecar-load", DROP, LEAVE},
    [OTHER_B3] = {NULL, LEAVE, PASS},
    [OTHER_SIDECAR] = {NULL, LEAVE, LEAVE},
    [OTHER] = {NULL, PASS, PASS},
};

const char *field_name(enum field field)
{
    return RULES[field].name;
}

const char *const METHOD_NAMES[METHODS] = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"};

/* The fields to compare a name with, by its size. OTHER, which is 0, ends each list. */
#define LONGEST 18
static const uint8_t BY_SIZE[LONGEST + 1][5] = {
    [2] = {TE, B3},
    [4] = {HOST},
    [6] = {EXPECT},
    [7] = {UPGRADE},
    [9] = {FORWARDED},
    [10] = {CONNECTION, KEEP_ALIVE, TRACESTATE, X_B3_FLAGS},
    [11] = {TRACEPARENT, RETRY_AFTER, X_B3_SPANID},
    [12] = {X_REQUEST_ID, X_B3_TRACEID, X_B3_SAMPLED},
    [14] = {CONTENT_LENGTH, HTTP2_SETTINGS, SIDECAR_LOAD},
    [15] = {X_FORWARDED_FOR},
    [16] = {PROXY_CONNECTION},
    [17] = {TRANSFER_ENCODING, X_FORWARDED_PROTO, X_B3_PARENTSPANID},
    [18] = {SIDECAR_DEADLINE},
};

/* -- bytes ---------------------------------------------------------------------------------------------------------- */

/* The lower case of a byte that may stand in a token (RFC 9110 §5.6.2); 0 of any other. */
static const uint8_t TOKEN[256] = {
    ['!'] = '!', ['#'] = '#', ['$'] = '$', ['%'] = '%', ['&'] = '&', ['\''] = '\'', ['*'] = '*', ['+'] = '+',
    ['-'] = '-', ['.'] = '.', ['^'] = '^', ['_'] = '_', ['`'] = '`', ['|'] = '|', ['~'] = '~',
    ['0'] = '0', ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4', ['5'] = '5', ['6'] = '6', ['7'] = '7',
    ['8'] = '8', ['9'] = '9',
    ['a'] = 'a', ['b'] = 'b', ['c'] = 'c', ['d'] = 'd', ['e'] = 'e', ['f'] = 'f', ['g'] = 'g', ['h'] = 'h',
    ['i'] = 'i', ['j'] = 'j', ['k'] = 'k', ['l'] = 'l', ['m'] = 'm', ['n'] = 'n', ['o'] = 'o', ['p'] = 'p',
    ['q'] = 'q', ['r'] = 'r', ['s'] = 's', ['t'] = 't', ['u'] = 'u', ['v'] = 'v', ['w'] = 'w', ['x'] = 'x',
    ['y'] = 'y', ['z'] = 'z',
    ['A'] = 'a', ['B'] = 'b', ['C'] = 'c', ['D'] = 'd', ['E'] = 'e', ['F'] = 'f', ['G'] = 'g', ['H'] = 'h',
    ['I'] = 'i', ['J'] = 'j', ['K'] = 'k', ['L'] = 'l', ['M'] = 'm', ['N'] = 'n', ['O'] = 'o', ['P'] = 'p',
    ['Q'] = 'q', ['R'] = 'r', ['S'] = 's', ['T'] = 't', ['U'] = 'u', ['V'] = 'v', ['W'] = 'w', ['X'] = 'x',
    ['Y'] = 'y', ['Z'] = 'z',
};

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

/* Of eight bytes, the first one lowest: the highest bit of each that is below `least` (128 at most) or DEL. Of those that
 * are set, the lowest one is right; a borrow may have set others (Warren, Hacker's Delight, §6-1). */
static uint64_t odd_ones(const uint8_t *at, uint64_t least)
{
    const uint64_t ones = 0x0101010101010101u, highs = 0x80 * ones;
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    uint64_t del = word ^ 0x7f * ones;
    return (((word - least * ones) & ~word) | ((del - ones) & ~del)) & highs;
}

/* The first byte from `at` on that is below `least` or DEL; `end`: none is. */
static size_t skip(const uint8_t *bytes, size_t at, size_t end, uint8_t least)
{
    for (; end - at >= 8; at += 8) {
        uint64_t odd = odd_ones(bytes + at, least);
        if (odd != 0)
            return at + (size_t)__builtin_ctzll(odd) / 8;
    }
    while (at < end && bytes[at] >= least && bytes[at] != 0x7f)
        at++;
    return at;
}

/* Where a value ends (RFC 9110 §5.5): behind visible ASCII, obs-text, space and tab. */
static size_t skip_value(const uint8_t *bytes, size_t at, size_t end)
{
    while ((at = skip(bytes, at, end, 0x20)) < end && bytes[at] == '\t')
        at++;
    return at;
}

/* The same without white space; the target's grammar (RFC 9112 §3.2) is for the app. */
static size_t skip_target(const uint8_t *bytes, size_t at, size_t end)
{
    return skip(bytes, at, end, 0x21);
}

/* What a registered name or an IPv4 address is made of (RFC 3986 §3.2.2), a percent sign included. */
static bool is_reg_name(uint8_t byte)
{
    uint8_t lower = TOKEN[byte];
    if ((lower >= 'a' && lower <= 'z') || is_digit(byte) || byte == '.' || byte == '-')
        return true;
    return byte != 0 && strchr("_~!$&'()*+,;=%", byte) != NULL;
}

/* What stands between the brackets of an address; zones are left to others. */
static bool is_literal(uint8_t byte)
{
    uint8_t lower = TOKEN[byte];
    return is_digit(byte) || (lower >= 'a' && lower <= 'f') || lower == 'v' || byte == '.' || byte == ':';
}

/* -- words ---------------------------------------------------------------------------------------------------------- */

/* Whether these bytes are that word of token characters; `lower` is its lower case and has as many. */
static bool same(const uint8_t *at, const char *lower, size_t size)
{
    for (size_t n = 0; n < size; n++)
        if (TOKEN[at[n]] != (uint8_t)lower[n])
            return false;
    return true;
}

static bool is_word(const uint8_t *bytes, struct span span, const char *lower)
{
    size_t size = span.end - span.begin;
    return size == strlen(lower) && same(bytes + span.begin, lower, size);
}

/* The same span without white space around it. */
static struct span stripped(const uint8_t *bytes, struct span span)
{
    while (span.begin < span.end && (bytes[span.begin] == ' ' || bytes[span.begin] == '\t'))
        span.begin++;
    while (span.begin < span.end && (bytes[span.end - 1] == ' ' || bytes[span.end - 1] == '\t'))
        span.end--;
    return span;
}

/* Apps that make variables of names do not see the difference between a hyphen and an underscore. */
static bool is_sidecars(const uint8_t *name, size_t size)
{
    return size >= 10 && TOKEN[name[0]] == 'x' && (name[1] == '-' || name[1] == '_') && same(name + 2, "sidecar", 7) &&
           (name[9] == '-' || name[9] == '_');
}

/* The field of that name, which consists of token characters. */
static enum field lookup(const uint8_t *name, size_t size)
{
    if (size <= LONGEST)
        for (const uint8_t *field = BY_SIZE[size]; *field != OTHER; field++)
            if (same(name, RULES[*field].name, size))
                return (enum field)*field;
    if (is_sidecars(name, size))
        return OTHER_SIDECAR;
    if (size >= 5 && same(name, "x-b3-", 5))
        return OTHER_B3;
    return OTHER;
}

/* -- fields --------------------------------------------------------------------------------------------------------- */

size_t end_of_head(const uint8_t *bytes, size_t size, size_t seen)
{
    size_t at = seen > 3 ? seen - 3 : 0;
    while (size >= 4 && at <= size - 4) { /* not at + 4, which may be too much for a number */
        const uint8_t *found = memchr(bytes + at, '\r', size - 3 - at);
        if (found == NULL)
            return 0;
        at = (size_t)(found - bytes);
        if (memcmp(found, "\r\n\r\n", 4) == 0)
            return at + 4;
        at++;
    }
    return 0;
}

bool has(const struct head *head, enum field field)
{
    return head->values[field].end != 0; /* no value ends where the head begins */
}

/* Read the field lines from `at` on, and the empty line, with which the head ends (RFC 9112 §2.1, §5). */
static bool scan_fields(const uint8_t *bytes, size_t at, size_t end, size_t most, bool answer, struct head *head)
{
    for (;;) {
        size_t begin = at;
        while (at < end && TOKEN[bytes[at]] != 0)
            at++;
        if (at == begin) {
            head->size = at + 2;
            return end - at >= 2 && bytes[at] == '\r' && bytes[at + 1] == '\n';
        }
        if (at == end || bytes[at] != ':' || most-- == 0)
            return false;
        enum field field = lookup(bytes + begin, at - begin);
        size_t value = at + 1;
        at = skip_value(bytes, value, end);
        if (end - at < 2 || bytes[at] != '\r' || bytes[at + 1] != '\n')
            return false;
        enum fate fate = (enum fate)(answer ? RULES[field].in_answer : RULES[field].in_request);
        if (fate != PASS) {
            if (fate == LEAVE || has(head, field))
                return false;
            head->values[field] = (struct span){value, at};
            head->order[head->count++] = (uint8_t)field;
            if (fate == DROP)
                head->dropped[head->drops++] = (struct span){begin, at + 2};
        }
        at += 2;
    }
}

/* Where the body ends (RFC 9112 §6.3); `otherwise` when no field says so. A length is plain digits without a zero in
 * front, and has room in 64 bits; anything else is not for here. */
static bool scan_framing(const uint8_t *bytes, int64_t otherwise, struct head *head)
{
    head->length = otherwise;
    if (has(head, TRANSFER_ENCODING)) {
        struct span coding = head->values[TRANSFER_ENCODING];
        if (has(head, CONTENT_LENGTH) || coding.end - coding.begin != 8 || memcmp(bytes + coding.begin, " chunked", 8) != 0)
            return false;
        head->length = CHUNKED;
    } else if (has(head, CONTENT_LENGTH)) {
        struct span digits = stripped(bytes, head->values[CONTENT_LENGTH]);
        size_t size = digits.end - digits.begin;
        if (size == 0 || size > 18 || (size > 1 && bytes[digits.begin] == '0'))
            return false;
        head->length = 0;
        for (size_t at = digits.begin; at < digits.end; at++) {
            if (!is_digit(bytes[at]))
                return false;
            head->length = head->length * 10 + (bytes[at] - '0');
        }
    }
    return true;
}

/* Whether the connection is to be used again (RFC 9112 §9.3). Options that name fields are not for here. */
static bool scan_connection(const uint8_t *bytes, struct head *head)
{
    head->keep_alive = true;
    if (has(head, CONNECTION)) {
        struct span option = stripped(bytes, head->values[CONNECTION]);
        head->keep_alive = !is_word(bytes, option, "close");
        return !head->keep_alive || is_word(bytes, option, "keep-alive");
    }
    return true;
}

/* uri-host [":" port] (RFC 9110 §7.2). It is empty where the target has no authority (RFC 9112 §3.2). */
static bool is_host(const uint8_t *bytes, struct span host)
{
    host = stripped(bytes, host);
    size_t at = host.begin;
    if (at == host.end)
        return true;
    if (bytes[at] == '[') {
        size_t begin = ++at;
        while (at < host.end && is_literal(bytes[at]))
            at++;
        if (at == begin || at == host.end || bytes[at++] != ']')
            return false;
    } else {
        while (at < host.end && is_reg_name(bytes[at]))
            at++;
        if (at == host.begin)
            return false;
    }
    if (at == host.end)
        return true;
    if (bytes[at++] != ':' || host.end - at > 5)
        return false;
    while (at < host.end && is_digit(bytes[at]))
        at++;
    return at == host.end;
}

/* -- ids ------------------------------------------------------------------------------------------------------------ */

/* Lower-case hexadecimal digits, not all of them 0. */
static bool is_id(const uint8_t *digits, size_t count)
{
    bool null = true;
    for (size_t n = 0; n < count; n++) {
        if (!is_digit(digits[n]) && (digits[n] < 'a' || digits[n] > 'f'))
            return false;
        null = null && digits[n] == '0';
    }
    return !null;
}

/* What is known of a context of version 00 (W3C Trace Context, level 2, §3.2.2); others are not for here. */
static void scan_traceparent(const uint8_t *bytes, struct request *request)
{
    struct span value = stripped(bytes, request->head.values[TRACEPARENT]);
    const uint8_t *at = bytes + value.begin;
    if (value.end - value.begin != 55 || memcmp(at, "00-", 3) != 0 || at[35] != '-' || at[52] != '-')
        return;
    static const char hex[] = "0123456789abcdef";
    const char *high = memchr(hex, at[53], 16), *low = memchr(hex, at[54], 16);
    request->traced = is_id(at + 3, 32) && is_id(at + 36, 16) && high != NULL && low != NULL;
    if (request->traced)
        request->trace_flags = (unsigned)(low - hex) & 3;
}

/* An id that goes into logs and answers is short and visible ASCII. */
#define LONGEST_ID 128

static void scan_request_id(const uint8_t *bytes, struct request *request)
{
    struct span value = stripped(bytes, request->head.values[X_REQUEST_ID]);
    if (value.end - value.begin > LONGEST_ID)
        return;
    for (size_t at = value.begin; at < value.end; at++)
        if (bytes[at] < 0x21 || bytes[at] > 0x7e)
            return;
    request->request_id = value;
}

/* -- heads ---------------------------------------------------------------------------------------------------------- */

/* The length of a method that is known, at the beginning, with the space behind it; 0: it is another. */
static size_t scan_method(const uint8_t *bytes, size_t size, enum method *method)
{
    for (int n = 0; n < METHODS; n++) {
        size_t letters = strlen(METHOD_NAMES[n]);
        if (size > letters && bytes[letters] == ' ' && memcmp(bytes, METHOD_NAMES[n], letters) == 0) {
            *method = (enum method)n;
            return letters + 1;
        }
    }
    return 0;
}

/* A request's head that can be taken: HTTP/1.1, a known method, a path as target. */
bool scan_request(const uint8_t *bytes, size_t size, const struct limits *limits, struct request *request)
{
    static const char version[] = " HTTP/1.1\r\n";
    const size_t rest = sizeof version - 1;
    struct head *head = &request->head;
    memset(request, 0, sizeof *request);
    size = size < limits->head ? size : limits->head;
    size_t at = scan_method(bytes, size, &request->method);
    if (at == 0 || at == size || bytes[at] != '/')
        return false;
    request->target.begin = at;
    at = skip_target(bytes, at, size);
    request->target.end = at;
    if (at - request->target.begin > limits->target || size - at < rest || memcmp(bytes + at, version, rest) != 0)
        return false;
    if (!scan_fields(bytes, at + rest, size, limits->headers, false, head))
        return false;
    if (!has(head, HOST) || !is_host(bytes, head->values[HOST]))
        return false;
    if (has(head, EXPECT)) {
        /* Hyphens and digits are token characters, too. */
        if (!is_word(bytes, stripped(bytes, head->values[EXPECT]), "100-continue"))
            return false;
        request->expects_continue = true;
    }
    if (has(head, TRACEPARENT))
        scan_traceparent(bytes, request);
    if (has(head, X_REQUEST_ID))
        scan_request_id(bytes, request);
    return scan_framing(bytes, 0, head) && scan_connection(bytes, head);
}

/* An answer's head that can be taken: HTTP/1.1, not an interim one. */
bool scan_answer(const uint8_t *bytes, size_t size, const struct limits *limits, struct answer *answer)
{
    static const char version[] = "HTTP/1.1 ";
    size_t at = sizeof version - 1;
    struct head *head = &answer->head;
    memset(answer, 0, sizeof *answer);
    size = size < limits->head ? size : limits->head;
    if (size < at + 3 || memcmp(bytes, version, at) != 0)
        return false;
    if (!is_digit(bytes[at]) || !is_digit(bytes[at + 1]) || !is_digit(bytes[at + 2]))
        return false;
    answer->status = (bytes[at] - '0') * 100 + (bytes[at + 1] - '0') * 10 + (bytes[at + 2] - '0');
    at += 3;
    if (answer->status < 200)
        return false;
    if (at < size && bytes[at] == ' ')
        at = skip_value(bytes, at, size);
    if (size - at < 2 || bytes[at] != '\r' || bytes[at + 1] != '\n')
        return false;
    if (!scan_fields(bytes, at + 2, size, limits->headers, true, head))
        return false;
    if (!scan_framing(bytes, UNTIL_CLOSE, head) || !scan_connection(bytes, head))
        return false;
    if (answer->status == 204 || answer->status == 304) { /* RFC 9112 §6.3: there is no body */
        if (head->length == CHUNKED || (answer->status == 204 && head->length > 0))
            return false; /* RFC 9110 §8.6: nor may it be announced; that is mended elsewhere */
        head->length = 0;
    }
    return true;
}

/* -- onward --------------------------------------------------------------------------------------------------------- */

size_t onward_size(const struct head *head)
{
    size_t size = head->size;
    for (size_t n = 0; n < head->drops; n++)
        size -= head->dropped[n].end - head->dropped[n].begin;
    return size;
}

void write_onward(const struct head *head, const uint8_t *bytes, uint8_t *to)
{
    size_t at = 0;
    for (size_t n = 0; n < head->drops; n++) {
        memcpy(to, bytes + at, head->dropped[n].begin - at);
        to += head->dropped[n].begin - at;
        at = head->dropped[n].end;
    }
    memcpy(to, bytes + at, head->size - at);
}

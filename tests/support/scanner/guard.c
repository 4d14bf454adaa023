/* Scans heads that lie at either edge of mapped memory: a read beyond them is a crash. Each head is tried at its full
 * length and at every shorter one, up to MOST bytes cut at either side; its bytes that go on are written to such a place,
 * too.
 *
 * Input: a head's size in four bytes, the lowest first, and the head; and so on. Prints how many scans there were.
 */

#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scan.h"

#define ROOM 131072 /* for the largest head; pages */
#define MOST 512

static const struct limits LIMITS[] = {{65536, 100, 8192}, {65536, 2, 4}};

/* Memory between two pages that must not be touched. */
static uint8_t *fenced(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *all = mmap(NULL, ROOM + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all, page, PROT_NONE) != 0 || mprotect(all + page + ROOM, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(2);
    }
    return all + page;
}

static void write_out(const struct head *head, const uint8_t *bytes, size_t size, uint8_t *out)
{
    size_t left = onward_size(head);
    if (head->size > size || left > size)
        abort();
    write_onward(head, bytes, out + ROOM - left);
}

static void scan(const uint8_t *bytes, size_t size, uint8_t *out)
{
    struct request request;
    struct answer answer;
    const size_t seen[] = {0, size / 2, size, SIZE_MAX};
    for (size_t n = 0; n < sizeof seen / sizeof *seen; n++)
        if (end_of_head(bytes, size, seen[n]) > size)
            abort();
    for (size_t n = 0; n < sizeof LIMITS / sizeof *LIMITS; n++) {
        if (scan_request(bytes, size, &LIMITS[n], &request))
            write_out(&request.head, bytes, size, out);
        if (scan_answer(bytes, size, &LIMITS[n], &answer))
            write_out(&answer.head, bytes, size, out);
    }
}

int main(void)
{
    uint8_t *room = fenced(), *out = fenced(), *head = malloc(ROOM), begin[4];
    unsigned long scans = 0;
    if (head == NULL)
        return 2;
    while (fread(begin, 1, 4, stdin) == 4) {
        size_t size = begin[0] | (size_t)begin[1] << 8 | (size_t)begin[2] << 16 | (size_t)begin[3] << 24;
        if (size > ROOM || fread(head, 1, size, stdin) != size)
            return 2;
        for (size_t cut = 0; cut <= size && cut <= MOST; cut++, scans += 4) {
            size_t left = size - cut;
            uint8_t *at_end = room + ROOM - left;
            memcpy(at_end, head, left); /* without its end */
            scan(at_end, left, out);
            memcpy(at_end, head + cut, left); /* without its beginning */
            scan(at_end, left, out);
            memcpy(room, head, left);
            scan(room, left, out);
            memcpy(room, head + cut, left);
            scan(room, left, out);
        }
    }
    free(head);
    printf("%lu\n", scans);
    return 0;
}

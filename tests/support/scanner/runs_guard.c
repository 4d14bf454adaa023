/* Cuts bytes that lie at either edge of mapped memory into frames and runs, and puts traces into those that are publishes:
 * a read or a write beyond the edges is a crash. Each input is tried at its full length and at every shorter one, up to
 * MOST bytes cut at either side.
 *
 * Input: a size in four bytes, the lowest first, and so many bytes; and so on. Prints how many units there were.
 */

#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runs.h"

#define ROOM 131072 /* pages */
#define MOST 512

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

/* As the relay does; and with a run by itself at the edge, as if nothing stood behind it. */
static unsigned long cut(const uint8_t *bytes, size_t size, uint8_t *alone, uint8_t *out, uint8_t *ids)
{
    static const uint8_t least[] = "80000000000000";
    unsigned long units = 0;
    for (int runs = 0; runs < 2; runs++) {
        struct unit unit;
        for (size_t at = 0; next_unit(bytes, size, at, 4096, runs == 1, &unit); at = unit.end, units++) {
            if (unit.start != at || unit.end <= at || unit.end > size || unit.count == 0)
                abort();
            if (unit.kind != PUBLISHES)
                continue;
            size_t length = unit.end - at, count;
            uint8_t *copy = alone + ROOM - length;
            memcpy(copy, bytes + at, length);
            size_t longer = traced_size(copy, length, 4096, &count);
            if (longer == 0)
                continue;
            if (count != unit.count || longer > ROOM || count * IDS > ROOM)
                abort();
            write_traced(copy, length, ids + ROOM - count * IDS, least, sizeof least - 1, out + ROOM - longer);
        }
        size_t count;
        traced_size(bytes, size, 4096, &count);
    }
    struct publishes all;
    if (whole_publishes(bytes, size, 4096, &all) && all.traced <= ROOM && all.count * IDS <= ROOM) {
        if (all.key > size || all.key_size > size - all.key)
            abort();
        if (all.bare)
            write_traced(bytes, size, ids + ROOM - all.count * IDS, least, sizeof least - 1, out + ROOM - all.traced);
    }
    struct acks acks;
    whole_acks(bytes, size, 4096, &acks);
    struct deliveries deliveries;
    if (whole_deliveries(bytes, size, 4096, &deliveries) &&
        (deliveries.key > size || deliveries.key_size > size - deliveries.key || deliveries.first > deliveries.last))
        abort();
    return units;
}

int main(void)
{
    uint8_t *room = fenced(), *alone = fenced(), *out = fenced(), *ids = fenced(), *whole = malloc(ROOM), begin[4];
    unsigned long units = 0;
    if (whole == NULL)
        return 2;
    while (fread(begin, 1, 4, stdin) == 4) {
        size_t size = begin[0] | (size_t)begin[1] << 8 | (size_t)begin[2] << 16 | (size_t)begin[3] << 24;
        if (size > ROOM || fread(whole, 1, size, stdin) != size)
            return 2;
        for (size_t less = 0; less <= size && less <= MOST; less++) {
            size_t left = size - less;
            uint8_t *at_end = room + ROOM - left;
            memcpy(at_end, whole, left); /* without its end */
            units += cut(at_end, left, alone, out, ids);
            memcpy(at_end, whole + less, left); /* without its beginning */
            units += cut(at_end, left, alone, out, ids);
            memcpy(room, whole + less, left);
            units += cut(room, left, alone, out, ids);
        }
    }
    free(whole);
    printf("%lu\n", units);
    return 0;
}

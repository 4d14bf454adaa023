/* As blocks.c, of what cuts bytes into frames and runs, and puts traces into those: a line of blocks for each input. */

#include <stdio.h>
#include <stdlib.h>

#include "runs.h"

#define ROOM 4194304

static unsigned long blocks;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
    blocks++;
}

int main(void)
{
    static uint8_t data[ROOM], ids[ROOM], out[8 * ROOM];
    uint8_t begin[4];
    while (fread(begin, 1, 4, stdin) == 4) {
        size_t size = begin[0] | (size_t)begin[1] << 8 | (size_t)begin[2] << 16 | (size_t)begin[3] << 24, count;
        if (size > ROOM || fread(data, 1, size, stdin) != size)
            return 2;
        blocks = 0;
        struct unit unit;
        for (size_t at = 0; next_unit(data, size, at, 1 << 30, true, &unit); at = unit.end)
            if (unit.kind == PUBLISHES && traced_size(data + at, unit.end - at, 1 << 30, &count) != 0)
                write_traced(data + at, unit.end - at, ids, data, 0, out);
        struct publishes publishes;
        struct acks acks;
        struct deliveries deliveries;
        whole_publishes(data, size, 1 << 30, &publishes);
        whole_acks(data, size, 1 << 30, &acks);
        whole_deliveries(data, size, 1 << 30, &deliveries);
        printf("%lu\n", blocks);
    }
    return 0;
}

/* Counts the basic blocks that a scan runs through: the scanner is compiled with -fsanitize-coverage=trace-pc, so that each
 * of its blocks calls the counter below. Unlike a clock, it counts the same on every machine.
 *
 * Input as for guard.c. Prints a line for each head: blocks as a request, and as an answer.
 */

#include <stdio.h>
#include <stdlib.h>

#include "scan.h"

#define ROOM 1048576

static unsigned long blocks;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
    blocks++;
}

int main(void)
{
    const struct limits limits = {65536, 100, 8192};
    struct request request;
    struct answer answer;
    uint8_t begin[4], *head = malloc(ROOM), *out = malloc(ROOM);
    if (head == NULL || out == NULL)
        return 2;
    while (fread(begin, 1, 4, stdin) == 4) {
        size_t size = begin[0] | (size_t)begin[1] << 8 | (size_t)begin[2] << 16 | (size_t)begin[3] << 24;
        if (size > ROOM || fread(head, 1, size, stdin) != size)
            return 2;
        blocks = 0;
        end_of_head(head, size, 0);
        if (scan_request(head, size, &limits, &request))
            write_onward(&request.head, head, out);
        unsigned long of_request = blocks;
        blocks = 0;
        if (scan_answer(head, size, &limits, &answer))
            write_onward(&answer.head, head, out);
        printf("%lu %lu\n", of_request, blocks);
    }
    free(head);
    free(out);
    return 0;
}

/* Frames of AMQP for fuzz.c. Each input is cut, and its runs of publishes get traces, in memory that has exactly its bytes;
 * then support.scanner.runs_oracle compares what the extension says of it with the reading in Python.
 *
 * An input begins with how it is read: an octet of bits (0 and 1: what is called, 2 to 4: how many bytes stand before it, 5
 * to 7: behind it), the largest frame in two octets, the lower one first, and one that is for the oracle alone.
 */

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "runs.h"

#define HOW 4

PyMODINIT_FUNC PyInit__runs(void);

static const char TURNS[] = "\0\1\2\3\7\x08\x0b\x0e\x14\x15\x16\x28\x32\x3c\x50\x20\x40\x80\xc0\xa0\xce\xff" "b3tS";

const struct target TARGET = {
    "_runs", PyInit__runs,
    "import _runs\n"
    "from functools import partial\n"
    "from support.scanner.runs_oracle import compare_input\n"
    "compare = partial(compare_input, _runs)\n",
    TURNS, sizeof TURNS - 1, true,
};

static uint8_t *room_for(size_t size)
{
    uint8_t *room = malloc(size);
    if (room == NULL && size != 0)
        abort();
    return room;
}

/* These bytes, and no others beside them. */
static uint8_t *alone(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = room_for(size);
    if (size != 0)
        memcpy(copy, bytes, size);
    return copy;
}

/* Put traces into these bytes: each one is written that it says there are. */
static void trace(const uint8_t *bytes, size_t size, uint32_t limit)
{
    static const uint8_t least[] = "80000000000000";
    size_t count;
    uint8_t *copy = alone(bytes, size);
    size_t longer = traced_size(copy, size, limit, &count);
    if (longer != 0) {
        if (longer < size + count * ENTRY || longer > size + count * (ENTRY + 4))
            abort();
        uint8_t *ids = room_for(count * IDS), *one = room_for(longer), *other = room_for(longer);
        memset(ids, 0x7f, count * IDS);
        memset(one, 0, longer);
        memset(other, 0xff, longer);
        write_traced(copy, size, ids, least, sizeof least - 1, one);
        write_traced(copy, size, ids, least, sizeof least - 1, other);
        if (memcmp(one, other, longer) != 0)
            abort();
        free(ids);
        free(one);
        free(other);
    }
    free(copy);
}

size_t check(const uint8_t *data, size_t size, const uint8_t *known, size_t of_known)
{
    (void)known;
    (void)of_known; /* Python sees all of them: what is no frame is told from one by either */
    if (size < HOW)
        return 0;
    uint32_t limit = data[1] | (uint32_t)data[2] << 8;
    if (limit == UINT16_MAX)
        limit = UINT32_MAX;
    bool for_traces = data[0] & 1, whole = data[0] & 2;
    size -= HOW;
    uint8_t *bytes = alone(data + HOW, size);
    for (int runs = 0; runs < 2; runs++) {
        struct unit unit;
        uint32_t largest = for_traces ? UINT32_MAX : limit;
        for (size_t at = data[0] >> 2 & 7; next_unit(bytes, size, at, largest, runs == 1, &unit); at = unit.end) {
            if (unit.start != at || unit.end <= at || unit.end > size || unit.count == 0)
                abort();
            if (unit.kind == PUBLISHES)
                trace(bytes + at, unit.end - at, limit);
        }
    }
    if (whole)
        trace(bytes, size, limit);
    free(bytes);
    compare(data, size + HOW);
    return 0;
}

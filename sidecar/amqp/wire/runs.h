/* Frames of AMQP 0-9-1 that stand side by side and are alike, found in one pass. What each function does: runs.c. */

#ifndef SIDECAR_RUNS_H
#define SIDECAR_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a unit is: a frame, by its type; or a run of whole messages, or of acks. As in runs.py. */
enum { METHOD = 1, HEADER = 2, BODY = 3, HEARTBEAT = 8, PUBLISHES = 16, DELIVERIES = 17, ACKS = 18 };

/* `count` frames, messages or acks in bytes `start` up to `end`, all on one channel. */
struct unit {
    int kind;
    uint16_t channel;
    size_t start, end, count;
};

/* What a trace takes: random bytes of a message, their digits, and the entry of a table that has them. */
#define IDS 24
#define DIGITS (2 * IDS)
#define ENTRY 72
/* The digits of a trace id by which it is sampled, its last ones. */
#define DECIDING 14

/* The next unit of what stands at `at` (whole, and no longer than `limit` bytes a frame); false: there is none. Runs are
 * only looked for if `runs`. */
bool next_unit(const uint8_t *bytes, size_t size, size_t at, uint32_t limit, bool runs, struct unit *unit);

/* A run of publishes that is all there is: exchange and routing key begin at `key`; `traced` bytes with a trace in each
 * header. Either none has one yet (`bare`), or each has. */
struct publishes {
    uint16_t channel;
    bool bare;
    size_t count, key, key_size, traced;
};

/* A run of acks that is all there is: of each number from `first` to `last`; of all up to that, if `first` is 0. */
struct acks {
    uint16_t channel;
    uint64_t first, last;
};

/* A run of deliveries that is all there is, with tags from `first` to `last`; their consumer's tag begins at `key`. */
struct deliveries {
    uint16_t channel;
    uint64_t first, last;
    size_t key, key_size;
};

/* Whether these bytes are one run of publishes, with traces or with room for them; of acks, single ones and multiple; or
 * of deliveries. */
bool whole_publishes(const uint8_t *bytes, size_t size, uint32_t limit, struct publishes *run);
bool whole_acks(const uint8_t *bytes, size_t size, uint32_t limit, struct acks *run);
bool whole_deliveries(const uint8_t *bytes, size_t size, uint32_t limit, struct deliveries *run);

/* How long a run of publishes is with a trace in each header; 0: it cannot have them. */
size_t traced_size(const uint8_t *bytes, size_t size, uint32_t limit, size_t *count);

/* That run with a trace in each header, written to `to`; of the ids that come to `least` or more it says so. */
void write_traced(
    const uint8_t *bytes, size_t size, const uint8_t *ids, const uint8_t *least, size_t least_size, uint8_t *to
);

#endif

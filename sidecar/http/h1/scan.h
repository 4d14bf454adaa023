/* Heads of HTTP/1.1 messages, read in one pass. What each function does and leaves to others: scan.c. */

#ifndef SIDECAR_SCAN_H
#define SIDECAR_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The fields that a proxy acts upon. */
enum field {
    OTHER, /* any other */
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HTTP2_SETTINGS, KEEP_ALIVE, PROXY_CONNECTION, RETRY_AFTER, TE,
    TRACEPARENT, TRACESTATE, TRANSFER_ENCODING, UPGRADE, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID,
    B3, X_B3_FLAGS, X_B3_PARENTSPANID, X_B3_SAMPLED, X_B3_SPANID, X_B3_TRACEID,
    SIDECAR_DEADLINE, SIDECAR_LOAD,
    OTHER_B3,      /* x-b3- and anything else */
    OTHER_SIDECAR, /* the same of x-sidecar- */
    FIELDS
};

enum method { GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE, METHODS };

/* The most lines that do not go on: each is of another field. */
#define MOST_DROPPED 8

/* Lengths of bodies that are no length; as in framing.py. */
#define CHUNKED (-1)
#define UNTIL_CLOSE (-2)

/* What a peer may send: bytes of a head, fields, bytes of a target. */
struct limits {
    size_t head, headers, target;
};

/* Bytes from `begin` up to `end`, counted from the head's first one. */
struct span {
    size_t begin, end;
};

struct head {
    struct span values[FIELDS]; /* of those in `order`: behind the colon, with white space */
    uint8_t order[FIELDS];      /* the fields there are, as their lines come */
    size_t count;
    struct span dropped[MOST_DROPPED]; /* lines that end at this hop, in order */
    size_t drops;
    size_t size;    /* of the head, its empty line included */
    int64_t length; /* of the body, or CHUNKED, or UNTIL_CLOSE */
    bool keep_alive;
};

struct request {
    struct head head;
    enum method method;
    struct span target;
    bool expects_continue;
    bool traced;            /* its traceparent is a good one, and of the usual form: */
    unsigned trace_flags;   /* those that are known */
    struct span request_id; /* an id that can be kept; empty: there is none */
};

struct answer {
    struct head head;
    int status;
};

extern const char *const METHOD_NAMES[METHODS];

/* In lower case; NULL: it has no name of its own. */
const char *field_name(enum field field);

/* Whether `bytes` begin with a head that can be taken. What is behind it is not looked at. */
bool scan_request(const uint8_t *bytes, size_t size, const struct limits *limits, struct request *request);
bool scan_answer(const uint8_t *bytes, size_t size, const struct limits *limits, struct answer *answer);

/* Where the head ends that `bytes` begin with, behind its empty line; 0: not among these. In the first `seen` of them it
 * does not end. */
size_t end_of_head(const uint8_t *bytes, size_t size, size_t seen);

/* Whether there is a line of that field. */
bool has(const struct head *head, enum field field);

/* How many bytes go on of a head, and those bytes, which `to` has room for. */
size_t onward_size(const struct head *head);
void write_onward(const struct head *head, const uint8_t *bytes, uint8_t *to);

#endif

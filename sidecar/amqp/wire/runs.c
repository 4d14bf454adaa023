/* Cuts bytes into frames, and finds runs among them: publishes to one exchange with one routing key, deliveries to one
 * consumer with consecutive tags, acks of consecutive tags. Only what is whole, and in its usual form, becomes part of a
 * run; all else stays single frames, for those who know what to do with them (relay/forward.py). Pure functions: they
 * read and write what they are given, no more than twice, and keep nothing.
 */

#include "runs.h"

#include <string.h>

#define OVERHEAD 8
#define END_OCTET 0xCE
#define BASIC 60
#define BASIC_PUBLISH 0x003C0028u
#define BASIC_DELIVER 0x003C003Cu
#define BASIC_ACK 0x003C0050u
#define ACK_SIZE 21

/* Offsets in a frame: of its size, its payload, a method's arguments, a content header's flags and properties. */
#define SIZE 3
#define PAYLOAD 7
#define ARGUMENTS 11
#define FLAGS 19
#define PROPERTIES 21

/* Flags of properties, in their first octet, and the one in the second that says that more flags follow. */
#define CONTENT_TYPE 0x80
#define CONTENT_ENCODING 0x40
#define HEADERS 0x20
#define MORE_FLAGS 0x01

struct frame {
    int kind;
    uint16_t channel;
    size_t start, end;
};

/* Bytes from `begin` up to `end`. */
struct span {
    size_t begin, end;
};

/* One message, or one ack. */
struct item {
    size_t end;
    struct span key; /* exchange and routing key; or the consumer's tag */
    uint64_t tag;
    size_t header; /* bytes of a publish's header frame */
    struct span headers;
};

static const uint8_t TRACEPARENT[] = "\x0btraceparent";
static const uint8_t B3[] = "\x02" "b3";
static const uint8_t BEGIN_OF_ENTRY[] = "\x0btraceparentS\x00\x00\x00\x37" "00-";

static uint16_t u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t u64(const uint8_t *at)
{
    return (uint64_t)u32(at) << 32 | u32(at + 4);
}

static void put_u32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

/* A whole and well-formed frame at `at`. */
static bool frame_at(const uint8_t *bytes, size_t size, size_t at, uint32_t limit, struct frame *frame)
{
    if (at > size || size - at < OVERHEAD || limit < OVERHEAD)
        return false;
    int kind = bytes[at];
    uint32_t payload = u32(bytes + at + SIZE);
    if ((kind != METHOD && kind != HEADER && kind != BODY && kind != HEARTBEAT) || payload > limit - OVERHEAD ||
        payload > size - at - OVERHEAD || bytes[at + PAYLOAD + payload] != END_OCTET)
        return false;
    *frame = (struct frame){kind, u16(bytes + at + 1), at, at + OVERHEAD + payload};
    return true;
}

/* Two short strings, which fill the span. */
static bool two_strings(const uint8_t *bytes, struct span span)
{
    if (span.end - span.begin < 2)
        return false;
    size_t second = span.begin + 1 + bytes[span.begin];
    return second < span.end && second + 1 + bytes[second] == span.end;
}

/* The header and the bodies that follow a message's method on its channel: where the last one ends, and the header;
 * false: they are not all there, or do not fit. */
static bool content_at(
    const uint8_t *bytes, size_t size, size_t at, uint16_t channel, uint32_t limit, struct frame *header, size_t *end
)
{
    if (!frame_at(bytes, size, at, limit, header) || header->kind != HEADER || header->channel != channel ||
        header->end - at < PROPERTIES + 1 || u16(bytes + at + PAYLOAD) != BASIC)
        return false;
    uint64_t left = u64(bytes + at + ARGUMENTS);
    at = header->end;
    while (left > 0) {
        struct frame body;
        if (!frame_at(bytes, size, at, limit, &body) || body.kind != BODY || body.channel != channel ||
            body.end - at - OVERHEAD > left)
            return false;
        left -= body.end - at - OVERHEAD;
        at = body.end;
    }
    *end = at;
    return true;
}

/* Where in a header frame the headers are, or would be, with their length before them; false: that is odd. */
static bool headers_of(const uint8_t *bytes, const struct frame *header, struct span *headers)
{
    const uint8_t *frame = bytes + header->start;
    size_t last = header->end - header->start - 1, at = PROPERTIES;
    if (frame[FLAGS + 1] & MORE_FLAGS)
        return false;
    if (frame[FLAGS] & CONTENT_TYPE)
        at += 1u + frame[at]; /* the end octet at most: it is there */
    if (frame[FLAGS] & CONTENT_ENCODING && at <= last)
        at += 1u + frame[at];
    if (at > last)
        return false;
    size_t end = at;
    if (frame[FLAGS] & HEADERS) {
        if (last - at < 4 || u32(frame + at) > last - at - 4)
            return false;
        end = at + 4 + u32(frame + at);
    }
    *headers = (struct span){header->start + at, header->start + end};
    return true;
}

static bool contains(const uint8_t *bytes, struct span span, const uint8_t *name, size_t length)
{
    const uint8_t *at = bytes + span.begin, *end = bytes + span.end;
    while ((size_t)(end - at) >= length && (at = memchr(at, name[0], (size_t)(end - at) - length + 1)) != NULL) {
        if (memcmp(at, name, length) == 0)
            return true;
        at++;
    }
    return false;
}

/* Bytes that a header grows by: the entry, and the table's length where there is no table. */
static uint32_t growth(struct span headers)
{
    return headers.begin == headers.end ? ENTRY + 4 : ENTRY;
}

/* A whole publish. */
static bool publish_at(const uint8_t *bytes, size_t size, const struct frame *method, uint32_t limit, struct item *item)
{
    if (method->end - method->start < ARGUMENTS + 6)
        return false;
    /* A reserved short comes before exchange and routing key, an octet of bits after them. */
    item->key = (struct span){method->start + ARGUMENTS + 2, method->end - 2};
    item->tag = 0;
    struct frame header;
    if (!two_strings(bytes, item->key) ||
        !content_at(bytes, size, method->end, method->channel, limit, &header, &item->end) ||
        !headers_of(bytes, &header, &item->headers))
        return false;
    item->header = header.end - header.start;
    return true;
}

/* Whether there is no trace in headers, wherever one might be. */
static bool bare(const uint8_t *bytes, struct span headers)
{
    return !contains(bytes, headers, TRACEPARENT, sizeof TRACEPARENT - 1) && !contains(bytes, headers, B3, sizeof B3 - 1);
}

/* Whether one of the entries of headers is a trace, and those before it are well-formed. */
static bool has_trace(const uint8_t *bytes, struct span headers)
{
    if (headers.begin == headers.end)
        return false;
    for (size_t at = headers.begin + 4, left; at < headers.end; at = headers.end - left) {
        size_t value = at + 1u + bytes[at], size;
        if (value >= headers.end)
            return false;
        if (bytes[at] == TRACEPARENT[0] && memcmp(bytes + at, TRACEPARENT, sizeof TRACEPARENT - 1) == 0)
            return true;
        left = headers.end - value - 1;
        switch (bytes[value]) {
        case 'V':
            size = 0;
            break;
        case 't': case 'b': case 'B':
            size = 1;
            break;
        case 's': case 'u':
            size = 2;
            break;
        case 'I': case 'i': case 'f':
            size = 4;
            break;
        case 'D':
            size = 5;
            break;
        case 'l': case 'L': case 'd': case 'T':
            size = 8;
            break;
        case 'S': case 'x': case 'A': case 'F':
            if (left < 4)
                return false;
            size = 4 + (size_t)u32(bytes + value + 1);
            break;
        default:
            return false;
        }
        if (size > left)
            return false;
        left -= size;
    }
    return false;
}

/* A whole delivery. */
static bool delivery_at(const uint8_t *bytes, size_t size, const struct frame *method, uint32_t limit, struct item *item)
{
    size_t last = method->end - 1, at = method->start + ARGUMENTS;
    if (at >= last || last - at < 1u + bytes[at] + 9u)
        return false;
    item->key = (struct span){at + 1, at + 1 + bytes[at]};
    item->tag = u64(bytes + item->key.end);
    struct frame header;
    return two_strings(bytes, (struct span){item->key.end + 9, last}) &&
           content_at(bytes, size, method->end, method->channel, limit, &header, &item->end);
}

/* The beginning of a run. */
static bool item_at(
    const uint8_t *bytes, size_t size, size_t at, uint32_t limit, int *kind, uint16_t *channel, struct item *item
)
{
    struct frame method;
    if (!frame_at(bytes, size, at, limit, &method) || method.kind != METHOD || method.end - at < ARGUMENTS + 1)
        return false;
    *channel = method.channel;
    switch (u32(bytes + at + PAYLOAD)) {
    case BASIC_PUBLISH:
        *kind = PUBLISHES;
        return publish_at(bytes, size, &method, limit, item) && bare(bytes, item->headers);
    case BASIC_DELIVER:
        *kind = DELIVERIES;
        return delivery_at(bytes, size, &method, limit, item) && item->tag > 0;
    case BASIC_ACK:
        *kind = ACKS;
        if (method.end - at != ACK_SIZE || bytes[at + ARGUMENTS + 8] != 0)
            return false;
        *item = (struct item){method.end, {at, at}, u64(bytes + at + ARGUMENTS), 0, {at, at}};
        return item->tag > 0;
    default:
        return false;
    }
}

static bool same(const uint8_t *bytes, struct span one, struct span other)
{
    size_t length = one.end - one.begin;
    return length == other.end - other.begin && memcmp(bytes + one.begin, bytes + other.begin, length) == 0;
}

bool next_unit(const uint8_t *bytes, size_t size, size_t at, uint32_t limit, bool runs, struct unit *unit)
{
    struct item first, next;
    int kind;
    uint16_t channel;
    if (runs && at < size && bytes[at] == METHOD && item_at(bytes, size, at, limit, &unit->kind, &unit->channel, &first)) {
        unit->start = at;
        unit->end = first.end;
        unit->count = 1;
        while (item_at(bytes, size, unit->end, limit, &kind, &channel, &next) && kind == unit->kind &&
               channel == unit->channel && same(bytes, first.key, next.key) &&
               (kind == PUBLISHES || next.tag - first.tag == unit->count)) {
            unit->end = next.end;
            unit->count++;
        }
        return true;
    }
    struct frame frame;
    if (!frame_at(bytes, size, at, limit, &frame))
        return false;
    *unit = (struct unit){frame.kind, frame.channel, frame.start, frame.end, 1};
    return true;
}

/* -- a whole reading that is one run --------------------------------------------------------------------------------- */

bool whole_publishes(const uint8_t *bytes, size_t size, uint32_t limit, struct publishes *run)
{
    struct item first = {0}, next;
    *run = (struct publishes){.traced = size};
    for (size_t at = 0; at < size; at = next.end) {
        struct frame method;
        if (!frame_at(bytes, size, at, limit, &method) || method.kind != METHOD || method.end - at < ARGUMENTS + 1 ||
            u32(bytes + at + PAYLOAD) != BASIC_PUBLISH || !publish_at(bytes, size, &method, limit, &next))
            return false;
        bool needs = bare(bytes, next.headers);
        if (at == 0) {
            first = next;
            run->channel = method.channel;
            run->bare = needs;
        } else if (method.channel != run->channel || needs != run->bare || !same(bytes, first.key, next.key)) {
            return false;
        }
        if (needs ? next.header > limit || limit - next.header < growth(next.headers) : !has_trace(bytes, next.headers))
            return false;
        if (needs)
            run->traced += growth(next.headers);
        run->count++;
    }
    if (run->count == 0)
        return false;
    run->key = first.key.begin;
    run->key_size = first.key.end - first.key.begin;
    return true;
}

bool whole_acks(const uint8_t *bytes, size_t size, uint32_t limit, struct acks *run)
{
    *run = (struct acks){0};
    for (size_t at = 0; at < size; at += ACK_SIZE) {
        struct frame ack;
        if (!frame_at(bytes, size, at, limit, &ack) || ack.kind != METHOD || ack.end - at != ACK_SIZE ||
            u32(bytes + at + PAYLOAD) != BASIC_ACK || bytes[at + ARGUMENTS + 8] > 1)
            return false;
        bool multiple = bytes[at + ARGUMENTS + 8] == 1;
        uint64_t tag = u64(bytes + at + ARGUMENTS);
        if (at == 0) {
            run->channel = ack.channel;
            run->first = tag;
        } else if (ack.channel != run->channel || tag <= run->last || (!multiple && tag - run->last != 1)) {
            return false;
        }
        if (tag == 0)
            return false;
        if (multiple)
            run->first = 0;
        run->last = tag;
    }
    return run->last > 0;
}

bool whole_deliveries(const uint8_t *bytes, size_t size, uint32_t limit, struct deliveries *run)
{
    struct unit unit;
    if (!next_unit(bytes, size, 0, limit, true, &unit) || unit.kind != DELIVERIES || unit.end != size)
        return false;
    size_t key = ARGUMENTS + 1, key_size = bytes[ARGUMENTS];
    uint64_t first = u64(bytes + key + key_size);
    *run = (struct deliveries){unit.channel, first, first + unit.count - 1, key, key_size};
    return true;
}

/* -- traces ---------------------------------------------------------------------------------------------------------- */

/* The header frame of the publish at `at`, and its headers; where the publish ends. */
static size_t header_of(const uint8_t *bytes, size_t size, size_t at, struct frame *header, struct span *headers)
{
    struct frame method;
    size_t end;
    if (!frame_at(bytes, size, at, UINT32_MAX, &method) ||
        !content_at(bytes, size, method.end, method.channel, UINT32_MAX, header, &end) ||
        !headers_of(bytes, header, headers))
        return 0;
    return end;
}

size_t traced_size(const uint8_t *bytes, size_t size, uint32_t limit, size_t *count)
{
    size_t longer = size;
    *count = 0;
    for (size_t at = 0; at < size; ++*count) {
        struct frame header;
        struct span headers;
        size_t end = header_of(bytes, size, at, &header, &headers);
        if (end == 0 || header.end - header.start > limit || limit - (header.end - header.start) < growth(headers))
            return 0;
        longer += growth(headers);
        at = end;
    }
    return longer;
}

static uint8_t *copied(uint8_t *to, const uint8_t *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

static uint8_t *put_entry(uint8_t *to, const uint8_t *ids, const uint8_t *least, size_t least_size)
{
    static const char HEXADECIMAL[] = "0123456789abcdef";
    uint8_t digits[DIGITS];
    for (size_t n = 0; n < IDS; n++) {
        digits[2 * n] = (uint8_t)HEXADECIMAL[ids[n] >> 4];
        digits[2 * n + 1] = (uint8_t)HEXADECIMAL[ids[n] & 15];
    }
    bool sampled = least_size == DECIDING && memcmp(digits + 32 - DECIDING, least, DECIDING) >= 0;
    to = copied(to, BEGIN_OF_ENTRY, sizeof BEGIN_OF_ENTRY - 1);
    to = copied(to, digits, 32);
    *to++ = '-';
    to = copied(to, digits + 32, 16);
    to = copied(to, (const uint8_t *)"-0", 2);
    *to++ = sampled ? '1' : '0';
    return to;
}

void write_traced(
    const uint8_t *bytes, size_t size, const uint8_t *ids, const uint8_t *least, size_t least_size, uint8_t *to
)
{
    for (size_t at = 0, end; at < size; at = end, ids += IDS) {
        struct frame header;
        struct span headers;
        end = header_of(bytes, size, at, &header, &headers);
        if (end == 0)
            return; /* traced_size has seen that this is not so */
        bool bare = headers.begin == headers.end;
        uint8_t *begin = to + (header.start - at);
        to = copied(to, bytes + at, headers.begin - at);
        put_u32(begin + SIZE, u32(begin + SIZE) + growth(headers));
        uint32_t length = ENTRY;
        if (bare) {
            begin[FLAGS] |= HEADERS;
        } else {
            length += u32(bytes + headers.begin);
            headers.begin += 4;
        }
        put_u32(to, length);
        to = copied(to + 4, bytes + headers.begin, headers.end - headers.begin);
        to = put_entry(to, ids, least, least_size);
        to = copied(to, bytes + headers.end, end - headers.end);
    }
}

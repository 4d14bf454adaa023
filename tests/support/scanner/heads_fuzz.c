/* Heads for fuzz.c. For each input that the scanner takes, support.scanner.oracle compares what scanner and parser say. What
 * it does not take is read by the parser alone, and costs no Python here.
 */

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "scan.h"

PyMODINIT_FUNC PyInit__scan(void);

static const char TURNS[] = "\r\n\t :;,=/?#%\"\\()0159aAzZ-_.*\0\x7f\x80\xff";

const struct target TARGET = {
    "_scan", PyInit__scan,
    "import _scan\n"
    "from support.scanner.oracle import compare, use\n"
    "use(_scan)\n",
    TURNS, sizeof TURNS - 1, false,
};

/* The bytes of the head that the scanner takes, with the limits that oracle.compare() reads from the first byte; 0: it
 * takes none. */
static size_t taken(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t bits = data[0];
    size_t left = size - 1;
    const size_t heads[] = {65536, left - 1, left, left + 1};
    const size_t headers[] = {100, 0, 1, 2, 3, 5, 8, 13};
    const size_t targets[] = {8192, 1, 4, 16};
    struct limits limits = {left ? heads[bits >> 1 & 3] : 65536, headers[bits >> 3 & 7], targets[bits >> 6]};
    struct request request;
    struct answer answer;
    if (bits & 1)
        return scan_answer(data + 1, left, &limits, &answer) ? answer.head.size : 0;
    return scan_request(data + 1, left, &limits, &request) ? request.head.size : 0;
}

/* A head's end, looked for byte by byte; without a look at what it reaches, which would be a fifth of the time. */
__attribute__((noinline, no_sanitize("coverage"))) static size_t plain_end(const uint8_t *bytes, size_t size, size_t seen)
{
    for (size_t at = seen > 3 ? seen - 3 : 0; at + 4 <= size; at++)
        if (bytes[at] == '\r' && bytes[at + 1] == '\n' && bytes[at + 2] == '\r' && bytes[at + 3] == '\n')
            return at + 4;
    return 0;
}

size_t check(const uint8_t *data, size_t size, const uint8_t *known, size_t of_known)
{
    if (size && end_of_head(data + 1, size - 1, data[0]) != plain_end(data + 1, size - 1, data[0]))
        abort();
    size_t head = taken(data, size);
    if (head != 0 && (head != of_known || memcmp(data, known, 1 + head) != 0))
        compare(data, size);
    return head;
}

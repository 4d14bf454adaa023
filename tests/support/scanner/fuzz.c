/* libFuzzer's entry: the extension, built with coverage and sanitizers, in a Python of its own. For each input that the
 * scanner takes, support.scanner.oracle compares what scanner and parser say; when they differ, that is a crash. What it
 * does not take is read by the parser alone, and costs no Python here.
 *
 * Each input is followed by its neighbours, which differ from it in one place: libFuzzer takes ten times as long to make
 * an input as the scanner takes to read it. What they reach counts as reached by that input, and which they are follows
 * from its bytes, so libFuzzer's corpus remains one that can be replayed.
 *
 * FUZZ_PATH: the folders to import from, with colons between them.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scan.h"

/* Of each input. scripts/fuzz-scanner counts them, too. */
#ifndef NEIGHBOURS
#define NEIGHBOURS 31
#endif

PyMODINIT_FUNC PyInit__scan(void);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static PyObject *compare;

static const char BEGIN[] =
    "import os, sys\n"
    "sys.path[:0] = os.environ['FUZZ_PATH'].split(':')\n"
    "import _scan\n"
    "from support.scanner.oracle import compare, use\n"
    "use(_scan)\n";

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    PyImport_AppendInittab("_scan", PyInit__scan);
    Py_InitializeEx(0); /* signals stay libFuzzer's */
    if (PyRun_SimpleString(BEGIN) != 0)
        exit(2);
    compare = PyObject_GetAttrString(PyImport_AddModule("__main__"), "compare");
    return 0;
}

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

/* A head's end, looked for byte by byte. */
static size_t plain_end(const uint8_t *bytes, size_t size, size_t seen)
{
    for (size_t at = seen > 3 ? seen - 3 : 0; at + 4 <= size; at++)
        if (bytes[at] == '\r' && bytes[at + 1] == '\n' && bytes[at + 2] == '\r' && bytes[at + 3] == '\n')
            return at + 4;
    return 0;
}

/* `known` has been looked at, and its head has so many bytes: the same head once more says nothing new. */
static size_t check(const uint8_t *data, size_t size, const uint8_t *known, size_t of_known)
{
    if (size && end_of_head(data + 1, size - 1, data[0]) != plain_end(data + 1, size - 1, data[0]))
        abort();
    size_t head = taken(data, size);
    if (head == 0 || (head == of_known && memcmp(data, known, 1 + head) == 0))
        return head;
    PyObject *result = PyObject_CallFunction(compare, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(result);
    return head;
}

/* The next of a row of numbers that look drawn by lot (xorshift64: Marsaglia, 2003); never 0. */
static uint64_t draw(uint64_t *row)
{
    *row ^= *row << 13;
    *row ^= *row >> 7;
    *row ^= *row << 17;
    return *row;
}

/* Bytes on which heads turn; or any. */
static uint8_t draw_byte(uint64_t *row)
{
    static const char turns[] = "\r\n\t :;,=/?#%\"\\()0159aAzZ-_.*\0\x7f\x80\xff";
    uint64_t drawn = draw(row);
    return drawn & 1 ? (uint8_t)(drawn >> 8) : (uint8_t)turns[(drawn >> 8) % (sizeof turns - 1)];
}

/* A neighbour, into the last bytes of a room for size + 1: what is read beyond its end is beyond the room's. */
static size_t neighbour(const uint8_t *data, size_t size, uint64_t *row, uint8_t *room)
{
    size_t at = (size_t)(draw(row) % size);
    uint64_t how = draw(row) % 8;
    size_t taken_out = how < 6 ? 1 : how == 6, put_in = how < 6 ? 1 : how == 7;
    size_t made = size - taken_out + put_in;
    uint8_t *to = room + (size + 1 - made);
    memcpy(to, data, at);
    if (put_in)
        to[at] = how == 5 ? data[draw(row) % size] : draw_byte(row);
    memcpy(to + at + put_in, data + at + taken_out, size - at - taken_out);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t head = check(data, size, NULL, 0);
    if (size == 0)
        return 0;
    uint64_t row = 14695981039346656037u; /* FNV-1a of the input */
    for (size_t n = 0; n < size; n++)
        row = (row ^ data[n]) * 1099511628211u;
    row += row == 0;
    uint8_t *room = malloc(size + 1);
    if (room == NULL)
        abort();
    for (int n = 0; n < NEIGHBOURS; n++) {
        size_t made = neighbour(data, size, &row, room);
        check(room + (size + 1 - made), made, data, head);
    }
    free(room);
    return 0;
}

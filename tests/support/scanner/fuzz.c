/* libFuzzer's entry: an extension, built with coverage and sanitizers, in a Python of its own that has the oracle beside it.
 * When the two differ, that is a crash. What is fuzzed: heads_fuzz.c, runs_fuzz.c.
 *
 * Each input is followed by its neighbours, which differ from it in one place: libFuzzer takes ten times as long to make
 * an input as the scanner takes to read it. What they reach counts as reached by that input, and which they are follows
 * from its bytes, so libFuzzer's corpus remains one that can be replayed.
 *
 * FUZZ_PATH: the folders to import from, with colons between them.
 */

#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

/* Of each input. scripts/fuzz-scanner counts them, too. */
#ifndef NEIGHBOURS
#define NEIGHBOURS 31
#endif

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static PyObject *oracle;

static const char BEGIN[] =
    "import os, sys\n"
    "sys.path[:0] = os.environ['FUZZ_PATH'].split(':')\n";

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    PyImport_AppendInittab(TARGET.module, TARGET.init);
    Py_InitializeEx(0); /* signals stay libFuzzer's */
    if (PyRun_SimpleString(BEGIN) != 0 || PyRun_SimpleString(TARGET.begin) != 0)
        exit(2);
    oracle = PyObject_GetAttrString(PyImport_AddModule("__main__"), "compare");
    return 0;
}

void compare(const uint8_t *data, size_t size)
{
    PyObject *result = PyObject_CallFunction(oracle, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(result);
}

/* The next of a row of numbers that look drawn by lot (xorshift64: Marsaglia, 2003); never 0. */
static uint64_t draw(uint64_t *row)
{
    *row ^= *row << 13;
    *row ^= *row >> 7;
    *row ^= *row << 17;
    return *row;
}

/* Bytes on which inputs turn; or any. `old`: what it stands for. */
static uint8_t draw_byte(uint64_t *row, uint8_t old)
{
    uint64_t drawn = draw(row);
    if (TARGET.lengths && drawn & 2)
        return (uint8_t)(drawn & 4 ? old + 1 : old - 1);
    return drawn & 1 ? (uint8_t)(drawn >> 8) : (uint8_t)TARGET.turns[(drawn >> 8) % TARGET.turns_size];
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
        to[at] = how == 5 ? data[draw(row) % size] : draw_byte(row, data[at]);
    memcpy(to + at + put_in, data + at + taken_out, size - at - taken_out);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t decided = check(data, size, NULL, 0);
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
        check(room + (size + 1 - made), made, data, decided);
    }
    free(room);
    return 0;
}

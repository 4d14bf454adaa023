/* What fuzz.c is built with: heads_fuzz.c or runs_fuzz.c, which say what is fuzzed. */

#ifndef SIDECAR_FUZZ_H
#define SIDECAR_FUZZ_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct target {
    const char *module; /* the extension's name */
    PyObject *(*init)(void);
    const char *begin;  /* Python that has `compare` afterwards, a function of the input */
    const char *turns;  /* bytes on which it turns what an input is */
    size_t turns_size;
    bool lengths; /* a byte may be a length: one more or less is tried, too */
};

extern const struct target TARGET;

/* Ask Python to compare: a difference is a crash. */
void compare(const uint8_t *data, size_t size);

/* Try an input. `known` has been tried, and this was the answer: how many of its bytes, after those that say how they are
 * read, decided it; what has the same ones says nothing new. */
size_t check(const uint8_t *data, size_t size, const uint8_t *known, size_t of_known);

#endif

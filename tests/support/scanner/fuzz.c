/* libFuzzer's entry: the extension, built with coverage and sanitizers, in a Python of its own. For each input that the
 * scanner takes, support.scanner.oracle compares what scanner and parser say; when they differ, that is a crash. What it
 * does not take is read by the parser alone, and costs no Python here.
 *
 * FUZZ_PATH: the folders to import from, with colons between them.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>

#include "scan.h"

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

/* Whether the scanner takes it, with the limits that oracle.compare() reads from the first byte. */
static bool taken(const uint8_t *data, size_t size)
{
    if (size == 0)
        return false;
    uint8_t bits = data[0];
    size_t left = size - 1;
    const size_t heads[] = {65536, left - 1, left, left + 1};
    const size_t headers[] = {100, 0, 1, 2, 3, 5, 8, 13};
    const size_t targets[] = {8192, 1, 4, 16};
    struct limits limits = {left ? heads[bits >> 1 & 3] : 65536, headers[bits >> 3 & 7], targets[bits >> 6]};
    struct request request;
    struct answer answer;
    return bits & 1 ? scan_answer(data + 1, left, &limits, &answer) : scan_request(data + 1, left, &limits, &request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!taken(data, size))
        return 0;
    PyObject *result = PyObject_CallFunction(compare, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(result);
    return 0;
}

/* libFuzzer's entry: the extension, built with coverage and sanitizers, in a Python of its own. For each input
 * support.scanner.oracle compares what scanner and parser say; when they differ, that is a crash.
 *
 * FUZZ_PATH: the folders to import from, with colons between them.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *result = PyObject_CallFunction(compare, "y#", (const char *)data, (Py_ssize_t)size);
    if (result == NULL) {
        PyErr_Print();
        abort();
    }
    Py_DECREF(result);
    return 0;
}

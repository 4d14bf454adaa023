/* What Python's library does not offer of the C library: how much of its memory a process keeps. On the stable ABI. */

#include <Python.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

/* Options of mallopt(3): what is at least so large is mapped by itself; so much may lie free at the end of the heap; and it
 * grows by so much more than is needed. */
static PyObject *keep(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 2 << 20);
    mallopt(M_TOP_PAD, 256 << 10);
#endif
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"keep", keep, METH_NOARGS, "keep()\n--\n\nLet up to 2 MiB that are not used stay with the process."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_heap",
    .m_doc = "What the C library's heap keeps.",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__heap(void);
PyMODINIT_FUNC PyInit__heap(void)
{
    return PyModuleDef_Init(&definition);
}

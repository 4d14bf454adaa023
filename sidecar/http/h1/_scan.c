/* The head scanner for Python: scan.c, with objects made of what it finds. On the stable ABI, so one build serves every
 * Python from 3.11 on. `_scan.pyi` says what the functions return; None stands for "ask the parser in head.py".
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

/* Bits of what scan_request returns last; as in scanner.py. */
#define KEEPS_ALIVE 1
#define EXPECTS_CONTINUE 2
#define HAS_DEADLINE 4
#define ASKS_LOAD 8

/* What is made once and for all: names of fields as bytes, and of methods as str. */
struct state {
    PyObject *names[FIELDS];
    PyObject *methods[METHODS];
};

static PyObject *new_bytes(const uint8_t *bytes, struct span span)
{
    return PyBytes_FromStringAndSize((const char *)bytes + span.begin, (Py_ssize_t)(span.end - span.begin));
}

/* The fields that a proxy acts upon, as a dict of their values by name. */
static PyObject *new_fields(const struct state *state, const struct head *head, const uint8_t *bytes)
{
    PyObject *fields = PyDict_New();
    if (fields == NULL)
        return NULL;
    for (size_t n = 0; n < head->count; n++) {
        PyObject *value = new_bytes(bytes, head->values[head->order[n]]);
        if (value == NULL || PyDict_SetItem(fields, state->names[head->order[n]], value) < 0) {
            Py_XDECREF(value);
            Py_DECREF(fields);
            return NULL;
        }
        Py_DECREF(value);
    }
    return fields;
}

/* What goes on: the very object that came where no line is taken out. */
static PyObject *new_onward(const struct head *head, PyObject *raw, const uint8_t *bytes, size_t size)
{
    if (head->drops == 0)
        return Py_NewRef(raw);
    PyObject *onward = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)onward_size(head, size));
    if (onward != NULL)
        write_onward(head, bytes, size, (uint8_t *)PyBytes_AsString(onward));
    return onward;
}

/* A tuple of these, which it takes over; NULL if one of them could not be made. */
static PyObject *new_tuple(PyObject **items, Py_ssize_t count)
{
    bool whole = true;
    for (Py_ssize_t n = 0; n < count; n++)
        whole = whole && items[n] != NULL;
    PyObject *tuple = whole ? PyTuple_New(count) : NULL;
    for (Py_ssize_t n = 0; n < count; n++) {
        if (tuple != NULL)
            PyTuple_SetItem(tuple, n, items[n]); /* cannot fail: the tuple is new and long enough */
        else
            Py_XDECREF(items[n]);
    }
    return tuple;
}

/* The bytes of a head; false: it is none, and an exception is set. */
static bool as_bytes(PyObject *raw, const uint8_t **bytes, size_t *size)
{
    char *data;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(raw, &data, &length) < 0)
        return false;
    *bytes = (const uint8_t *)data;
    *size = (size_t)length;
    return true;
}

/* A limit; what Python's integers can be beyond it is an exception, too. */
static bool as_limit(PyObject *value, size_t *limit)
{
    *limit = PyLong_AsSize_t(value);
    return *limit != (size_t)-1 || PyErr_Occurred() == NULL;
}

static bool arguments_are(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are needed, not %zd", wanted, count);
    return count == wanted;
}

static PyObject *py_scan_request(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const struct state *state = PyModule_GetState(module);
    const uint8_t *bytes;
    size_t size;
    struct limits limits;
    struct request request;
    if (!arguments_are(count, 4) || !as_bytes(args[0], &bytes, &size) || !as_limit(args[1], &limits.head) ||
        !as_limit(args[2], &limits.headers) || !as_limit(args[3], &limits.target))
        return NULL;
    if (!scan_request(bytes, size, &limits, &request))
        Py_RETURN_NONE;
    const struct head *head = &request.head;
    long flags = (head->keep_alive ? KEEPS_ALIVE : 0) | (request.expects_continue ? EXPECTS_CONTINUE : 0) |
                 (has(head, SIDECAR_DEADLINE) ? HAS_DEADLINE : 0) | (has(head, SIDECAR_LOAD) ? ASKS_LOAD : 0);
    PyObject *items[] = {
        new_onward(head, args[0], bytes, size),
        Py_NewRef(state->methods[request.method]),
        new_bytes(bytes, request.target),
        new_fields(state, head, bytes),
        PyLong_FromLongLong(head->length),
        PyLong_FromLong(flags),
    };
    return new_tuple(items, sizeof items / sizeof *items);
}

static PyObject *py_scan_response(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const struct state *state = PyModule_GetState(module);
    const uint8_t *bytes;
    size_t size;
    struct limits limits = {0, 0, 0};
    struct answer answer;
    if (!arguments_are(count, 3) || !as_bytes(args[0], &bytes, &size) || !as_limit(args[1], &limits.head) ||
        !as_limit(args[2], &limits.headers))
        return NULL;
    if (!scan_answer(bytes, size, &limits, &answer))
        Py_RETURN_NONE;
    const struct head *head = &answer.head;
    PyObject *items[] = {
        new_onward(head, args[0], bytes, size),
        PyLong_FromLong(answer.status),
        new_fields(state, head, bytes),
        PyLong_FromLongLong(head->length),
        PyBool_FromLong(head->keep_alive),
    };
    return new_tuple(items, sizeof items / sizeof *items);
}

static PyObject *py_end_of_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    const uint8_t *bytes;
    size_t size, seen;
    if (!arguments_are(count, 2) || !as_bytes(args[0], &bytes, &size) || !as_limit(args[1], &seen))
        return NULL;
    return PyLong_FromSize_t(end_of_head(bytes, size, seen));
}

/* -- the module ------------------------------------------------------------------------------------------------------ */

static int begin(PyObject *module)
{
    struct state *state = PyModule_GetState(module);
    for (int n = 0; n < FIELDS; n++)
        if (field_name((enum field)n) != NULL &&
            (state->names[n] = PyBytes_FromString(field_name((enum field)n))) == NULL)
            return -1;
    for (int n = 0; n < METHODS; n++)
        if ((state->methods[n] = PyUnicode_InternFromString(METHOD_NAMES[n])) == NULL)
            return -1;
    return 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    struct state *state = PyModule_GetState(module);
    for (int n = 0; n < FIELDS; n++)
        Py_VISIT(state->names[n]);
    for (int n = 0; n < METHODS; n++)
        Py_VISIT(state->methods[n]);
    return 0;
}

static int clear(PyObject *module)
{
    struct state *state = PyModule_GetState(module);
    for (int n = 0; n < FIELDS; n++)
        Py_CLEAR(state->names[n]);
    for (int n = 0; n < METHODS; n++)
        Py_CLEAR(state->methods[n]);
    return 0;
}

static void end(void *module)
{
    clear(module);
}

static PyMethodDef functions[] = {
    {"scan_request", (PyCFunction)(void (*)(void))py_scan_request, METH_FASTCALL,
     "scan_request(raw, head, headers, target)\n--\n\nRead a whole request's head; None: the parser has to."},
    {"scan_response", (PyCFunction)(void (*)(void))py_scan_response, METH_FASTCALL,
     "scan_response(raw, head, headers)\n--\n\nRead a whole head of an answer; None: the parser has to."},
    {"end_of_head", (PyCFunction)(void (*)(void))py_end_of_head, METH_FASTCALL,
     "end_of_head(data, seen)\n--\n\nWhere the head ends; 0: not in this."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)begin},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_scan",
    .m_doc = "The head scanner.",
    .m_size = sizeof(struct state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = end,
};

PyMODINIT_FUNC PyInit__scan(void);
PyMODINIT_FUNC PyInit__scan(void)
{
    return PyModuleDef_Init(&definition);
}

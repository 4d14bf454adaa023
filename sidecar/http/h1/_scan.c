/* The head scanner for Python: scan.c, with objects made of what it finds. On the stable ABI, so one build serves every
 * Python from 3.11 on. `_scan.pyi` says what the functions return; None stands for "ask the parser in head.py".
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

/* Bits of what request_head returns; as in scanner.py. */
#define KEEPS_ALIVE 1
#define EXPECTS_CONTINUE 2
#define HAS_DEADLINE 4
#define ASKS_LOAD 8
#define TRACED 16
#define TRACE_FLAGS 32 /* and above */

/* What is made once and for all: names of fields as bytes, and of methods as str. */
struct state {
    PyObject *names[FIELDS];
    PyObject *methods[METHODS];
};

static PyObject *new_bytes(const uint8_t *bytes, struct span span)
{
    return PyBytes_FromStringAndSize((const char *)bytes + span.begin, (Py_ssize_t)(span.end - span.begin));
}

/* Nobody asks for these two of an answer: what they say of its body and connection is told by itself. */
static bool is_told(enum field field)
{
    return field == CONTENT_LENGTH || field == CONNECTION;
}

/* The fields that a proxy acts upon, as a dict of their values by name. */
static PyObject *new_fields(const struct state *state, const struct head *head, const uint8_t *bytes, bool answer)
{
    PyObject *fields = PyDict_New();
    if (fields == NULL)
        return NULL;
    for (size_t n = 0; n < head->count; n++) {
        if (answer && is_told((enum field)head->order[n]))
            continue;
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

/* What goes on: the very object that came where no line is taken out, and nothing comes behind it. */
static PyObject *new_onward(const struct head *head, PyObject *raw, const uint8_t *bytes, size_t size)
{
    if (head->drops == 0 && head->size == size)
        return Py_NewRef(raw);
    PyObject *onward = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)onward_size(head));
    if (onward != NULL)
        write_onward(head, bytes, (uint8_t *)PyBytes_AsString(onward));
    return onward;
}

/* The id that the request came with, if it can be kept; else None. */
static PyObject *new_id(const struct request *request, const uint8_t *bytes)
{
    struct span id = request->request_id;
    if (id.begin == id.end)
        return Py_NewRef(Py_None);
    return PyUnicode_DecodeASCII((const char *)bytes + id.begin, (Py_ssize_t)(id.end - id.begin), NULL);
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

/* A number of bytes or lines; what Python's integers can be beyond it is an exception, too. */
static bool as_size(PyObject *value, size_t *size)
{
    *size = PyLong_AsSize_t(value);
    return *size != (size_t)-1 || PyErr_Occurred() == NULL;
}

/* What a peer may send, from a tuple of three: one argument, as each of them would have to become an object anew. */
static bool as_limits(PyObject *value, struct limits *limits)
{
    size_t *to[] = {&limits->head, &limits->headers, &limits->target};
    for (Py_ssize_t n = 0; n < 3; n++) {
        PyObject *item = PyTuple_GetItem(value, n);
        if (item == NULL || !as_size(item, to[n]))
            return false;
    }
    return true;
}

static bool arguments_are(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are needed, not %zd", wanted, count);
    return count == wanted;
}

static PyObject *py_request_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const struct state *state = PyModule_GetState(module);
    const uint8_t *bytes;
    size_t size;
    struct limits limits;
    struct request request;
    if (!arguments_are(count, 2) || !as_bytes(args[0], &bytes, &size) || !as_limits(args[1], &limits))
        return NULL;
    if (!scan_request(bytes, size, &limits, &request))
        Py_RETURN_NONE;
    const struct head *head = &request.head;
    unsigned flags = (head->keep_alive ? KEEPS_ALIVE : 0) | (request.expects_continue ? EXPECTS_CONTINUE : 0) |
                     (has(head, SIDECAR_DEADLINE) ? HAS_DEADLINE : 0) | (has(head, SIDECAR_LOAD) ? ASKS_LOAD : 0) |
                     (request.traced ? TRACED | TRACE_FLAGS * request.trace_flags : 0);
    PyObject *items[] = {
        new_onward(head, args[0], bytes, size),
        Py_NewRef(state->methods[request.method]),
        new_bytes(bytes, request.target),
        new_fields(state, head, bytes, false),
        PyLong_FromLongLong(head->length),
        PyLong_FromLong((long)flags),
        new_id(&request, bytes),
        PyLong_FromSize_t(head->size),
    };
    return new_tuple(items, sizeof items / sizeof *items);
}

static PyObject *py_answer_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const struct state *state = PyModule_GetState(module);
    const uint8_t *bytes;
    size_t size;
    struct limits limits;
    struct answer answer;
    if (!arguments_are(count, 2) || !as_bytes(args[0], &bytes, &size) || !as_limits(args[1], &limits))
        return NULL;
    if (!scan_answer(bytes, size, &limits, &answer))
        Py_RETURN_NONE;
    const struct head *head = &answer.head;
    PyObject *items[] = {
        new_onward(head, args[0], bytes, size),
        PyLong_FromLong(answer.status),
        new_fields(state, head, bytes, true),
        PyLong_FromLongLong(head->length),
        PyBool_FromLong(head->keep_alive),
        PyLong_FromSize_t(head->size),
    };
    return new_tuple(items, sizeof items / sizeof *items);
}

static PyObject *py_end_of_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    const uint8_t *bytes;
    size_t size, seen;
    if (!arguments_are(count, 2) || !as_bytes(args[0], &bytes, &size) || !as_size(args[1], &seen))
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
    {"request_head", (PyCFunction)(void (*)(void))py_request_head, METH_FASTCALL,
     "request_head(data, bounds)\n--\n\nRead the request's head that data begins with; None: the parser has to."},
    {"answer_head", (PyCFunction)(void (*)(void))py_answer_head, METH_FASTCALL,
     "answer_head(data, bounds)\n--\n\nRead the answer's head that data begins with; None: the parser has to."},
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

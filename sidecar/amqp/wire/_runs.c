/* runs.c for Python: objects made of what it finds. On the stable ABI, so one build serves every Python from 3.11 on.
 * `_runs.pyi` says what the functions return.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "runs.h"

#include <string.h>

struct buffer {
    const uint8_t *bytes;
    size_t size;
};

/* The bytes of an argument; false: it has none, and an exception is set. */
static bool as_bytes(PyObject *argument, struct buffer *buffer)
{
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(argument, &data, &size) < 0)
        return false;
    *buffer = (struct buffer){(const uint8_t *)data, (size_t)size};
    return true;
}

static bool as_size(PyObject *argument, size_t *size)
{
    *size = PyLong_AsSize_t(argument);
    return *size != (size_t)-1 || PyErr_Occurred() == NULL;
}

/* A frame's largest size: what is beyond 32 bits is none. */
static bool as_limit(PyObject *argument, uint32_t *limit)
{
    size_t size;
    if (!as_size(argument, &size))
        return false;
    *limit = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
    return true;
}

static bool arguments_are(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments are needed, not %zd", wanted, count);
    return count == wanted;
}

static PyObject *new_unit(const struct unit *unit)
{
    size_t kind = (size_t)unit->kind | (unit->kind < PUBLISHES ? 0 : unit->count << 8);
    const size_t numbers[] = {kind, unit->channel, unit->start, unit->end};
    PyObject *tuple = PyTuple_New(4);
    for (Py_ssize_t n = 0; tuple != NULL && n < 4; n++) {
        PyObject *number = PyLong_FromSize_t(numbers[n]);
        if (number == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SetItem(tuple, n, number); /* cannot fail: the tuple is new and long enough */
    }
    return tuple;
}

static PyObject *py_cut(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    struct buffer data;
    size_t at, end;
    uint32_t limit;
    int runs;
    if (!arguments_are(count, 5) || !as_bytes(args[0], &data) || !as_size(args[1], &at) || !as_size(args[2], &end) ||
        !as_limit(args[3], &limit) || (runs = PyObject_IsTrue(args[4])) < 0)
        return NULL;
    if (end > data.size)
        end = data.size;
    PyObject *units = PyList_New(0);
    struct unit unit;
    for (; units != NULL && next_unit(data.bytes, end, at, limit, runs == 1, &unit); at = unit.end) {
        PyObject *tuple = new_unit(&unit);
        if (tuple == NULL || PyList_Append(units, tuple) < 0)
            Py_CLEAR(units);
        Py_XDECREF(tuple);
    }
    return units;
}

static PyObject *py_add_traces(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    struct buffer data, ids, least;
    size_t start, end, from, publishes;
    uint32_t limit;
    if (!arguments_are(count, 7) || !as_bytes(args[0], &data) || !as_size(args[1], &start) || !as_size(args[2], &end) ||
        !as_limit(args[3], &limit) || !as_bytes(args[4], &ids) || !as_size(args[5], &from) || !as_bytes(args[6], &least))
        return NULL;
    if (start > end || end > data.size || from > ids.size) {
        PyErr_SetString(PyExc_ValueError, "there are no such bytes");
        return NULL;
    }
    size_t longer = traced_size(data.bytes + start, end - start, limit, &publishes);
    if (longer == 0)
        Py_RETURN_NONE;
    if ((ids.size - from) / IDS < publishes) {
        PyErr_SetString(PyExc_ValueError, "there are too few ids");
        return NULL;
    }
    PyObject *traced = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)longer);
    if (traced != NULL)
        write_traced(
            data.bytes + start, end - start, ids.bytes + from, least.bytes, least.size,
            (uint8_t *)PyBytes_AsString(traced)
        );
    return traced;
}

/* A new tuple of these, which it takes over; NULL if one of them is, as then an exception is set. */
static PyObject *packed(Py_ssize_t count, PyObject **items)
{
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t n = 0; n < count; n++) {
        if (items[n] == NULL || tuple == NULL) {
            Py_XDECREF(items[n]);
            Py_CLEAR(tuple);
        } else {
            PyTuple_SetItem(tuple, n, items[n]); /* cannot fail: the tuple is new and long enough */
        }
    }
    return tuple;
}

/* These bytes as an object: the one that is known, if it is equal. */
static PyObject *known_or_new(PyObject *object, const struct buffer *known, const uint8_t *bytes, size_t size)
{
    if (known->size == size && memcmp(known->bytes, bytes, size) == 0)
        return Py_NewRef(object);
    return PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size);
}

static PyObject *py_whole_publishes(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    struct buffer data, ids, least, known;
    size_t from;
    uint32_t limit;
    struct publishes run;
    if (!arguments_are(count, 6) || !as_bytes(args[0], &data) || !as_limit(args[1], &limit) ||
        !as_bytes(args[2], &ids) || !as_size(args[3], &from) || !as_bytes(args[4], &least) || !as_bytes(args[5], &known))
        return NULL;
    if (!whole_publishes(data.bytes, data.size, limit, &run) ||
        (run.bare && (from > ids.size || (ids.size - from) / IDS < run.count)))
        Py_RETURN_NONE;
    PyObject *traced = run.bare ? PyBytes_FromStringAndSize(NULL, (Py_ssize_t)run.traced) : Py_NewRef(args[0]);
    if (traced == NULL)
        return NULL;
    if (run.bare)
        write_traced(
            data.bytes, data.size, ids.bytes + from, least.bytes, least.size, (uint8_t *)PyBytes_AsString(traced)
        );
    PyObject *key = known_or_new(args[5], &known, data.bytes + run.key, run.key_size);
    PyObject *items[] = {PyLong_FromSize_t(run.count), PyLong_FromLong(run.channel), key, traced};
    return packed(4, items);
}

static PyObject *py_whole_numbers(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    struct buffer data, known;
    uint32_t limit;
    struct deliveries run;
    struct acks acks;
    if (!arguments_are(count, 3) || !as_bytes(args[0], &data) || !as_limit(args[1], &limit) || !as_bytes(args[2], &known))
        return NULL;
    PyObject *consumer;
    if (whole_acks(data.bytes, data.size, limit, &acks)) {
        run = (struct deliveries){.channel = acks.channel, .first = acks.first, .last = acks.last};
        consumer = Py_NewRef(Py_None);
    } else if (whole_deliveries(data.bytes, data.size, limit, &run)) {
        consumer = known_or_new(args[2], &known, data.bytes + run.key, run.key_size);
    } else {
        Py_RETURN_NONE;
    }
    PyObject *items[] = {
        PyLong_FromLong(run.channel), PyLong_FromUnsignedLongLong(run.first), PyLong_FromUnsignedLongLong(run.last),
        consumer,
    };
    return packed(4, items);
}

/* -- the module ------------------------------------------------------------------------------------------------------ */

static PyMethodDef functions[] = {
    {"cut", (PyCFunction)(void (*)(void))py_cut, METH_FASTCALL,
     "cut(data, start, end, limit, runs)\n--\n\nCut these bytes into whole frames, and runs of messages if `runs`."},
    {"add_traces", (PyCFunction)(void (*)(void))py_add_traces, METH_FASTCALL,
     "add_traces(data, start, end, limit, ids, at, least)\n--\n\nA run of publishes with a trace in each; None: no."},
    {"whole_publishes", (PyCFunction)(void (*)(void))py_whole_publishes, METH_FASTCALL,
     "whole_publishes(data, limit, ids, at, least, known)\n--\n\nOne run of publishes, with traces; None: it is not."},
    {"whole_numbers", (PyCFunction)(void (*)(void))py_whole_numbers, METH_FASTCALL,
     "whole_numbers(data, limit, known)\n--\n\nOne run of acks or deliveries; None: it is not."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_runs",
    .m_doc = "Runs of AMQP frames.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__runs(void);
PyMODINIT_FUNC PyInit__runs(void)
{
    return PyModuleDef_Init(&definition);
}

/* What Python's library does not offer: how much memory a process keeps. On the stable ABI. */

#include <Python.h>

#include <stdio.h>
#include <string.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Options of mallopt(3): what is at least so large is mapped by itself; so much may lie free at the end of the heap; and it
 * grows by so much more than is needed. */
static PyObject *keep_heap(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 2 << 20);
    mallopt(M_TOP_PAD, 256 << 10);
#endif
    Py_RETURN_NONE;
}

#if defined(__linux__)

/* A mapping, as /proc/PID/smaps tells of it (proc_pid_smaps(5)). */
struct mapping {
    unsigned long start, end;
    char library; /* a private mapping of a library or program that cannot be written to */
    unsigned long resident; /* KiB */
};

/* Whether the line begins a mapping, which is then `now`. */
static int begins(const char *line, struct mapping *now)
{
    unsigned long start, end, inode;
    char may[5];
    int path = 0;
    if (sscanf(line, "%lx-%lx %4s %*s %*s %lu %n", &start, &end, may, &inode, &path) != 4)
        return 0;
    *now = (struct mapping){.start = start, .end = end};
    now->library = inode != 0 && may[0] == 'r' && may[1] == '-' && may[3] == 'p' &&
                   (may[2] == 'x' || strstr(line + path, ".so") != NULL);
    return 1;
}

/* Let go of the pages of libraries that this process has in memory as they are on the disk; how many KiB that were. None of
 * a mapping with a page of this process's own: that one has been written to, when the library was loaded or by a debugger,
 * and would be lost. madvise(2), MADV_DONTNEED: the next access finds what the file has. */
static unsigned long let_go_of_files(void)
{
    char line[4352]; /* a path, and what stands before it */
    unsigned long gone = 0, number;
    struct mapping now = {0};
    FILE *file = fopen("/proc/self/smaps", "re");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (begins(line, &now))
            continue;
        if (sscanf(line, "Rss: %lu", &number) == 1)
            now.resident = number;
        else if (now.library && sscanf(line, "Anonymous: %lu", &number) == 1 && number == 0 && now.resident != 0 &&
                 madvise((void *)now.start, now.end - now.start, MADV_DONTNEED) == 0)
            gone += now.resident;
    }
    fclose(file);
    return gone;
}

#else

static unsigned long let_go_of_files(void)
{
    return 0;
}

#endif

static PyObject *let_go(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    return PyLong_FromUnsignedLong(let_go_of_files());
}

static PyMethodDef functions[] = {
    {"keep_heap", keep_heap, METH_NOARGS, "keep_heap()\n--\n\nLet up to 2 MiB that are not used stay with the process."},
    {"let_go", let_go, METH_NOARGS, "let_go()\n--\n\nUnmap pages of libraries until they are used again; how many KiB."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_memory",
    .m_doc = "How much memory the process keeps.",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__memory(void);
PyMODINIT_FUNC PyInit__memory(void)
{
    return PyModuleDef_Init(&definition);
}

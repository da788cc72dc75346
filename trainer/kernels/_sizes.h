/* Arrays from Python: their sizes are checked once, before memory is touched. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum {
    MAX_PARTS = 1024
}; /* threads that a call may start: OpenMP ends the process where it can't start one */

/* Whether an array has numbers of so many bytes, and these dimensions, which are positive. */
static inline int has_shape(const Py_buffer *array, Py_ssize_t bytes, const Py_ssize_t *dimensions, int count)
{
    Py_ssize_t total = bytes;
    for (int i = 0; i < count; i++)
        if (dimensions[i] <= 0 || __builtin_mul_overflow(total, dimensions[i], &total)) return 0;
    return array->itemsize == bytes && array->len == total;
}

#define HAS_SHAPE(array, type, ...)                                                                          \
    has_shape(&array, sizeof(type), (const Py_ssize_t[]){__VA_ARGS__},                                       \
              sizeof((const Py_ssize_t[]){__VA_ARGS__}) / sizeof(Py_ssize_t))

/* The update of weights that have a copy in bfloat16, with AVX-512. It takes two thirds of the time of the
Numba loop in flat_numba.py: the copy is written past the caches (streaming stores), so that no cache line of
it is read first, and the other arrays are prefetched. */

#include "_avx512.h"

typedef struct {
    float *w, *v;
    void *g; /* float32 or bfloat16 */
    uint16_t *rounded;
    int g_is_float32;
    float momentum, lr_decay, lr;
} Arrays;

#ifdef AVX512
enum { STEP = 2 * LANES, AHEAD = 512 }; /* numbers updated at a time; numbers between them and the prefetch */

/* Update 16 numbers, or those in `mask`, and return the new weights; set the gradients to 0. */
INLINE __m512 sgd_16(const Arrays *a, Py_ssize_t at, __mmask16 mask)
{
    __m512 w = _mm512_maskz_loadu_ps(mask, a->w + at), v = _mm512_maskz_loadu_ps(mask, a->v + at), g;
    if (a->g_is_float32) {
        g = _mm512_maskz_loadu_ps(mask, (float *)a->g + at);
        _mm512_mask_storeu_ps((float *)a->g + at, mask, _mm512_setzero_ps());
    } else {
        g = to_float32(_mm256_maskz_loadu_epi16(mask, (uint16_t *)a->g + at));
        _mm256_mask_storeu_epi16((uint16_t *)a->g + at, mask, _mm256_setzero_si256());
    }
    v = _mm512_fnmadd_ps(_mm512_set1_ps(a->lr_decay), w, _mm512_mul_ps(_mm512_set1_ps(a->momentum), v));
    v = _mm512_fnmadd_ps(_mm512_set1_ps(a->lr), g, v);
    w = _mm512_add_ps(w, v);
    _mm512_mask_storeu_ps(a->v + at, mask, v);
    _mm512_mask_storeu_ps(a->w + at, mask, w);
    return w;
}

/* One number at a time, where less than a cache line of the copy is written. */
AVX512 static void sgd_each(const Arrays *a, Py_ssize_t at, Py_ssize_t end)
{
    for (; at < end; at++) _mm256_mask_storeu_epi16(a->rounded + at, 1, to_bfloat16(sgd_16(a, at, 1)));
}

INLINE void prefetch(const void *memory, Py_ssize_t bytes)
{
    for (Py_ssize_t i = 0; i < bytes; i += LINE) _mm_prefetch((const char *)memory + i, _MM_HINT_T0);
}

/* Whole cache lines of the copy; returns where the rest begins. */
INLINE Py_ssize_t sgd_lines(const Arrays *a, Py_ssize_t at, Py_ssize_t end, int gradient_bytes)
{
    for (; at + STEP <= end; at += STEP) {
        Py_ssize_t next = at + AHEAD < end ? at + AHEAD : at;
        prefetch(a->w + next, STEP * sizeof(float));
        prefetch(a->v + next, STEP * sizeof(float));
        prefetch((char *)a->g + next * gradient_bytes, STEP * gradient_bytes);
        __m512 first = sgd_16(a, at, 0xffff), second = sgd_16(a, at + LANES, 0xffff);
        _mm512_stream_si512((void *)(a->rounded + at), (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    return at;
}

AVX512 static void sgd_part(const Arrays *a, Py_ssize_t at, Py_ssize_t end)
{
    Py_ssize_t line = at + (LINE - (uintptr_t)(a->rounded + at) % LINE) % LINE / sizeof(uint16_t);
    if (line > end) line = end;
    sgd_each(a, at, line);
    Py_ssize_t rest =
        a->g_is_float32 ? sgd_lines(a, line, end, sizeof(float)) : sgd_lines(a, line, end, sizeof(uint16_t));
    sgd_each(a, rest, end);
    _mm_sfence();
}
#else
static void sgd_part(const Arrays *a, Py_ssize_t at, Py_ssize_t end) {}
#endif

static PyObject *sgd(PyObject *module, PyObject *arguments)
{
    Py_buffer w, v, g, rounded;
    Py_ssize_t parts;
    Arrays a;
    if (!PyArg_ParseTuple(arguments, "w*w*w*w*fffn", &w, &v, &g, &rounded, &a.momentum, &a.lr_decay, &a.lr,
                          &parts))
        return NULL;
    a.w = w.buf, a.v = v.buf, a.g = g.buf, a.rounded = rounded.buf,
    a.g_is_float32 = g.itemsize == sizeof(float);
    Py_ssize_t length = w.len / (Py_ssize_t)sizeof(float);
    int fit = parts > 0 && w.itemsize == sizeof(float) && v.itemsize == w.itemsize &&
              (a.g_is_float32 || g.itemsize == sizeof(uint16_t)) && rounded.itemsize == sizeof(uint16_t) &&
              v.len == w.len && 2 * rounded.len == w.len && g.len == g.itemsize * length &&
              (uintptr_t)rounded.buf % sizeof(uint16_t) == 0;
    if (parts > MAX_PARTS) parts = MAX_PARTS;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (Py_ssize_t part = 0; part < parts; part++)
            sgd_part(&a, length * part / parts, length * (part + 1) / parts);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&w), PyBuffer_Release(&v), PyBuffer_Release(&g), PyBuffer_Release(&rounded);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not of one length");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"sgd", sgd, METH_VARARGS,
     "sgd(w, v, g, rounded, momentum, lr_decay, lr, threads)\n--\n\n"
     "v = momentum v - lr_decay w - lr g; w = w + v; rounded = w; g = 0.\n\n"
     "w, v: float32 [N]; g: float32 or bfloat16 [N]; rounded: bfloat16 [N]. Raises ValueError for other\n"
     "lengths."},
    {0},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sgd", NULL, 0, methods};

PyMODINIT_FUNC PyInit__sgd(void)
{
    if (!usable()) return PyErr_Format(PyExc_ImportError, "this processor has no AVX-512 BF16");
    return PyModule_Create(&module);
}

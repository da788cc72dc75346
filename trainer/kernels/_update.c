/* The update of weights that have a copy in bfloat16, for processors with AVX-512: optim.py's loop, which
waits for memory, in two thirds of its time. The copy goes past the caches, so that nobody reads it first, and
what comes next is asked for early enough. */

#include "_wide.h"

typedef struct {
    float *w, *v;
    void *g; /* bfloat16, or float32 if wide */
    uint16_t *rounded;
    int wide;
    float momentum, lr_decay, lr;
} Arrays;

#ifdef WIDE
enum { TOGETHER = 2 * LANES, AHEAD = 512 };

/* Update 16 numbers, or those in `some`, and return the new weights; the gradient becomes 0. */
INSIDE __m512 descend_16(const Arrays *a, Py_ssize_t at, __mmask16 some)
{
    __m512 w = _mm512_maskz_loadu_ps(some, a->w + at), v = _mm512_maskz_loadu_ps(some, a->v + at), g;
    if (a->wide) {
        g = _mm512_maskz_loadu_ps(some, (float *)a->g + at);
        _mm512_mask_storeu_ps((float *)a->g + at, some, _mm512_setzero_ps());
    } else {
        g = widened(_mm256_maskz_loadu_epi16(some, (uint16_t *)a->g + at));
        _mm256_mask_storeu_epi16((uint16_t *)a->g + at, some, _mm256_setzero_si256());
    }
    v = _mm512_fnmadd_ps(_mm512_set1_ps(a->lr_decay), w, _mm512_mul_ps(_mm512_set1_ps(a->momentum), v));
    v = _mm512_fnmadd_ps(_mm512_set1_ps(a->lr), g, v);
    w = _mm512_add_ps(w, v);
    _mm512_mask_storeu_ps(a->v + at, some, v);
    _mm512_mask_storeu_ps(a->w + at, some, w);
    return w;
}

/* One by one, where no whole line of the copy is written. */
WIDE static void descend_few(const Arrays *a, Py_ssize_t at, Py_ssize_t end)
{
    for (; at < end; at++) {
        __m256i rounded = narrowed(descend_16(a, at, 1));
        _mm256_mask_storeu_epi16(a->rounded + at, 1, rounded);
    }
}

INSIDE void ask_for(const void *memory, Py_ssize_t bytes)
{
    for (Py_ssize_t i = 0; i < bytes; i += LINE) _mm_prefetch((const char *)memory + i, _MM_HINT_T0);
}

INSIDE Py_ssize_t descend_lines(const Arrays *a, Py_ssize_t at, Py_ssize_t end, int gradient_bytes)
{
    for (; at + TOGETHER <= end; at += TOGETHER) {
        Py_ssize_t next = at + AHEAD < end ? at + AHEAD : at;
        ask_for(a->w + next, TOGETHER * sizeof(float));
        ask_for(a->v + next, TOGETHER * sizeof(float));
        ask_for((char *)a->g + next * gradient_bytes, TOGETHER * gradient_bytes);
        __m512 first = descend_16(a, at, 0xffff), second = descend_16(a, at + LANES, 0xffff);
        _mm512_stream_si512((void *)(a->rounded + at), (__m512i)_mm512_cvtne2ps_pbh(second, first));
    }
    return at;
}

WIDE static void descend_part(const Arrays *a, Py_ssize_t at, Py_ssize_t end)
{
    Py_ssize_t line = at + (LINE - (uintptr_t)(a->rounded + at) % LINE) % LINE / sizeof(uint16_t);
    if (line > end) line = end;
    descend_few(a, at, line);
    Py_ssize_t rest =
        a->wide ? descend_lines(a, line, end, sizeof(float)) : descend_lines(a, line, end, sizeof(uint16_t));
    descend_few(a, rest, end);
    _mm_sfence();
}
#else
static void descend_part(const Arrays *a, Py_ssize_t at, Py_ssize_t end) {}
#endif

static PyObject *descend(PyObject *module, PyObject *arguments)
{
    Py_buffer w, v, g, rounded;
    Py_ssize_t parts;
    Arrays a;
    if (!PyArg_ParseTuple(arguments, "w*w*w*w*fffn", &w, &v, &g, &rounded, &a.momentum, &a.lr_decay, &a.lr,
                          &parts))
        return NULL;
    a.w = w.buf, a.v = v.buf, a.g = g.buf, a.rounded = rounded.buf, a.wide = g.len == w.len;
    Py_ssize_t length = w.len / (Py_ssize_t)sizeof(float);
    int fit = parts > 0 && v.len == w.len && 2 * rounded.len == w.len && (a.wide || g.len == rounded.len) &&
              w.len % (Py_ssize_t)sizeof(float) == 0 && (uintptr_t)rounded.buf % sizeof(uint16_t) == 0;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (Py_ssize_t part = 0; part < parts; part++)
            descend_part(&a, length * part / parts, length * (part + 1) / parts);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&w), PyBuffer_Release(&v), PyBuffer_Release(&g), PyBuffer_Release(&rounded);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not of one length");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"descend", descend, METH_VARARGS,
     "descend(w, v, g, rounded, momentum, lr_decay, lr, threads)\n--\n\n"
     "v = momentum v - lr_decay w - lr g; w = w + v; rounded = w; g = 0.\n\n"
     "w, v: float32 [N]; g: float32 or bfloat16 [N]; rounded: bfloat16 [N]."},
    {0},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_update", NULL, 0, methods};

PyMODINIT_FUNC PyInit__update(void)
{
    if (!usable()) return PyErr_Format(PyExc_ImportError, "no vectors of 512 bits that know bfloat16");
    return PyModule_Create(&module);
}

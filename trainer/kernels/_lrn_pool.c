/* ReLU, local response normalisation over 5 channels with beta 0.75, and max-pooling of 3 x 3 pixels, 2
apart, in bfloat16, with AVX-512. It takes half of the time of the Numba loops in lrn_pool_numba.py. The bits
are the same, except that results below 1e-38 become 0.

A pixel's channels stay in registers, 16 in each, from the ReLU to the result. Pooling compares bfloat16 as
integers of 16 bits, 32 at a time: for numbers without a sign the order is the same. */

#include "_lrn.h"

#ifdef AVX512
INLINE void normalise_pixel(const Layer *l, const uint16_t *x, uint16_t *y, int vectors)
{
    __m512 a[MAX_VECTORS], d[MAX_VECTORS];
    load_pixel(l, x, a, d, vectors);
    for (int v = 0; v < vectors; v++) {
        __m256i numbers = to_bfloat16(_mm512_mul_ps(a[v], inverse_power(d[v])));
        numbers = _mm256_and_si256(numbers, _mm256_set1_epi16(0x7fff)); /* NaN may have a sign */
        _mm256_storeu_si256((void *)(y + v * LANES), numbers);
    }
}

INLINE void gradient_pixel(const Layer *l, const uint16_t *x, const float *dy, uint16_t *dx, int vectors)
{
    const __m512 factor = _mm512_set1_ps(2 * l->alpha * 0.75f);
    __m512 a[MAX_VECTORS], d[MAX_VECTORS], r[MAX_VECTORS], terms[MAX_VECTORS];
    load_pixel(l, x, a, d, vectors);
    for (int v = 0; v < vectors; v++) {
        r[v] = inverse_power(d[v]);
        __m512 term = _mm512_mul_ps(_mm512_loadu_ps(dy + v * LANES), a[v]);
        terms[v] = _mm512_div_ps(_mm512_mul_ps(term, r[v]), d[v]);
    }
    for (int v = 0; v < vectors; v++) {
        __m512 direct = _mm512_mul_ps(_mm512_loadu_ps(dy + v * LANES), r[v]);
        __m512 sums = window_sums(terms, v, vectors);
        __m512 all = _mm512_fnmadd_ps(_mm512_mul_ps(factor, a[v]), sums, direct);
        all = _mm512_maskz_mov_ps(passes(a[v]), all);
        _mm256_storeu_si256((void *)(dx + v * LANES), to_bfloat16(all));
    }
}

/* Call `pixel` for each pixel of a row. For the paper's layers, 48 and 128 channels, the number of registers
is a constant. */
#define EACH_PIXEL(pixel, layer, ...)                                                                        \
    for (Py_ssize_t j = 0, c = 0; j < layer->width; j++, c += layer->channels)                               \
        if (layer->channels == 3 * LANES)                                                                    \
            pixel(layer, __VA_ARGS__, 3);                                                                    \
        else if (layer->channels == 8 * LANES)                                                               \
            pixel(layer, __VA_ARGS__, 8);                                                                    \
        else                                                                                                 \
            pixel(layer, __VA_ARGS__, (int)(layer->channels / LANES))

AVX512 static void normalise_row(const Layer *l, const uint16_t *x, uint16_t *y)
{
    EACH_PIXEL(normalise_pixel, l, x + c, y + c);
}

AVX512 static void gradient_row(const Layer *l, const uint16_t *x, const float *dy, uint16_t *dx)
{
    EACH_PIXEL(gradient_pixel, l, x + c, dy + c, dx + c);
}

/* The maximum of each window, and its position there; of equal numbers the first one. */
AVX512 static void pool_row(const Layer *l, uint16_t *const row[WINDOW], uint16_t *y, uint8_t *position)
{
    for (Py_ssize_t j = 0; j < l->columns; j++)
        for (Py_ssize_t c = 0; c < l->channels; c += 2 * LANES) {
            __mmask32 mask = l->channels - c > LANES ? 0xffffffff : 0xffff;
            Py_ssize_t from = STRIDE * j * l->channels + c, to = j * l->channels + c;
            __m512i best = _mm512_maskz_loadu_epi16(mask, row[0] + from), best_at = _mm512_setzero_si512();
            for (int p = 1; p < WINDOW * WINDOW; p++) {
                const uint16_t *at = row[p / WINDOW] + from + p % WINDOW * l->channels;
                __m512i other = _mm512_maskz_loadu_epi16(mask, at);
                __mmask32 wins = _mm512_cmpgt_epi16_mask(other, best);
                best = _mm512_max_epi16(best, other);
                best_at = _mm512_mask_mov_epi16(best_at, wins, _mm512_set1_epi16(p));
            }
            _mm512_mask_storeu_epi16(y + to, mask, best);
            _mm512_mask_cvtepi16_storeu_epi8(position + to, mask, best_at);
        }
}

/* One image. `memory`: for the rows of normalised pixels that the windows read. */
static void normalise(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *position, void *memory)
{
    Py_ssize_t line = l->width * l->channels, next = 0;
    uint16_t *rows = memory;
    for (Py_ssize_t i = 0; i < l->rows;
         i++, y += l->columns * l->channels, position += l->columns * l->channels) {
        for (; next < STRIDE * i + WINDOW; next++)
            normalise_row(l, x + next * line, rows + next % WINDOW * line);
        uint16_t *row[WINDOW];
        for (int h = 0; h < WINDOW; h++) row[h] = rows + (STRIDE * i + h) % WINDOW * line;
        pool_row(l, row, y, position);
    }
}

/* Gradients and positions of a row of outputs, with one more output at either end whose position is
NO_POSITION. */
typedef struct {
    float *dy;
    uint8_t *position;
} Outputs;

AVX512 static void read_outputs(const Layer *l, const uint16_t *dy, const uint8_t *position, Outputs to)
{
    Py_ssize_t numbers = l->columns * l->channels;
    for (Py_ssize_t m = 0; m < numbers; m += LANES)
        _mm512_storeu_ps(to.dy + l->channels + m, load_16(dy + m));
    memcpy(to.position + l->channels, position, numbers);
}

/* Add the gradients of those of 16 outputs whose maximum was at the position `expected`. */
INLINE __m512 add_if(__m512 total, Outputs from, Py_ssize_t at, int expected)
{
    __m128i position = _mm_loadu_si128((const void *)(from.position + at));
    __mmask16 same = _mm_cmpeq_epi8_mask(position, _mm_set1_epi8(expected));
    return _mm512_mask_add_ps(total, same, total, _mm512_loadu_ps(from.dy + at));
}

/* The gradient of a row of normalised pixels, from the outputs whose windows hold it, the upper ones first.
An even row is the last row of the windows above and the first of those below; an odd row is the middle row of
one row of windows. */
INLINE void unpool(const Layer *l, Outputs above, Outputs below, int even, float *dx)
{
    for (Py_ssize_t j = 0; j < l->width; j += 2, dx += 2 * l->channels)
        for (Py_ssize_t c = 0; c < l->channels; c += LANES) {
            Py_ssize_t left = j / STRIDE * l->channels + c, right = left + l->channels;
            __m512 here = _mm512_setzero_ps(), next = here;
            if (even) {
                here = add_if(add_if(here, above, left, 8), above, right, 6);
                here = add_if(add_if(here, below, left, 2), below, right, 0);
                next = add_if(add_if(next, above, right, 7), below, right, 1);
            } else {
                here = add_if(add_if(here, below, left, 5), below, right, 3);
                next = add_if(next, below, right, 4);
            }
            _mm512_storeu_ps(dx + c, here);
            _mm512_storeu_ps(dx + l->channels + c, next); /* of odd widths: past the row's end */
        }
}

/* One image. `memory`: for a row of gradients, and for two rows of outputs. */
AVX512 static void gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, const uint8_t *position,
                            uint16_t *dx, void *memory)
{
    Py_ssize_t line = l->width * l->channels, numbers = (l->columns + 2) * l->channels;
    float *row = memory, *rows = row + line + l->channels;
    uint8_t *positions = (uint8_t *)(rows + 2 * numbers);
    Outputs lines[] = {{rows, positions}, {rows + numbers, positions + numbers}};
    memset(rows, 0, 2 * numbers * sizeof *rows);
    memset(positions, NO_POSITION, 2 * numbers);
    for (Py_ssize_t h = 0; h < l->height; h++, x += line, dx += line) {
        Py_ssize_t i = h / STRIDE;
        Outputs above = lines[(i + 1) % 2], below = lines[i % 2];
        if (h % STRIDE == 0 && i < l->rows)
            read_outputs(l, dy + i * l->columns * l->channels, position + i * l->columns * l->channels,
                         below);
        else if (h % STRIDE == 0)
            memset(below.position, NO_POSITION, numbers);
        if (h % STRIDE == 0)
            unpool(l, above, below, 1, row);
        else
            unpool(l, above, below, 0, row);
        gradient_row(l, x, row, dx);
    }
}
#else
static void normalise(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *position, void *memory) {}
static void gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, const uint8_t *position,
                     uint16_t *dx, void *memory)
{
}
#endif

/* One part of the images: forward (dx is NULL), or backward. Returns 0 if there is no memory. */
static int do_part(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *position, uint16_t *dx,
                   Py_ssize_t part, Py_ssize_t parts)
{
    Py_ssize_t numbers = l->height * l->width * l->channels, outputs = l->rows * l->columns * l->channels;
    size_t bytes = (l->width + 1 + 3 * (l->columns + 2)) * l->channels * sizeof(float);
    void *memory = aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE);
    Py_ssize_t end = memory ? l->images * (part + 1) / parts : 0;
    for (Py_ssize_t n = l->images * part / parts; n < end; n++)
        if (dx)
            gradient(l, x + n * numbers, y + n * outputs, position + n * outputs, dx + n * numbers, memory);
        else
            normalise(l, x + n * numbers, y + n * outputs, position + n * outputs, memory);
    free(memory);
    return memory != NULL;
}

/* Forward: x -> y and positions. Backward: x, the gradient of y, and positions -> dx. */
static PyObject *run(PyObject *arguments, int is_backward)
{
    Py_buffer x, y, position, dx = {0};
    Py_ssize_t parts;
    Layer l;
    int read = is_backward
                   ? PyArg_ParseTuple(arguments, "y*y*y*w*(nnnn)ffn", &x, &y, &position, &dx, &l.images,
                                      &l.height, &l.width, &l.channels, &l.k, &l.alpha, &parts)
                   : PyArg_ParseTuple(arguments, "y*w*w*(nnnn)ffn", &x, &y, &position, &l.images, &l.height,
                                      &l.width, &l.channels, &l.k, &l.alpha, &parts);
    if (!read) return NULL;
    l.rows = (l.height - WINDOW) / STRIDE + 1, l.columns = (l.width - WINDOW) / STRIDE + 1;
    int fit = parts > 0 && parts <= l.images && l.height >= WINDOW && l.width >= WINDOW &&
              l.channels % LANES == 0 && l.channels <= MAX_VECTORS * LANES &&
              HAS_SHAPE(x, uint16_t, l.images, l.height, l.width, l.channels) &&
              HAS_SHAPE(y, uint16_t, l.images, l.rows, l.columns, l.channels) &&
              HAS_SHAPE(position, uint8_t, l.images, l.rows, l.columns, l.channels) &&
              (!is_backward || HAS_SHAPE(dx, uint16_t, l.images, l.height, l.width, l.channels));
    int done = 1;
    if (parts > MAX_PARTS) parts = MAX_PARTS;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(parts) schedule(static, 1) reduction(&& : done)
        for (Py_ssize_t part = 0; part < parts; part++)
            done = do_part(&l, x.buf, y.buf, position.buf, dx.buf, part, parts) && done;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x), PyBuffer_Release(&y), PyBuffer_Release(&position), PyBuffer_Release(&dx);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not those of such a layer");
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *forward(PyObject *module, PyObject *arguments) { return run(arguments, 0); }
static PyObject *backward(PyObject *module, PyObject *arguments) { return run(arguments, 1); }

static const char forward_doc[] =
    "forward(x, y, position, shape, k, alpha, threads)\n--\n\n"
    "Write y and, a byte each, the position of every output's maximum in its window.\n\n"
    "x: bfloat16 of `shape`, images x height x width x channels, a multiple of 16 and at most 512 of these;\n"
    "y: bfloat16, images x rows x columns x channels; threads: as many as there are images, at most.";
static const char backward_doc[] = "backward(x, dy, position, dx, shape, k, alpha, threads)\n--\n\n"
                                   "Write dx, the gradient of x, from that of y.";

static PyMethodDef methods[] = {
    {"forward", forward, METH_VARARGS, forward_doc}, {"backward", backward, METH_VARARGS, backward_doc}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_lrn_pool", NULL, 0, methods};

PyMODINIT_FUNC PyInit__lrn_pool(void)
{
    if (!usable()) return PyErr_Format(PyExc_ImportError, "this processor has no AVX-512 BF16");
    return PyModule_Create(&module);
}

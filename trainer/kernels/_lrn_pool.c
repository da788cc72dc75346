/* ReLU, local response normalisation over 5 channels with beta 0.75, and max-pooling of 3 x 3, 2 apart, in
bfloat16, for processors with AVX-512: lrn_pool.py's loops in half of their time. The bits are the same, but
that results below 1e-38 become 0.

A pixel's channels stay in registers, 16 in each, from the ReLU to the result. The pooling compares bfloat16
as integers of 16 bits, 32 at a time: without signs the order is the same. */

#include "_lrn.h"

#ifdef WIDE
INSIDE void normalise_pixel(const Layer *l, const uint16_t *x, uint16_t *y, int vectors)
{
    __m512 a[MOST], d[MOST];
    read_pixel(l, x, a, d, vectors);
    for (int v = 0; v < vectors; v++) {
        __m256i said = narrowed(_mm512_mul_ps(a[v], inverse_power(d[v])));
        said = _mm256_and_si256(said, _mm256_set1_epi16(0x7fff)); /* of what is not a number, too */
        _mm256_storeu_si256((void *)(y + v * LANES), said);
    }
}

INSIDE void gradient_pixel(const Layer *l, const uint16_t *x, const float *dy, uint16_t *dx, int vectors)
{
    const __m512 factor = _mm512_set1_ps(2 * l->alpha * 0.75f);
    __m512 a[MOST], d[MOST], r[MOST], terms[MOST];
    read_pixel(l, x, a, d, vectors);
    for (int v = 0; v < vectors; v++) {
        r[v] = inverse_power(d[v]);
        __m512 term = _mm512_mul_ps(_mm512_loadu_ps(dy + v * LANES), a[v]);
        terms[v] = _mm512_div_ps(_mm512_mul_ps(term, r[v]), d[v]);
    }
    for (int v = 0; v < vectors; v++) {
        __m512 direct = _mm512_mul_ps(_mm512_loadu_ps(dy + v * LANES), r[v]);
        __m512 sums = window_sums(terms, v, vectors);
        __m512 all = _mm512_fnmadd_ps(_mm512_mul_ps(factor, a[v]), sums, direct);
        all = _mm512_maskz_mov_ps(speaks(a[v]), all);
        _mm256_storeu_si256((void *)(dx + v * LANES), narrowed(all));
    }
}

/* Of the paper's layers the compiler knows how many registers a pixel takes: 48 channels, and 128. */
#define EACH_PIXEL(pixel, layer, ...)                                                                        \
    for (Py_ssize_t j = 0, c = 0; j < layer->width; j++, c += layer->channels)                               \
        if (layer->channels == 3 * LANES)                                                                    \
            pixel(layer, __VA_ARGS__, 3);                                                                    \
        else if (layer->channels == 8 * LANES)                                                               \
            pixel(layer, __VA_ARGS__, 8);                                                                    \
        else                                                                                                 \
            pixel(layer, __VA_ARGS__, (int)(layer->channels / LANES))

WIDE static void normalise_row(const Layer *l, const uint16_t *x, uint16_t *y)
{
    EACH_PIXEL(normalise_pixel, l, x + c, y + c);
}

WIDE static void gradient_row(const Layer *l, const uint16_t *x, const float *dy, uint16_t *dx)
{
    EACH_PIXEL(gradient_pixel, l, x + c, dy + c, dx + c);
}

/* The largest of each window, and its place there: the first of equals. */
WIDE static void pool_row(const Layer *l, uint16_t *const row[SIZE], uint16_t *y, uint8_t *which)
{
    for (Py_ssize_t j = 0; j < l->columns; j++)
        for (Py_ssize_t c = 0; c < l->channels; c += 2 * LANES) {
            __mmask32 some = l->channels - c > LANES ? 0xffffffff : 0xffff;
            Py_ssize_t from = STRIDE * j * l->channels + c, to = j * l->channels + c;
            __m512i best = _mm512_maskz_loadu_epi16(some, row[0] + from), place = _mm512_setzero_si512();
            for (int p = 1; p < SIZE * SIZE; p++) {
                const uint16_t *at = row[p / SIZE] + from + p % SIZE * l->channels;
                __m512i other = _mm512_maskz_loadu_epi16(some, at);
                __mmask32 wins = _mm512_cmpgt_epi16_mask(other, best);
                best = _mm512_max_epi16(best, other);
                place = _mm512_mask_mov_epi16(place, wins, _mm512_set1_epi16(p));
            }
            _mm512_mask_storeu_epi16(y + to, some, best);
            _mm512_mask_cvtepi16_storeu_epi8(which + to, some, place);
        }
}

static void normalise(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *which, void *room)
{
    Py_ssize_t line = l->width * l->channels, next = 0;
    uint16_t *rows = room;
    for (Py_ssize_t i = 0; i < l->rows;
         i++, y += l->columns * l->channels, which += l->columns * l->channels) {
        for (; next < STRIDE * i + SIZE; next++) normalise_row(l, x + next * line, rows + next % SIZE * line);
        uint16_t *row[SIZE];
        for (int h = 0; h < SIZE; h++) row[h] = rows + (STRIDE * i + h) % SIZE * line;
        pool_row(l, row, y, which);
    }
}

/* A row of outputs' gradients and places, with one more output, of nowhere, on both sides. */
typedef struct {
    float *dy;
    uint8_t *which;
} Outputs;

WIDE static void read_outputs(const Layer *l, const uint16_t *dy, const uint8_t *which, Outputs to)
{
    Py_ssize_t numbers = l->columns * l->channels;
    for (Py_ssize_t m = 0; m < numbers; m += LANES)
        _mm512_storeu_ps(to.dy + l->channels + m, read_16(dy + m));
    memcpy(to.which + l->channels, which, numbers);
}

/* Add what outputs hand down to the numbers at `place` of their windows. */
INSIDE __m512 sum(__m512 total, Outputs from, Py_ssize_t at, int place)
{
    __m128i which = _mm_loadu_si128((const void *)(from.which + at));
    __mmask16 these = _mm_cmpeq_epi8_mask(which, _mm_set1_epi8(place));
    return _mm512_mask_add_ps(total, these, total, _mm512_loadu_ps(from.dy + at));
}

/* The gradients of a row of pixels from the windows that it is in, first the upper ones: an even row is the
last one of windows above and the first one below, an odd row in the middle of one row of windows. */
INSIDE void hand_down(const Layer *l, Outputs above, Outputs below, int even, float *dx)
{
    for (Py_ssize_t j = 0; j < l->width; j += 2, dx += 2 * l->channels)
        for (Py_ssize_t c = 0; c < l->channels; c += LANES) {
            Py_ssize_t left = j / STRIDE * l->channels + c, right = left + l->channels;
            __m512 here = _mm512_setzero_ps(), next = here;
            if (even) {
                here = sum(sum(here, above, left, 8), above, right, 6);
                here = sum(sum(here, below, left, 2), below, right, 0);
                next = sum(sum(next, above, right, 7), below, right, 1);
            } else {
                here = sum(sum(here, below, left, 5), below, right, 3);
                next = sum(next, below, right, 4);
            }
            _mm512_storeu_ps(dx + c, here);
            _mm512_storeu_ps(dx + l->channels + c, next); /* behind a row of odd width there is room */
        }
}

WIDE static void gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, const uint8_t *which,
                          uint16_t *dx, void *room)
{
    Py_ssize_t line = l->width * l->channels, numbers = (l->columns + 2) * l->channels;
    float *row = room, *rows = row + line + l->channels;
    uint8_t *places = (uint8_t *)(rows + 2 * numbers);
    Outputs lines[] = {{rows, places}, {rows + numbers, places + numbers}};
    memset(rows, 0, 2 * numbers * sizeof *rows);
    memset(places, NOWHERE, 2 * numbers);
    for (Py_ssize_t h = 0; h < l->height; h++, x += line, dx += line) {
        Py_ssize_t i = h / STRIDE;
        Outputs above = lines[(i + 1) % 2], below = lines[i % 2];
        if (h % STRIDE == 0 && i < l->rows)
            read_outputs(l, dy + i * l->columns * l->channels, which + i * l->columns * l->channels, below);
        else if (h % STRIDE == 0)
            memset(below.which, NOWHERE, numbers);
        if (h % STRIDE == 0)
            hand_down(l, above, below, 1, row);
        else
            hand_down(l, above, below, 0, row);
        gradient_row(l, x, row, dx);
    }
}
#else
static void normalise(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *which, void *room) {}
static void gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, const uint8_t *which,
                     uint16_t *dx, void *room)
{
}
#endif

/* Normalise pictures (dx is NULL) or hand their gradient down: one part of them; 0 if there is no memory. */
static int do_part(const Layer *l, const uint16_t *x, uint16_t *y, uint8_t *which, uint16_t *dx,
                   Py_ssize_t part, Py_ssize_t parts)
{
    Py_ssize_t numbers = l->height * l->width * l->channels, outputs = l->rows * l->columns * l->channels;
    size_t room = (l->width + 1 + 3 * (l->columns + 2)) * l->channels * sizeof(float);
    void *memory = aligned_alloc(LINE, (room + LINE - 1) / LINE * LINE);
    Py_ssize_t end = memory ? l->images * (part + 1) / parts : 0;
    for (Py_ssize_t n = l->images * part / parts; n < end; n++)
        if (dx)
            gradient(l, x + n * numbers, y + n * outputs, which + n * outputs, dx + n * numbers, memory);
        else
            normalise(l, x + n * numbers, y + n * outputs, which + n * outputs, memory);
    free(memory);
    return memory != NULL;
}

/* x and, for the way back, dx are the inputs'; y, or its gradient, and `which` the outputs'. */
static PyObject *run(PyObject *arguments, int back)
{
    Py_buffer x, y, which, dx = {0};
    Py_ssize_t parts;
    Layer l;
    int read = back ? PyArg_ParseTuple(arguments, "y*y*y*w*(nnnn)ffn", &x, &y, &which, &dx, &l.images,
                                       &l.height, &l.width, &l.channels, &l.k, &l.alpha, &parts)
                    : PyArg_ParseTuple(arguments, "y*w*w*(nnnn)ffn", &x, &y, &which, &l.images, &l.height,
                                       &l.width, &l.channels, &l.k, &l.alpha, &parts);
    if (!read) return NULL;
    l.rows = (l.height - SIZE) / STRIDE + 1, l.columns = (l.width - SIZE) / STRIDE + 1;
    Py_ssize_t numbers = l.images * l.height * l.width * l.channels;
    Py_ssize_t outputs = l.images * l.rows * l.columns * l.channels;
    int fit = parts > 0 && parts <= l.images && l.height >= SIZE && l.width >= SIZE && l.channels > 0 &&
              l.channels % LANES == 0 && l.channels <= MOST * LANES &&
              x.len == numbers * (Py_ssize_t)sizeof(uint16_t) &&
              y.len == outputs * (Py_ssize_t)sizeof(uint16_t) && which.len == outputs &&
              (!back || dx.len == x.len);
    int done = 1;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(parts) schedule(static, 1) reduction(&& : done)
        for (Py_ssize_t part = 0; part < parts; part++)
            done = do_part(&l, x.buf, y.buf, which.buf, dx.buf, part, parts) && done;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x), PyBuffer_Release(&y), PyBuffer_Release(&which), PyBuffer_Release(&dx);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not those of such a layer");
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *forward(PyObject *module, PyObject *arguments) { return run(arguments, 0); }
static PyObject *backward(PyObject *module, PyObject *arguments) { return run(arguments, 1); }

static const char forward_says[] =
    "forward(x, y, which, shape, k, alpha, threads)\n--\n\n"
    "Write y and, a byte each, which number of its window every output is.\n\n"
    "x: bfloat16 of `shape`, images x height x width x channels, a multiple of 16 and at most 512 of these;\n"
    "y: bfloat16, images x rows x columns x channels; threads: as many as there are images, at most.";
static const char backward_says[] = "backward(x, dy, which, dx, shape, k, alpha, threads)\n--\n\n"
                                    "Write dx, the gradient of x, from that of y.";

static PyMethodDef methods[] = {{"forward", forward, METH_VARARGS, forward_says},
                                {"backward", backward, METH_VARARGS, backward_says},
                                {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_lrn_pool", NULL, 0, methods};

PyMODINIT_FUNC PyInit__lrn_pool(void)
{
    if (!usable()) return PyErr_Format(PyExc_ImportError, "no vectors of 512 bits that know bfloat16");
    return PyModule_Create(&module);
}

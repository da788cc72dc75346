/* Convolutions in bfloat16 on the matrix unit (AMX) of Intel's processors: stride 1, any padding.

Four tiles of sums leave the unit through memory. Bias, ReLU and rounding follow there, while the next four
are computed.

Errata (measured): a TILESTORED more than 128 TDPBF16PS after the last one stalls 300 ns; issue a dummy store
every 16 steps. */

#include "_images.h"
#include <math.h>

#ifdef HAVE_AMX
enum { STORE_EVERY = 16 }; /* steps of four products: see Errata */

/* Four tiles of sums in memory that wait for bias, ReLU and rounding: of 16 or 32 filters. */
typedef struct {
    const float *sums, *bias;
    uint16_t *to[4];
    Py_ssize_t next, wide, done; /* numbers from a pixel to the next; pixels of a tile; those finished */
    float floor;
} Waiting;

/* Add the bias to the next pixel of each tile, take the maximum with the floor, and round. Of an operand that
is NaN the maximum is the second operand: NaN stays NaN. */
WITH_AMX static inline __attribute__((always_inline)) void finish_pixel(Waiting *of, int filters)
{
    const __m512 floor = _mm512_set1_ps(of->floor);
    for (int t = 0; t < 4 / filters; t++) {
        const float *sums = of->sums + t * filters * SUMS + of->done * LANES;
        uint16_t *to = of->to[t] + of->done * of->next;
        __m512 low = _mm512_add_ps(_mm512_load_ps(sums), _mm512_loadu_ps(of->bias));
        low = _mm512_max_ps(floor, low);
        if (filters > 1) {
            __m512 high = _mm512_add_ps(_mm512_load_ps(sums + SUMS), _mm512_loadu_ps(of->bias + LANES));
            _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_max_ps(floor, high), low));
        } else
            _mm256_storeu_si256((void *)to, (__m256i)_mm512_cvtneps_pbh(low));
    }
    of->done++;
}

WITH_AMX static void finish(Waiting *of, int filters)
{
    while (of->done < of->wide) finish_pixel(of, filters);
}

/* Compute four tiles of sums: `filters` tiles of filters, `next` numbers apart, times 4 / filters of pixels.
Meanwhile the last four are finished. */
WITH_AMX static inline __attribute__((always_inline)) void sum_up(const Work *w, Py_ssize_t steps,
                                                                  const uint16_t *const a[4],
                                                                  const uint16_t *b, Py_ssize_t next,
                                                                  float *sums, Waiting *last, int filters)
{
    Py_ssize_t a_step = (w->wide + steps - 1) / steps;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (Py_ssize_t s = 0; s < steps; s++, b += TILE) {
        Py_ssize_t at = w->offset[s];
        _tile_loadd(6, b, LINE);
        _tile_loadd(4, a[0] + at, LINE);
        if (filters > 1) _tile_loadd(7, b + next, LINE);
        _tile_loadd(5, a[1] + at, LINE);
        _tile_dpbf16ps(0, 4, 6);
        if (filters > 1) {
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        } else {
            _tile_dpbf16ps(1, 5, 6);
            _tile_loadd(4, a[2] + at, LINE);
            _tile_loadd(5, a[3] + at, LINE);
            _tile_dpbf16ps(2, 4, 6);
            _tile_dpbf16ps(3, 5, 6);
        }
        for (Py_ssize_t i = 0; i < a_step && last->done < last->wide; i++) finish_pixel(last, filters);
        if (s % STORE_EVERY == STORE_EVERY - 1) _tile_stored(4, w->sums + 8 * SUMS, LINE);
    }
    _tile_stored(0, sums, LINE);
    _tile_stored(1, sums + SUMS, LINE);
    _tile_stored(2, sums + 2 * SUMS, LINE);
    _tile_stored(3, sums + 3 * SUMS, LINE);
    finish(last, filters);
}

/* Some images, for one or two tiles of filters. */
WITH_AMX static inline __attribute__((always_inline)) void
convolve_images(const Work *w, const Layer *l, Py_ssize_t images, const uint16_t *b, const float *bias,
                uint16_t *y, int filters)
{
    Py_ssize_t across = w->tiles / l->rows;
    Waiting last = {.wide = 0};
    float *sums = w->sums;
    for (Py_ssize_t n = 0; n < images; n++, y += l->rows * l->columns * l->filters)
        for (Py_ssize_t t = 0; t < w->tiles; t += 4 / filters) {
            const uint16_t *a[4];
            Waiting these = {sums, bias, .next = l->filters, .wide = w->wide, .floor = l->floor};
            for (int i = 0; i < 4 / filters; i++) {
                Py_ssize_t tile = t + i < w->tiles ? t + i : w->tiles - 1;
                Py_ssize_t row = tile / across, column = tile % across * w->wide;
                if (column > l->columns - w->wide) column = l->columns - w->wide;
                a[i] = w->x + n * w->area + (row * w->stride + column + 1) * PAIRS;
                these.to[i] = y + (row * l->columns + column) * l->filters;
            }
            sum_up(w, l->steps, a, b, l->steps * TILE, sums, &last, filters);
            last = these;
            sums = sums == w->sums ? w->sums + 4 * SUMS : w->sums;
        }
    finish(&last, filters);
}

WITH_AMX static int convolve(const Layer *l, const uint16_t *x, const uint16_t *tiles, const float *bias,
                             uint16_t *y)
{
    Work w;
    int prepared = prepare(&w, l);
    if (prepared) {
        begin_tiles(w.wide);
        for (Py_ssize_t n = 0; n < l->images; n += w.together) {
            Py_ssize_t images = l->images - n < w.together ? l->images - n : w.together;
            for (Py_ssize_t i = 0; i < images; i++)
                copy_image(&w, l, x + (n + i) * l->height * l->width * l->channels, w.x + i * w.area);
            uint16_t *to = y + n * l->rows * l->columns * l->filters;
            for (Py_ssize_t o = 0; o < l->filters; o += 2 * LANES) {
                const uint16_t *b = tiles + o / LANES * l->steps * TILE;
                if (l->filters - o > LANES)
                    convolve_images(&w, l, images, b, bias + o, to + o, 2);
                else
                    convolve_images(&w, l, images, b, bias + o, to + o, 1);
            }
        }
        _tile_release();
    }
    end(&w);
    return prepared;
}
#else
static void write_weights(const uint16_t *weights, const Layer *l, uint16_t *to) {}
static int convolve(const Layer *l, const uint16_t *x, const uint16_t *tiles, const float *bias, uint16_t *y)
{
    return 0;
}
#endif

/* One part of the images. */
static int convolve_part(Layer l, const uint16_t *x, const uint16_t *tiles, const float *bias, uint16_t *y,
                         Py_ssize_t part, Py_ssize_t parts)
{
    Py_ssize_t image = l.images * part / parts;
    l.images = l.images * (part + 1) / parts - image;
    x += image * l.height * l.width * l.channels;
    return convolve(&l, x, tiles, bias, y + image * l.rows * l.columns * l.filters);
}

/* All images; 0 if there is no memory. */
static int convolve_all(const Layer *l, const uint16_t *x, const uint16_t *weights, const float *bias,
                        uint16_t *y, Py_ssize_t parts)
{
    uint16_t *tiles = aligned_alloc(LINE, l->filters / LANES * l->steps * TILE * sizeof(uint16_t));
    int done = tiles != NULL;
    if (tiles) {
        write_weights(weights, l, tiles);
#pragma omp parallel for num_threads(parts) schedule(static, 1) reduction(&& : done)
        for (Py_ssize_t part = 0; part < parts; part++)
            done = convolve_part(*l, x, tiles, bias, y, part, parts) && done;
    }
    free(tiles);
    return done;
}

static PyObject *run(PyObject *module, PyObject *arguments)
{
    Py_buffer x, weights, bias, y;
    Py_ssize_t parts;
    Layer l;
    int relu;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*(nnnn)nnnpn", &x, &weights, &bias, &y, &l.images, &l.height,
                          &l.width, &l.channels, &l.filters, &l.side, &l.pad, &relu, &parts))
        return NULL;
    l.rows = l.height + 2 * l.pad - l.side + 1, l.columns = l.width + 2 * l.pad - l.side + 1;
    l.floor = relu ? 0 : -INFINITY;
    int fit =
        l.channels % LANES == 0 && l.filters % LANES == 0 && l.pad >= 0 && l.pad < l.side && parts > 0 &&
        parts <= l.images && HAS_SHAPE(x, uint16_t, l.images, l.height, l.width, l.channels) &&
        HAS_SHAPE(weights, uint16_t, l.filters, l.side, l.side, l.channels) &&
        HAS_SHAPE(bias, float, l.filters) && HAS_SHAPE(y, uint16_t, l.images, l.rows, l.columns, l.filters);
    int done = 1;
    if (parts > MAX_PARTS) parts = MAX_PARTS;
    if (fit) {
        l.steps = steps_of(l.channels, l.side);
        Py_BEGIN_ALLOW_THREADS
        done = convolve_all(&l, x.buf, weights.buf, bias.buf, y.buf, parts);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x), PyBuffer_Release(&weights), PyBuffer_Release(&bias), PyBuffer_Release(&y);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not those of such a convolution");
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"convolve", run, METH_VARARGS,
     "convolve(x, weights, bias, y, shape, filters, side, pad, relu, threads)\n--\n\n"
     "Write y, bfloat16, images x rows x columns x filters.\n\n"
     "x: bfloat16 of `shape`, images x height x width x channels; weights: bfloat16, filters x side x\n"
     "side x channels; numbers of filters and channels are multiples of 16. bias: float32 [filters];\n"
     "threads: as many as there are images, at most."},
    {0},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_convolve", NULL, 0, methods};

PyMODINIT_FUNC PyInit__convolve(void)
{
    if (!usable())
        return PyErr_Format(PyExc_ImportError, "this processor has no AMX, or Linux does not permit its use");
    return PyModule_Create(&module);
}

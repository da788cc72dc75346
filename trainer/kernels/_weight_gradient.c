/* The gradient of a convolution's weights in bfloat16, on the matrix unit (AMX) of Intel's processors.

Lay the pixels of an image in one line, with `pad` zeros after each row and `pad` rows of zeros after each
image. Then a tap of the filter (pixel of its window) reads at a constant distance from every pixel p:

    gradient[o, tap, c] = sum over p of dy[p, o] * x[p + shift(tap), c]

This is a product of two matrices for each tap, and all taps read the same ones. The unit multiplies tiles of
16 rows of 16 pairs of numbers, and sums over pairs: here a pair is the same pixel of two images, so that any
shift keeps pairs whole.

    dy    tiles of 16 filters x 16 pixels, each a pair
    x     lines of pixels of 16 channels, each a pair; any 16 consecutive pixels of a line are a tile

Both are copied to this layout for a few images at a time, which stay in the L2 cache while every tap reads
them. */

#include "_amx.h"

enum {
    STRETCH = 12,          /* tiles that are multiplied at a time, about: 4 kB each */
    LONGEST = 17,          /* tiles of a stretch at most, where they are divided equally */
    GROUP_BYTES = 3 << 18, /* of images that are multiplied at a time: they stay in the L2 cache */
};

/* `filters` of a convolution's `all_filters`, which are square, stride 1: images x height x width x channels
-> images x rows x columns x all_filters. */
typedef struct {
    Py_ssize_t images, height, width, channels, all_filters, filters, side, pad;
    Py_ssize_t rows, columns;
} Layer;

#ifdef HAVE_AMX
typedef struct {
    Py_ssize_t taps;
    Py_ssize_t stride, area; /* pixels from a row to the next, and from an image to the next */
    Py_ssize_t together;     /* pairs of images that are copied at a time */
    Py_ssize_t tiles;        /* of all of their pixels */
    Py_ssize_t before, line; /* pixels of a line before the first image, and in all */
    uint16_t *x, *dy, *ones;
    const uint16_t **pixel; /* two pointers for each pixel of a line: one to each image of a pair */
    const uint16_t *zeros;
} Work;

static void *allocate(size_t bytes) { return aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE); }

static int prepare(Work *w, const Layer *l)
{
    Py_ssize_t pairs = (l->images + 1) / 2, after = l->side - 1 - l->pad;
    Py_ssize_t widest = l->channels > l->filters ? l->channels : l->filters;
    w->taps = l->side * l->side;
    w->stride = l->width + l->pad;
    w->area = w->stride * (l->height + l->pad);
    w->together = GROUP_BYTES / (w->area * (l->channels + l->filters) * 2 * (Py_ssize_t)sizeof(uint16_t));
    w->together = w->together < 1 ? 1 : w->together > pairs ? pairs : w->together;
    w->tiles = (w->together * w->area + LANES - 1) / LANES;
    w->before = l->pad * (w->stride + 1);
    w->line = w->before + w->tiles * LANES + after * (w->stride + 1);
    w->x = allocate(w->line * l->channels * 2 * sizeof(uint16_t));
    w->dy = allocate(w->tiles * l->filters * PAIRS * sizeof(uint16_t));
    w->ones = allocate(LONGEST * TILE * sizeof(uint16_t));
    w->pixel = malloc(2 * w->line * sizeof *w->pixel);
    w->zeros = calloc(widest, sizeof(uint16_t));
    if (!w->x || !w->dy || !w->ones || !w->pixel || !w->zeros) return 0;
    for (int i = 0; i < LONGEST * TILE; i++) w->ones[i] = 0x3f80; /* 1 */
    return 1;
}

static void end(Work *w) { free(w->x), free(w->dy), free(w->ones), free(w->pixel), free((void *)w->zeros); }

/* Write a pointer to each pixel of a line, from pixel `at` to `end`, of so many images from `x` on; to zeros
where there is no pixel. */
static void find_pixels(const Work *w, Py_ssize_t at, Py_ssize_t end, const uint16_t *x, Py_ssize_t images,
                        Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels)
{
    const uint16_t **to = w->pixel;
    Py_ssize_t image = height * width * channels;
    for (Py_ssize_t i = 0; i < 2 * at; i++) *to++ = w->zeros;
    for (Py_ssize_t n = 0; n < images; n += 2, x += 2 * image)
        for (Py_ssize_t i = 0; i < w->area / w->stride; i++) {
            const uint16_t *one = x + i * width * channels;
            for (Py_ssize_t j = 0; j < w->stride; j++, one += channels) {
                int inside = i < height && j < width;
                *to++ = inside ? one : w->zeros;
                *to++ = inside && n + 1 < images ? one + image : w->zeros;
            }
        }
    while (to < w->pixel + 2 * end) *to++ = w->zeros;
}

WITH_AMX static void write_x(const Work *w, Py_ssize_t channels)
{
    uint16_t *to = w->x;
    for (Py_ssize_t c = 0; c < channels; c += LANES)
        for (Py_ssize_t p = 0; p < w->line; p++, to += PAIRS)
            _mm512_store_si512(to, pair(w->pixel + 2 * p, c));
}

WITH_AMX static void write_dy(const Work *w, Py_ssize_t filters)
{
    for (Py_ssize_t t = 0; t < w->tiles; t++)
        for (Py_ssize_t o = 0; o < filters; o += LANES) {
            __m512i row[LANES];
            for (int i = 0; i < LANES; i++) row[i] = pair(w->pixel + t * PAIRS + 2 * i, o);
            transpose(row);
            uint16_t *tile = w->dy + (o / LANES * w->tiles + t) * TILE;
            for (int i = 0; i < LANES; i++) _mm512_store_si512(tile + i * PAIRS, row[i]);
        }
}

/* The beginning of tile `t` of x for a column, 16 channels and a tap; for the last column ones, which give
the bias. */
static const uint16_t *tile_of_x(const Work *w, const Layer *l, Py_ssize_t column, Py_ssize_t t)
{
    Py_ssize_t tap = column % w->taps, channels = column / w->taps;
    if (channels >= l->channels / LANES) return w->ones;
    Py_ssize_t shift = (tap / l->side - l->pad) * w->stride + tap % l->side - l->pad;
    return w->x + (channels * w->line + w->before + shift + t * LANES) * PAIRS;
}

/* Add the products of `tiles` tiles from tile `t` on, of all columns and of 16 or 32 filters. */
WITH_AMX static void add_stretch(const Work *w, const Layer *l, Py_ssize_t o, Py_ssize_t t, Py_ssize_t tiles,
                                 float *sums)
{
    Py_ssize_t all = l->channels / LANES * w->taps + 1, next = w->tiles * TILE;
    const uint16_t *dy = w->dy + (o / LANES * w->tiles + t) * TILE;
    int together = l->filters - o > LANES ? 2 : 4;
    float unused[SUMS];
    for (Py_ssize_t column = 0; column < all; column += together) {
        const uint16_t *x[4];
        float *to[4];
        for (int i = 0; i < together; i++) {
            x[i] = tile_of_x(w, l, column + i, t);
            to[i] = column + i < all ? sums + ((column + i) * l->all_filters + o) * LANES : unused;
        }
        if (together == 4)
            multiply_row(dy, x, tiles, to);
        else if (all - column > 1) /* inlined with a constant */
            multiply(dy, next, x, tiles, to, 2);
        else
            multiply(dy, next, x, tiles, to, 1);
    }
}

WITH_AMX static void add_products(const Work *w, const Layer *l, float *sums)
{
    Py_ssize_t parts = (w->tiles + STRETCH / 2) / STRETCH;
    if (parts == 0) parts = 1;
    for (Py_ssize_t o = 0; o < l->filters; o += 2 * LANES)
        for (Py_ssize_t part = 0; part < parts; part++) {
            Py_ssize_t t = w->tiles * part / parts, end = w->tiles * (part + 1) / parts;
            add_stretch(w, l, o, t, end - t, sums);
        }
}

WITH_AMX static int add_gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, float *sums)
{
    Work w;
    int prepared = prepare(&w, l);
    if (prepared) {
        begin_tiles(LANES);
        for (Py_ssize_t n = 0; n < l->images; n += 2 * w.together) {
            Py_ssize_t images = l->images - n < 2 * w.together ? l->images - n : 2 * w.together;
            const uint16_t *first_x = x + n * l->height * l->width * l->channels;
            const uint16_t *first_dy = dy + n * l->rows * l->columns * l->all_filters;
            find_pixels(&w, w.before, w.line, first_x, images, l->height, l->width, l->channels);
            write_x(&w, l->channels);
            find_pixels(&w, 0, w.tiles * LANES, first_dy, images, l->rows, l->columns, l->all_filters);
            write_dy(&w, l->filters);
            add_products(&w, l, sums);
        }
        _tile_release();
    }
    end(&w);
    return prepared;
}

#else
static int add_gradient(const Layer *l, const uint16_t *x, const uint16_t *dy, float *sums) { return 0; }
#endif

/* The beginning of a part of a length that is divided into whole units. */
static Py_ssize_t begins(Py_ssize_t length, Py_ssize_t part, Py_ssize_t parts, Py_ssize_t unit)
{
    Py_ssize_t at = (length + unit - 1) / unit * part / parts * unit;
    return at < length ? at : length;
}

/* One part of the images, which has its own sums, and one part of the filters. */
static int add_part(Layer l, const uint16_t *x, const uint16_t *dy, float *sums, Py_ssize_t p,
                    Py_ssize_t parts, Py_ssize_t q, Py_ssize_t of_filters)
{
    Py_ssize_t image = begins(l.images, p, parts, 2), filter = begins(l.all_filters, q, of_filters, LANES);
    l.images = begins(l.images, p + 1, parts, 2) - image;
    l.filters = begins(l.all_filters, q + 1, of_filters, LANES) - filter;
    x += image * l.height * l.width * l.channels;
    dy += image * l.rows * l.columns * l.all_filters + filter;
    sums += p * (l.channels * l.side * l.side + LANES) * l.all_filters + filter * LANES;
    return l.images == 0 || l.filters == 0 || add_gradient(&l, x, dy, sums);
}

static PyObject *weight_gradient(PyObject *module, PyObject *arguments)
{
    Py_buffer x, dy, sums;
    Py_ssize_t parts, of_filters;
    Layer l;
    if (!PyArg_ParseTuple(arguments, "y*y*w*(nnnn)nnn(nn)", &x, &dy, &sums, &l.images, &l.height, &l.width,
                          &l.channels, &l.all_filters, &l.side, &l.pad, &parts, &of_filters))
        return NULL;
    l.rows = l.height + 2 * l.pad - l.side + 1, l.columns = l.width + 2 * l.pad - l.side + 1;
    int fit = l.side > 0 && l.side <= sums.len && l.pad >= 0 && l.pad < l.side && l.channels % LANES == 0 &&
              l.all_filters % LANES == 0 && parts > 0 && parts <= MAX_PARTS && of_filters > 0 &&
              of_filters <= MAX_PARTS / parts &&
              HAS_SHAPE(x, uint16_t, l.images, l.height, l.width, l.channels) &&
              HAS_SHAPE(dy, uint16_t, l.images, l.rows, l.columns, l.all_filters) &&
              HAS_SHAPE(sums, float, parts, l.channels / LANES * l.side * l.side + 1, l.all_filters, LANES);
    int added = 1;
    if (fit) {
        Py_BEGIN_ALLOW_THREADS
#pragma omp parallel for num_threads(parts *of_filters) schedule(static, 1) reduction(&& : added)
        for (Py_ssize_t part = 0; part < parts * of_filters; part++)
            added = add_part(l, x.buf, dy.buf, sums.buf, part / of_filters, parts, part % of_filters,
                             of_filters) &&
                    added;
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&x), PyBuffer_Release(&dy), PyBuffer_Release(&sums);
    if (!fit) return PyErr_Format(PyExc_ValueError, "the arrays are not those of such a convolution");
    if (!added) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static const char weight_gradient_doc[] =
    "weight_gradient(x, dy, sums, shape, filters, side, pad, parts)\n--\n\n"
    "Add gradients to `sums`, float32 [parts[0], channels / 16 * side * side + 1, filters, 16].\n\n"
    "x: bfloat16 of `shape`, images x height x width x channels; dy: bfloat16, images x rows x columns x\n"
    "filters; numbers of filters and channels are multiples of 16. As many threads as there are parts share\n"
    "the work: parts[0] of the images, each with its own sums, times parts[1] of the filters.\n"
    "sums[p, c * side * side + tap, o, i] is that of the weight of filter o at channel 16 c + i; any number\n"
    "of its last row that of filter o's bias.";

static PyMethodDef methods[] = {{"weight_gradient", weight_gradient, METH_VARARGS, weight_gradient_doc}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_weight_gradient", NULL, 0, methods};

PyMODINIT_FUNC PyInit__weight_gradient(void)
{
    if (!usable())
        return PyErr_Format(PyExc_ImportError, "this processor has no AMX, or Linux does not permit its use");
    return PyModule_Create(&module);
}

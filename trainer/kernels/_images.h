/* Images and weights in the layout that the matrix unit reads for convolutions in bfloat16.

The unit multiplies 16 pixels x 32 channels by 32 channels x 16 filters. So images are copied to blocks of 32
channels: a cache line a pixel, with `pad` zeros between rows, so that every tap of a filter (pixel of its
window) reads at a constant distance. A last block of 16 channels holds two neighbouring pixels in a line, for
two taps at a time. */

#include "_amx.h"

enum { GROUP_BYTES = 1 << 19 }; /* of images that are copied at a time: they stay in the L2 cache */

/* images x height x width x channels -> images x rows x columns x filters */
typedef struct {
    Py_ssize_t images, height, width, channels, filters, side, pad;
    Py_ssize_t rows, columns;
    Py_ssize_t steps; /* products that are added to a tile of sums */
    float floor;      /* least output: 0 with a ReLU, else -infinity */
} Layer;

/* One for each tap and block of 32 channels; of a last 16 channels one for each pair of taps in a row. */
static Py_ssize_t steps_of(Py_ssize_t channels, Py_ssize_t side)
{
    return channels / PAIRS * side * side + (channels % PAIRS ? side * ((side + 1) / 2) : 0);
}

#ifdef HAVE_AMX
/* In a row of an odd number of taps the last pair begins one tap earlier, with weights of 0 for that one. */
static Py_ssize_t pair_begins(Py_ssize_t side, Py_ssize_t tap)
{
    return tap + 1 < side || side == 1 ? tap : tap - 1;
}

/* A tile of 16 pairs of channels x 16 filters, from rows of 16 filters. */
WITH_AMX static void write_tile(const uint16_t *rows, Py_ssize_t next, uint16_t *to)
{
    __m512i row[LANES];
    for (int i = 0; i < LANES; i++) row[i] = _mm512_loadu_si512(rows + i * next);
    transpose(row);
    for (int i = 0; i < LANES; i++) _mm512_store_si512(to + i * PAIRS, row[i]);
}

/* filters x side x side x channels -> [filters / 16][steps] tiles */
static void write_weights(const uint16_t *weights, const Layer *l, uint16_t *to)
{
    Py_ssize_t filter = l->side * l->side * l->channels, whole = l->channels / PAIRS * PAIRS;
    for (Py_ssize_t o = 0; o < l->filters; o += LANES, weights += LANES * filter) {
        for (const uint16_t *tap = weights; tap < weights + filter; tap += l->channels)
            for (Py_ssize_t c = 0; c < whole; c += PAIRS, to += TILE) write_tile(tap + c, filter, to);
        for (Py_ssize_t i = 0; whole < l->channels && i < l->side; i++)
            for (Py_ssize_t j = 0; j < l->side; j += 2, to += TILE) {
                Py_ssize_t first = pair_begins(l->side, j), half = LANES * sizeof(uint16_t);
                uint16_t rows[TILE] = {0};
                for (int f = 0; f < LANES; f++) {
                    const uint16_t *from = weights + f * filter + (i * l->side + first) * l->channels + whole;
                    if (first == j) memcpy(rows + f * PAIRS, from, half);
                    if (l->side > 1) memcpy(rows + f * PAIRS + LANES, from + l->channels, half);
                }
                write_tile(rows, PAIRS, to);
            }
    }
}

typedef struct {
    Py_ssize_t stride;   /* pixels from a row to the next */
    Py_ssize_t before;   /* pixels before an image's first one */
    Py_ssize_t line;     /* numbers of a block of 32 channels of an image */
    Py_ssize_t area;     /* numbers of all blocks of an image */
    Py_ssize_t together; /* images that are copied at a time */
    Py_ssize_t wide;     /* pixels of a tile: rows are divided into tiles of equal length */
    Py_ssize_t tiles;    /* of an image */
    Py_ssize_t *offset;  /* of each step, from a window's first pixel */
    uint16_t *x;
    float *sums;
} Work;

/* Allocate and describe; 0 if there is no memory. */
static int prepare(Work *w, const Layer *l)
{
    Py_ssize_t blocks = (l->channels + PAIRS - 1) / PAIRS, across = (l->columns + LANES - 1) / LANES;
    w->stride = l->width + l->pad;
    w->before = l->pad * (w->stride + 1) + 1;
    w->line = (w->before + (l->height + l->pad) * w->stride + l->pad + 1) * PAIRS;
    w->area = w->line * blocks;
    w->together = GROUP_BYTES / (w->area * (Py_ssize_t)sizeof(uint16_t));
    w->together = w->together < 1 ? 1 : w->together > l->images ? l->images : w->together;
    w->wide = (l->columns + across - 1) / across;
    w->tiles = l->rows * across;
    w->offset = malloc(l->steps * sizeof *w->offset);
    w->x = aligned_alloc(LINE, w->together * w->area * sizeof(uint16_t));
    w->sums =
        aligned_alloc(LINE, 9 * SUMS * sizeof(float)); /* twice four tiles, and one that is never read */
    if (!w->offset || !w->x || !w->sums) return 0;
    memset(w->x, 0, w->together * w->area * sizeof(uint16_t));
    Py_ssize_t *to = w->offset;
    for (Py_ssize_t tap = 0; tap < l->side * l->side; tap++)
        for (Py_ssize_t b = 0; b < l->channels / PAIRS; b++)
            *to++ = b * w->line + (tap / l->side * w->stride + tap % l->side) * PAIRS;
    for (Py_ssize_t i = 0; l->channels % PAIRS && i < l->side; i++)
        for (Py_ssize_t j = 0; j < l->side; j += 2)
            *to++ = (blocks - 1) * w->line + (i * w->stride + pair_begins(l->side, j)) * PAIRS;
    return 1;
}

static void end(Work *w) { free(w->offset), free(w->x), free(w->sums); }

/* Copy an image; the last 16 channels of a pixel also to the second half of the line before. */
WITH_AMX static void copy_image(const Work *w, const Layer *l, const uint16_t *x, uint16_t *to)
{
    Py_ssize_t whole = l->channels / PAIRS * PAIRS;
    for (Py_ssize_t i = 0; i < l->height; i++)
        for (Py_ssize_t j = 0; j < l->width; j++, x += l->channels) {
            uint16_t *pixel = to + (w->before + i * w->stride + j) * PAIRS;
            for (Py_ssize_t c = 0; c < whole; c += PAIRS, pixel += w->line)
                _mm512_store_si512(pixel, _mm512_loadu_si512(x + c));
            if (whole < l->channels) {
                __m256i rest = _mm256_loadu_si256((const void *)(x + whole));
                _mm256_store_si256((void *)pixel, rest);
                _mm256_store_si256((void *)(pixel - LANES), rest);
            }
        }
}
#endif

/* Pictures and weights as the matrix unit reads them for convolutions in bfloat16.

The unit multiplies 16 pixels x 32 channels by 32 channels x 16 filters. So pictures are written anew: 32
channels of a pixel, one line of the caches, beside those of the next, with `pad` zeros between rows, so that
a window's place reads a constant number of pixels further on. Of 16 channels that are left over a line holds
those of two pixels, for two places of the window. */

#include "_tiles.h"

enum { GROUP_BYTES = 1 << 19 }; /* of pictures that are written anew at a time, in the second cache */

/* images x height x width x channels -> images x rows x columns x filters */
typedef struct {
    Py_ssize_t images, height, width, channels, filters, side, pad;
    Py_ssize_t rows, columns;
    Py_ssize_t steps; /* products of which a sum consists */
    float floor;      /* the least that is said: 0 with a ReLU, else -infinity */
} Layer;

/* 32 channels for each place of a window; and of the last 16 pairs of places. */
static Py_ssize_t steps_of(Py_ssize_t channels, Py_ssize_t side)
{
    return channels / PAIRS * side * side + (channels % PAIRS ? side * ((side + 1) / 2) : 0);
}

#ifdef HAVE_AMX
/* Of an odd number of places in a row the last pair begins one earlier, and its first one counts already. */
static Py_ssize_t pair_begins(Py_ssize_t side, Py_ssize_t place)
{
    return place + 1 < side || side == 1 ? place : place - 1;
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
        for (const uint16_t *place = weights; place < weights + filter; place += l->channels)
            for (Py_ssize_t c = 0; c < whole; c += PAIRS, to += TILE) write_tile(place + c, filter, to);
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
    Py_ssize_t before;   /* pixels before the first one of a picture, */
    Py_ssize_t line;     /* and in all, times 32 channels */
    Py_ssize_t area;     /* lines of a picture */
    Py_ssize_t together; /* pictures */
    Py_ssize_t wide;     /* pixels of a tile: parts of a row, of equal length */
    Py_ssize_t tiles;    /* of a picture */
    Py_ssize_t *offset;  /* of each step, from a window's first place */
    uint16_t *x;
    float *sums;
} Work;

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
    w->sums = aligned_alloc(LINE, 9 * SUMS * sizeof(float)); /* twice four tiles, and one for nobody */
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

/* Write a picture anew; of the last 16 channels each pixel's also to the second half of the one before. */
WITH_AMX static void write_picture(const Work *w, const Layer *l, const uint16_t *x, uint16_t *to)
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

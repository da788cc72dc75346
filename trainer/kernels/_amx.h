/* Tiles of the matrix unit (AMX) of Intel's processors: products of bfloat16, summed in float32.

A tile has 16 rows of 16 pairs of numbers. The product of tiles a and b (the instruction TDPBF16PS) is

    sums[i, j] += sum over k of a[i, k] . b[k, j]

where a[i, k] and b[k, j] are pairs, and . is their dot product. */

#include "_sizes.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef STAND_IN /* tests: a header with the instructions in plain C */
#include STAND_IN
#define HAVE_AMX
#define WITH_AMX
#elif defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAVE_AMX
#define WITH_AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")))

/* Whether the processor has the unit, and Linux lets this process use it. */
static int usable(void)
{
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQUEST = 0x1023, TILES = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return 0;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return 0;
    if (!__builtin_cpu_supports("avx512bf16")) return 0;
    return syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
}
#else
static int usable(void) { return 0; }
#endif

enum {
    LANES = 16,           /* rows of a tile, and pairs in a row */
    PAIRS = 2 * LANES,    /* numbers in a row */
    TILE = LANES * PAIRS, /* and in a tile, 1 kB */
    SUMS = LANES * LANES, /* float32 numbers in a tile of sums, 1 kB */
    LINE = 64,            /* bytes of a row, and of a cache line */
};

#ifdef HAVE_AMX
/* Configure the registers until _tile_release(): 0 to 5 for tiles of so many rows, 6 and 7 for whole tiles.
 */
WITH_AMX static void begin_tiles(int rows)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[LANES];
        uint8_t rows[LANES];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = LINE, shape.rows[i] = i < 6 ? rows : LANES;
    _tile_loadconfig(&shape);
}

/* 16 channels of two pixels, interleaved. */
WITH_AMX static inline __m512i pair(const uint16_t *const *pixel, Py_ssize_t channel)
{
    __m512i one = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(pixel[0] + channel)));
    __m512i other = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(pixel[1] + channel)));
    return _mm512_or_si512(one, _mm512_slli_epi32(other, 16));
}

/* Transpose 16 x 16 pairs: first within blocks of 4 x 4, then the blocks. */
WITH_AMX static inline void transpose(__m512i row[LANES])
{
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        __m512i even = _mm512_shuffle_i32x4(row[j], row[4 + j], 0x88);
        __m512i odd = _mm512_shuffle_i32x4(row[j], row[4 + j], 0xdd);
        __m512i lower_even = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0x88);
        __m512i lower_odd = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even, lower_even, 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(odd, lower_odd, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(even, lower_even, 0xdd);
        t[12 + j] = _mm512_shuffle_i32x4(odd, lower_odd, 0xdd);
    }
    memcpy(row, t, sizeof t);
}

/* Add to 2 x `columns` tiles of sums the products of two rows of a and `columns` columns of b, each of
`tiles` consecutive tiles. */
WITH_AMX static inline __attribute__((always_inline)) void multiply(const uint16_t *a, Py_ssize_t next_a,
                                                                    const uint16_t *const b[2],
                                                                    Py_ssize_t tiles, float *const sums[2],
                                                                    int columns)
{
    _tile_loadd(0, sums[0], LINE);
    _tile_loadd(2, sums[0] + SUMS, LINE);
    if (columns > 1) _tile_loadd(1, sums[1], LINE);
    if (columns > 1) _tile_loadd(3, sums[1] + SUMS, LINE);
    for (Py_ssize_t t = 0; t < tiles * TILE; t += TILE) {
        _tile_loadd(6, b[0] + t, LINE);
        _tile_loadd(4, a + t, LINE);
        if (columns > 1) _tile_loadd(7, b[1] + t, LINE);
        _tile_loadd(5, a + next_a + t, LINE);
        _tile_dpbf16ps(0, 4, 6);
        if (columns > 1) _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        if (columns > 1) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], LINE);
    _tile_stored(2, sums[0] + SUMS, LINE);
    if (columns > 1) _tile_stored(1, sums[1], LINE);
    if (columns > 1) _tile_stored(3, sums[1] + SUMS, LINE);
}

/* The same for one row of a and four columns of b: the unit is busy with four tiles of sums, not with two. */
WITH_AMX static inline void multiply_row(const uint16_t *a, const uint16_t *const b[4], Py_ssize_t tiles,
                                         float *const sums[4])
{
    _tile_loadd(0, sums[0], LINE);
    _tile_loadd(1, sums[1], LINE);
    _tile_loadd(2, sums[2], LINE);
    _tile_loadd(3, sums[3], LINE);
    for (Py_ssize_t t = 0; t < tiles * TILE; t += TILE) {
        _tile_loadd(4, a + t, LINE);
        _tile_loadd(5, b[0] + t, LINE);
        _tile_loadd(6, b[1] + t, LINE);
        _tile_loadd(7, b[2] + t, LINE);
        _tile_dpbf16ps(0, 4, 5);
        _tile_loadd(5, b[3] + t, LINE);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, sums[0], LINE);
    _tile_stored(1, sums[1], LINE);
    _tile_stored(2, sums[2], LINE);
    _tile_stored(3, sums[3], LINE);
}
#endif

/* The instructions of AMX and AVX-512 that the kernels use, in plain C (GCC's vectors), for any processor.

Sources compiled with -DSTAND_IN='"stand_in.h"' take them from here, not from <immintrin.h>. Each has the
results that Intel's manual (Software Developer's Manual, volume 2) gives; which NaN an operation on NaN
returns is left open. An address that is not aligned, and tiles that do not belong together, which the
processor refuses with a fault, end the process. */

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef int32_t __m512i __attribute__((vector_size(64)));
typedef uint32_t unsigned_32 __attribute__((vector_size(64)));
typedef int16_t signed_16 __attribute__((vector_size(64)));
typedef int16_t __m256i __attribute__((vector_size(32)));
typedef int8_t __m128i __attribute__((vector_size(16)));
typedef uint16_t __mmask16;
typedef uint32_t __mmask32;

enum { _CMP_NLE_UQ = 22, _MM_HINT_T0 = 3 };

#define INSTRUCTION static inline __attribute__((unused))
#define EACH(count) for (int i = 0; i < (count); i++)
#define HAS(mask)   ((mask) >> i & 1)

static int usable(void) { return 1; }

INSTRUCTION void require(int condition, const char *words)
{
    if (condition) return;
    fprintf(stderr, "%s\n", words);
    abort();
}

INSTRUCTION const void *aligned(const void *address)
{
    require((uintptr_t)address % 64 == 0, "an address is not a multiple of 64 bytes");
    return address;
}

/* Memory. */

#define LOAD(name, type, address)                                                                            \
    INSTRUCTION type name(const void *from)                                                                  \
    {                                                                                                        \
        type x = {0};                                                                                        \
        memcpy(&x, address, sizeof x);                                                                       \
        return x;                                                                                            \
    }
#define STORE(name, type, address)                                                                           \
    INSTRUCTION void name(void *to, type x) { memcpy((void *)address, &x, sizeof x); }
LOAD(_mm_loadu_si128, __m128i, from)
LOAD(_mm256_loadu_si256, __m256i, from)
LOAD(_mm512_loadu_si512, __m512i, from)
LOAD(_mm512_loadu_ps, __m512, from)
LOAD(_mm512_load_ps, __m512, aligned(from))
STORE(_mm256_storeu_si256, __m256i, to)
STORE(_mm512_storeu_si512, __m512i, to)
STORE(_mm512_storeu_ps, __m512, to)
STORE(_mm512_store_si512, __m512i, aligned(to))
STORE(_mm512_stream_si512, __m512i, aligned(to))

INSTRUCTION void _mm256_store_si256(void *to, __m256i x)
{
    require((uintptr_t)to % 32 == 0, "an address is not a multiple of 32 bytes");
    _mm256_storeu_si256(to, x);
}

#define MASKED_LOAD(name, type, number, mask_type)                                                           \
    INSTRUCTION type name(mask_type mask, const void *from)                                                  \
    {                                                                                                        \
        number numbers[sizeof(type) / sizeof(number)];                                                       \
        EACH(sizeof(type) / sizeof(number)) numbers[i] = HAS(mask) ? ((const number *)from)[i] : 0;          \
        type x;                                                                                              \
        memcpy(&x, numbers, sizeof x);                                                                       \
        return x;                                                                                            \
    }
#define MASKED_STORE(name, type, number, mask_type)                                                          \
    INSTRUCTION void name(void *to, mask_type mask, type x)                                                  \
    {                                                                                                        \
        number numbers[sizeof x / sizeof(number)];                                                           \
        memcpy(numbers, &x, sizeof x);                                                                       \
        EACH(sizeof x / sizeof(number)) if (HAS(mask))((number *)to)[i] = numbers[i];                        \
    }
MASKED_LOAD(_mm256_maskz_loadu_epi16, __m256i, int16_t, __mmask16)
MASKED_LOAD(_mm512_maskz_loadu_epi16, __m512i, int16_t, __mmask32)
MASKED_LOAD(_mm512_maskz_loadu_ps, __m512, float, __mmask16)
MASKED_STORE(_mm256_mask_storeu_epi16, __m256i, int16_t, __mmask16)
MASKED_STORE(_mm512_mask_storeu_epi16, __m512i, int16_t, __mmask32)
MASKED_STORE(_mm512_mask_storeu_ps, __m512, float, __mmask16)

INSTRUCTION void _mm512_mask_cvtepi16_storeu_epi8(void *to, __mmask32 mask, __m512i x)
{
    EACH(32) if (HAS(mask))((int8_t *)to)[i] = (int8_t)((signed_16)x)[i];
}

INSTRUCTION void _mm_prefetch(const void *address, int hint) {}
INSTRUCTION void _mm_sfence(void) {}

/* Arithmetic, number by number. */

#define NUMBERS(name, type, arguments, number)                                                               \
    INSTRUCTION type name arguments                                                                          \
    {                                                                                                        \
        type y = {0};                                                                                        \
        EACH(sizeof y / sizeof y[0]) y[i] = number;                                                          \
        return y;                                                                                            \
    }
NUMBERS(_mm_set1_epi8, __m128i, (int x), x)
NUMBERS(_mm256_set1_epi16, __m256i, (int x), x)
NUMBERS(_mm256_setzero_si256, __m256i, (void), 0)
NUMBERS(_mm512_set1_epi32, __m512i, (int32_t x), x)
NUMBERS(_mm512_setzero_si512, __m512i, (void), 0)
NUMBERS(_mm512_set1_ps, __m512, (float x), x)
NUMBERS(_mm512_setzero_ps, __m512, (void), 0)
NUMBERS(_mm512_fmadd_ps, __m512, (__m512 a, __m512 b, __m512 c), fmaf(a[i], b[i], c[i]))
NUMBERS(_mm512_fnmadd_ps, __m512, (__m512 a, __m512 b, __m512 c), fmaf(-a[i], b[i], c[i]))
NUMBERS(_mm512_max_ps, __m512, (__m512 a, __m512 b), a[i] > b[i] ? a[i] : b[i])
NUMBERS(_mm512_maskz_mov_ps, __m512, (__mmask16 mask, __m512 x), HAS(mask) ? x[i] : 0)
NUMBERS(_mm512_mask_add_ps, __m512, (__m512 other, __mmask16 mask, __m512 a, __m512 b),
        HAS(mask) ? a[i] + b[i] : other[i])
NUMBERS(_mm512_cvtepu16_epi32, __m512i, (__m256i x), (uint16_t)x[i])

INSTRUCTION __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
INSTRUCTION __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
INSTRUCTION __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
INSTRUCTION __m512i _mm512_sub_epi32(__m512i a, __m512i b) { return a - b; }
INSTRUCTION __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
INSTRUCTION __m256i _mm256_and_si256(__m256i a, __m256i b) { return a & b; }
INSTRUCTION __m512i _mm512_slli_epi32(__m512i x, unsigned count) { return x << count; }
INSTRUCTION __m512i _mm512_srli_epi32(__m512i x, unsigned count)
{
    return (__m512i)((unsigned_32)x >> count);
}
INSTRUCTION __m512 _mm512_castsi512_ps(__m512i x) { return (__m512)x; }
INSTRUCTION __m512i _mm512_castps_si512(__m512 x) { return (__m512i)x; }

INSTRUCTION __m512i _mm512_set1_epi16(int x)
{
    signed_16 y = {0};
    EACH(32) y[i] = x;
    return (__m512i)y;
}

INSTRUCTION __m512i _mm512_max_epi16(__m512i a, __m512i b)
{
    signed_16 y = {0}, x = (signed_16)a, other = (signed_16)b;
    EACH(32) y[i] = x[i] > other[i] ? x[i] : other[i];
    return (__m512i)y;
}

INSTRUCTION __m512i _mm512_mask_mov_epi16(__m512i other, __mmask32 mask, __m512i x)
{
    signed_16 y = (signed_16)other;
    EACH(32) if (HAS(mask)) y[i] = ((signed_16)x)[i];
    return (__m512i)y;
}

INSTRUCTION __mmask32 _mm512_cmpgt_epi16_mask(__m512i a, __m512i b)
{
    __mmask32 mask = 0;
    EACH(32) mask |= (__mmask32)(((signed_16)a)[i] > ((signed_16)b)[i]) << i;
    return mask;
}

INSTRUCTION __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate)
{
    __mmask16 mask = 0;
    require(predicate == _CMP_NLE_UQ, "no such comparison in stand_in.h");
    EACH(16) mask |= !(a[i] <= b[i]) << i;
    return mask;
}

INSTRUCTION __mmask16 _mm_cmpeq_epi8_mask(__m128i a, __m128i b)
{
    __mmask16 mask = 0;
    EACH(16) mask |= (a[i] == b[i]) << i;
    return mask;
}

/* Order. A block has 128 bits: four numbers of 32. */

NUMBERS(_mm512_alignr_epi32, __m512i, (__m512i high, __m512i low, int first),
        i + first < 16 ? low[i + first] : high[i + first - 16])
NUMBERS(_mm512_unpacklo_epi32, __m512i, (__m512i a, __m512i b), (i % 2 ? b : a)[i / 4 * 4 + i % 4 / 2])
NUMBERS(_mm512_unpackhi_epi32, __m512i, (__m512i a, __m512i b), (i % 2 ? b : a)[i / 4 * 4 + 2 + i % 4 / 2])
NUMBERS(_mm512_unpacklo_epi64, __m512i, (__m512i a, __m512i b), (i % 4 / 2 ? b : a)[i / 4 * 4 + i % 2])
NUMBERS(_mm512_unpackhi_epi64, __m512i, (__m512i a, __m512i b), (i % 4 / 2 ? b : a)[i / 4 * 4 + 2 + i % 2])
NUMBERS(_mm512_shuffle_i32x4, __m512i, (__m512i a, __m512i b, int blocks),
        (i < 8 ? a : b)[(blocks >> i / 4 * 2 & 3) * 4 + i % 4])

/* bfloat16: the upper half of a float32's bits. Denormal numbers are 0 in all of these. */

INSTRUCTION float flushed(float x) { return fabsf(x) < FLT_MIN ? copysignf(0, x) : x; }

INSTRUCTION uint16_t rounded_to_bfloat16(float x)
{
    uint32_t bits;
    x = flushed(x);
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return bits >> 16 | 0x40; /* quiet */
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INSTRUCTION float from_bfloat16(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return flushed(y);
}

NUMBERS(_mm512_cvtneps_pbh, __m256i, (__m512 x), rounded_to_bfloat16(x[i]))

INSTRUCTION __m512i _mm512_cvtne2ps_pbh(__m512 high, __m512 low)
{
    signed_16 y = {0};
    EACH(32) y[i] = rounded_to_bfloat16(i < 16 ? low[i] : high[i - 16]);
    return (__m512i)y;
}

/* AMX: a thread's tiles of up to 16 rows of up to 64 bytes. */

typedef struct {
    int rows, bytes;
    uint8_t row[16][64];
} Tile;

static __thread Tile tiles[8];

INSTRUCTION void _tile_release(void) { memset(tiles, 0, sizeof tiles); }

INSTRUCTION void _tile_loadconfig(const void *memory)
{
    const uint8_t *palette = memory, *rows = palette + 48;
    uint16_t bytes[8];
    memcpy(bytes, palette + 16, sizeof bytes);
    require(*palette == 1, "the palette of tiles is 1");
    _tile_release();
    EACH(8)
    {
        require(rows[i] <= 16 && bytes[i] <= 64 && !rows[i] == !bytes[i], "no such tile");
        tiles[i].rows = rows[i], tiles[i].bytes = bytes[i];
    }
}

INSTRUCTION Tile *configured(int t)
{
    require(tiles[t].rows > 0, "a tile is not configured");
    return tiles + t;
}

INSTRUCTION void _tile_zero(int t) { memset(configured(t)->row, 0, sizeof tiles[t].row); }

INSTRUCTION void _tile_loadd(int t, const void *from, ptrdiff_t stride)
{
    _tile_zero(t);
    EACH(tiles[t].rows) memcpy(tiles[t].row[i], (const char *)from + i * stride, tiles[t].bytes);
}

INSTRUCTION void _tile_stored(int t, void *to, ptrdiff_t stride)
{
    EACH(configured(t)->rows) memcpy((char *)to + i * stride, tiles[t].row[i], tiles[t].bytes);
}

INSTRUCTION void unpack(const uint8_t row[64], float numbers[32])
{
    uint16_t bits[32];
    memcpy(bits, row, sizeof bits);
    EACH(32) numbers[i] = from_bfloat16(bits[i]);
}

/* c + a b, rounded once: float64 holds products of bfloat16, and so many more places of the sum that the
second rounding has no effect. A sum is flushed where float32 without a least exponent would round it to a
number below FLT_MIN. */
INSTRUCTION float plus_product(float c, float a, float b)
{
    double sum = c + (double)a * b;
    return fabs(sum) < FLT_MIN - 0x1p-151 ? copysign(0, sum) : sum;
}

/* to[m, n] += sum over k of a[m, k] . b[k, n], where a[m, k] and b[k, n] are pairs. The first numbers of the
pairs have a sum, and the second ones, each rounded after every product; these two are added, and the result
to to[m, n]. */
INSTRUCTION void _tile_dpbf16ps(int to, int a, int b)
{
    Tile *sums = configured(to), *left = configured(a), *right = configured(b);
    float b_numbers[16][32];
    require(to != a && to != b && a != b, "three tiles are multiplied");
    require(sums->rows == left->rows && sums->bytes == right->bytes && left->bytes == 4 * right->rows &&
                sums->bytes % 4 == 0,
            "tiles do not belong together");
    EACH(right->rows) unpack(right->row[i], b_numbers[i]);
    for (int m = 0; m < sums->rows; m++) {
        float a_numbers[32], terms[32] = {0}, total[16];
        unpack(left->row[m], a_numbers);
        for (int k = 0; k < right->rows; k++)
            EACH(32) terms[i] = plus_product(terms[i], a_numbers[2 * k + i % 2], b_numbers[k][i]);
        memcpy(total, sums->row[m], sizeof total);
        EACH(16) total[i] = flushed(flushed(total[i]) + flushed(terms[2 * i] + terms[2 * i + 1]));
        memcpy(sums->row[m], total, sums->bytes);
    }
}

/* LRN over 5 channels with beta 0.75 of one pixel, whose channels stay in registers, 16 in each: its ReLU a,
d = k + alpha * sum of a^2, and d ** -0.75. */

#include "_avx512.h"

enum { MAX_VECTORS = 32, WINDOW = 3, STRIDE = 2, NO_POSITION = 255 };

/* images x height x width x channels -> images x rows x columns x channels */
typedef struct {
    Py_ssize_t images, height, width, channels, rows, columns;
    float k, alpha;
} Layer;

#ifdef AVX512
INLINE __m512 load_16(const uint16_t *from) { return to_float32(_mm256_loadu_si256((const void *)from)); }

/* Where the ReLU passes a number on: where it is positive, or NaN. */
INLINE __mmask16 passes(__m512 x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ); }

/* 16 consecutive numbers of two vectors, from number `first` of the lower one on. */
#define SHIFTED(low, high, first)                                                                            \
    _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(high), _mm512_castps_si512(low), first))

/* The sums over 5 channels around each channel of vector v. */
INLINE __m512 window_sums(const __m512 *terms, int v, int vectors)
{
    __m512 before = v > 0 ? terms[v - 1] : _mm512_setzero_ps(), here = terms[v];
    __m512 after = v + 1 < vectors ? terms[v + 1] : _mm512_setzero_ps();
    __m512 sums = _mm512_add_ps(SHIFTED(before, here, 14), SHIFTED(before, here, 15));
    sums = _mm512_add_ps(sums, here);
    sums = _mm512_add_ps(sums, SHIFTED(here, after, 1));
    return _mm512_add_ps(sums, SHIFTED(here, after, 2));
}

/* d ** -0.75, by the steps that lrn_numba.py explains. */
INLINE __m512 inverse_power(__m512 d)
{
    const __m512 one = _mm512_set1_ps(1);
    __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(d), 2);
    __m512 y = _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(0x4f581800), bits));
    __m512 y2 = _mm512_mul_ps(y, y);
    __m512 h = _mm512_fnmadd_ps(d, _mm512_mul_ps(y2, y2), one);
    __m512 series = _mm512_fmadd_ps(h, _mm512_set1_ps(5.f / 32), _mm512_set1_ps(1.f / 4));
    y = _mm512_fmadd_ps(_mm512_mul_ps(y, h), series, y);
    y2 = _mm512_mul_ps(y, y);
    h = _mm512_fnmadd_ps(d, _mm512_mul_ps(y2, y2), one);
    series = _mm512_fmadd_ps(h, _mm512_set1_ps(21.f / 32), _mm512_set1_ps(3.f / 4));
    y = _mm512_mul_ps(y, y2);
    return _mm512_fmadd_ps(_mm512_mul_ps(y, h), series, y);
}

/* a, the ReLU of a pixel's channels, and d = k + alpha * sum of a^2 */
INLINE void load_pixel(const Layer *l, const uint16_t *x, __m512 *a, __m512 *d, int vectors)
{
    __m512 squares[MAX_VECTORS];
    for (int v = 0; v < vectors; v++) {
        __m512 numbers = load_16(x + v * LANES);
        a[v] = _mm512_maskz_mov_ps(passes(numbers), numbers);
        squares[v] = _mm512_mul_ps(a[v], a[v]);
    }
    for (int v = 0; v < vectors; v++)
        d[v] =
            _mm512_fmadd_ps(_mm512_set1_ps(l->alpha), window_sums(squares, v, vectors), _mm512_set1_ps(l->k));
}
#endif

/* Resizes in two passes, as Pillow-SIMD does: bicubic weights of 16 bits, sums of 32 bits, and results
   rounded to 8 bits after each pass. Each pass is here twice: in plain C, and for processors with AVX2. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAVE_AVX2 1
#define AVX2      __attribute__((target("avx2")))
#endif

#define PIXEL    4  /* bytes of a decoded pixel: red, green, blue, padding */
#define RGB      3  /* bytes of a result's pixel */
#define TOGETHER 4  /* weights, or lines, in one step */
#define SLACK    64 /* bytes after an array that vectors may read or write */

/* ---- The filter: the inputs and weights of `count` of `out` results; there are `in` inputs */

typedef struct {
    int count, taps, bits; /* taps: room for one result's weights; bits: fraction bits of a weight */
    int *first, *used;
    int16_t *weights; /* [count][taps], zeros after the used ones */
} Filter;

/* Keys, 1981: cubic convolution with a = -1/2, which is Pillow's BICUBIC. */
static double bicubic(double x)
{
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0;
}

/* The weights of one result. Returns their number; `first` is the index of the first input. */
static int weigh(int in, int out, int result, int *first, double *weights)
{
    double scale = (double)in / out, stretch = scale < 1 ? 1 : scale, support = 2 * stretch;
    double center = (result + 0.5) * scale, shrink = 1 / stretch, sum = 0;
    int begin = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
    if (begin < 0) begin = 0;
    if (end > in) end = in;
    for (int i = begin; i < end; i++) sum += weights[i - begin] = bicubic((i - center + 0.5) * shrink);
    for (int i = 0; i < end - begin; i++) weights[i] /= sum;
    *first = begin;
    return end - begin;
}

/* The most fraction bits with which the largest weight is below 2^15. Results outside the crop count too. */
static int fraction_bits(double largest)
{
    int bits = 0;
    while (bits < 22 && (int)(0.5 + largest * (1 << (bits + 1))) < 1 << 15) bits++;
    return bits;
}

static int filter_init(Filter *f, int in, int out, int begin, int count)
{
    int room = (int)ceil(2 * fmax(1, (double)in / out)) * 2 + 1;
    f->count = count;
    f->taps = (room + TOGETHER - 1) / TOGETHER * TOGETHER;
    f->first = calloc(count, sizeof *f->first);
    f->used = calloc(count, sizeof *f->used);
    f->weights = calloc((size_t)count * f->taps, sizeof *f->weights);
    double *exact = calloc((size_t)(count + 1) * room, sizeof *exact), largest = 0;
    if (!f->first || !f->used || !f->weights || !exact) return free(exact), 0;
    for (int i = 0; i < out; i++) {
        int kept = i >= begin && i < begin + count, first;
        double *weights = exact + (size_t)(kept ? i - begin : count) * room;
        int used = weigh(in, out, i, &first, weights);
        for (int j = 0; j < used; j++) largest = weights[j] > largest ? weights[j] : largest;
        if (kept) f->first[i - begin] = first, f->used[i - begin] = used;
    }
    f->bits = fraction_bits(largest);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < f->used[i]; j++) {
            double scaled = exact[(size_t)i * room + j] * (1 << f->bits);
            f->weights[(size_t)i * f->taps + j] = (int)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
        }
    free(exact);
    return 1;
}

static void filter_free(Filter *f) { free(f->first), free(f->used), free(f->weights); }

static uint8_t rounded(int sum, int bits)
{
    int value = (sum + (1 << (bits - 1))) >> bits;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* ---- First pass: along lines of pixels, without the first `left` pixels, which were cropped */

static void along_plain(const uint8_t *in, uint8_t *out, const Filter *f, int left)
{
    for (int x = 0; x < f->count; x++) {
        const uint8_t *pixels = in + (size_t)(f->first[x] - left) * PIXEL;
        const int16_t *weights = f->weights + (size_t)x * f->taps;
        for (int c = 0; c < RGB; c++) {
            int sum = 0;
            for (int i = 0; i < f->used[x]; i++) sum += pixels[i * PIXEL + c] * weights[i];
            out[x * RGB + c] = rounded(sum, f->bits);
        }
    }
}

#ifdef HAVE_AVX2
/* Four lines at once, which share the weights. Pixels are shuffled into pairs of each colour; one instruction
   multiplies and adds a pair. Each sum is in two halves until the end. */
AVX2 static void along_avx2(const uint8_t *in, size_t stride, uint8_t **out, const Filter *f, int left)
{
    const __m128i pairs = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m256i twice = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), shift = _mm256_set1_epi32(f->bits);
    const __m256i half = _mm256_zextsi128_si256(_mm_set1_epi32(1 << (f->bits - 1)));
    for (int x = 0; x < f->count; x++) {
        const uint8_t *pixels = in + (size_t)(f->first[x] - left) * PIXEL;
        const int16_t *weights = f->weights + (size_t)x * f->taps;
        __m256i sums[TOGETHER] = {half, half, half, half};
        for (int i = 0; i < f->used[x]; i += TOGETHER) {
            __m256i four = _mm256_castsi128_si256(_mm_loadl_epi64((const __m128i *)(weights + i)));
            four = _mm256_permutevar8x32_epi32(four, twice);
#pragma GCC unroll 4
            for (int line = 0; line < TOGETHER; line++) {
                __m128i bytes = _mm_loadu_si128((const __m128i *)(pixels + line * stride + i * PIXEL));
                __m256i words = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(bytes, pairs));
                sums[line] = _mm256_add_epi32(sums[line], _mm256_madd_epi16(words, four));
            }
        }
        __m256i two[TOGETHER / 2];
#pragma GCC unroll 2
        for (int i = 0; i < TOGETHER / 2; i++) {
            __m256i a = sums[2 * i], b = sums[2 * i + 1];
            two[i] = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20),
                                      _mm256_permute2x128_si256(a, b, 0x31));
            two[i] = _mm256_srav_epi32(two[i], shift);
        }
        __m256i bytes = _mm256_packs_epi32(two[0], two[1]); /* lines 0 and 2 | 1 and 3 */
        bytes = _mm256_packus_epi16(bytes, bytes);
        uint64_t even = _mm_cvtsi128_si64(_mm256_castsi256_si128(bytes));
        uint64_t odd = _mm_cvtsi128_si64(_mm256_extracti128_si256(bytes, 1));
        uint32_t made[TOGETHER] = {even, odd, even >> 32, odd >> 32};
#pragma GCC unroll 4
        for (int line = 0; line < TOGETHER; line++) /* the fourth byte is overwritten by the next pixel */
            memcpy(out[line] + x * RGB, made + line, sizeof made[line]);
    }
}
#endif

/* ---- Second pass: across lines of `bytes` values */

static void across_plain(uint8_t **lines, int used, const int16_t *weights, int bits, uint8_t *out, int begin,
                         int end)
{
    for (int i = begin; i < end; i++) {
        int sum = 0;
        for (int line = 0; line < used; line++) sum += lines[line][i] * weights[line];
        out[i] = rounded(sum, bits);
    }
}

#ifdef HAVE_AVX2
/* Two lines at once, their values interleaved, so that one instruction multiplies and adds a pair. */
AVX2 static int across_avx2(uint8_t **lines, int used, const int16_t *weights, int bits, uint8_t *out,
                            int bytes)
{
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (bits - 1));
    const __m128i shift = _mm_cvtsi32_si128(bits);
    int at = 0;
    for (; at + 32 <= bytes; at += 32) {
        __m256i sums[4] = {half, half, half, half};
        for (int line = 0; line < used; line += 2) {
            int pair;
            memcpy(&pair, weights + line, sizeof pair);
            __m256i two = _mm256_set1_epi32(pair); /* the partner of an odd last line has weight 0 */
            __m256i a = _mm256_loadu_si256((const __m256i *)(lines[line] + at));
            __m256i b = line + 1 < used ? _mm256_loadu_si256((const __m256i *)(lines[line + 1] + at)) : zero;
            __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), two));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), two));
            sums[2] = _mm256_add_epi32(sums[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), two));
            sums[3] = _mm256_add_epi32(sums[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), two));
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) sums[i] = _mm256_sra_epi32(sums[i], shift);
        __m256i packed =
            _mm256_packus_epi16(_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
        _mm256_storeu_si256((__m256i *)(out + at), packed);
    }
    return at;
}
#endif

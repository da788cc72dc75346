/* Vectors of 512 bits with bfloat16 (AVX-512 BF16): 16 numbers in float32, 32 in bfloat16. */

#include "_sizes.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, LINE = 64 }; /* float32 numbers in a vector; bytes in a cache line */

#ifdef STAND_IN /* tests: a header with the instructions in plain C */
#include STAND_IN
#define AVX512
#elif defined(__x86_64__)
#include <immintrin.h>
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

static int usable(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}
#else
static int usable(void) { return 0; }
#endif

#ifdef AVX512
#define INLINE AVX512 static inline __attribute__((always_inline))

INLINE __m512 to_float32(__m256i numbers)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

INLINE __m256i to_bfloat16(__m512 numbers) { return (__m256i)_mm512_cvtneps_pbh(numbers); }
#endif

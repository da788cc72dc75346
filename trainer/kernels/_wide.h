/* Vectors of 512 bits that know bfloat16: 16 numbers in float32, 32 in bfloat16. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, LINE = 64 }; /* numbers that are computed with at a time; bytes of a line of the caches */

#ifdef __x86_64__
#include <immintrin.h>
#define WIDE   __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define INSIDE WIDE static inline __attribute__((always_inline))

static int usable(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}

INSIDE __m512 widened(__m256i numbers)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

INSIDE __m256i narrowed(__m512 numbers) { return (__m256i)_mm512_cvtneps_pbh(numbers); }
#else
static int usable(void) { return 0; }
#endif

/* What this processor's units can do: multiply-adds in registers, loads and stores.
 *
 * Each exported function works on all cores for at least so many seconds, and returns work a second: floating
 * point operations, or bytes. 0: the processor has no such unit. Compiled for the processor that it runs on.
 */

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float Floats __attribute__((vector_size(BYTES)));

/* A multiply-add takes 4 to 6 cycles, and a core begins up to two a cycle, so that 12 must be independent.
 * AVX2 has 16 registers. */
#define CHAINS 12
#define ROUNDS 20000
/* Bytes of each core's part of an array that no cache holds. */
#define PART (128L << 20)

/* The compiler can neither foresee x nor drop it. */
#define KEEP(x) __asm__ volatile("" : "+x"(x))
/* All of the memory may be read. */
#define KEEP_MEMORY(pointer) __asm__ volatile("" : : "r"(pointer) : "memory")

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Call `work` on all cores until the time is over; one call does `amount` of work. */
static double on_all_cores(void (*work)(Floats *part), double amount, double seconds)
{
    double total = 0;
#pragma omp parallel reduction(+ : total)
    {
        Floats *part = aligned_alloc(BYTES, PART);
        if (part) {
            memset(part, 0, PART);
            work(part);
        }
#pragma omp barrier
        double begin = now(), spent = 0;
        long calls = 0;
        while (part && spent < seconds) {
            work(part);
            calls++;
            spent = now() - begin;
        }
        total += spent > 0 ? calls * amount / spent : 0;
        free(part);
    }
    return total;
}

static void multiply_add(Floats *part)
{
    Floats sums[CHAINS], factor = part[0];
    for (int i = 0; i < CHAINS; i++) sums[i] = part[i];
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + factor;
    for (int i = 0; i < CHAINS; i++) KEEP(sums[i]);
}

double float32_operations(double seconds)
{
    return on_all_cores(multiply_add, 2.0 * CHAINS * ROUNDS * (BYTES / 4), seconds);
}

#ifdef __AVX512BF16__
static void dot_product(Floats *part)
{
    __m512 sums[CHAINS];
    __m512bh factor = (__m512bh)part[0];
    for (int i = 0; i < CHAINS; i++) sums[i] = part[i];
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], factor, factor);
    for (int i = 0; i < CHAINS; i++) KEEP(sums[i]);
}
#endif

/* Of the vector unit: VDPBF16PS does 32 multiply-adds. */
double bfloat16_vector_operations(double seconds)
{
#ifdef __AVX512BF16__
    return on_all_cores(dot_product, 2.0 * CHAINS * ROUNDS * 32, seconds);
#else
    return (void)seconds, 0;
#endif
}

#ifdef __AMX_BF16__
static void tile_products(Floats *part)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    (void)part;
    for (int tile = 0; tile < 8; tile++) config.bytes[tile] = 64, config.rows[tile] = 16;
    KEEP_MEMORY(&config);      /* gcc tells _tile_loadconfig's input by its first bytes alone */
    _tile_loadconfig(&config); /* sets all tiles to 0 */
    for (int round = 0; round < ROUNDS; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}
#endif

/* Of the matrix unit: TDPBF16PS does 16 x 16 x 32 multiply-adds. */
double bfloat16_matrix_operations(double seconds)
{
#ifdef __AMX_BF16__
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    if (syscall(SYS_arch_prctl, request, tile_data)) return 0;
    return on_all_cores(tile_products, 2.0 * 4 * ROUNDS * 16 * 16 * 32, seconds);
#else
    return (void)seconds, 0;
#endif
}

static void load_and_store(Floats *part)
{
    Floats factor = part[0];
    for (long i = 0; i < PART / BYTES; i++) part[i] = part[i] * factor;
    KEEP_MEMORY(part);
}

/* Every byte is loaded, and stored again at its place. */
double bytes_loaded_and_stored(double seconds) { return on_all_cores(load_and_store, 2.0 * PART, seconds); }

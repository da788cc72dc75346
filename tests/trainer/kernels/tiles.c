/* One product of tiles, to compare the processor's with stand_in.h's. */

#include "_amx.h"

#ifdef HAVE_AMX
/* config: 64 bytes for the unit. Adds the product of tiles 1 and 2 to tile 0; rows of all are 64 bytes apart.
 */
WITH_AMX void multiply_tiles(const uint8_t *config, const uint8_t *one, const uint8_t *two, uint8_t *sums)
{
    if (!usable()) return;
    _tile_loadconfig(config);
    _tile_loadd(0, sums, LINE);
    _tile_loadd(1, one, LINE);
    _tile_loadd(2, two, LINE);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, sums, LINE);
    _tile_release();
}

/* 32 numbers of float32 to bfloat16. */
WITH_AMX void round_numbers(const float *from, uint16_t *to)
{
    __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + LANES);
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#endif

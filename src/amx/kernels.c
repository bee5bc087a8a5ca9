/* Attention by AMX: the tile path of src/simd, but for its two products. */
#include "vec.h"
#include "simd/exp.h"
#include "simd/elements.h"
#include "simd/pack.h"
#include "products.h"
#include "simd/softmax.h"
#include "simd/tile.h"

_Static_assert(TILE_LANES == 32 && BLOCK_KEYS % KEY_STEP == 0, "two tiles of lanes, whole steps of keys");

static void K(open)(void) { tiles_open(); }
static void K(close)(void) { tiles_close(); }

const mha_bf16_kernels K(kernels) = {
    .isa = MHA_TEXT(MHA_ISA),
    .tile = TILE_PATH(tile_block_sleef, tile_block_fused, PACKS, .open = K(open), .close = K(close)),
};

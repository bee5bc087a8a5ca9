/* Instantiates the tile path and GEMM for a vocabulary that multiplies pairs of bf16, and exports the row of
 * kernels.inc. */
#include "exp.h"
#include "elements.h"
#include "fma_tile.h"
#include "pack.h"
#include "panels.h"
#include "softmax.h"
#include "products.h"
#include "tile.h"
#include "weights.h"
#include "gemm_tile.h"
#include "gemm_rows.h"
#include "gemm.h"
#include "gemm_few.h"

_Static_assert(HEAD_STEP == TERM, "what is packed for FMA tiles is whole terms, and no more");
_Static_assert(UNIT == 2 && BLOCK_KEYS % KEY_STEP == 0, "blocks are whole terms of keys");
_Static_assert(TERM == 1 || (TERM == 2 && V_LANES == 4 && PANEL % V_LANES == 0), "halves of a vector are two lanes");
_Static_assert(SHORT_ROWS % TERM == 0 && FETCH_TERMS % TERM == 0, "tiles and rounds are whole terms");
_Static_assert(IN_PLACE_TILES == 0, "rows in memory have no units of keys");

const mha_bf16_kernels K(kernels) = {
    .isa = MHA_TEXT(MHA_ISA),
    .tile = TILE_PATH(tile_block_sleef, tile_block_fused, PACKS),
    .gemm = GEMM,
};

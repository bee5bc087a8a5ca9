/* Instantiates the templates for the vocabulary that was included before, and exports the row of kernels.inc. */
#include "exp.h"
#include "elements.h"
#include "fma_tile.h"
#include "pack.h"
#include "panels.h"
#include "softmax.h"
#include "products.h"
#include "tile.h"
#include "row_fetch.h"
#include "decode.h"
#include "rows.h"
#include "weights.h"
#include "gemm_tile.h"
#include "gemm_rows.h"
#include "gemm.h"
#include "gemm_few.h"

/* What the templates assume of a vocabulary's constants. */
_Static_assert(TILE_VECTORS == 3, "the tiles are instantiated for one, two and three vectors");
_Static_assert(TILE_LANES <= (int)MHA_MAX_LANES, "a key's exclusions are one bit per lane of a tile");
_Static_assert((int)DECODE_KEYS <= (int)MHA_MAX_BLOCK_KEYS, "larger blocks would not fit a worker's megabyte");
_Static_assert(BLOCK_KEYS % STEP == 0 && BLOCK_KEYS % SCORE_KEYS == 0, "blocks are whole panels and vectors");
_Static_assert(STEP % V_LANES == 0 && STEP % PANEL == 0, "panels are vectors, or vectors are panels");
_Static_assert((int)DECODE_ROWS <= (int)V_LANES, "a tile's maxima and what it shrinks by are a vector");
_Static_assert(DECODE_VECTORS % 2 == 0, "columns are taken by one vector or by pairs");
_Static_assert(BLOCK_KEYS % FETCH_PLACES == 0, "places of a block are even");
_Static_assert((int)GEMM_MAX_PANELS <= (int)FETCH_PLACES, "every panel of a group is a place");
_Static_assert(MHA_MAX_SPLITS % V_LANES == 0, "weights of splits are whole vectors");

#define DECODE_PATH(keys)                                                                                              \
    {.max_rows = DECODE_ROWS,                                                                                          \
     .block_keys = (keys),                                                                                             \
     .score_key_stride = 1,                                                                                            \
     .score_row_stride = DECODE_KEYS,                                                                                  \
     .lanes = K(decode_lanes),                                                                                         \
     .q_floats = K(decode_q_floats),                                                                                   \
     .o_floats = K(decode_row_floats),                                                                                 \
     .score_floats = K(decode_score_floats),                                                                           \
     .load = K(decode_load),                                                                                           \
     .block = {K(decode_block_sleef), K(decode_block_fused)},                                                          \
     .finish = K(decode_finish)}

const mha_kernels K(kernels) = {
    .isa = MHA_TEXT(MHA_ISA),
    .tile = TILE_PATH(tile_block_sleef, tile_block_fused, PACKS),
#if IN_PLACE_TILES > 0
    .in_place = TILE_PATH(in_place_block_sleef, in_place_block_fused, .pack_keys = NULL),
#else
    .in_place = TILE_PATH(tile_block_sleef, tile_block_fused, PACKS),
#endif
    .in_place_tiles = IN_PLACE_TILES,
    .decode = {DECODE_PATH(BLOCK_KEYS), DECODE_PATH(DECODE_KEYS)},
    .gemm = GEMM,
    .widen = K(widen),
    .narrow = K(narrow),
    .merge = K(merge),
    .lse = K(lse),
    .softmax_row = {K(softmax_row_sleef), K(softmax_row_fused)},
    .exp = {K(exp_sleef), K(exp_fused)},
};

/* AMX: the tile path and GEMM of src/simd, but for their products. */
#include "vec.h"
#include "simd/exp.h"
#include "simd/elements.h"
#include "simd/pack.h"
#include "sums.h"
#include "columns.h"
#include "rows.h"
#include "rows_softmax.h"
#include "rows_pack.h"
#include "rows_block.h"
#include "simd/weights.h"
#include "simd/gemm_tile.h"
#include "gemm_rows.h"
#include "simd/gemm.h"

_Static_assert(TILE_LANES == 32 && BLOCK_KEYS % KEY_STEP == 0, "two tiles of lanes, whole steps of keys");

static void K(open)(void) { tiles_open(); }
static void K(close)(void) { tiles_close(); }

/* Any number of rows alike. */
static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const gemm_block block = gemm_block_of(gemm, row0, row1, false, scratch);
    tiles_open();
    gemm_many(&block, out0, out1);
    tiles_close();
}

const mha_bf16_kernels K(kernels) = {
    .isa = MHA_TEXT(MHA_ISA),
    .tile = ROWS_PATH(rows),
    .split = ROWS_PATH(split),
    .gemm = GEMM,
};

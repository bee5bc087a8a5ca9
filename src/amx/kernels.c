/* AMX: tile paths and a GEMM of its own, whose packed weights are src/simd's. */
#include "vec.h"
#include "simd/exp.h"
#include "simd/elements.h"
#include "simd/pack.h"
#include "columns.h"
#include "rows.h"
#include "rows_softmax.h"
#include "rows_pack.h"
#include "rows_block.h"
#include "simd/weights.h"
#include "gemm.h"

_Static_assert(TILE_LANES == 32 && BLOCK_KEYS % STEP_KEYS == 0, "two tiles of lanes, whole steps of keys");

const mha_bf16_kernels K(kernels) = {
    .isa = MHA_TEXT(MHA_ISA),
    .tile = ROWS_PATH(rows),
    .split = ROWS_PATH(split),
    .gemm = GEMM,
};

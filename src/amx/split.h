/* The tile path for operands in two parts: f16 as it is, f32 to 16 bits. */
#ifndef MHA_AMX_SPLIT_H
#define MHA_AMX_SPLIT_H

static size_t K(split_q_floats)(int32_t lanes, int32_t head_dim) { return 2 * K(tile_q_floats)(lanes, head_dim); }
static size_t K(split_score_floats)(int32_t lanes) { return score_floats(lanes, 2); }
static size_t K(split_k_floats)(int32_t head_dim) { return 2 * K(packed_k_floats)(head_dim); }
static size_t K(split_v_floats)(int32_t v_head_dim) { return 2 * K(packed_v_floats)(v_head_dim); }

static void K(split_load)(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim,
                          int32_t v_head_dim, float q_factor) {
    V_WITH_DTYPE(dtype, load_tile(tile, rows, T, 2, head_dim, v_head_dim, q_factor));
}

static void K(split_keys)(const mha_kv_block *block, float *packed) {
    const size_t floats = K(packed_k_floats)(block->head_dim);
    V_WITH_DTYPE(block->k_dtype, copy_keys(block, T, 0, packed));
    V_WITH_DTYPE(block->k_dtype, copy_keys(block, T, 1, packed + floats));
}

static void K(split_values)(const mha_kv_block *block, float *packed) {
    const size_t floats = K(packed_v_floats)(block->v_head_dim);
    V_WITH_DTYPE(block->v_dtype, transpose_values(block, T, 0, packed));
    V_WITH_DTYPE(block->v_dtype, transpose_values(block, T, 1, packed + floats));
}

static void K(split_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                 float *s) {
    update_tiles(softmax, block, tiles, n, 2, false, false, s);
}

static void K(split_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                 float *s) {
    update_tiles(softmax, block, tiles, n, 2, false, true, s);
}

#define SPLIT_PACKS                                                                                                    \
    .packed_k_floats = K(split_k_floats), .packed_v_floats = K(split_v_floats), .pack_keys = K(split_keys),            \
    .pack_values = K(split_values)

#endif

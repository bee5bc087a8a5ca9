/* The tile path: one block of keys and values, packed or in place, against tiles of queries, which sit in lanes.  Sizes
 * in floats:
 *
 *     q [head_dim][lanes]    s [BLOCK_KEYS][lanes]    o [v_head_dim][lanes]       lanes: 1 to TILE_VECTORS vectors
 *
 * With units of two bf16, q is [head_dim / 2] and the weights, which take the place of s, are [BLOCK_KEYS / 2]; scores
 * and o are f32. */
#ifndef MHA_SIMD_TILE_H
#define MHA_SIMD_TILE_H

static int32_t K(tile_lanes)(int32_t rows) { return (int32_t)round_up(rows, V_LANES); }

static size_t K(tile_q_floats)(int32_t lanes, int32_t head_dim) { return (size_t)(lanes * step_units(head_dim)); }

static size_t K(tile_o_floats)(int32_t lanes, int32_t v_head_dim) {
    return (size_t)lanes * (size_t)round_up(v_head_dim, STEP);
}

static size_t K(tile_score_floats)(int32_t lanes) { return (size_t)lanes * BLOCK_KEYS; }

/* Lane r of each vector: an element or unit of rows[r], times the factor. */
V_INLINE void load_lanes(const mha_tile *tile, const void *const rows[], mha_dtype dtype, int part, int32_t elements,
                         float factor, float *dst) {
    for (int32_t lane = 0; lane < tile->lanes; lane += V_LANES) {
        const void *group[V_LANES];
        for (int i = 0; i < V_LANES; i++) group[i] = lane + i < tile->rows ? rows[lane + i] : NULL;
        pack_lanes(group, dtype, part, elements, factor, dst + lane, MHA_F32, tile->lanes);
    }
}

static void K(tile_load)(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim,
                         int32_t v_head_dim, float q_factor) {
    V_WITH_DTYPE(dtype, load_lanes(tile, rows, T, UNITS, head_dim, q_factor, tile->q));
    memset(tile->o, 0, K(tile_o_floats)(tile->lanes, v_head_dim) * sizeof(float));
}

static void K(tile_load_bias)(const mha_tile *tile, const float *const rows[], float *bias, uint64_t *excluded) {
    const void *const *from = (const void *const *)rows;
    load_lanes(tile, from, MHA_F32, ELEMENTS, tile->end - tile->begin, 1, bias + tile->begin * tile->lanes);
    const vf lowest = v_set1(-INFINITY);
    for (int32_t k = tile->begin; k < tile->end; k++)
        for (int32_t lane = 0; lane < tile->lanes; lane += V_LANES)
            excluded[k] |= v_equal(v_load(bias + k * tile->lanes + lane), lowest) << lane;
}

/* The weights of a key, out of its unit. */
V_INLINE vf load_weights(const float *p, int32_t k, int lanes) {
    float units[V_LANES];
    for (int i = 0; i < V_LANES; i++) units[i] = p[unit_at(k / UNIT, i, lanes)];
    const vf unit = v_load(units);
    return UNIT == 1 ? unit : v_dot(unit, v_set_pairs(k % UNIT == 0 ? ONE_EVEN : ONE_ODD), v_zero());
}

/* Adds the values that are not finite to the rows that see them. */
static void add_seen_values(const mha_kv_block *block, mha_tile *tile, const float *p) {
    const int32_t lanes = tile->lanes;
    for (int32_t k = tile->begin; k < tile->end; k++) {
        const uint64_t excluded = tile->excluded != NULL ? tile->excluded[k] : 0;
        for (int32_t d = 0; d < block->v_head_dim; d++) {
            float value[V_LANES];
            v_store(value, as_multiplied(load_elements_n(value_at(block, block->v_dtype, k, d), 1, block->v_dtype)));
            if (isfinite(value[0])) continue;
            for (int32_t lane = 0; lane < lanes; lane += V_LANES) {
                float *at = tile->o + d * lanes + lane;
                const vf o = v_load(at), with = v_fma(v_set1(value[0]), load_weights(p + lane, k, lanes), o);
                v_store(at, v_blend(v_mask(excluded >> lane), with, o));
            }
        }
    }
}

/* The same for values that are not all finite, some of them excluded: 0 * NaN is NaN.  What a row does not see changes
 * no bit of it, so the finite ones go the usual way. */
static void accumulate_seen_values(const mha_kv_block *block, mha_tile *tile, bool in_place, const float *p,
                                   const vf alpha[]) {
    switch (tile->lanes / V_LANES) {
    case 1: accumulate_values(block, tile, 1, in_place, true, p, alpha); break;
    case 2: accumulate_values(block, tile, 2, in_place, true, p, alpha); break;
    default: accumulate_values(block, tile, TILE_VECTORS, in_place, true, p, alpha); break;
    }
    add_seen_values(block, tile, p);
}

/* Whether the values of keys [begin, end) are all finite, as products take them: 0 x is NaN for the others. */
V_INLINE bool elements_finite(const mha_kv_block *block, mha_dtype dtype, int32_t begin, int32_t end) {
    vf zero[4] = {v_zero(), v_zero(), v_zero(), v_zero()}; /* chains: an FMA takes four cycles */
    for (int32_t d = 0; d < block->v_head_dim; d += V_LANES) {
        const int32_t n = block->v_head_dim - d;
        int32_t k = begin;
        for (; k + 4 <= end && n >= V_LANES; k += 4) {
            V_UNROLL
            for (int i = 0; i < 4; i++)
                zero[i] =
                    v_fma(as_multiplied(load_elements(value_at(block, dtype, k + i, d), dtype)), v_zero(), zero[i]);
        }
        for (; k < end; k++)
            zero[0] = v_fma(as_multiplied(load_elements_n(value_at(block, dtype, k, d), n, dtype)), v_zero(), zero[0]);
    }
    return v_sum(v_add(v_add(zero[0], zero[1]), v_add(zero[2], zero[3]))) == 0;
}

static bool values_finite(const mha_kv_block *block, int32_t begin, int32_t end) {
    V_WITH_DTYPE(block->v_dtype, return elements_finite(block, T, begin, end));
}

/* What is known of a block while its tiles go by. */
typedef enum values_state { VALUES_UNKNOWN, VALUES_FINITE, VALUES_NOT_FINITE } values_state;

/* Only tiles that exclude something ask, if only other keys of a step. */
V_INLINE bool must_skip_values(const mha_kv_block *block, const mha_tile *tile, values_state *values) {
    const bool part = tile->begin % KEY_STEP != 0 || (tile->end % KEY_STEP != 0 && tile->end < block->keys);
    if (tile->excluded == NULL && !part) return false;
    if (*values == VALUES_UNKNOWN) *values = values_finite(block, 0, block->keys) ? VALUES_FINITE : VALUES_NOT_FINITE;
    return *values == VALUES_NOT_FINITE;
}

V_INLINE void update_tile(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tile, int vectors,
                          bool in_place, bool fused, values_state *values, float *s) {
    vf max[TILE_VECTORS], alpha[TILE_VECTORS];
    multiply_keys(block, tile, vectors, in_place, s, max);
    mha_phase_end(MHA_PHASE_QK);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_RAW);
    if (softmax->cap != 0) cap_scores(softmax, tile, vectors, s, max);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_SOFTCAPPED);
    if (tile->excluded != NULL || tile->bias != NULL) modify_scores(softmax, tile, vectors, s, max);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_BIASED);
    mha_phase_end(MHA_PHASE_MODIFY);
    online_softmax(softmax, tile, vectors, fused, s, max, alpha);
    mha_phase_end(MHA_PHASE_SOFTMAX);
    if (must_skip_values(block, tile, values)) accumulate_seen_values(block, tile, in_place, s, alpha);
    else accumulate_values(block, tile, vectors, in_place, false, s, alpha);
    mha_phase_end(MHA_PHASE_PV);
}

/* A step for each product of a panel. */
static void pace_ahead(const mha_kv_block *block, const mha_tile *tiles, size_t n) {
    int64_t steps = 0;
    for (const mha_tile *tile = tiles; tile < tiles + n; tile++)
        if (tile->begin != tile->end) steps += (tile->end - tile->begin + block->v_head_dim) / PANEL;
    mha_ahead_pace(block->ahead, steps);
}

V_INLINE void update_tiles(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                           bool in_place, bool fused, float *s) {
    values_state values = VALUES_UNKNOWN;
    if (block->ahead != NULL) pace_ahead(block, tiles, n);
    for (mha_tile *tile = tiles; tile < tiles + n; tile++) {
        if (tile->begin == tile->end) continue;
        switch (tile->lanes / V_LANES) {
        case 1: update_tile(softmax, block, tile, 1, in_place, fused, &values, s); break;
        case 2: update_tile(softmax, block, tile, 2, in_place, fused, &values, s); break;
        default: update_tile(softmax, block, tile, TILE_VECTORS, in_place, fused, &values, s); break;
        }
    }
}

static void K(tile_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                float *s) {
    update_tiles(softmax, block, tiles, n, false, false, s);
}

static void K(tile_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                float *s) {
    update_tiles(softmax, block, tiles, n, false, true, s);
}

#if IN_PLACE_TILES > 0
static void K(in_place_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                    float *s) {
    update_tiles(softmax, block, tiles, n, true, false, s);
}

static void K(in_place_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                    float *s) {
    update_tiles(softmax, block, tiles, n, true, true, s);
}
#endif

/* O^T / sum, transposed back. */
V_INLINE void finish_tile(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                          bool normalise) {
    for (int32_t lane = 0; lane < tile->rows; lane += V_LANES) {
        float sums[V_LANES], inverses[V_LANES];
        v_store(sums, v_load(tile->sum + lane));
        for (int i = 0; i < V_LANES; i++) inverses[i] = normalise ? safe_inverse(sums[i]) : 1;
        const vf inverse = v_load(inverses);
        /* Rows without a key have a sum of 0 and become 0; all others at least 1, the largest weight. */
        const vf sum = normalise ? v_load(sums) : v_set1(1);
        for (int32_t d = 0; d < v_head_dim; d += V_LANES) {
            const int32_t n = v_head_dim - d < V_LANES ? v_head_dim - d : V_LANES;
            vf o[V_LANES];
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) {
                o[i] = positive_zero(v_mul(v_load(tile->o + (d + i) * tile->lanes + lane), inverse));
                o[i] = v_zero_where_less(o[i], sum, v_set1(FLT_MIN));
            }
            v_transpose(o);
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) {
                if (lane + i >= tile->rows) continue;
                store_elements_n((char *)rows[lane + i] + d * mha_dtype_bytes(dtype), o[i], n, dtype);
            }
        }
    }
}

static void K(tile_finish)(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                           bool normalise) {
    V_WITH_DTYPE(dtype, finish_tile(tile, rows, T, v_head_dim, normalise));
}

/* Of a row of kernels.inc. */
#define PACKS                                                                                                          \
    .packed_k_floats = K(packed_k_floats), .packed_v_floats = K(packed_v_floats), .pack_keys = K(pack_keys),           \
    .pack_values = K(pack_values)

#define TILE_PATH(block_sleef, block_fused, ...)                                                                       \
    {.max_rows = TILE_LANES,                                                                                           \
     .block_keys = BLOCK_KEYS,                                                                                         \
     .score_key_stride = 0,                                                                                            \
     .score_row_stride = 1,                                                                                            \
     .lanes = K(tile_lanes),                                                                                           \
     .q_floats = K(tile_q_floats),                                                                                     \
     .o_floats = K(tile_o_floats),                                                                                     \
     .score_floats = K(tile_score_floats),                                                                             \
     .load = K(tile_load),                                                                                             \
     .block = {K(block_sleef), K(block_fused)},                                                                        \
     .load_bias = K(tile_load_bias),                                                                                   \
     .finish = K(tile_finish),                                                                                         \
     __VA_ARGS__}

#endif

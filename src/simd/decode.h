/* The decode path: tiles of up to DECODE_ROWS query rows.  K and V are read where they lie; lanes run along head_dim.  Sizes in
 * floats:
 *
 *     q [rows][head_dim, rounded up]    s [rows][BLOCK_KEYS]    o [rows][v_head_dim, rounded up]
 *
 * Lane i of a vector of scores holds a key that is i modulo V_LANES, so that a row's sums do not depend on where the range
 * of its tile begins. */
#ifndef MHA_SIMD_DECODE_H
#define MHA_SIMD_DECODE_H

enum {
    DECODE_ROWS = 4,
    SCORE_KEYS = 4, /* side by side, as v_sum_rows takes them */
    STREAMS = 16,   /* places of a block that are fetched from in turn */
    ROWS_AHEAD = 8,
};

static int32_t K(decode_lanes)(int32_t rows) { return rows; }

static size_t K(decode_row_floats)(int32_t lanes, int32_t dim) {
    return (size_t)lanes * (size_t)round_up(dim, V_LANES);
}

static size_t K(decode_score_floats)(int32_t lanes) { return (size_t)lanes * BLOCK_KEYS; }

static void K(decode_load)(mha_tile *tile, const float *const rows[], int32_t head_dim, int32_t v_head_dim,
                           float q_factor) {
    const int64_t stride = round_up(head_dim, V_LANES);
    memset(tile->q, 0, K(decode_row_floats)(tile->rows, head_dim) * sizeof(float));
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t d = 0; d < head_dim; d++) tile->q[r * stride + d] = rows[r][d] * q_factor;
    memset(tile->o, 0, K(decode_row_floats)(tile->rows, v_head_dim) * sizeof(float));
}

/* The scores fetch rows of K that come later, the output rows of V, if these are not in a fast cache.  Out of DRAM they are the
 * next block's, for which all tiles have time, from STREAMS places of it in turn: hardware fetches ahead page by page, and DRAM
 * gives a third more to 16 pages at a time than to one.  A slow cache has no such preference; a few rows ahead are enough. */
typedef struct decode_fetch {
    mha_level level;
    int32_t tile, tiles;
} decode_fetch;

V_INLINE bool fetches(const decode_fetch *f, int32_t key) {
    if (f->level == MHA_DRAM) return key / SCORE_KEYS % f->tiles == f->tile;
    return f->level == MHA_SLOW_CACHE && f->tile == 0; /* the first tile is the one that waits */
}

V_INLINE const float *later_row(const decode_fetch *f, const float *matrix, int64_t stride, int32_t key) {
    const int32_t streamed = BLOCK_KEYS + key % STREAMS * (BLOCK_KEYS / STREAMS) + key / STREAMS;
    const uint64_t row = (uint64_t)(f->level == MHA_DRAM ? streamed : key + ROWS_AHEAD);
    return (const float *)((uintptr_t)matrix + row * (uint64_t)stride * sizeof *matrix);
}

/* Adds the products of V_LANES elements, or the last n, to the sums. */
V_INLINE void score_elements(const float *const keys[SCORE_KEYS], bool fetch, const float *const later[SCORE_KEYS],
                             int32_t d, int32_t n, const float *q, int64_t stride, int rows,
                             vf sum[DECODE_SCORE_ROWS][SCORE_KEYS]) {
    vf key[SCORE_KEYS];
    if (fetch && d % LINE == 0) {
        V_UNROLL
        for (int i = 0; i < SCORE_KEYS; i++) v_prefetch(later[i], d);
    }
    V_UNROLL
    for (int i = 0; i < SCORE_KEYS; i++) key[i] = n == V_LANES ? v_load(keys[i] + d) : v_load_n(keys[i] + d, n);
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        const vf query = v_load(q + r * stride + d);
        V_UNROLL
        for (int i = 0; i < SCORE_KEYS; i++) sum[r][i] = v_fma(query, key[i], sum[r][i]);
    }
}

/* Scores of SCORE_KEYS keys and some rows. */
V_INLINE void score_keys(const float *const keys[SCORE_KEYS], bool fetch, const float *const later[SCORE_KEYS],
                         int32_t head_dim, const float *q, int rows, float *s) {
    const int64_t stride = round_up(head_dim, V_LANES);
    vf sum[DECODE_SCORE_ROWS][SCORE_KEYS];
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        V_UNROLL
        for (int i = 0; i < SCORE_KEYS; i++) sum[r][i] = v_zero();
    }
    int32_t d = 0;
    for (; d + V_LANES <= head_dim; d += V_LANES) score_elements(keys, fetch, later, d, V_LANES, q, stride, rows, sum);
    if (d < head_dim) score_elements(keys, fetch, later, d, head_dim - d, q, stride, rows, sum);
    v_sum_rows(rows, sum, s, BLOCK_KEYS);
}

/* S = Q K^T for keys [begin, end), from a multiple of SCORE_KEYS on; -inf in the rest of the vectors that hold them. */
V_INLINE void decode_scores(const mha_kv_block *block, const mha_tile *tile, const decode_fetch *f, int rows,
                            float *s) {
    const int64_t stride = round_up(block->head_dim, V_LANES);
    for (int32_t key = tile->begin / SCORE_KEYS * SCORE_KEYS; key < tile->end; key += SCORE_KEYS) {
        const float *keys[SCORE_KEYS]; /* a key beyond the end is the last one again */
        for (int i = 0; i < SCORE_KEYS; i++)
            keys[i] = block->k + (key + i < tile->end ? key + i : tile->end - 1) * block->k_stride;
        const bool fetch = fetches(f, key);
        const float *later[SCORE_KEYS];
        for (int i = 0; i < SCORE_KEYS; i++) later[i] = later_row(f, block->k, block->k_stride, key + i);
        V_UNROLL
        for (int r = 0; r < rows; r += DECODE_SCORE_ROWS) {
            const int n = rows - r < DECODE_SCORE_ROWS ? rows - r : DECODE_SCORE_ROWS;
            const float *q = tile->q + r * stride;
            float *scores = s + r * BLOCK_KEYS + key;
            if (r == 0 && fetch) score_keys(keys, true, later, block->head_dim, q, n, scores);
            else score_keys(keys, false, later, block->head_dim, q, n, scores);
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int32_t k = tile->begin / V_LANES * V_LANES; k < tile->begin; k++) s[r * BLOCK_KEYS + k] = -INFINITY;
        for (int32_t k = tile->end; k < round_up(tile->end, V_LANES); k++) s[r * BLOCK_KEYS + k] = -INFINITY;
    }
}

static void decode_modify(const mha_softmax *softmax, const mha_tile *tile, float *s) {
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t k = tile->begin; k < tile->end; k++) {
            float *at = &s[r * BLOCK_KEYS + k];
            if (tile->bias != NULL) *at = *at * softmax->bias_scale + tile->bias[r * BLOCK_KEYS + k];
            if (tile->excluded != NULL && (tile->excluded[k] >> r & 1) != 0) *at = -INFINITY;
        }
}

/* P = exp((S - max) scale) for one row; returns what the old sum and output shrink by. */
V_INLINE float decode_softmax(const mha_softmax *softmax, mha_tile *tile, int r, bool fused, float *s) {
    const int32_t begin = tile->begin / V_LANES * V_LANES, end = (int32_t)round_up(tile->end, V_LANES);
    const float old = tile->max[r];
    float lanes[V_LANES], max = old, alpha;
    vf max_v = v_set1(-INFINITY), sum = v_zero();
    for (int32_t k = begin; k < end; k += V_LANES) max_v = v_max(v_load(s + k), max_v);
    v_store(lanes, max_v);
    for (int i = 0; i < V_LANES; i++) max = lanes[i] > max ? lanes[i] : max;
    const vf reference = finite_max(v_set1(max));
    for (int32_t k = begin; k < end; k += V_LANES) {
        const vf p = softmax_exp(v_sub(v_load(s + k), reference), softmax, fused);
        v_store(s + k, p);
        sum = v_add(sum, p);
    }
    v_store(lanes, softmax_exp(v_sub(v_set1(old), reference), softmax, fused));
    alpha = lanes[0];
    tile->max[r] = max;
    tile->sum[r] = tile->sum[r] * alpha + v_sum(sum);
    return alpha;
}

/* O = O alpha + P V for `vectors` vectors of V's columns from d on; the last one may be partial, of n lanes. */
V_INLINE void decode_columns(const mha_kv_block *block, mha_tile *tile, const decode_fetch *f, int rows, int32_t d,
                             int vectors, int32_t n, const float *p, const float alpha[DECODE_ROWS]) {
    const int64_t stride = round_up(block->v_head_dim, V_LANES);
    vf c[DECODE_ROWS][DECODE_VECTORS];
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) c[r][v] = v_zero();
    }
    for (int32_t k = tile->begin; k < tile->end; k++) {
        const float *values = block->v + k * block->v_stride + d;
        vf value[DECODE_VECTORS];
        if (fetches(f, k)) {
            const float *later = later_row(f, block->v, block->v_stride, k);
            V_UNROLL
            for (int v = 0; v < vectors; v += LINE / V_LANES) v_prefetch(later, d + v * V_LANES);
        }
        V_UNROLL
        for (int v = 0; v < vectors; v++)
            value[v] = n == V_LANES ? v_load(values + v * V_LANES) : v_load_n(values + v * V_LANES, n);
        V_UNROLL
        for (int r = 0; r < rows; r++) {
            const vf weight = v_set1(p[r * BLOCK_KEYS + k]);
            V_UNROLL
            for (int v = 0; v < vectors; v++) c[r][v] = v_fma(weight, value[v], c[r][v]);
        }
    }
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *o = tile->o + r * stride + d + v * V_LANES;
            v_store(o, v_fma(v_load(o), v_set1(alpha[r]), c[r][v]));
        }
    }
}

V_INLINE void decode_values(const mha_kv_block *block, mha_tile *tile, const decode_fetch *f, int rows, const float *p,
                            const float alpha[DECODE_ROWS]) {
    int32_t d = 0;
    for (; d + DECODE_VECTORS * V_LANES <= block->v_head_dim; d += DECODE_VECTORS * V_LANES)
        decode_columns(block, tile, f, rows, d, DECODE_VECTORS, V_LANES, p, alpha);
    for (; d + V_LANES <= block->v_head_dim; d += V_LANES)
        decode_columns(block, tile, f, rows, d, 1, V_LANES, p, alpha);
    if (d < block->v_head_dim) decode_columns(block, tile, f, rows, d, 1, block->v_head_dim - d, p, alpha);
}

/* The same for values that are not all finite, some of them excluded: these are skipped, since 0 * NaN is NaN. */
static void decode_seen_values(const mha_kv_block *block, mha_tile *tile, const float *p,
                               const float alpha[DECODE_ROWS]) {
    const int64_t stride = round_up(block->v_head_dim, V_LANES);
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t d = 0; d < block->v_head_dim; d += V_LANES) {
            const int32_t n = block->v_head_dim - d;
            float *o = tile->o + r * stride + d;
            vf c = v_zero();
            for (int32_t k = tile->begin; k < tile->end; k++)
                if ((tile->excluded[k] >> r & 1) == 0)
                    c = v_fma(v_set1(p[r * BLOCK_KEYS + k]), v_load_n(block->v + k * block->v_stride + d, n), c);
            v_store(o, v_fma(v_load(o), v_set1(alpha[r]), c));
        }
}

V_INLINE void decode_rows(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tile, const decode_fetch *f,
                          int rows, bool fused, float *s) {
    float alpha[DECODE_ROWS];
    decode_scores(block, tile, f, rows, s);
    mha_phase_end(MHA_PHASE_QK);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, false);
    if (tile->excluded != NULL || tile->bias != NULL) decode_modify(softmax, tile, s);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, true);
    mha_phase_end(MHA_PHASE_MODIFY);
    for (int r = 0; r < rows; r++) alpha[r] = decode_softmax(softmax, tile, r, fused, s + r * BLOCK_KEYS);
    mha_phase_end(MHA_PHASE_SOFTMAX);
    if (tile->excluded != NULL && !values_finite(block, tile->begin, tile->end))
        decode_seen_values(block, tile, s, alpha);
    else decode_values(block, tile, f, rows, s, alpha);
    mha_phase_end(MHA_PHASE_PV);
}

V_INLINE void decode_tiles(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, bool fused,
                           float *s) {
    for (mha_tile *tile = tiles; tile < tiles + n; tile++) {
        if (tile->begin == tile->end) continue;
        const decode_fetch f = {block->level, (int32_t)(tile - tiles), (int32_t)n};
        switch (tile->rows) {
        case 1: decode_rows(softmax, block, tile, &f, 1, fused, s); break;
        case 2: decode_rows(softmax, block, tile, &f, 2, fused, s); break;
        case 3: decode_rows(softmax, block, tile, &f, 3, fused, s); break;
        default: decode_rows(softmax, block, tile, &f, DECODE_ROWS, fused, s); break;
        }
    }
}

static void K(decode_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                  float *s) {
    decode_tiles(softmax, block, tiles, n, false, s);
}

static void K(decode_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                  float *s) {
    decode_tiles(softmax, block, tiles, n, true, s);
}

static void K(decode_finish)(const mha_tile *tile, float *const rows[], int32_t v_head_dim, bool normalise) {
    const int64_t stride = round_up(v_head_dim, V_LANES);
    for (int32_t r = 0; r < tile->rows; r++) {
        const bool empty = normalise && tile->sum[r] == 0;
        const vf inverse = v_set1(normalise ? safe_inverse(tile->sum[r]) : 1);
        for (int32_t d = 0; d < v_head_dim; d += V_LANES) {
            const vf o = empty ? v_zero() : positive_zero(v_mul(v_load(tile->o + r * stride + d), inverse));
            v_store_n(rows[r] + d, o, v_head_dim - d);
        }
    }
}

#endif

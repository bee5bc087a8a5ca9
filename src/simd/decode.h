/* The decode path: tiles of up to DECODE_ROWS query rows.  K and V are read where they lie; lanes run along head_dim.
 * Sizes in floats:
 *
 *     q [2][rows][head_dim, rounded up]    s [rows][DECODE_KEYS]    o [rows][v_head_dim, rounded up]
 *
 * bf16 becomes f32 in half as many instructions, one, if a vector takes the even elements of 2 V_LANES and the next one
 * the odd ones.  The second q lies so, for keys in bf16; outputs are put in order as a block's are added.
 *
 * Lane i of a vector of scores holds a key that is i modulo V_LANES, so that a row's sums do not depend on where the
 * range of its tile begins. */
#ifndef MHA_SIMD_DECODE_H
#define MHA_SIMD_DECODE_H

enum {
    DECODE_ROWS = 4,
    SCORE_KEYS = 4,               /* side by side, as v_sum_rows takes them */
    DECODE_KEYS = 2 * BLOCK_KEYS, /* in a block of half precision; otherwise BLOCK_KEYS */
};

static int32_t K(decode_lanes)(int32_t rows) { return rows; }

static size_t K(decode_row_floats)(int32_t lanes, int32_t dim) {
    return (size_t)lanes * (size_t)round_up(dim, V_LANES);
}

static size_t K(decode_q_floats)(int32_t lanes, int32_t dim) { return 2 * K(decode_row_floats)(lanes, dim); }

static size_t K(decode_score_floats)(int32_t lanes) { return (size_t)lanes * DECODE_KEYS; }

/* Of each 2 V_LANES elements the even ones, then the odd ones; the rest in order. */
V_INLINE void unzip(const float *row, int32_t dim, float *to) {
    int32_t d = 0;
    for (; d + 2 * V_LANES <= dim; d += 2 * V_LANES) {
        vf x[2] = {v_load(row + d), v_load(row + d + V_LANES)};
        v_unzip(x);
        v_store(to + d, x[0]);
        v_store(to + d + V_LANES, x[1]);
    }
    for (; d < dim; d += V_LANES) v_store(to + d, v_load(row + d));
}

static void K(decode_load)(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim,
                           int32_t v_head_dim, float q_factor) {
    const int64_t stride = round_up(head_dim, V_LANES);
    for (int32_t r = 0; r < tile->rows; r++) {
        float *q = tile->q + r * stride;
        for (int32_t d = 0; d < head_dim; d += V_LANES) {
            const vf x = load_elements_n(mha_element(rows[r], d, dtype), head_dim - d, dtype);
            v_store(q + d, v_mul(x, v_set1(q_factor)));
        }
        unzip(q, head_dim, q + tile->rows * stride);
    }
    memset(tile->o, 0, K(decode_row_floats)(tile->rows, v_head_dim) * sizeof(float));
}

typedef enum taken { IN_ORDER, EVEN, ODD } taken;

/* V_LANES elements from d on, or the last n; or, of bf16, every other one of 2 V_LANES. */
V_INLINE vf load_vector(const void *row, int64_t d, int64_t n, mha_dtype dtype, taken how) {
    if (dtype != MHA_BF16 || how == IN_ORDER) return load_elements_n(mha_element(row, d, dtype), n, dtype);
    return how == EVEN ? v_even_bf16(mha_element(row, d, dtype)) : v_odd_bf16(mha_element(row, d - V_LANES, dtype));
}

/* Adds the products of V_LANES elements, or the last n, of so many keys from `first` on to their sums. */
V_INLINE void score_elements(const void *const keys[SCORE_KEYS], int first, int count, mha_dtype dtype, taken how,
                             mha_level level, row_fetch *fetch, int32_t d, int32_t n, const float *q, int64_t stride,
                             int rows, vf sum[DECODE_ROWS][SCORE_KEYS]) {
    const bool line = d % line_of(dtype) == 0;
    vf key[SCORE_KEYS];
    if (level == MHA_DRAM && line && first == 0) fetch_next_block(fetch, SCORE_KEYS);
    if (level == MHA_SLOW_CACHE && line) {
        V_UNROLL
        for (int i = first; i < first + count; i++)
            v_prefetch(mha_element(keys[i], d, dtype), (int64_t)(ROWS_AHEAD * fetch->stride));
    }
    V_UNROLL
    for (int i = first; i < first + count; i++) key[i] = load_vector(keys[i], d, n, dtype, how);
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        const vf query = v_in_register(v_load(q + r * stride + d));
        V_UNROLL
        for (int i = first; i < first + count; i++) sum[r][i] = v_fma(query, key[i], sum[r][i]);
    }
}

/* Scores of SCORE_KEYS keys, as many at a time as there are registers for the sums of all rows. */
V_INLINE void score_keys(const void *const keys[SCORE_KEYS], mha_dtype dtype, mha_level level, row_fetch *fetch,
                         int32_t head_dim, const float *q, int rows, float *s) {
    const int64_t stride = round_up(head_dim, V_LANES);
    const int count = rows * SCORE_KEYS <= DECODE_SCORES ? SCORE_KEYS : SCORE_KEYS / 2;
    vf sum[DECODE_ROWS][SCORE_KEYS];
    V_UNROLL
    for (int first = 0; first < SCORE_KEYS; first += count) {
        V_UNROLL
        for (int r = 0; r < rows; r++) {
            V_UNROLL
            for (int i = first; i < first + count; i++) sum[r][i] = v_zero();
        }
        int32_t d = 0;
        for (; d + 2 * V_LANES <= head_dim; d += 2 * V_LANES) {
            score_elements(keys, first, count, dtype, EVEN, level, fetch, d, V_LANES, q, stride, rows, sum);
            score_elements(keys, first, count, dtype, ODD, level, fetch, d + V_LANES, V_LANES, q, stride, rows, sum);
        }
        for (; d + V_LANES <= head_dim; d += V_LANES)
            score_elements(keys, first, count, dtype, IN_ORDER, level, fetch, d, V_LANES, q, stride, rows, sum);
        if (d < head_dim)
            score_elements(keys, first, count, dtype, IN_ORDER, level, fetch, d, head_dim - d, q, stride, rows, sum);
    }
    v_sum_rows(rows, sum, s, DECODE_KEYS);
}

/* S = Q K^T for keys [begin, end), from a multiple of SCORE_KEYS on. */
V_INLINE void score_rows(const mha_kv_block *block, const mha_tile *tile, mha_dtype dtype, mha_level level,
                         row_fetch *fetch, int rows, float *s) {
    const float *q = tile->q + (dtype == MHA_BF16 ? rows * round_up(block->head_dim, V_LANES) : 0);
    for (int32_t key = tile->begin / SCORE_KEYS * SCORE_KEYS; key < tile->end; key += SCORE_KEYS) {
        const void *keys[SCORE_KEYS] = {mha_element(block->k, key * block->k_stride, dtype)};
        V_UNROLL
        for (int i = 1; i < SCORE_KEYS; i++) /* a key beyond the end is the last one again */
            keys[i] = mha_element(keys[i - 1], key + i < tile->end ? block->k_stride : 0, dtype);
        score_keys(keys, dtype, level, fetch, block->head_dim, q, rows, s + key);
    }
}

static void decode_cap(const mha_softmax *softmax, const mha_tile *tile, float *s) {
    const vf cap = v_set1(softmax->cap);
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t k = tile->begin; k < tile->end; k += V_LANES) {
            float *at = &s[r * DECODE_KEYS + k];
            const int32_t n = tile->end - k;
            v_store_n(at, v_tanh_sleef(v_mul(v_load_n(at, n), cap)), n);
        }
}

static void decode_modify(const mha_softmax *softmax, const mha_tile *tile, float *s) {
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t k = tile->begin; k < tile->end; k++) {
            float *at = &s[r * DECODE_KEYS + k];
            if (tile->bias != NULL) *at = *at * softmax->bias_scale + tile->bias[r * DECODE_KEYS + k];
            if (tile->excluded != NULL && (tile->excluded[k] >> r & 1) != 0) *at = -INFINITY;
        }
}

/* -inf in the rest of the vectors that hold the scores. */
static void decode_pad(const mha_tile *tile, float *s) {
    for (int32_t r = 0; r < tile->rows; r++) {
        for (int32_t k = tile->begin / V_LANES * V_LANES; k < tile->begin; k++) s[r * DECODE_KEYS + k] = -INFINITY;
        for (int32_t k = tile->end; k < round_up(tile->end, V_LANES); k++) s[r * DECODE_KEYS + k] = -INFINITY;
    }
}

/* P = exp((S - max) scale); alpha: what the old sums and outputs shrink by. */
V_INLINE void decode_softmax(const mha_softmax *softmax, mha_tile *tile, bool fused, float *s, float alpha[V_LANES]) {
    const int32_t rows = tile->rows;
    const int32_t begin = tile->begin / V_LANES * V_LANES, end = (int32_t)round_up(tile->end, V_LANES);
    const vf old = v_load_n(tile->max, rows);
    for (int32_t r = 0; r < rows; r++) {
        vf max = v_set1(tile->max[r]);
        for (int32_t k = begin; k < end; k += V_LANES) max = v_max(v_load(s + r * DECODE_KEYS + k), max);
        tile->max[r] = v_largest(max);
    }
    const vf max = v_load_n(tile->max, rows);
    v_store(alpha, softmax_exp(v_sub(old, finite_max(max)), softmax, fused));
    for (int32_t r = 0; r < rows; r++) {
        const vf reference = finite_max(v_set1(tile->max[r]));
        vf sum = v_zero();
        for (int32_t k = begin; k < end; k += V_LANES) {
            const vf p = softmax_exp(v_sub(v_load(s + r * DECODE_KEYS + k), reference), softmax, fused);
            v_store(s + r * DECODE_KEYS + k, p);
            sum = v_add(sum, p);
        }
        tile->sum[r] = tile->sum[r] * alpha[r] + v_sum(sum);
    }
}

/* O = O alpha + P V for `vectors` vectors of V's columns from d on; the last one may be partial, of n lanes. */
V_INLINE void value_columns(const mha_kv_block *block, mha_tile *tile, mha_dtype dtype, mha_level level,
                            row_fetch *fetch, int rows, int32_t d, int vectors, int32_t n, const float *p,
                            const float alpha[V_LANES]) {
    const int64_t stride = round_up(block->v_head_dim, V_LANES);
    const int32_t line = line_of(dtype);
    vf c[DECODE_ROWS][DECODE_VECTORS];
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) c[r][v] = v_zero();
    }
    for (int32_t k = tile->begin; k < tile->end; k++) {
        const void *row = value_at(block, dtype, k, 0);
        vf value[DECODE_VECTORS];
        if (level == MHA_DRAM && d % line == 0) fetch_next_block(fetch, (vectors * V_LANES + line - 1) / line);
        if (level == MHA_SLOW_CACHE) {
            V_UNROLL
            for (int v = 0; v < vectors; v += line / V_LANES)
                v_prefetch(mha_element(row, d + v * V_LANES, dtype), (int64_t)(ROWS_AHEAD * fetch->stride));
        }
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            const taken how = vectors == 1 ? IN_ORDER : v % 2 == 0 ? EVEN : ODD;
            value[v] = load_vector(row, d + v * V_LANES, n, dtype, how);
        }
        V_UNROLL
        for (int r = 0; r < rows; r++) {
            const vf weight = v_set1(p[r * DECODE_KEYS + k]);
            V_UNROLL
            for (int v = 0; v < vectors; v++) c[r][v] = v_fma(weight, value[v], c[r][v]);
        }
    }
    V_UNROLL
    for (int r = 0; r < rows; r++) {
        if (dtype == MHA_BF16) {
            V_UNROLL
            for (int v = 0; v + 2 <= vectors; v += 2) v_zip(&c[r][v]);
        }
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *o = tile->o + r * stride + d + v * V_LANES;
            v_store(o, v_fma(v_load(o), v_set1(alpha[r]), c[r][v]));
        }
    }
}

V_INLINE void sum_values(const mha_kv_block *block, mha_tile *tile, mha_dtype dtype, mha_level level, row_fetch *fetch,
                         int rows, const float *p, const float alpha[V_LANES]) {
    const int32_t dim = block->v_head_dim, wide = DECODE_VECTORS * V_LANES;
    int32_t d = 0;
    for (; d + wide <= dim; d += wide)
        value_columns(block, tile, dtype, level, fetch, rows, d, DECODE_VECTORS, V_LANES, p, alpha);
    for (; d + V_LANES <= dim; d += V_LANES)
        value_columns(block, tile, dtype, level, fetch, rows, d, 1, V_LANES, p, alpha);
    if (d < dim) value_columns(block, tile, dtype, level, fetch, rows, d, 1, dim - d, p, alpha);
}

/* The same for values that are not all finite, some of them excluded: these are skipped, since 0 * NaN is NaN. */
static void decode_seen_values(const mha_kv_block *block, mha_tile *tile, const float *p, const float alpha[V_LANES]) {
    const int64_t stride = round_up(block->v_head_dim, V_LANES);
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t d = 0; d < block->v_head_dim; d += V_LANES) {
            const int32_t n = block->v_head_dim - d;
            float *o = tile->o + r * stride + d;
            vf c = v_zero();
            for (int32_t k = tile->begin; k < tile->end; k++)
                if ((tile->excluded[k] >> r & 1) == 0)
                    c = v_fma(v_set1(p[r * DECODE_KEYS + k]),
                              load_elements_n(value_at(block, block->v_dtype, k, d), n, block->v_dtype), c);
            v_store(o, v_fma(v_load(o), v_set1(alpha[r]), c));
        }
}

/* The two products, compiled for each number of rows, dtype and level. */
#define BY_ROWS(rows, call)                                                                                            \
    switch (rows) {                                                                                                    \
    case 1: call(1); break;                                                                                            \
    case 2: call(2); break;                                                                                            \
    case 3: call(3); break;                                                                                            \
    default: call(DECODE_ROWS); break;                                                                                 \
    }

V_INLINE void scores_at_level(const mha_kv_block *block, const mha_tile *tile, mha_dtype dtype, mha_level level,
                              row_fetch *fetch, float *s){
#define SCORE_ROWS(n) score_rows(block, tile, dtype, level, fetch, n, s)
    BY_ROWS(tile -> rows, SCORE_ROWS)
#undef SCORE_ROWS
}

V_INLINE void values_at_level(const mha_kv_block *block, mha_tile *tile, mha_dtype dtype, mha_level level,
                              row_fetch *fetch, const float *p, const float alpha[V_LANES]) {
#define SUM_ROWS(n) sum_values(block, tile, dtype, level, fetch, n, p, alpha)
    BY_ROWS(tile->rows, SUM_ROWS)
#undef SUM_ROWS
}
#undef BY_ROWS

static void decode_scores(const mha_kv_block *block, const mha_tile *tile, mha_level level, row_fetch *fetch,
                          float *s) {
    switch (level) {
    case MHA_FAST_CACHE: V_WITH_DTYPE(block->k_dtype, scores_at_level(block, tile, T, MHA_FAST_CACHE, NULL, s)); break;
    case MHA_SLOW_CACHE: V_WITH_DTYPE(block->k_dtype, scores_at_level(block, tile, T, MHA_SLOW_CACHE, fetch, s)); break;
    case MHA_DRAM: V_WITH_DTYPE(block->k_dtype, scores_at_level(block, tile, T, MHA_DRAM, fetch, s)); break;
    }
}

static void decode_values(const mha_kv_block *block, mha_tile *tile, mha_level level, row_fetch *fetch, const float *p,
                          const float alpha[V_LANES]) {
    switch (level) {
    case MHA_FAST_CACHE:
        V_WITH_DTYPE(block->v_dtype, values_at_level(block, tile, T, MHA_FAST_CACHE, NULL, p, alpha));
        break;
    case MHA_SLOW_CACHE:
        V_WITH_DTYPE(block->v_dtype, values_at_level(block, tile, T, MHA_SLOW_CACHE, fetch, p, alpha));
        break;
    case MHA_DRAM: V_WITH_DTYPE(block->v_dtype, values_at_level(block, tile, T, MHA_DRAM, fetch, p, alpha)); break;
    }
}

V_INLINE void decode_tile(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tile, mha_level level,
                          row_fetch *keys, row_fetch *values, bool fused, float *s) {
    float alpha[V_LANES];
    decode_scores(block, tile, level, keys, s);
    mha_phase_end(MHA_PHASE_QK);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_RAW);
    if (softmax->cap != 0) decode_cap(softmax, tile, s);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_SOFTCAPPED);
    if (tile->excluded != NULL || tile->bias != NULL) decode_modify(softmax, tile, s);
    if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_BIASED);
    decode_pad(tile, s);
    mha_phase_end(MHA_PHASE_MODIFY);
    decode_softmax(softmax, tile, fused, s, alpha);
    mha_phase_end(MHA_PHASE_SOFTMAX);
    if (tile->excluded != NULL && !values_finite(block, tile->begin, tile->end))
        decode_seen_values(block, tile, s, alpha);
    else decode_values(block, tile, level, values, s, alpha);
    mha_phase_end(MHA_PHASE_PV);
}

V_INLINE void decode_tiles(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, bool fused,
                           float *s) {
    const int32_t most = block->block_keys;
    row_fetch keys = fetch_from_block(block->next_k, most, block->k_dtype, block->k_stride, block->head_dim);
    row_fetch values = fetch_from_block(block->next_v, most, block->v_dtype, block->v_stride, block->v_head_dim);
    if (block->next_keys < most / 2) keys.wait = values.wait = INT32_MAX; /* not worth a whole block's lines */
    for (const mha_tile *tile = tiles; tile < tiles + n; tile++) {
        if (tile->begin == tile->end) continue;
        keys.passes++, values.passes++;
    }
    /* Tiles that share a block have time to fetch the next one. */
    const mha_level level = block->level == MHA_SLOW_CACHE && n > 1 ? MHA_DRAM : block->level;
    for (mha_tile *tile = tiles; tile < tiles + n; tile++)
        if (tile->begin < tile->end) decode_tile(softmax, block, tile, level, &keys, &values, fused, s);
}

static void K(decode_block_sleef)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                  float *s) {
    decode_tiles(softmax, block, tiles, n, false, s);
}

static void K(decode_block_fused)(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n,
                                  float *s) {
    decode_tiles(softmax, block, tiles, n, true, s);
}

static void K(decode_finish)(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                             bool normalise) {
    const int64_t stride = round_up(v_head_dim, V_LANES);
    for (int32_t r = 0; r < tile->rows; r++) {
        const bool empty = normalise && tile->sum[r] == 0;
        const vf inverse = v_set1(normalise ? safe_inverse(tile->sum[r]) : 1);
        for (int32_t d = 0; d < v_head_dim; d += V_LANES) {
            const vf o = empty ? v_zero() : positive_zero(v_mul(v_load(tile->o + r * stride + d), inverse));
            store_elements_n((char *)rows[r] + d * mha_dtype_bytes(dtype), o, v_head_dim - d, dtype);
        }
    }
}

#endif

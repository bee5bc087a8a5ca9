/* The tile paths by AMX: operands in bf16, or in two parts of it.  Unlike in src/simd, QUERIES ARE ROWS: Q and the weights
 * of softmax are A operands, whose rows lie in memory as they are needed, and a vector of scores is packed into 16-bit
 * weights as it lies.
 *
 *     S [rows][STEP_KEYS]        = Q [rows][head_dim]   K^T [head_dim / 2][keys][2]
 *     O [rows][v_head_dim + 16] += P [rows][STEP_KEYS]  V   [keys / 2][v_head_dim + 16][2]
 *
 * in tiles of 1 KiB, 16 rows of 64 bytes:
 *
 *     q  [rows / 16][head_dim / 32]           o  [rows / 16][v_head_dim / 16, + 1]
 *     k  [keys / 16][head_dim / 32]           v  [keys / 32][v_head_dim / 16]
 *     p  [rows / 16][BLOCK_KEYS / 32]         s  [rows][STEP_KEYS], not in tiles
 *
 * with dimensions rounded up; what is beyond the last is zero.  Of q, k, v and p further parts follow.  Behind V stands
 * a column of ones, so that the last tile of O sums the very weights that multiply V. */
#ifndef MHA_AMX_ROWS_H
#define MHA_AMX_ROWS_H

enum {
    ROWS = 32,
    STEP_KEYS = 64, /* that are scored together, so that S, P, O and Q stay in the first-level cache */
};

/* Of the score that weights are relative to, so that others may exceed it (rows_softmax.h). */
static const float WEIGHT_OF_MAX = 0x1p-8f;

V_INLINE int64_t head_tiles(int64_t head_dim) { return (head_dim + 31) / 32; }
V_INLINE int64_t value_tiles(int64_t v_head_dim) { return (v_head_dim + 15) / 16; }

/* Of a part. */
V_INLINE int64_t q_floats(int32_t lanes, int32_t head_dim) { return lanes / TILE_ROWS * head_tiles(head_dim) * TILE; }
V_INLINE int64_t k_floats(int32_t head_dim) { return BLOCK_KEYS / TILE_ROWS * head_tiles(head_dim) * TILE; }
V_INLINE int64_t v_floats(int32_t v_head_dim) { return BLOCK_KEYS / 32 * value_tiles(v_head_dim) * TILE; }
enum { S_FLOATS = ROWS * STEP_KEYS, P_FLOATS = ROWS * BLOCK_KEYS / 2 };

V_INLINE int64_t o_tiles(int32_t v_head_dim) { return value_tiles(v_head_dim) + 1; }

static int32_t K(rows_lanes)(int32_t rows) { return (int32_t)round_up(rows, TILE_ROWS); }

static size_t K(rows_o_floats)(int32_t lanes, int32_t v_head_dim) {
    return (size_t)(lanes / TILE_ROWS * o_tiles(v_head_dim) * TILE);
}

/* S of a step and P of a block; or, in as much memory, a bias of a block. */
V_INLINE size_t score_floats(int32_t lanes, int parts) {
    const int32_t own = S_FLOATS + parts * P_FLOATS, bias = lanes * BLOCK_KEYS;
    return (size_t)(own > bias ? own : bias);
}

/* Tile t's row of Q or O among so many tiles a row. */
V_INLINE float *row_at(float *tiles, int64_t row, int64_t tiles_a_row, int64_t t) {
    return tiles + ((row / TILE_ROWS * tiles_a_row + t) * TILE_ROWS + row % TILE_ROWS) * TILE_FLOATS;
}

/* Magnitudes of bf16 compare as integers; NaN is the largest. */
V_INLINE __m512i larger_magnitudes(__m512i most, __m512i pairs) {
    return _mm512_max_epu16(most, _mm512_and_si512(pairs, _mm512_set1_epi16(0x7fff)));
}

V_INLINE float largest_magnitude(__m512i most) {
    uint16_t halves[2 * V_LANES];
    uint32_t largest = 0;
    float magnitude;
    _mm512_storeu_si512(halves, most);
    for (int i = 0; i < 2 * V_LANES; i++) largest = halves[i] > largest ? halves[i] : largest;
    largest <<= 16;
    memcpy(&magnitude, &largest, sizeof magnitude);
    return magnitude;
}

/* What rounding to bf16 leaves of 32 elements, as rest_of. */
V_INLINE void take_rests(vf x[2]) {
    const __m512i halves = v_halves(x[0], x[1]);
    const __m256i half[2] = {_mm512_castsi512_si256(halves), _mm512_extracti64x4_epi64(halves, 1)};
    V_UNROLL
    for (int i = 0; i < 2; i++) {
        const vf rounded = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half[i]), 16));
        const vf rest = v_sub(x[i], rounded);
        x[i] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(rest), v_set1(INFINITY), _CMP_LT_OQ), rest);
    }
}

/* As load_part, for a row of a tile: 32 elements at once, if they are there. */
V_INLINE vf load_tile_row(const void *p, int64_t n, mha_dtype dtype, int part, float factor) {
    if (dtype == MHA_BF16 || n < 2 * V_LANES) return load_part(p, n, dtype, part, factor);
    vf x[2];
    V_UNROLL
    for (int i = 0; i < 2; i++) x[i] = v_mul(load_elements(mha_element(p, i * V_LANES, dtype), dtype), v_set1(factor));
    for (int i = 0; i < part; i++) take_rests(x);
    return _mm512_castsi512_ps(v_halves(x[0], x[1]));
}

/* Behind the tiles of Q stands the largest magnitude. */
V_INLINE void load_rows(mha_tile *tile, const void *const rows[], mha_dtype dtype, int parts, int32_t head_dim,
                        float q_factor) {
    const int64_t tiles = head_tiles(head_dim), floats = q_floats(tile->lanes, head_dim);
    __m512i most = _mm512_setzero_si512();
    for (int part = 0; part < parts; part++)
        for (int32_t r = 0; r < tile->lanes; r++)
            for (int64_t t = 0; t < tiles; t++) {
                const void *q = r < tile->rows ? mha_element(rows[r], t * 32, dtype) : NULL;
                const vf units = q != NULL ? load_tile_row(q, head_dim - t * 32, dtype, part, q_factor) : v_zero();
                if (part == 0) most = larger_magnitudes(most, _mm512_castps_si512(units));
                v_store(row_at(tile->q + part * floats, r, tiles, t), units);
            }
    tile->q[parts * floats] = largest_magnitude(most);
}

/* A bias lies as S does, step after step. */
V_INLINE int32_t bias_at(int32_t lanes, int32_t row, int32_t key) {
    return (key / STEP_KEYS * lanes + row) * STEP_KEYS + key % STEP_KEYS;
}

static void K(rows_load_bias)(const mha_tile *tile, const float *const rows[], float *bias, uint64_t *excluded) {
    for (int32_t r = 0; r < tile->rows; r++) {
        const uint64_t bit = UINT64_C(1) << r;
        for (int32_t k = tile->begin; k < tile->end; k++) {
            const float addend = rows[r][k - tile->begin];
            bias[bias_at(tile->lanes, r, k)] = addend;
            excluded[k] |= addend == -INFINITY ? bit : 0;
        }
    }
    for (int32_t r = tile->rows; r < tile->lanes; r++)
        for (int32_t k = tile->begin; k < tile->end; k++) bias[bias_at(tile->lanes, r, k)] = 0;
}

/* The first min(n, 32) of 32 columns, 0 < n. */
V_INLINE void store_columns(char *p, vf first, vf second, int64_t n, mha_dtype dtype) {
    if (dtype == MHA_BF16 && n >= 2 * V_LANES) {
        _mm512_storeu_si512(p, v_halves(first, second));
        return;
    }
    store_elements_n(p, first, n, dtype);
    if (n > V_LANES) store_elements_n(p + V_LANES * mha_dtype_bytes(dtype), second, n - V_LANES, dtype);
}

/* 32 columns from d on; a row without keys has a sum of 0, and may have no O. */
V_INLINE void finish_columns(const mha_tile *tile, int32_t r, int64_t tiles, int32_t d, float factor, vf o[2]) {
    for (int i = 0; i < 2; i++) {
        const float *at = row_at(tile->o, r, tiles, d / TILE_FLOATS + i);
        o[i] = tile->sum[r] == 0 ? v_zero() : positive_zero(v_mul(v_load(at), v_set1(factor)));
    }
}

V_INLINE void finish_rows(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                          bool normalise) {
    const int64_t tiles = o_tiles(v_head_dim), bytes = mha_dtype_bytes(dtype);
    for (int32_t r = 0; r < tile->rows; r++) {
        const float factor = normalise ? safe_inverse(tile->sum[r] * WEIGHT_OF_MAX) : 1 / WEIGHT_OF_MAX;
        char *row = rows[r];
        for (int32_t d = 0; d < v_head_dim; d += 2 * TILE_FLOATS) {
            vf o[2];
            finish_columns(tile, r, tiles, d, factor, o);
            store_columns(row + d * bytes, o[0], o[1], v_head_dim - d, dtype);
        }
    }
}

static void K(rows_finish)(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                           bool normalise) {
    V_WITH_DTYPE(dtype, finish_rows(tile, rows, T, v_head_dim, normalise));
}

#endif

/* Packing for AMX, and the two products of a tile:
 *
 *     S [32 keys][lanes]    = K [keys][head_dim]   Q^T [head_dim / 2][lanes][2]
 *     O [32 columns][lanes] += V^T [columns][keys]  P [keys / 2][lanes][2]
 *
 * Q and P lie as src/simd loads queries and leaves weights: pairs of rows, which is what B wants.  K is copied with
 * head_dim and keys rounded up to 32; V becomes [keys / 32][v_head_dim, rounded up][32].  What is beyond the last is
 * zero.
 *
 * Of operands in two parts, one array behind the other, three products are summed: the fourth, of what rounding left of
 * both, is less than 2^-18 of the first. */
#ifndef MHA_AMX_PRODUCTS_H
#define MHA_AMX_PRODUCTS_H

static size_t K(packed_k_floats)(int32_t head_dim) { return (size_t)(BLOCK_KEYS * step_units(head_dim)); }

static size_t K(packed_v_floats)(int32_t v_head_dim) {
    return (size_t)(BLOCK_KEYS / UNIT * round_up(v_head_dim, PANEL));
}

V_INLINE void copy_keys(const mha_kv_block *block, mha_dtype dtype, int part, float *packed) {
    const int64_t units = step_units(block->head_dim), rows = round_up(block->keys, KEY_STEP);
    for (int64_t k = 0; k < rows; k++)
        for (int64_t u = 0; u < units; u += V_LANES) {
            const int64_t d = u * UNIT, left = k < block->keys ? block->head_dim - d : 0;
            const void *keys = mha_element(block->k, k * block->k_stride + d, dtype);
            v_store(packed + k * units + u, left > 0 ? load_part(keys, left, dtype, part, 1) : v_zero());
        }
}

static void K(pack_keys)(const mha_kv_block *block, float *packed) {
    V_WITH_DTYPE(block->k_dtype, copy_keys(block, T, 0, packed));
}

/* 32 keys and 16 columns at a time: pairs of keys, transposed. */
V_INLINE void transpose_values(const mha_kv_block *block, mha_dtype dtype, int part, float *packed) {
    const int64_t dim = round_up(block->v_head_dim, PANEL);
    for (int64_t k = 0; k < block->keys; k += KEY_STEP)
        for (int64_t d = 0; d < dim; d += V_LANES) {
            vf r[V_LANES];
            V_UNROLL
            for (int i = 0; i < V_LANES; i++)
                r[i] = v_pair(part_of(load_values(block, dtype, k + 2 * i, d), part),
                              part_of(load_values(block, dtype, k + 2 * i + 1, d), part));
            v_transpose(r);
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) v_store(packed + (k / KEY_STEP * dim + d + i) * TILE_FLOATS, r[i]);
        }
}

static void K(pack_values)(const mha_kv_block *block, float *packed) {
    V_WITH_DTYPE(block->v_dtype, transpose_values(block, T, 0, packed));
}

/* Two tiles of A, rows 0 to 15 and 16 to 31, of one step; the next step is `step` bytes further, the next part so many
 * floats. */
typedef struct tile_rows {
    const float *rows;
    int64_t row_bytes, step, part;
} tile_rows;

/* A step of A with zeros for what is not finite. */
static void copy_finite(const char *rows, int64_t row_bytes, float copy[PANEL * TILE_FLOATS]) {
    tile_fence(); /* tiles have been loaded from the copy */
    for (int i = 0; i < PANEL; i++)
        for (int u = 0; u < TILE_FLOATS; u++)
            copy[i * TILE_FLOATS + u] = finite_unit((const float *)(const void *)(rows + i * row_bytes) + u);
    tile_fence();
}

V_INLINE void add_steps(const char *rows, const tile_rows *a, bool finite, const float *b, int vectors, int64_t steps) {
    _Alignas(TILE_BYTES) float copy[PANEL * TILE_FLOATS];
    for (int64_t i = 0; i < steps; i++, rows += a->step, b += TILE_FLOATS * vectors * TILE_FLOATS) {
        if (finite) copy_finite(rows, a->row_bytes, copy);
        if (finite) sums_add(copy, TILE_BYTES, b, vectors);
        else sums_add(rows, a->row_bytes, b, vectors);
    }
}

/* C [32][lanes] = A B over so many steps.  finite: what is not in A counts as zeros.  B's parts are b_part floats
 * apart. */
V_INLINE void multiply_tiles(tile_rows a, bool finite, const float *b, int64_t b_part, int vectors, int parts,
                             int64_t steps, float *c) {
    sums_start();
    for (int i = 0; i < parts; i++)
        for (int j = 0; i + j < parts; j++)
            add_steps((const char *)(a.rows + i * a.part), &a, finite, b + j * b_part, vectors, steps);
    sums_store(c, vectors);
}

/* All steps of S. */
V_INLINE void multiply_steps(const mha_kv_block *block, const mha_tile *tile, int vectors, int parts, float *s) {
    const int lanes = vectors * V_LANES;
    const int64_t units = step_units(block->head_dim);
    for (int32_t key = tile->begin / KEY_STEP * KEY_STEP; key < tile->end; key += KEY_STEP) {
        if (block->ahead != NULL) mha_ahead_step(block->ahead);
        const tile_rows keys = {block->packed_k + key * units, units * (int64_t)sizeof(float), TILE_BYTES,
                                BLOCK_KEYS * units};
        multiply_tiles(keys, false, tile->q, units * lanes, vectors, parts, units / HEAD_STEP, s + key * lanes);
    }
}

/* Beside what is infinite, parts that are 0 make NaN of a score: there the first parts alone say what it is. */
static void mend_scores(const mha_kv_block *block, const mha_tile *tile, float *s) {
    float first[BLOCK_KEYS * TILE_LANES];
    const mha_kv_block still = {.packed_k = block->packed_k, .head_dim = block->head_dim};
    if (tile->lanes == V_LANES) multiply_steps(&still, tile, 1, 1, first);
    else multiply_steps(&still, tile, 2, 1, first);
    for (int32_t i = tile->begin * tile->lanes; i < tile->end * tile->lanes; i += V_LANES) {
        const vf x = v_load(s + i);
        v_store(s + i, v_blend(v_mask(v_equal(x, x)), v_load(first + i), x));
    }
}

V_INLINE bool not_finite(const mha_tile *tile, const float *s) {
    vf zero = v_zero();
    for (int32_t i = tile->begin * tile->lanes; i < tile->end * tile->lanes; i += V_LANES)
        zero = v_fma(v_load(s + i), v_zero(), zero);
    return !(v_sum(zero) == 0);
}

V_INLINE void multiply_keys(const mha_kv_block *block, const mha_tile *tile, int vectors, int parts, bool in_place,
                            float *s, vf max[TILE_VECTORS]) {
    (void)in_place;
    enum { CHAINS = 4 }; /* of maxima, which take four cycles */
    const int lanes = vectors * V_LANES;
    multiply_steps(block, tile, vectors, parts, s);
    if (parts > 1 && not_finite(tile, s)) mend_scores(block, tile, s);
    V_UNROLL
    for (int v = 0; v < vectors; v++) {
        vf chain[CHAINS];
        int32_t k = tile->begin;
        V_UNROLL
        for (int i = 0; i < CHAINS; i++) chain[i] = v_set1(-INFINITY);
        for (; k + CHAINS <= tile->end; k += CHAINS) {
            V_UNROLL
            for (int i = 0; i < CHAINS; i++) chain[i] = v_max(v_load(s + (k + i) * lanes + v * V_LANES), chain[i]);
        }
        for (; k < tile->end; k++) chain[0] = v_max(v_load(s + k * lanes + v * V_LANES), chain[0]);
        max[v] = v_max(v_max(chain[0], chain[1]), v_max(chain[2], chain[3]));
    }
}

/* As in src/simd/products.h: the block's products are summed apart. */
V_INLINE void accumulate_values(const mha_kv_block *block, mha_tile *tile, int vectors, int parts, bool in_place,
                                bool finite, const float *p, const vf alpha[TILE_VECTORS]) {
    (void)in_place;
    const int lanes = vectors * V_LANES;
    const int64_t dim = round_up(block->v_head_dim, PANEL), first = tile->begin / KEY_STEP;
    const int64_t steps = round_up(tile->end, KEY_STEP) / KEY_STEP - first;
    for (int64_t d = 0; d < dim; d += PANEL) {
        _Alignas(TILE_BYTES) float sums[PANEL * TILE_VECTORS * V_LANES];
        if (block->ahead != NULL) mha_ahead_step(block->ahead);
        const tile_rows values = {block->packed_v + (first * dim + d) * TILE_FLOATS, TILE_BYTES, dim * TILE_BYTES,
                                  BLOCK_KEYS / UNIT * dim};
        multiply_tiles(values, finite, p + first * KEY_STEP / UNIT * lanes, BLOCK_KEYS * lanes, vectors, parts, steps,
                       sums);
        for (int i = 0; i < PANEL; i++) {
            V_UNROLL
            for (int v = 0; v < vectors; v++) {
                float *o = tile->o + (d + i) * lanes + v * V_LANES;
                v_store(o, v_fma(v_load(o), alpha[v], v_load(sums + i * lanes + v * V_LANES)));
            }
        }
    }
}

#endif

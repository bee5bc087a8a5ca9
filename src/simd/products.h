/* The two products of a tile, S = K Q^T and O = O alpha + V^T P, by the FMA tile. */
#ifndef MHA_SIMD_PRODUCTS_H
#define MHA_SIMD_PRODUCTS_H

/* PANEL keys from `key` on, or PANEL columns of the values from `d` on, as rows of A.  In place, what lies beyond the
 * last is the last again: never read out of bounds, and never used. */
V_INLINE fma_rows key_rows(const mha_kv_block *block, int32_t key, bool in_place) {
    if (!in_place) return packed_panel(block->packed_k + key * step_units(block->head_dim));
    fma_rows a = {.step = 1};
    const float *keys = block->k;
    V_UNROLL
    for (int i = 0; i < PANEL; i++)
        a.row[i] = keys + (key + i < block->keys ? key + i : block->keys - 1) * block->k_stride;
    return a;
}

V_INLINE fma_rows value_rows(const mha_kv_block *block, int32_t d, int32_t begin, bool in_place) {
    if (!in_place) return packed_panel(block->packed_v + ((int64_t)d * units_of(BLOCK_KEYS) + begin / UNIT * PANEL));
    fma_rows a = {.step = block->v_stride};
    const float *values = (const float *)block->v + begin * block->v_stride;
    V_UNROLL
    for (int i = 0; i < PANEL; i++) a.row[i] = values + (d + i < block->v_head_dim ? d + i : block->v_head_dim - 1);
    return a;
}

/* S = K Q^T for the panels that hold [begin, end), and the largest score of each row in it. */
V_INLINE void multiply_keys(const mha_kv_block *block, const mha_tile *tile, int vectors, bool in_place, float *s,
                            vf max[TILE_VECTORS]) {
    const int lanes = vectors * V_LANES;
    V_UNROLL
    for (int v = 0; v < vectors; v++) max[v] = v_set1(-INFINITY);
    for (int32_t key = tile->begin / PANEL * PANEL; key < tile->end; key += PANEL) {
        vf c[PANEL][TILE_VECTORS];
        const fma_rows keys = key_rows(block, key, in_place);
        if (block->ahead != NULL) mha_ahead_step(block->ahead);
        fma_tile(PANEL, vectors, step_units(block->head_dim), &keys, tile->q, lanes, c);
        V_UNROLL
        for (int i = 0; i < PANEL; i++) {
            V_UNROLL
            for (int v = 0; v < vectors; v++) v_store(s + (key + i) * lanes + v * V_LANES, c[i][v]);
            if (key + i < tile->begin || key + i >= tile->end) continue;
            V_UNROLL
            for (int v = 0; v < vectors; v++) max[v] = v_max(c[i][v], max[v]);
        }
    }
}

/* A copy of n units of the rows, with zeros for what is not finite. */
V_INLINE fma_rows finite_rows(const fma_rows *a, int64_t n, float copy[]) {
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < PANEL; i++)
            copy[k * PANEL + i] = finite_unit(a->packed ? a->row[0] + k * PANEL + i : a->row[i] + k * a->step);
    return packed_panel(copy);
}

/* O = O alpha + V^T P.  The block's products are summed apart: rounding then grows with the roots of the block and of
 * the number of blocks, not of the length.  finite: values that are not count as zeros. */
V_INLINE void accumulate_values(const mha_kv_block *block, mha_tile *tile, int vectors, bool in_place, bool finite,
                                const float *p, const vf alpha[TILE_VECTORS]) {
    const int lanes = vectors * V_LANES;
    const int32_t begin = tile->begin / KEY_STEP * KEY_STEP;
    const int64_t first = begin / UNIT, units = round_up(tile->end, KEY_STEP) / UNIT - first;
    float copy[BLOCK_KEYS / UNIT * PANEL];
    for (int32_t d = 0; d < block->v_head_dim; d += PANEL) {
        vf c[PANEL][TILE_VECTORS];
        fma_rows values = value_rows(block, d, begin, in_place);
        if (finite) values = finite_rows(&values, units, copy);
        if (block->ahead != NULL) mha_ahead_step(block->ahead);
        fma_tile(PANEL, vectors, units, &values, p + first * lanes, lanes, c);
        V_UNROLL
        for (int i = 0; i < PANEL; i++) {
            V_UNROLL
            for (int v = 0; v < vectors; v++) {
                float *o = tile->o + (d + i) * lanes + v * V_LANES;
                v_store(o, v_fma(v_load(o), alpha[v], c[i][v]));
            }
        }
    }
}

#endif

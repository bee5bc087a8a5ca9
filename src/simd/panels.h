/* Packing: rows in memory become what the FMA tile reads.
 *
 *     keys     [keys][head_dim]    -> [keys / PANEL][head_dim][PANEL]          transposed
 *     values   [keys][v_head_dim]  -> [v_head_dim / PANEL][BLOCK_KEYS][PANEL]
 *
 * head_dim (of values: the keys) counted in units, in whole terms, whose units are interleaved (unit_at).  Rows and
 * columns beyond the last are zeros, so that tiles need no tails. */
#ifndef MHA_SIMD_PANELS_H
#define MHA_SIMD_PANELS_H

/* [n][elements] with the given stride, a part of them -> [n / PANEL][units][PANEL], panels panel_stride apart */
V_INLINE void pack_row_panels(const void *matrix, mha_dtype dtype, int part, int64_t stride, int64_t n,
                              int64_t elements, float *packed, int64_t panel_stride) {
    const void *rows[V_LANES];
    const int64_t cols = term_units(elements);
    for (int64_t row = 0; row < round_up(n, PANEL); row += V_LANES) {
        float *panel = packed + row / PANEL * panel_stride + row % PANEL;
        point_at_rows(rows, matrix, dtype, stride, row, n);
        for (int64_t col = 0; col < cols; col += V_LANES) {
            vf r[V_LANES];
            load_columns(rows, dtype, part, col, elements, 1, r);
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) {
                if (col + i < cols) v_store_panels(panel + (col + i) * PANEL, panel_stride, r[i]);
            }
        }
    }
}

static size_t K(packed_k_floats)(int32_t head_dim) { return (size_t)(BLOCK_KEYS * step_units(head_dim)); }

static size_t K(packed_v_floats)(int32_t v_head_dim) {
    return (size_t)(units_of(BLOCK_KEYS) * round_up(v_head_dim, STEP));
}

static void K(pack_keys)(const mha_kv_block *block, float *packed) {
    const int64_t dim = block->head_dim, panel = step_units(dim) * PANEL;
    V_WITH_DTYPE(block->k_dtype, pack_row_panels(block->k, T, UNITS, block->k_stride, block->keys, dim, packed, panel));
}

/* Columns [d, d + n) of the values, units of keys.  Panels are kilobytes apart and so, often, are rows: few of them at
 * a time, or they push each other out of the first-level cache. */
V_INLINE void pack_value_columns(const mha_kv_block *block, mha_dtype dtype, int64_t d, int n, float *packed) {
    const int64_t panel_stride = units_of(BLOCK_KEYS) * PANEL;
    for (int64_t k = 0; k < block->keys; k += KEY_STEP) {
        V_UNROLL
        for (int64_t i = d; i < d + n; i += V_LANES) {
            float *to = packed + i / PANEL * panel_stride + k / UNIT * PANEL + i % PANEL;
            vf units[TERM];
            V_UNROLL
            for (int t = 0; t < TERM; t++) {
                units[t] = load_values(block, dtype, k + t * UNIT, i);
                if (UNIT > 1) units[t] = v_pair(units[t], load_values(block, dtype, k + t * UNIT + 1, i));
            }
            v_interleave(units);
            V_UNROLL
            for (int t = 0; t < TERM; t++) v_store_panels(to + t * PANEL, panel_stride, units[t]);
        }
    }
}

V_INLINE void pack_all_values(const mha_kv_block *block, mha_dtype dtype, float *packed) {
    const int64_t dim = block->v_head_dim;
    int64_t d = 0;
    for (; d + LINE <= dim; d += LINE) pack_value_columns(block, dtype, d, LINE, packed);
    for (; d < round_up(dim, STEP); d += V_LANES) pack_value_columns(block, dtype, d, V_LANES, packed);
}

static void K(pack_values)(const mha_kv_block *block, float *packed) {
    V_WITH_DTYPE(block->v_dtype, pack_all_values(block, T, packed));
}

#endif

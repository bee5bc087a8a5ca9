/* Packing: rows in memory become what the FMA tile reads.
 *
 *     keys     [keys][head_dim]    -> [keys / PANEL][head_dim][PANEL]          transposed
 *     values   [keys][v_head_dim]  -> [v_head_dim / PANEL][BLOCK_KEYS][PANEL]
 *     queries  [rows][head_dim]    -> [head_dim][lanes]                        transposed
 *     weights  [out][in]           -> [out / TILE_LANES][in][TILE_LANES]       transposed; the last panel is narrower
 *
 * Rows and columns beyond the last are zeros, so that tiles need no tails. */
#ifndef MHA_SIMD_PACK_H
#define MHA_SIMD_PACK_H

enum {
    TILE_LANES = TILE_VECTORS * V_LANES,
    STEP = V_LANES > PANEL ? V_LANES : PANEL, /* panels are written by so many rows or columns at a time */
    LINE = 16,                                /* floats of a cache line */
    /* That are fetched from in turn: hardware fetches ahead page by page, and DRAM gives a third more to 16 pages at a
     * time than to one. */
    FETCH_PLACES = 16,
};

/* V_LANES rows (NULL: zeros) become columns: element (row, col) goes to dst + col * col_stride + row, or with PANEL <
 * V_LANES and panels, to the row's panel, panel_stride apart. */
V_INLINE void pack_transposed(const float *const rows[V_LANES], int64_t cols, float *dst, int64_t col_stride,
                              bool panels, int64_t panel_stride, vf factor) {
    for (int64_t col = 0; col < cols; col += V_LANES) {
        const int64_t n = cols - col < V_LANES ? cols - col : V_LANES;
        vf r[V_LANES];
        V_UNROLL
        for (int i = 0; i < V_LANES; i++) {
            r[i] = v_zero();
            if (rows[i] != NULL) r[i] = n == V_LANES ? v_load(rows[i] + col) : v_load_n(rows[i] + col, n);
        }
        v_transpose(r);
        V_UNROLL
        for (int i = 0; i < V_LANES; i++) {
            if (i >= n) continue;
            float *column = dst + (col + i) * col_stride;
            if (panels) v_store_panels(column, panel_stride, r[i]);
            else v_store(column, v_mul(r[i], factor));
        }
    }
}

/* Pointers to V_LANES rows of a matrix from `row` on; NULL beyond its end. */
V_INLINE void point_at_rows(const float *rows[V_LANES], const float *matrix, int64_t stride, int64_t row, int64_t end) {
    for (int i = 0; i < V_LANES; i++) rows[i] = row + i < end ? matrix + (row + i) * stride : NULL;
}

/* [n][cols] with the given stride -> [n / PANEL][cols][PANEL], panels panel_stride apart */
static void pack_row_panels(const float *matrix, int64_t stride, int64_t n, int64_t cols, float *packed,
                            int64_t panel_stride) {
    const float *rows[V_LANES];
    for (int64_t row = 0; row < round_up(n, PANEL); row += V_LANES) {
        point_at_rows(rows, matrix, stride, row, n);
        pack_transposed(rows, cols, packed + row / PANEL * panel_stride + row % PANEL, PANEL, true, panel_stride,
                        v_set1(1));
    }
}

static size_t K(packed_k_floats)(int32_t head_dim) { return (size_t)BLOCK_KEYS * (size_t)head_dim; }

static size_t K(packed_v_floats)(int32_t v_head_dim) { return (size_t)BLOCK_KEYS * (size_t)round_up(v_head_dim, STEP); }

static void K(pack_keys)(const mha_kv_block *block, float *packed) {
    pack_row_panels(block->k, block->k_stride, block->keys, block->head_dim, packed, (int64_t)block->head_dim * PANEL);
}

/* Columns [d, d + n) of the values, zeros beyond v_head_dim.  Panels are kilobytes apart and so, often, are rows: few
 * of them at a time, or they push each other out of the first-level cache. */
V_INLINE void pack_value_columns(const mha_kv_block *block, int64_t d, int n, float *packed) {
    for (int64_t k = 0; k < block->keys; k++) {
        const float *row = block->v + k * block->v_stride;
        V_UNROLL
        for (int64_t i = d; i < d + n; i += V_LANES) {
            const int64_t left = block->v_head_dim - i;
            const vf x = left >= V_LANES ? v_load(row + i) : left > 0 ? v_load_n(row + i, left) : v_zero();
            v_store_panels(packed + (i / PANEL * BLOCK_KEYS + k) * PANEL + i % PANEL, BLOCK_KEYS * PANEL, x);
        }
    }
}

static void K(pack_values)(const mha_kv_block *block, float *packed) {
    const int64_t dim = block->v_head_dim;
    int64_t d = 0;
    for (; d + LINE <= dim; d += LINE) pack_value_columns(block, d, LINE, packed);
    for (; d < round_up(dim, STEP); d += V_LANES) pack_value_columns(block, d, V_LANES, packed);
}

static size_t K(weight_floats)(int64_t out, int64_t in) { return (size_t)round_up(out, V_LANES) * (size_t)in; }

/* Lanes of the weight panel that starts at output o. */
V_INLINE int64_t panel_lanes(int64_t o, int64_t out) {
    const int64_t left = round_up(out, V_LANES) - o;
    return left < TILE_LANES ? left : TILE_LANES;
}

static void K(pack_weights)(const float *weight, int64_t stride, int64_t out, int64_t in, float *packed) {
    const float *rows[V_LANES];
    for (int64_t o = 0; o < out; o += V_LANES) {
        const int64_t panel = o / TILE_LANES * TILE_LANES;
        point_at_rows(rows, weight, stride, o, out);
        pack_transposed(rows, in, packed + panel * in + (o - panel), panel_lanes(panel, out), false, 0, v_set1(1));
    }
}

#endif

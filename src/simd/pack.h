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
    LINE_BYTES = 64,
    LINE = LINE_BYTES / (int)sizeof(float), /* floats of a cache line */
    /* That are fetched from in turn: hardware fetches ahead page by page, and DRAM gives a third more to 16 pages at a
     * time than to one. */
    FETCH_PLACES = 16,
};

/* Columns [col, col + n), n <= V_LANES, of V_LANES rows (NULL: zeros): column col + i becomes r[i]. */
V_INLINE void load_columns(const void *const rows[V_LANES], mha_dtype dtype, int64_t col, int64_t n, vf r[V_LANES]) {
    V_UNROLL
    for (int i = 0; i < V_LANES; i++) {
        r[i] = v_zero();
        if (rows[i] == NULL) continue;
        const void *p = mha_element(rows[i], col, dtype);
        r[i] = n == V_LANES ? load_elements(p, dtype) : load_elements_n(p, n, dtype);
    }
    v_transpose(r);
}

/* V_LANES rows become lanes: element (row, col) times the factor goes to dst[col * stride + row]. */
V_INLINE void pack_lanes(const void *const rows[V_LANES], mha_dtype from, int64_t cols, vf factor, void *dst,
                         mha_dtype to, int64_t stride) {
    for (int64_t col = 0; col < cols; col += V_LANES) {
        const int64_t n = cols - col < V_LANES ? cols - col : V_LANES;
        vf r[V_LANES];
        load_columns(rows, from, col, n, r);
        V_UNROLL
        for (int i = 0; i < V_LANES; i++) {
            if (i >= n) continue;
            store_elements((char *)dst + (col + i) * stride * mha_dtype_bytes(to), v_mul(r[i], factor), to);
        }
    }
}

/* Pointers to V_LANES rows of a matrix from `row` on; NULL beyond its end. */
V_INLINE void point_at_rows(const void *rows[V_LANES], const void *matrix, mha_dtype dtype, int64_t stride, int64_t row,
                            int64_t end) {
    for (int i = 0; i < V_LANES; i++) rows[i] = row + i < end ? mha_element(matrix, (row + i) * stride, dtype) : NULL;
}

/* [n][cols] with the given stride -> [n / PANEL][cols][PANEL], panels panel_stride apart */
V_INLINE void pack_row_panels(const void *matrix, mha_dtype dtype, int64_t stride, int64_t n, int64_t cols,
                              float *packed, int64_t panel_stride) {
    const void *rows[V_LANES];
    for (int64_t row = 0; row < round_up(n, PANEL); row += V_LANES) {
        float *panel = packed + row / PANEL * panel_stride + row % PANEL;
        point_at_rows(rows, matrix, dtype, stride, row, n);
        for (int64_t col = 0; col < cols; col += V_LANES) {
            const int64_t left = cols - col < V_LANES ? cols - col : V_LANES;
            vf r[V_LANES];
            load_columns(rows, dtype, col, left, r);
            V_UNROLL
            for (int i = 0; i < V_LANES; i++) {
                if (i < left) v_store_panels(panel + (col + i) * PANEL, panel_stride, r[i]);
            }
        }
    }
}

static size_t K(packed_k_floats)(int32_t head_dim) { return (size_t)BLOCK_KEYS * (size_t)head_dim; }

static size_t K(packed_v_floats)(int32_t v_head_dim) { return (size_t)BLOCK_KEYS * (size_t)round_up(v_head_dim, STEP); }

static void K(pack_keys)(const mha_kv_block *block, float *packed) {
    const int64_t dim = block->head_dim;
    V_WITH_DTYPE(block->k_dtype, pack_row_panels(block->k, T, block->k_stride, block->keys, dim, packed, dim * PANEL));
}

/* Element d of the values of key k. */
V_INLINE const void *value_at(const mha_kv_block *block, mha_dtype dtype, int64_t k, int64_t d) {
    return mha_element(block->v, k * block->v_stride + d, dtype);
}

/* Columns [d, d + n) of the values, zeros beyond v_head_dim.  Panels are kilobytes apart and so, often, are rows: few
 * of them at a time, or they push each other out of the first-level cache. */
V_INLINE void pack_value_columns(const mha_kv_block *block, mha_dtype dtype, int64_t d, int n, float *packed) {
    for (int64_t k = 0; k < block->keys; k++) {
        V_UNROLL
        for (int64_t i = d; i < d + n; i += V_LANES) {
            const int64_t left = block->v_head_dim - i;
            const vf x = left > 0 ? load_elements_n(value_at(block, dtype, k, i), left, dtype) : v_zero();
            v_store_panels(packed + (i / PANEL * BLOCK_KEYS + k) * PANEL + i % PANEL, BLOCK_KEYS * PANEL, x);
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

static size_t K(packed_weight_bytes)(int64_t out, int64_t in, mha_dtype dtype) {
    return (size_t)(round_up(out, V_LANES) * in * mha_dtype_bytes(dtype));
}

/* Lanes of the weight panel that starts at output o. */
V_INLINE int64_t panel_lanes(int64_t o, int64_t out) {
    const int64_t left = round_up(out, V_LANES) - o;
    return left < TILE_LANES ? left : TILE_LANES;
}

V_INLINE void pack_weight_panels(const void *weight, mha_dtype dtype, int64_t stride, int64_t out, int64_t in,
                                 void *packed) {
    const void *rows[V_LANES];
    for (int64_t o = 0; o < out; o += V_LANES) {
        const int64_t panel = o / TILE_LANES * TILE_LANES, at = panel * in + (o - panel);
        point_at_rows(rows, weight, dtype, stride, o, out);
        pack_lanes(rows, dtype, in, v_set1(1), (char *)packed + at * mha_dtype_bytes(dtype), dtype,
                   panel_lanes(panel, out));
    }
}

static void K(pack_weights)(const void *weight, mha_dtype dtype, int64_t stride, int64_t out, int64_t in,
                            void *packed) {
    V_WITH_DTYPE(dtype, pack_weight_panels(weight, T, stride, out, in, packed));
}

#endif

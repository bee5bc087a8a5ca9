/* Rows in memory as columns and lanes. */
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

/* How a column is read: this part of its units, or elements that are not multiplied. */
enum { ELEMENTS = -1, UNITS = 0 };

/* Up to V_LANES columns of V_LANES rows (NULL: zeros) of so many elements, from unit or element `col` on, times the
 * factor: column col + i becomes r[i]; units as terms take them. */
V_INLINE void load_columns(const void *const rows[V_LANES], mha_dtype dtype, int part, int64_t col, int64_t elements,
                           float factor, vf r[V_LANES]) {
    const int64_t first = part == ELEMENTS ? col : col * UNIT, left = elements - first;
    V_UNROLL
    for (int i = 0; i < V_LANES; i++) {
        r[i] = v_zero();
        if (rows[i] == NULL) continue;
        const void *p = mha_element(rows[i], first, dtype);
        if (part == ELEMENTS) r[i] = v_mul(load_elements_n(p, left, dtype), v_set1(factor));
        else r[i] = load_part(p, left, dtype, part, factor);
    }
    v_transpose(r);
    V_UNROLL
    for (int i = 0; part != ELEMENTS && i < V_LANES; i += TERM) v_interleave(r + i);
}

/* V_LANES rows become lanes: column `col` goes to dst[col * stride]. */
V_INLINE void pack_lanes(const void *const rows[V_LANES], mha_dtype from, int part, int64_t elements, float factor,
                         void *dst, mha_dtype to, int64_t stride) {
    const int64_t cols = part == ELEMENTS ? elements : term_units(elements);
    for (int64_t col = 0; col < cols; col += V_LANES) {
        vf r[V_LANES];
        load_columns(rows, from, part, col, elements, factor, r);
        V_UNROLL
        for (int i = 0; i < V_LANES; i++) {
            if (col + i < cols) store_elements((char *)dst + (col + i) * stride * mha_dtype_bytes(to), r[i], to);
        }
    }
}

/* Pointers to V_LANES rows of a matrix from `row` on; NULL beyond its end. */
V_INLINE void point_at_rows(const void *rows[V_LANES], const void *matrix, mha_dtype dtype, int64_t stride, int64_t row,
                            int64_t end) {
    for (int i = 0; i < V_LANES; i++) rows[i] = row + i < end ? mha_element(matrix, (row + i) * stride, dtype) : NULL;
}

/* Element d of the values of key k. */
V_INLINE const void *value_at(const mha_kv_block *block, mha_dtype dtype, int64_t k, int64_t d) {
    return mha_element(block->v, k * block->v_stride + d, dtype);
}

/* V_LANES columns of a key's values from d on; zeros beyond v_head_dim and behind the last key. */
V_INLINE vf load_values(const mha_kv_block *block, mha_dtype dtype, int64_t k, int64_t d) {
    const int64_t left = block->v_head_dim - d;
    return left > 0 && k < block->keys ? load_elements_n(value_at(block, dtype, k, d), left, dtype) : v_zero();
}

#endif

/* The products of a tile of Y by AMX: A is X, in tiles [parts][depth / 16][32 rows][16 units], B is W as packed. */
#ifndef MHA_AMX_GEMM_ROWS_H
#define MHA_AMX_GEMM_ROWS_H

enum { GEMM_PANEL_STEP = PANEL * TILE_FLOATS }; /* from a tile of X to the next */

_Static_assert((int)FETCH_TERMS == (int)TILE_FLOATS && (int)HEAD_STEP == (int)TILE_FLOATS, "depths are whole tiles");

/* X [rows][elements], up to PANEL rows; the others and what is beyond the last element become zeros. */
V_INLINE void pack_x_rows(const void *x, mha_dtype dtype, int64_t stride, int64_t rows, int64_t elements, int parts,
                          int64_t depth, float *packed) {
    for (int part = 0; part < parts; part++)
        for (int64_t u = 0; u < depth; u += TILE_FLOATS, packed += GEMM_PANEL_STEP)
            for (int64_t row = 0; row < PANEL; row++) {
                const int64_t left = row < rows ? elements - u * UNIT : 0;
                vf units = v_zero();
                if (left > 0) units = load_part(mha_element(x, row * stride + u * UNIT, dtype), left, dtype, part, 1);
                v_store(packed + row * TILE_FLOATS, units);
            }
}

/* The product of part i of X and part j of W; the first one fetches. */
V_INLINE void add_parts(const gemm_tile *tile, int vectors, int i, int j) {
    const float *x = tile->x + i * tile->depth * PANEL;
    const float *w = (const float *)tile->w + j * weight_part(tile->gemm->out, tile->gemm->in);
    for (int64_t k = 0; k < tile->depth; k += TILE_FLOATS, x += GEMM_PANEL_STEP, w += TILE_FLOATS * vectors * V_LANES) {
        if (i + j == 0) fetch_share(tile->fetch, k);
        sums_add(x, TILE_BYTES, w, vectors);
    }
}

/* Products of parts that together are less than 2^-8 of the least one that counts are left out. */
V_INLINE void multiply_lanes(const gemm_tile *tile, int vectors, int valid) {
    _Alignas(TILE_BYTES) float c[PANEL * TILE_LANES];
    const mha_gemm *gemm = tile->gemm;
    const int lanes = vectors * V_LANES;
    const int most = mha_most_parts(gemm);
    sums_start();
    for (int i = 0; i < gemm->x_parts; i++)
        for (int j = 0; j < gemm->w_parts && i + j < most; j++) add_parts(tile, vectors, i, j);
    sums_store(c, vectors);
    const bool whole = tile->last && tile->outs >= lanes && gemm->y_dtype == MHA_F32;
    for (int i = 0; i < valid; i++) {
        const float *base = tile->first ? tile->bias : tile->sums + i * TILE_LANES;
        float *y =
            whole ? (float *)gemm->y + (tile->row + i) * gemm->y_stride + tile->out : tile->sums + i * TILE_LANES;
        V_UNROLL
        for (int v = 0; v < lanes; v += V_LANES) v_store(y + v, v_add(v_load(base + v), v_load(c + i * lanes + v)));
    }
    if (tile->last && !whole) copy_sums(tile, valid, lanes);
}

V_INLINE void multiply_panel(const gemm_tile *tile, int valid) {
    if (tile->w_stride == V_LANES) multiply_lanes(tile, 1, valid);
    else multiply_lanes(tile, 2, valid);
}

#endif

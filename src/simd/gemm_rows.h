/* The products of a tile of Y by the FMA tile. */
#ifndef MHA_SIMD_GEMM_ROWS_H
#define MHA_SIMD_GEMM_ROWS_H

enum { SHORT_ROWS = 4 }; /* of the shorter tile that the last rows may take */

_Static_assert((int)SHORT_ROWS <= (int)PANEL, "a shorter tile is not a longer one");

/* For few rows: slices of weights that come next, cut into places of so many terms each. */
typedef struct weight_fetch {
    const void *place[FETCH_PLACES];
    int places;
    int64_t terms, term_bytes;
    int now; /* place and term to be fetched from */
    int64_t term;
} weight_fetch;

/* Fetches a term of a panel, from the next place. */
V_INLINE void fetch_term(weight_fetch *f) {
    if (f->term == f->terms) return;
    V_UNROLL
    for (int i = 0; i < f->term_bytes; i += LINE_BYTES) v_prefetch(f->place[f->now], f->term * f->term_bytes + i);
    if (++f->now < f->places) return;
    f->now = 0;
    f->term++;
}

V_INLINE void gemm_store(int rows, int vectors, vf c[PANEL][TILE_VECTORS], float *dst, int64_t stride) {
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) v_store(dst + i * stride + v * V_LANES, c[i][v]);
    }
}

/* x: depth terms of each part.  few: what to fetch, or NULL: what the tile says.  w: the dtype of the weights. */
V_INLINE void gemm_rows(const gemm_tile *tile, fma_rows x, weight_fetch *few, int rows, int vectors, int valid,
                        mha_dtype w) {
    vf c[PANEL][TILE_VECTORS];
    int64_t k = 0;
    fma_start(rows, vectors, c);
    for (; few == NULL && k + FETCH_TERMS <= tile->depth; k += FETCH_TERMS) {
        fetch_share(tile->fetch, k);
        for (int i = 0; i < FETCH_TERMS; i += TERM) fma_term(rows, vectors, k + i, &x, tile->w, w, tile->w_stride, c);
    }
    for (; k < tile->depth; k += TERM) {
        for (int i = 0; few != NULL && i < TERM; i++) fetch_term(few);
        fma_term(rows, vectors, k, &x, tile->w, w, tile->w_stride, c);
    }
    for (int part = 1; UNIT > 1 && part < tile->gemm->x_parts; part++) {
        if (x.packed) {
            x.row[0] += tile->depth * PANEL;
        } else {
            V_UNROLL
            for (int i = 0; i < round_up(rows, TERM); i++) x.row[i] += tile->depth * x.step;
        }
        for (k = 0; k < tile->depth; k += TERM) fma_term(rows, vectors, k, &x, tile->w, w, tile->w_stride, c);
    }
    fma_finish(rows, vectors, c);
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            const float *base = tile->first ? tile->bias : tile->sums + i * TILE_LANES;
            c[i][v] = v_add(v_load(base + v * V_LANES), c[i][v]);
        }
    }
    const int64_t lanes = vectors * V_LANES;
    if (tile->last && valid == rows && tile->outs >= lanes && tile->gemm->y_dtype == MHA_F32) {
        float *y = (float *)tile->gemm->y + tile->row * tile->gemm->y_stride + tile->out;
        gemm_store(rows, vectors, c, y, tile->gemm->y_stride);
        return;
    }
    gemm_store(rows, vectors, c, tile->sums, TILE_LANES);
    if (tile->last) copy_sums(tile, valid, lanes);
}

/* By how many rows are valid: the last ones may take a shorter tile. */
V_INLINE void gemm_valid_rows(const gemm_tile *tile, fma_rows x, weight_fetch *few, int vectors, int valid,
                              mha_dtype w) {
    if (few != NULL && valid == 1) gemm_rows(tile, x, few, 1, vectors, 1, w);
    else if (few != NULL && valid == 2) gemm_rows(tile, x, few, 2, vectors, 2, w);
    else if (valid <= SHORT_ROWS) gemm_rows(tile, x, few, SHORT_ROWS, vectors, valid, w);
    else gemm_rows(tile, x, few, PANEL, vectors, valid, w);
}

/* By the panel's width. */
V_INLINE void gemm_product(const gemm_tile *tile, fma_rows x, weight_fetch *few, int valid, mha_dtype w) {
    switch (tile->w_stride / V_LANES) {
    case 1: gemm_valid_rows(tile, x, few, 1, valid, w); break;
    case 2: gemm_valid_rows(tile, x, few, 2, valid, w); break;
    default: gemm_valid_rows(tile, x, few, TILE_VECTORS, valid, w); break;
    }
}

V_INLINE void multiply_panel(const gemm_tile *tile, int valid) {
    gemm_product(tile, packed_panel(tile->x), NULL, valid, MHA_F32);
}

/* X [rows][elements], up to STEP rows, becomes packed panels: [rows / PANEL][parts][depth][PANEL]. */
V_INLINE void pack_x_rows(const void *x, mha_dtype dtype, int64_t stride, int64_t rows, int64_t elements, int parts,
                          int64_t depth, float *packed) {
    for (int part = 0; part < parts; part++)
        pack_row_panels(x, dtype, part, stride, rows, elements, packed + part * depth * PANEL, PANEL * GEMM_DEPTH);
}

#endif

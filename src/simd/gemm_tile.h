/* A tile of Y = X W^T + bias: the products of some rows of X and one panel of W over a step's inputs, added to the
 * sums of the steps before, while what comes next is fetched. */
#ifndef MHA_SIMD_GEMM_TILE_H
#define MHA_SIMD_GEMM_TILE_H

enum {
    SHORT_ROWS = 4,  /* of the shorter tile that the last rows may take */
    FETCH_TERMS = 8, /* so often a tile fetches: all at once, its own operands would wait behind */
};

/* What comes next, tile by tile: in each FETCH_TERMS terms so many lines of weights, and one of so many rows of X. */
typedef struct tile_fetch {
    const char *w, *x;
    int64_t w_share, w_lines; /* bytes a tile */
    int64_t x_rows, x_left;
    int64_t x_stride, x_bytes; /* of a row, of an element */
} tile_fetch;

/* For few rows: slices of weights that come next, cut into places of so many terms each. */
typedef struct weight_fetch {
    const void *place[FETCH_PLACES];
    int places;
    int64_t terms, term_bytes;
    int now; /* place and term to be fetched from */
    int64_t term;
} weight_fetch;

typedef struct gemm_tile {
    const mha_gemm *gemm;
    fma_rows x;    /* depth terms */
    const void *w; /* of a dtype that only few rows tell from f32 */
    int64_t depth, w_stride;
    int64_t row, out, outs;  /* first of the tile; outs valid lanes */
    bool first, last;        /* of the steps that make up the sums */
    float bias[TILE_LANES];  /* what sums begin with */
    float *sums;             /* [PANEL][TILE_LANES], of the steps before */
    const tile_fetch *fetch; /* set unless the rows are few, */
    weight_fetch *weights;   /* set if they are */
} gemm_tile;

/* Fetches a term of a panel, from the next place. */
V_INLINE void fetch_term(weight_fetch *f) {
    if (f->term == f->terms) return;
    V_UNROLL
    for (int i = 0; i < f->term_bytes; i += LINE_BYTES) v_prefetch(f->place[f->now], f->term * f->term_bytes + i);
    if (++f->now < f->places) return;
    f->now = 0;
    f->term++;
}

V_INLINE void fetch_share(const tile_fetch *f, int64_t k) {
    const char *w = f->w + k / FETCH_TERMS * f->w_lines * LINE_BYTES, *x = f->x + k * f->x_bytes;
    for (int64_t i = 0; i < f->w_lines; i++) __builtin_prefetch(w + i * LINE_BYTES, 0, 2);
    for (int64_t i = 0; i < f->x_rows; i++) __builtin_prefetch(x + i * f->x_stride, 0, 2);
}

V_INLINE void gemm_store(int rows, int vectors, vf c[PANEL][TILE_VECTORS], float *dst, int64_t stride) {
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) v_store(dst + i * stride + v * V_LANES, c[i][v]);
    }
}

/* A tile at an edge of Y, or for half precision, is stored as sums and copied: with conditions around its stores not
 * every compiler would keep the accumulators in registers. */
static void copy_sums(const gemm_tile *tile, int valid, int64_t lanes) {
    const mha_gemm *gemm = tile->gemm;
    const int64_t outs = tile->outs < lanes ? tile->outs : lanes, bytes = mha_dtype_bytes(gemm->y_dtype);
    char *y = (char *)gemm->y + (tile->row * gemm->y_stride + tile->out) * bytes;
    for (int i = 0; i < valid; i++, y += gemm->y_stride * bytes) {
        const float *sums = tile->sums + i * TILE_LANES;
        if (gemm->y_dtype == MHA_F32) memcpy(y, sums, (size_t)(outs * bytes));
        else narrow(sums, gemm->y_dtype, (uint16_t *)(void *)y, outs);
    }
}

/* w: the dtype of the weights. */
V_INLINE void gemm_rows(const gemm_tile *tile, int rows, int vectors, int valid, bool few, mha_dtype w) {
    vf c[PANEL][TILE_VECTORS];
    const fma_rows x = tile->x;
    int64_t k = 0;
    fma_start(rows, vectors, c);
    for (; !few && k + FETCH_TERMS <= tile->depth; k += FETCH_TERMS) {
        fetch_share(tile->fetch, k);
        for (int i = 0; i < FETCH_TERMS; i++) fma_term(rows, vectors, k + i, &x, tile->w, w, tile->w_stride, c);
    }
    for (; k < tile->depth; k++) {
        if (few) fetch_term(tile->weights);
        fma_term(rows, vectors, k, &x, tile->w, w, tile->w_stride, c);
    }
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
V_INLINE void gemm_valid_rows(const gemm_tile *tile, int vectors, int valid, bool few, mha_dtype w) {
    if (few && valid == 1) gemm_rows(tile, 1, vectors, 1, few, w);
    else if (few && valid == 2) gemm_rows(tile, 2, vectors, 2, few, w);
    else if (valid <= SHORT_ROWS) gemm_rows(tile, SHORT_ROWS, vectors, valid, few, w);
    else gemm_rows(tile, PANEL, vectors, valid, few, w);
}

/* By the panel's width. */
V_INLINE void gemm_product(const gemm_tile *tile, int valid, bool few, mha_dtype w) {
    switch (tile->w_stride / V_LANES) {
    case 1: gemm_valid_rows(tile, 1, valid, few, w); break;
    case 2: gemm_valid_rows(tile, 2, valid, few, w); break;
    default: gemm_valid_rows(tile, TILE_VECTORS, valid, few, w); break;
    }
}

#endif

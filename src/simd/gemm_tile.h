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
    const float *w, *x;
    int64_t w_share, w_lines; /* floats a tile */
    int64_t x_rows, x_left;
} tile_fetch;

/* For few rows: slices of weights that come next, cut into places of so many terms each. */
typedef struct weight_fetch {
    const float *place[FETCH_PLACES];
    int places;
    int64_t terms;
    int now; /* place and term to be fetched from */
    int64_t term;
} weight_fetch;

typedef struct gemm_tile {
    const mha_gemm *gemm;
    fma_rows x; /* depth terms */
    const float *w;
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
    for (int i = 0; i < TILE_LANES; i += LINE) v_prefetch(f->place[f->now], f->term * TILE_LANES + i);
    if (++f->now < f->places) return;
    f->now = 0;
    f->term++;
}

V_INLINE void fetch_share(const tile_fetch *f, int64_t k, int64_t x_stride) {
    const float *w = f->w + k / FETCH_TERMS * f->w_lines * LINE;
    for (int64_t i = 0; i < f->w_lines; i++) __builtin_prefetch(w + i * LINE, 0, 2);
    for (int64_t i = 0; i < f->x_rows; i++) __builtin_prefetch(f->x + i * x_stride + k, 0, 2);
}

V_INLINE void gemm_store(int rows, int vectors, vf c[PANEL][TILE_VECTORS], float *dst, int64_t stride) {
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) v_store(dst + i * stride + v * V_LANES, c[i][v]);
    }
}

/* A tile at an edge of Y is stored as sums and copied: with conditions around its stores not every compiler would keep
 * the accumulators in registers. */
V_INLINE void gemm_rows(const gemm_tile *tile, int rows, int vectors, int valid, bool few) {
    vf c[PANEL][TILE_VECTORS];
    const fma_rows x = tile->x;
    int64_t k = 0;
    fma_start(rows, vectors, c);
    for (; !few && k + FETCH_TERMS <= tile->depth; k += FETCH_TERMS) {
        fetch_share(tile->fetch, k, tile->gemm->x_stride);
        for (int i = 0; i < FETCH_TERMS; i++) fma_term(rows, vectors, k + i, &x, tile->w, tile->w_stride, c);
    }
    for (; k < tile->depth; k++) {
        if (few) fetch_term(tile->weights);
        fma_term(rows, vectors, k, &x, tile->w, tile->w_stride, c);
    }
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            const float *base = tile->first ? tile->bias : tile->sums + i * TILE_LANES;
            c[i][v] = v_add(v_load(base + v * V_LANES), c[i][v]);
        }
    }
    float *y = tile->gemm->y + tile->row * tile->gemm->y_stride + tile->out;
    const int64_t y_stride = tile->gemm->y_stride, lanes = vectors * V_LANES;
    if (tile->last && valid == rows && tile->outs >= lanes) {
        gemm_store(rows, vectors, c, y, y_stride);
        return;
    }
    gemm_store(rows, vectors, c, tile->sums, TILE_LANES);
    if (!tile->last) return;
    const int64_t outs = tile->outs < lanes ? tile->outs : lanes;
    for (int i = 0; i < valid; i++) memcpy(y + i * y_stride, tile->sums + i * TILE_LANES, (size_t)outs * sizeof *y);
}

/* By how many rows are valid: the last ones may take a shorter tile. */
V_INLINE void gemm_valid_rows(const gemm_tile *tile, int vectors, int valid, bool few) {
    if (few && valid == 1) gemm_rows(tile, 1, vectors, 1, few);
    else if (few && valid == 2) gemm_rows(tile, 2, vectors, 2, few);
    else if (valid <= SHORT_ROWS) gemm_rows(tile, SHORT_ROWS, vectors, valid, few);
    else gemm_rows(tile, PANEL, vectors, valid, few);
}

/* By the panel's width. */
V_INLINE void gemm_product(const gemm_tile *tile, int valid, bool few) {
    switch (tile->w_stride / V_LANES) {
    case 1: gemm_valid_rows(tile, 1, valid, few); break;
    case 2: gemm_valid_rows(tile, 2, valid, few); break;
    default: gemm_valid_rows(tile, TILE_VECTORS, valid, few); break;
    }
}

#endif

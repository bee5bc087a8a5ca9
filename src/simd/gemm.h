/* Projections: Y = X W^T + bias by the FMA tile.  Outputs sit in lanes, rows of X are broadcast.
 *
 *     for each group of MHA_GEMM_PANELS panels of TILE_LANES outputs
 *         for each GEMM_DEPTH of the inputs: pack X [rows][depth] -> panels, in scratch
 *             for each panel of the group (its slice of W then stays in the first-level cache)
 *                 for each panel of PANEL rows: Y (=, then +=) tile; meanwhile fetch the next panel's slice
 *
 * Up to FEW_ROWS rows are bound by reading W: they take X where it lies, and fetch all slices of the next step meanwhile.
 *
 * Partial sums wait in Y.  The order of the additions is the same for every number of rows. */
#ifndef MHA_SIMD_GEMM_H
#define MHA_SIMD_GEMM_H

enum {
    GEMM_SCRATCH_FLOATS = MHA_GEMM_ROWS * GEMM_DEPTH,
    FEW_ROWS = 4,
    FETCH_MIN_PANELS = 4, /* of rows; fewer are done before the weights that come next could be fetched */
};

/* Slices of weights that come next, cut into places of so many terms each. */
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
    int64_t row, out, outs; /* first of the tile; outs valid lanes */
    bool first;             /* Y holds nothing yet */
    weight_fetch *fetch;    /* only gemm_few_rows looks at it */
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

/* The first n lanes of vector v in row i of the tile. */
V_INLINE void gemm_store(const gemm_tile *tile, int i, int v, int64_t n, vf c) {
    const int64_t out = tile->out + v * V_LANES;
    float *y = tile->gemm->y + (tile->row + i) * tile->gemm->y_stride + out;
    const float *bias = tile->gemm->bias;
    vf base = v_zero();
    if (!tile->first) base = n == V_LANES ? v_load(y) : v_load_n(y, n);
    else if (bias != NULL) base = n == V_LANES ? v_load(bias + out) : v_load_n(bias + out, n);
    if (n == V_LANES) v_store(y, v_add(base, c));
    else v_store_n(y, v_add(base, c), n);
}

/* A tile at an edge of Y goes through memory: with conditions around its stores not every compiler would keep the
 * accumulators in registers. */
V_INLINE void gemm_rows(const gemm_tile *tile, int rows, int vectors, int valid, bool fetch) {
    vf c[PANEL][TILE_VECTORS];
    float edge[PANEL][TILE_LANES];
    const bool whole = valid == rows && tile->outs >= vectors * V_LANES;
    const fma_rows x = tile->x;
    fma_start(rows, vectors, c);
    for (int64_t k = 0; k < tile->depth; k++) {
        if (fetch) fetch_term(tile->fetch);
        fma_term(rows, vectors, k, &x, tile->w, tile->w_stride, c);
    }
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (whole) gemm_store(tile, i, v, V_LANES, c[i][v]);
            else v_store(&edge[i][v * V_LANES], c[i][v]);
        }
    }
    if (whole) return;
    for (int i = 0; i < valid; i++)
        for (int v = 0; v < vectors; v++) {
            const int64_t left = tile->outs - v * V_LANES;
            gemm_store(tile, i, v, left < V_LANES ? left : V_LANES, v_load(&edge[i][v * V_LANES]));
        }
}

/* The last rows may take a shorter tile. */
V_INLINE void gemm_panel_rows(const gemm_tile *tile, int vectors, int valid) {
    if (valid <= FEW_ROWS && PANEL > (int)FEW_ROWS) gemm_rows(tile, FEW_ROWS, vectors, valid, false);
    else gemm_rows(tile, PANEL, vectors, valid, false);
}

V_INLINE void gemm_few_rows(const gemm_tile *tile, int vectors, int valid) {
    if (valid == 1) gemm_rows(tile, 1, vectors, 1, true);
    else if (valid == 2) gemm_rows(tile, 2, vectors, 2, true);
    else gemm_rows(tile, FEW_ROWS, vectors, valid, true);
}

/* A step of a call: slices of `depth` inputs from k on, of the panels of [out0, out1). */
typedef struct gemm_slices {
    int64_t out0, out1, k, depth;
} gemm_slices;

static gemm_slices slices_at(const mha_gemm *gemm, int64_t out0, int64_t out1, int64_t k) {
    const int64_t group = MHA_GEMM_PANELS * TILE_LANES;
    return (gemm_slices){.out0 = out0,
                         .out1 = out1 - out0 < group ? out1 : out0 + group,
                         .k = k,
                         .depth = gemm->in - k < GEMM_DEPTH ? gemm->in - k : GEMM_DEPTH};
}

/* The same group's next inputs, or the next group's first; out0 == out1: none are left. */
static gemm_slices slices_after(const mha_gemm *gemm, const gemm_slices *s, int64_t out1) {
    if (s->k + s->depth < gemm->in) return slices_at(gemm, s->out0, out1, s->k + s->depth);
    return slices_at(gemm, s->out1, out1, 0);
}

static const float *slice_of(const mha_gemm *gemm, int64_t out, int64_t k) {
    return gemm->packed + out * gemm->in + k * panel_lanes(out, gemm->out);
}

/* Fetches a step's whole panels; a narrow last one is not worth it. */
static weight_fetch fetch_from(const mha_gemm *gemm, const gemm_slices *s) {
    const int panels = (int)((round_up(s->out1, V_LANES) - s->out0) / TILE_LANES);
    weight_fetch f = {.places = 0};
    if (panels == 0 || gemm->level == MHA_FAST_CACHE) return f;
    const int parts = FETCH_PLACES / panels;
    f.places = panels * parts;
    f.terms = s->depth / parts; /* rounded down: no place leaves the weights */
    for (int i = 0; i < f.places; i++)
        f.place[i] = slice_of(gemm, s->out0 + i / parts * TILE_LANES, s->k) + i % parts * f.terms * TILE_LANES;
    return f;
}

/* Fetches one of `shares` equal shares into the second-level cache. */
static void fetch_share(const float *weights, int64_t floats, int64_t share, int64_t shares) {
    const int64_t n = round_up((floats + shares - 1) / shares, LINE);
    const int64_t end = (share + 1) * n < floats ? (share + 1) * n : floats;
    for (int64_t i = share * n; i < end; i += LINE) __builtin_prefetch(weights + i, 0, 2);
}

static gemm_tile tile_of(const mha_gemm *gemm, const gemm_slices *s, int64_t out, int64_t row) {
    return (gemm_tile){.gemm = gemm,
                       .w = slice_of(gemm, out, s->k),
                       .depth = s->depth,
                       .w_stride = panel_lanes(out, gemm->out),
                       .row = row,
                       .out = out,
                       .outs = s->out1 - out,
                       .first = s->k == 0};
}

static void gemm_panels(const mha_gemm *gemm, int64_t row0, int64_t row1, const gemm_slices *s, const gemm_slices *next,
                        float *scratch) {
    const int64_t row_panels = round_up(row1 - row0, PANEL) / PANEL;
    pack_row_panels(gemm->x + row0 * gemm->x_stride + s->k, gemm->x_stride, row1 - row0, s->depth, scratch);
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        gemm_tile tile = tile_of(gemm, s, out, row0);
        const bool last = out + TILE_LANES >= s->out1;
        const gemm_slices *later = last ? next : s;
        const int64_t later_out = last ? next->out0 : out + TILE_LANES;
        const float *weights = slice_of(gemm, later_out, later->k);
        const int64_t floats = later->depth * panel_lanes(later_out, gemm->out);
        for (; tile.row < row1; tile.row += PANEL) {
            if (row_panels >= FETCH_MIN_PANELS) fetch_share(weights, floats, (tile.row - row0) / PANEL, row_panels);
            const int valid = (int)(row1 - tile.row < PANEL ? row1 - tile.row : PANEL);
            tile.x = packed_panel(scratch + (tile.row - row0) * s->depth);
            switch (tile.w_stride / V_LANES) {
            case 1: gemm_panel_rows(&tile, 1, valid); break;
            case 2: gemm_panel_rows(&tile, 2, valid); break;
            default: gemm_panel_rows(&tile, TILE_VECTORS, valid); break;
            }
        }
    }
}

static void gemm_few(const mha_gemm *gemm, int64_t row0, int64_t row1, const gemm_slices *s, const gemm_slices *next) {
    weight_fetch fetch = fetch_from(gemm, next);
    const int valid = (int)(row1 - row0);
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        gemm_tile tile = tile_of(gemm, s, out, row0);
        tile.fetch = &fetch;
        tile.x.step = 1;
        for (int i = 0; i < FEW_ROWS; i++) /* a row beyond the end is the last one again */
            tile.x.row[i] = gemm->x + (i < valid ? row0 + i : row1 - 1) * gemm->x_stride + s->k;
        switch (tile.w_stride / V_LANES) {
        case 1: gemm_few_rows(&tile, 1, valid); break;
        case 2: gemm_few_rows(&tile, 2, valid); break;
        default: gemm_few_rows(&tile, TILE_VECTORS, valid); break;
        }
    }
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const gemm_slices first = slices_at(gemm, out0, out1, 0);
    for (gemm_slices s = first; s.out0 < out1;) {
        const gemm_slices next = slices_after(gemm, &s, out1);
        if (row1 - row0 <= FEW_ROWS) gemm_few(gemm, row0, row1, &s, &next);
        else gemm_panels(gemm, row0, row1, &s, next.out0 < out1 ? &next : &first, scratch); /* other rows may follow */
        s = next;
    }
}

#endif

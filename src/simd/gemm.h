/* Projections: Y = X W^T + bias by the FMA tile.  Outputs sit in lanes, rows of X are broadcast.
 *
 *     for each group of panels of TILE_LANES outputs
 *         for each GEMM_DEPTH of the inputs, X [rows][depth] packed in panels, in scratch
 *             for each panel of the group (its slice of W then stays in the first-level cache)
 *                 for each panel of PANEL rows: sums (=, then +=) tile; meanwhile fetch the next panel's slice
 *                     once no panel of outputs needs these rows any more: pack their next inputs in their place
 *
 * Up to FEW_ROWS rows are bound by reading W: they take X where it lies, and fetch all slices of the next step meanwhile.
 *
 * Partial sums wait in scratch, tile by tile: in Y each row may lie in a page of its own.  The order of the additions is
 * the same for every number of rows. */
#ifndef MHA_SIMD_GEMM_H
#define MHA_SIMD_GEMM_H

enum {
    GEMM_X_FLOATS = MHA_GEMM_ROWS * GEMM_DEPTH,
    GEMM_SUM_FLOATS = MHA_GEMM_ROWS * MHA_GEMM_PANELS * TILE_LANES,
    GEMM_SCRATCH_FLOATS = GEMM_X_FLOATS + GEMM_SUM_FLOATS,
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
    bool first, last;       /* of the steps that make up the sums */
    float bias[TILE_LANES]; /* what sums begin with */
    float *sums;            /* [PANEL][TILE_LANES], of the steps before */
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

V_INLINE void gemm_store(int rows, int vectors, vf c[PANEL][TILE_VECTORS], float *dst, int64_t stride) {
    V_UNROLL
    for (int i = 0; i < rows; i++) {
        V_UNROLL
        for (int v = 0; v < vectors; v++) v_store(dst + i * stride + v * V_LANES, c[i][v]);
    }
}

/* A tile at an edge of Y is stored as sums and copied: with conditions around its stores not every compiler would keep
 * the accumulators in registers. */
V_INLINE void gemm_rows(const gemm_tile *tile, int rows, int vectors, int valid, bool fetch) {
    vf c[PANEL][TILE_VECTORS];
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

/* Rows of a call, and its scratch. */
typedef struct gemm_block {
    const mha_gemm *gemm;
    int64_t row0, row1, rows; /* rows: rounded up to whole panels */
    float *x;                 /* packed, panels PANEL * GEMM_DEPTH apart */
    float *sums;              /* [panels of outputs][rows][TILE_LANES] */
} gemm_block;

/* A step of a call: slices of `depth` inputs from k on, of the panels of [out0, out1). */
typedef struct gemm_slices {
    int64_t out0, out1, k, depth;
} gemm_slices;

/* As many panels as have room for their sums; for few rows as many as are worth fetching from at a time. */
static gemm_slices slices_at(const gemm_block *block, int64_t out0, int64_t out1, int64_t k) {
    const int64_t panels = block->rows > FEW_ROWS ? MHA_GEMM_ROWS / block->rows * MHA_GEMM_PANELS : MHA_GEMM_PANELS;
    const int64_t in = block->gemm->in, left = out1 - out0;
    return (gemm_slices){.out0 = out0,
                         .out1 = left < panels * TILE_LANES ? out1 : out0 + panels * TILE_LANES,
                         .k = k,
                         .depth = in - k < GEMM_DEPTH ? in - k : GEMM_DEPTH};
}

/* The same group's next inputs, or the next group's first; out0 == out1: none are left. */
static gemm_slices slices_after(const gemm_block *block, const gemm_slices *s, int64_t out1) {
    if (s->k + s->depth < block->gemm->in) return slices_at(block, s->out0, out1, s->k + s->depth);
    return slices_at(block, s->out1, out1, 0);
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

static gemm_tile tile_of(const gemm_block *block, const gemm_slices *s, int64_t out) {
    const mha_gemm *gemm = block->gemm;
    gemm_tile tile = {.gemm = gemm,
                      .w = slice_of(gemm, out, s->k),
                      .depth = s->depth,
                      .w_stride = panel_lanes(out, gemm->out),
                      .row = block->row0,
                      .out = out,
                      .outs = s->out1 - out,
                      .first = s->k == 0,
                      .last = s->k + s->depth == gemm->in,
                      .sums = block->sums + (out - s->out0) * block->rows};
    for (int i = 0; i < TILE_LANES && i < tile.outs && gemm->bias != NULL; i++) tile.bias[i] = gemm->bias[out + i];
    return tile;
}

/* STEP rows of X from `row` on, or what is left of them. */
static void pack_x(const gemm_block *block, int64_t row, const gemm_slices *s) {
    const int64_t rows = block->row1 - row < STEP ? block->row1 - row : STEP, stride = block->gemm->x_stride;
    pack_row_panels(block->gemm->x + row * stride + s->k, stride, rows, s->depth,
                    block->x + (row - block->row0) * GEMM_DEPTH, PANEL * GEMM_DEPTH);
}

/* Inlined, or the tile's fields would not stay in registers (3%). */
V_INLINE void gemm_panel(const gemm_block *block, gemm_tile *tile) {
    const int64_t left = block->row1 - tile->row;
    const int valid = left < PANEL ? (int)left : PANEL;
    tile->x = packed_panel(block->x + (tile->row - block->row0) * GEMM_DEPTH);
    switch (tile->w_stride / V_LANES) {
    case 1: gemm_panel_rows(tile, 1, valid); break;
    case 2: gemm_panel_rows(tile, 2, valid); break;
    default: gemm_panel_rows(tile, TILE_VECTORS, valid); break;
    }
    tile->row += PANEL;
    tile->sums += PANEL * TILE_LANES;
}

/* X's panels of step s are packed.  In their place leaves those of `next`, unless `ends`: then next is what other rows
 * would begin with. */
static void gemm_panels(const gemm_block *block, const gemm_slices *s, const gemm_slices *next, bool ends) {
    const mha_gemm *gemm = block->gemm;
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        gemm_tile tile = tile_of(block, s, out);
        const bool last = out + TILE_LANES >= s->out1;
        const gemm_slices *later = last ? next : s;
        const int64_t later_out = last ? next->out0 : out + TILE_LANES;
        const float *weights = slice_of(gemm, later_out, later->k);
        const int64_t floats = later->depth * panel_lanes(later_out, gemm->out);
        for (int64_t row = block->row0; row < block->row1; row += STEP) {
            while (tile.row < block->row1 && tile.row < row + STEP) {
                if (block->rows >= FETCH_MIN_PANELS * PANEL)
                    fetch_share(weights, floats, (tile.row - block->row0) / PANEL, block->rows / PANEL);
                gemm_panel(block, &tile);
            }
            if (last && !ends) pack_x(block, row, next);
        }
    }
}

static void gemm_few(const gemm_block *block, const gemm_slices *s, const gemm_slices *next) {
    const mha_gemm *gemm = block->gemm;
    weight_fetch fetch = fetch_from(gemm, next);
    const int valid = (int)(block->row1 - block->row0);
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        gemm_tile tile = tile_of(block, s, out);
        tile.fetch = &fetch;
        tile.x.step = 1;
        for (int i = 0; i < FEW_ROWS; i++) /* a row beyond the end is the last one again */
            tile.x.row[i] = gemm->x + (i < valid ? block->row0 + i : block->row1 - 1) * gemm->x_stride + s->k;
        switch (tile.w_stride / V_LANES) {
        case 1: gemm_few_rows(&tile, 1, valid); break;
        case 2: gemm_few_rows(&tile, 2, valid); break;
        default: gemm_few_rows(&tile, TILE_VECTORS, valid); break;
        }
    }
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const bool few = row1 - row0 <= FEW_ROWS;
    const gemm_block block = {.gemm = gemm,
                              .row0 = row0,
                              .row1 = row1,
                              .rows = few ? FEW_ROWS : round_up(row1 - row0, PANEL),
                              .x = scratch,
                              .sums = scratch + GEMM_X_FLOATS};
    const gemm_slices first = slices_at(&block, out0, out1, 0);
    for (int64_t row = row0; row < row1 && !few; row += STEP) pack_x(&block, row, &first);
    for (gemm_slices s = first; s.out0 < out1;) {
        const gemm_slices next = slices_after(&block, &s, out1);
        const bool ends = next.out0 == out1;
        if (few) gemm_few(&block, &s, &next);
        else gemm_panels(&block, &s, ends ? &first : &next, ends);
        s = next;
    }
}

#endif

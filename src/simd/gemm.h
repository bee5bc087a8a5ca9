/* Projections: Y = X W^T + bias by the FMA tile.  Outputs sit in lanes, rows of X are broadcast.
 *
 *     for each GEMM_DEPTH of the inputs: pack X [rows][depth] -> panels, in scratch
 *         for each panel of TILE_LANES outputs (its slice of W then stays in the first-level cache)
 *             for each panel of PANEL rows: Y (=, then +=) tile
 *
 * Partial sums wait in Y.  The order of the additions is the same for every number of rows. */
#ifndef MHA_SIMD_GEMM_H
#define MHA_SIMD_GEMM_H

enum {
    GEMM_SCRATCH_FLOATS = MHA_GEMM_ROWS * GEMM_DEPTH,
    FETCH_MIN_PANELS = 4, /* fewer are done before the weights that come next could be fetched */
};

typedef struct gemm_tile {
    const mha_gemm *gemm;
    const float *x, *w; /* packed; depth terms */
    int64_t depth, w_stride;
    int64_t row, out, outs; /* first of the tile; outs valid lanes */
    bool first;             /* Y holds nothing yet */
} gemm_tile;

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
V_INLINE void gemm_rows(const gemm_tile *tile, int rows, int vectors, int valid) {
    vf c[PANEL][TILE_VECTORS];
    float edge[PANEL][TILE_LANES];
    const bool whole = valid == rows && tile->outs >= vectors * V_LANES;
    const fma_rows x = packed_panel(tile->x);
    fma_tile(rows, vectors, tile->depth, &x, tile->w, tile->w_stride, c);
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

/* Few rows take a shorter tile; a single one is bound by reading W. */
V_INLINE void gemm_any_rows(const gemm_tile *tile, int vectors, int valid) {
    if (valid == 1) gemm_rows(tile, 1, vectors, 1);
    else if (valid == 2) gemm_rows(tile, 2, vectors, 2);
    else if (valid <= 4 && PANEL > 4) gemm_rows(tile, 4, vectors, valid);
    else gemm_rows(tile, PANEL, vectors, valid);
}

/* The weights of the tiles after these: the next panel's; or the first panel's next terms, then its first again. */
static const float *next_weights(const mha_gemm *gemm, int64_t out, int64_t out0, int64_t out1, int64_t k,
                                 int64_t depth) {
    const bool last = out + TILE_LANES >= out1;
    const int64_t next = last ? out0 : out + TILE_LANES, k_next = !last ? k : k + depth < gemm->in ? k + depth : 0;
    return gemm->packed + next * gemm->in + k_next * panel_lanes(next, gemm->out);
}

/* Fetches one of `shares` equal shares into the second-level cache. */
static void fetch_share(const float *weights, int64_t floats, int64_t share, int64_t shares) {
    const int64_t n = round_up((floats + shares - 1) / shares, LINE);
    for (int64_t i = share * n; i < (share + 1) * n; i += LINE) __builtin_prefetch(weights + i, 0, 2);
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const int64_t row_panels = round_up(row1 - row0, PANEL) / PANEL;
    for (int64_t k = 0; k < gemm->in; k += GEMM_DEPTH) {
        const int64_t depth = gemm->in - k < GEMM_DEPTH ? gemm->in - k : GEMM_DEPTH;
        pack_row_panels(gemm->x + row0 * gemm->x_stride + k, gemm->x_stride, row1 - row0, depth, scratch);
        for (int64_t out = out0; out < out1; out += TILE_LANES) {
            const int64_t lanes = panel_lanes(out, gemm->out);
            gemm_tile tile = {.gemm = gemm,
                              .w = gemm->packed + out * gemm->in + k * lanes,
                              .depth = depth,
                              .w_stride = lanes,
                              .out = out,
                              .outs = out1 - out,
                              .first = k == 0};
            const float *next = next_weights(gemm, out, out0, out1, k, depth);
            for (tile.row = row0; tile.row < row1; tile.row += PANEL) {
                if (row_panels >= FETCH_MIN_PANELS)
                    fetch_share(next, depth * TILE_LANES, (tile.row - row0) / PANEL, row_panels);
                const int valid = (int)(row1 - tile.row < PANEL ? row1 - tile.row : PANEL);
                tile.x = scratch + (tile.row - row0) * depth;
                switch (lanes / V_LANES) {
                case 1: gemm_any_rows(&tile, 1, valid); break;
                case 2: gemm_any_rows(&tile, 2, valid); break;
                default: gemm_any_rows(&tile, TILE_VECTORS, valid); break;
                }
            }
        }
    }
}

#endif

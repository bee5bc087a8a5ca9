/* Projections: Y = X W^T + bias.  Outputs sit in lanes, rows of X are broadcast.  Inputs are counted in units.
 *
 *     for each group of panels of TILE_LANES outputs
 *         for each GEMM_DEPTH of the inputs, X [rows][depth] packed in panels, in scratch
 *             for each panel of the group (its slice of W then stays in the first-level cache)
 *                 for each panel of PANEL rows: sums (=, then +=) tile; meanwhile fetch the next slice, next inputs
 *                     once no panel of outputs needs these rows any more: pack their next inputs in their place
 *
 * Half precision becomes f32 first: X as it is packed, a slice of W before many rows meet it.  Where bf16 is multiplied
 * X becomes parts in bf16, one after the other, and W has been packed so.
 * Few rows: gemm_few.h.
 *
 * Partial sums wait in scratch, tile by tile: in Y each row may lie in a page of its own.  The order of the additions
 * is the same for every number of rows. */
#ifndef MHA_SIMD_GEMM_H
#define MHA_SIMD_GEMM_H

enum {
    GEMM_MAX_ROWS = 256,
    GEMM_MAX_PANELS = 8, /* also in a step beside GEMM_MAX_ROWS rows */
    GEMM_PANEL_ROWS = 0,
    GEMM_X_FLOATS = GEMM_MAX_ROWS * GEMM_DEPTH,
    GEMM_SUM_FLOATS = GEMM_MAX_ROWS * GEMM_MAX_PANELS * TILE_LANES,
    GEMM_SLICE_FLOATS = UNIT == 1 ? GEMM_DEPTH * TILE_LANES : 0, /* pairs of bf16 are multiplied as they are */
    GEMM_SCRATCH_FLOATS = GEMM_X_FLOATS + GEMM_SUM_FLOATS + GEMM_SLICE_FLOATS,
};

_Static_assert(GEMM_MAX_ROWS % STEP == 0, "row blocks are whole panels and vectors");
_Static_assert(GEMM_DEPTH % FETCH_TERMS == 0, "a step has at most GEMM_DEPTH inputs, in groups of FETCH_TERMS");
_Static_assert(UNIT == 1 || GEMM_DEPTH / 3 >= FETCH_TERMS, "all parts of X have a step that long");

/* Rows of a call, and its scratch. */
typedef struct gemm_block {
    const mha_gemm *gemm;
    bool few;
    int x_parts, most_parts;  /* of X; of X or W */
    mha_dtype w_dtype;        /* of W's units */
    int64_t in;               /* units */
    int64_t row0, row1, rows; /* rows: rounded up to whole panels */
    float *x;                 /* packed, panels PANEL * GEMM_DEPTH apart */
    float *sums;              /* [panels of outputs][rows][TILE_LANES] */
    float *slice;             /* of half precision, as f32 */
} gemm_block;

/* A step of a call: slices of `depth` inputs from k on, of the panels of [out0, out1). */
typedef struct gemm_slices {
    int64_t out0, out1, step, k, depth;
} gemm_slices;

/* As many panels as have room for their sums; for few rows as many as are worth fetching from at a time.  Depths
 * are equal but for FETCH_TERMS: a short last one would leave no time to fetch what follows it.  All parts of X, or
 * of W, take GEMM_DEPTH together. */
static gemm_slices slices_at(const gemm_block *block, int64_t out0, int64_t out1, int64_t step) {
    const int64_t panels = (block->few ? 1 : GEMM_MAX_ROWS / block->rows) * GEMM_MAX_PANELS, left = out1 - out0;
    const int64_t in = block->in, most = GEMM_DEPTH / block->most_parts / FETCH_TERMS * FETCH_TERMS;
    const int64_t steps = (in - 1) / most + 1, groups = (in - 1) / FETCH_TERMS + 1;
    const int64_t k = groups * step / steps * FETCH_TERMS, end = groups * (step + 1) / steps * FETCH_TERMS;
    return (gemm_slices){.out0 = out0,
                         .out1 = left < panels * TILE_LANES ? out1 : out0 + panels * TILE_LANES,
                         .step = step,
                         .k = k,
                         .depth = (end < in ? end : in) - k};
}

/* The same group's next inputs, or the next group's first; out0 == out1: none are left. */
static gemm_slices slices_after(const gemm_block *block, const gemm_slices *s, int64_t out1) {
    if (s->k + s->depth < block->in) return slices_at(block, s->out0, out1, s->step + 1);
    return slices_at(block, s->out1, out1, 0);
}

static const void *slice_of(const gemm_block *block, int64_t out, int64_t k) {
    const mha_gemm *gemm = block->gemm;
    return mha_element(gemm->packed, out * block->in + k * panel_lanes(out, gemm->out), block->w_dtype);
}

V_INLINE void gemm_start(gemm_tile *tile) {
    const float *bias = tile->gemm->bias;
    V_UNROLL
    for (int i = 0; i < TILE_LANES; i += V_LANES) {
        const int64_t out = tile->out + i, left = bias != NULL ? tile->outs - i : 0;
        v_store(tile->bias + i, left >= V_LANES ? v_load(bias + out)
                                : left > 0      ? v_load_n(bias + out, left)
                                                : v_zero());
    }
}

/* Field by field: to clear all of it would take a fifth of one row's time. */
V_INLINE gemm_tile tile_of(const gemm_block *block, const gemm_slices *s, int64_t out) {
    const mha_gemm *gemm = block->gemm;
    gemm_tile tile;
    tile.gemm = gemm;
    tile.w = slice_of(block, out, s->k);
    tile.depth = s->depth;
    tile.w_stride = panel_lanes(out, gemm->out);
    tile.row = block->row0;
    tile.out = out;
    tile.outs = s->out1 - out;
    tile.first = s->k == 0;
    tile.last = s->k + s->depth == block->in;
    tile.sums = block->sums + (out - s->out0) * block->rows;
    if (tile.first) gemm_start(&tile);
    return tile;
}

/* Row and unit of X, and how many elements of that row a step has. */
static const void *x_at(const mha_gemm *gemm, int64_t row, int64_t k) {
    return mha_element(gemm->x, row * gemm->x_stride + k * UNIT, gemm->x_dtype);
}

static int64_t elements_of(const mha_gemm *gemm, const gemm_slices *s) {
    const int64_t left = gemm->in - s->k * UNIT;
    return left < s->depth * UNIT ? left : s->depth * UNIT;
}

/* STEP rows of X from `row` on, or what is left of them. */
static void pack_x(const gemm_block *block, int64_t row, const gemm_slices *s) {
    const int64_t rows = block->row1 - row < STEP ? block->row1 - row : STEP;
    const mha_gemm *gemm = block->gemm;
    float *packed = block->x + (row - block->row0) * GEMM_DEPTH;
    V_WITH_DTYPE(gemm->x_dtype, pack_x_rows(x_at(gemm, row, s->k), T, gemm->x_stride, rows, elements_of(gemm, s),
                                            block->x_parts, s->depth, packed));
}

/* Inlined, or the tile's fields would not stay in registers (3%). */
V_INLINE void gemm_panel(const gemm_block *block, gemm_tile *tile) {
    const int64_t left = block->row1 - tile->row;
    const int valid = left < PANEL ? (int)left : PANEL;
    tile->x = block->x + (tile->row - block->row0) * GEMM_DEPTH;
    multiply_panel(tile, valid);
    tile->row += PANEL;
    tile->sums += PANEL * TILE_LANES;
}

static void next_share(tile_fetch *f) {
    f->w += f->w_share;
    f->x += (uint64_t)f->x_rows * f->x_stride;
    f->x_left -= f->x_rows;
    if (f->x_rows > f->x_left) f->x_rows = f->x_left;
}

/* Cuts the slice of the panel at `out` into shares of the tiles of a panel of step s, fetched `times` times a tile.  A
 * single tile has no time to: hardware does as well. */
static void fetch_panel(tile_fetch *f, const gemm_block *block, const gemm_slices *s, const gemm_slices *later,
                        int64_t out) {
    const int64_t tiles = block->rows / PANEL, times = s->depth < FETCH_TERMS ? 1 : s->depth / FETCH_TERMS;
    const int64_t elements = later->depth * panel_lanes(out, block->gemm->out);
    const int64_t lines = elements * mha_dtype_bytes(block->w_dtype) / LINE_BYTES;
    const int64_t share = (lines + tiles - 1) / tiles;
    f->w = slice_of(block, out, later->k);
    f->w_share = share * LINE_BYTES;
    f->w_lines = tiles == 1 || block->gemm->level == MHA_FAST_CACHE ? 0 : (share + times - 1) / times;
}

static const float *slice_floats(const gemm_block *block, const gemm_tile *tile) {
    if (block->w_dtype == MHA_F32) return tile->w;
    widen(tile->w, block->w_dtype, block->slice, tile->depth * tile->w_stride);
    return block->slice;
}

/* X's panels of step s are packed.  In their place leaves those of `next`, unless `ends`: then next is what other rows
 * would begin with. */
static void gemm_panels(const gemm_block *block, const gemm_slices *s, const gemm_slices *next, bool ends) {
    const mha_gemm *gemm = block->gemm;
    const int64_t rows = ends ? 0 : block->row1 - block->row0;
    const uint64_t x_bytes = (uint64_t)mha_dtype_bytes(gemm->x_dtype);
    const int64_t tiles = round_up(s->out1 - s->out0, TILE_LANES) / TILE_LANES * (block->rows / PANEL);
    tile_fetch fetch = {.x = (uintptr_t)x_at(gemm, block->row0, next->k),
                        .x_rows = (rows + tiles - 1) / tiles,
                        .x_left = rows,
                        .x_stride = (uint64_t)gemm->x_stride * x_bytes,
                        .x_bytes = UNIT * x_bytes};
    for (int64_t out = s->out0; out < s->out1; out += TILE_LANES) {
        const bool last = out + TILE_LANES >= s->out1;
        gemm_tile tile = tile_of(block, s, out);
        tile.w = slice_floats(block, &tile);
        tile.fetch = &fetch;
        if (last) fetch_panel(&fetch, block, s, next, next->out0);
        else fetch_panel(&fetch, block, s, s, out + TILE_LANES);
        for (int64_t row = block->row0; row < block->row1; row += STEP) {
            for (; tile.row < block->row1 && tile.row < row + STEP; next_share(&fetch)) gemm_panel(block, &tile);
            if (last && !ends) pack_x(block, row, next);
        }
    }
}

static gemm_block gemm_block_of(const mha_gemm *gemm, int64_t row0, int64_t row1, bool few, float *scratch) {
    return (gemm_block){.gemm = gemm,
                        .few = few,
                        .x_parts = UNIT == 1 ? 1 : gemm->x_parts,
                        .most_parts = UNIT == 1 ? 1 : mha_most_parts(gemm),
                        .w_dtype = unit_dtype(gemm->w_dtype),
                        .in = step_units(gemm->in),
                        .row0 = row0,
                        .row1 = row1,
                        .rows = round_up(row1 - row0, PANEL),
                        .x = scratch,
                        .sums = scratch + GEMM_X_FLOATS,
                        .slice = scratch + GEMM_X_FLOATS + GEMM_SUM_FLOATS};
}

static void gemm_many(const gemm_block *block, int64_t out0, int64_t out1) {
    const gemm_slices first = slices_at(block, out0, out1, 0);
    for (int64_t row = block->row0; row < block->row1; row += STEP) pack_x(block, row, &first);
    for (gemm_slices s = first; s.out0 < out1;) {
        const gemm_slices next = slices_after(block, &s, out1);
        const bool ends = next.out0 == out1;
        gemm_panels(block, &s, ends ? &first : &next, ends);
        s = next;
    }
}

#endif

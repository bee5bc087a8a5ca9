/* Projections by AMX: Y = X W^T + bias.  B is W as packed, a panel of 32 outputs, two tiles side by side.  A is X: where
 * it lies, if that is in bf16, by whole tiles, and not rows whose lines share sets of the caches; or packed, [parts]
 * [rows / 16][depth / 16][16 rows][16 units].
 *
 *     for each group of panels whose sums there is room for
 *         for each depth of X that there is room for: pack it, unless it is there already
 *             for each panel, for each step of at most GEMM_DEPTH: its slice of W stays in the first-level cache
 *                 for each 32 rows: 2 x 2 tiles of sums, and a share of the next slice is fetched
 *
 * Sums wait in scratch as they are, so that results do not depend on how the work is cut; only operands in parts take
 * them step by step.  What a tile has of Y is rounded and stored while the next tile is multiplied. */
#ifndef MHA_AMX_GEMM_H
#define MHA_AMX_GEMM_H

#include "arith.h"

enum {
    GEMM_X_FLOATS = MHA_GEMM_ROWS * GEMM_DEPTH,
    GEMM_SUM_FLOATS = MHA_GEMM_ROWS * 16 * TILE_LANES, /* of as many panels, or more if the rows are fewer */
    TILE_ROWS_2 = 2 * TILE_ROWS,
    Y_TILE = 4 * TILE, /* 32 x 32: rows 0 to 15 by both vectors of lanes, then the others */
    GEMM_SCRATCH_FLOATS = GEMM_X_FLOATS + GEMM_SUM_FLOATS + 2 * Y_TILE,
};

/* Lines of W still to be fetched, from FETCH_PLACES places in turn; of each part alike. */
typedef struct slice_fetch {
    uintptr_t line;
    int64_t left, at_once; /* lines; in a step of a tile */
    int64_t apart, place;  /* bytes from a place to the next; of this line */
    int parts;
    int64_t part;
} slice_fetch;

V_INLINE void fetch_lines(slice_fetch *f) {
    for (int64_t i = 0; i < f->at_once && f->left > 0; i++, f->left--) {
        for (int part = 0; part < f->parts; part++)
            __builtin_prefetch((const void *)(f->line + (uintptr_t)(part * f->part)), 0, 2);
        f->line += (uintptr_t)f->apart;
        if (++f->place < FETCH_PLACES) continue;
        f->place = 0;
        f->line += (uintptr_t)(LINE_BYTES - FETCH_PLACES * f->apart);
    }
}

/* A tile of Y that waits to be stored. */
typedef struct y_tile {
    const float *c;
    int64_t row, out;
} y_tile;

typedef struct gemm_call {
    const mha_gemm *gemm;
    int64_t row0, rows, row_tiles; /* of 16 */
    int64_t units, depth;          /* of the inputs; of a step */
    int64_t in_place;              /* rows of X that are read where they lie; the others are packed: */
    int64_t packed_tiles;          /* of 16 rows, */
    int64_t x_depth, k0;           /* from unit k0 on */
    float *x, *sums, *y;           /* y: two tiles in turn */
    y_tile waiting;                /* c NULL: none */
    int turn;
    slice_fetch fetch;
} gemm_call;

V_INLINE const float *weights_at(const mha_gemm *gemm, int64_t units, int64_t out, int64_t k) {
    return (const float *)gemm->packed + out * units + k * panel_lanes(out, gemm->out);
}

/* Rows of X that are there; the others of a tile become zeros. */
V_INLINE void pack_x_part(const gemm_call *call, mha_dtype dtype, int part, int64_t depth, float *to) {
    const mha_gemm *gemm = call->gemm;
    const int64_t elements = gemm->in - call->k0 * UNIT;
    for (int64_t row = 0; row < call->packed_tiles * TILE_ROWS; row++) {
        const bool there = call->in_place + row < call->rows;
        const int64_t at = there ? (call->row0 + call->in_place + row) * gemm->x_stride : 0;
        const int64_t first = at + call->k0 * UNIT;
        float *tiles = to + (row / TILE_ROWS * (depth / TILE_FLOATS) * TILE_ROWS + row % TILE_ROWS) * TILE_FLOATS;
        for (int64_t u = 0; u < depth; u += TILE_FLOATS, tiles += TILE) {
            const int64_t left = there ? elements - u * UNIT : 0;
            v_store(tiles, left > 0 ? load_tile_row(mha_element(gemm->x, first + u * UNIT, dtype), left, dtype, part, 1)
                                    : v_zero());
        }
    }
}

static void pack_x(gemm_call *call, int64_t k0, int64_t depth) {
    call->k0 = k0;
    call->x_depth = depth;
    for (int part = 0; part < call->gemm->x_parts; part++) {
        float *to = call->x + part * call->packed_tiles * TILE_ROWS * depth;
        V_WITH_DTYPE(call->gemm->x_dtype, pack_x_part(call, T, part, depth, to));
    }
}

/* Adds the bias to a tile, and stores what Y has of it. */
V_INLINE void store_y(const gemm_call *call, const y_tile *tile, mha_dtype dtype) {
    const mha_gemm *gemm = call->gemm;
    const int64_t outs = gemm->out - tile->out, rows = call->row0 + call->rows - tile->row;
    vf bias[2];
    for (int v = 0; v < 2; v++) {
        const int64_t left = gemm->bias != NULL ? outs - v * V_LANES : 0;
        bias[v] = left > 0 ? v_load_n(gemm->bias + tile->out + v * V_LANES, left) : v_zero();
    }
    for (int64_t r = 0; r < rows && r < TILE_ROWS_2; r++) {
        const float *c = tile->c + (r / TILE_ROWS * 2 * TILE_ROWS + r % TILE_ROWS) * TILE_FLOATS;
        char *y = (char *)gemm->y + ((tile->row + r) * gemm->y_stride + tile->out) * mha_dtype_bytes(dtype);
        const vf first = v_add(v_load(c), bias[0]), second = v_add(v_load(c + TILE), bias[1]);
        store_columns(y, first, second, outs, dtype);
    }
}

static void store_waiting(gemm_call *call) {
    if (call->waiting.c == NULL) return;
    V_WITH_DTYPE(call->gemm->y_dtype, store_y(call, &call->waiting, T));
    call->waiting.c = NULL;
}

typedef struct product {
    const char *x;                           /* the first tile's first row */
    int64_t x_row, x_step, x_second, x_part; /* bytes to the next row, step, tile of rows, part */
    const float *w;                          /* the panel's slice */
    int64_t w_part, depth, lanes;
    const float *from; /* the sums so far; NULL: zeros */
    float *to;
} product;

/* Tiles 0 to 3 are the sums, 4 and 5 of X, 6 and 7 of W: each is loaded once for two products. */
V_INLINE void multiply_tiles(gemm_call *call, const product *p, int row_tiles, int vectors) {
    const mha_gemm *gemm = call->gemm;
    const int most = mha_most_parts(gemm);
    const int64_t w_bytes = vectors * TILE_BYTES;
    tile_fence();
    if (p->from != NULL) {
        tile_load(0, p->from, TILE_BYTES);
        if (vectors > 1) tile_load(1, p->from + TILE, TILE_BYTES);
        if (row_tiles > 1) tile_load(2, p->from + 2 * TILE, TILE_BYTES);
        if (row_tiles > 1 && vectors > 1) tile_load(3, p->from + 3 * TILE, TILE_BYTES);
    } else {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    }
    for (int i = 0; i < gemm->x_parts; i++)
        for (int j = 0; j < gemm->w_parts && i + j < most; j++) {
            const char *x = p->x + i * p->x_part;
            const float *w = p->w + j * p->w_part;
            for (int64_t k = 0; k < p->depth; k += TILE_FLOATS, x += p->x_step, w += TILE_FLOATS * vectors * V_LANES) {
                fetch_lines(&call->fetch);
                tile_load_once(4, x, p->x_row);
                tile_load(6, w, w_bytes);
                tile_dot(0, 4, 6);
                if (vectors > 1) {
                    tile_load(7, w + V_LANES, w_bytes);
                    tile_dot(1, 4, 7);
                }
                if (row_tiles == 1) continue;
                tile_load_once(5, x + p->x_second, p->x_row);
                tile_dot(2, 5, 6);
                if (vectors > 1) tile_dot(3, 5, 7);
            }
        }
    tile_store(0, p->to, TILE_BYTES);
    if (vectors > 1) tile_store(1, p->to + TILE, TILE_BYTES);
    if (row_tiles > 1) tile_store(2, p->to + 2 * TILE, TILE_BYTES);
    if (row_tiles > 1 && vectors > 1) tile_store(3, p->to + 3 * TILE, TILE_BYTES);
    tile_fence();
}

static void read_in_place(const gemm_call *call, product *p, int64_t row, int64_t k) {
    const mha_gemm *gemm = call->gemm;
    p->x_row = gemm->x_stride * (int64_t)sizeof(uint16_t);
    p->x = (const char *)gemm->x + (call->row0 + row) * p->x_row + k * (int64_t)sizeof(float);
    p->x_step = TILE_BYTES;
    p->x_second = TILE_ROWS * p->x_row;
}

static void read_packed(const gemm_call *call, product *p, int64_t tile, int64_t k) {
    const int64_t tile_bytes = TILE * (int64_t)sizeof(float), steps = call->x_depth / TILE_FLOATS;
    p->x = (const char *)call->x + (tile * steps + (k - call->k0) / TILE_FLOATS) * tile_bytes;
    p->x_row = TILE_BYTES;
    p->x_step = tile_bytes;
    p->x_second = steps * tile_bytes;
    p->x_part = call->packed_tiles * steps * tile_bytes;
}

/* A step of a panel: `depth` units from k on, of all rows. */
static void multiply_slice(gemm_call *call, int64_t out, int64_t k, int64_t depth, float *sums) {
    const mha_gemm *gemm = call->gemm;
    const bool last = k + depth == call->units;
    product p = {.w = weights_at(gemm, call->units, out, k),
                 .w_part = weight_part(gemm->out, gemm->in),
                 .depth = depth,
                 .lanes = panel_lanes(out, gemm->out)};
    for (int64_t t = 0; t < call->row_tiles; t += 2, sums += Y_TILE) {
        if (t * TILE_ROWS < call->in_place) read_in_place(call, &p, t * TILE_ROWS, k);
        else read_packed(call, &p, t - call->in_place / TILE_ROWS, k);
        p.from = k > 0 ? sums : NULL;
        p.to = last ? call->y + call->turn * Y_TILE : sums;
        const bool two = t + 1 < call->row_tiles;
        if (p.lanes == V_LANES) multiply_tiles(call, &p, two ? 2 : 1, 1);
        else if (two) multiply_tiles(call, &p, 2, 2);
        else multiply_tiles(call, &p, 1, 2);
        store_waiting(call); /* the one before: its stores are done by now */
        if (!last) continue;
        call->waiting = (y_tile){p.to, call->row0 + t * TILE_ROWS, out};
        call->turn = !call->turn;
    }
}

/* The slice of a panel that begins at k is fetched during `times` steps of tiles. */
static void fetch_slice(gemm_call *call, int64_t out, int64_t k, int64_t end, int64_t times) {
    const mha_gemm *gemm = call->gemm;
    const int64_t depth = mha_min(call->depth, end - k);
    const int64_t lines = depth * panel_lanes(out, gemm->out) * (int64_t)sizeof(float) / LINE_BYTES;
    const int64_t place_lines = lines / FETCH_PLACES;
    /* 32 rows have no time to, unless they wait for DRAM. */
    const bool worth = gemm->level == MHA_DRAM || (gemm->level == MHA_SLOW_CACHE && call->row_tiles > 2);
    call->fetch = (slice_fetch){.line = (uintptr_t)weights_at(gemm, call->units, out, k),
                                .left = worth ? place_lines * FETCH_PLACES : 0,
                                .at_once = (lines + times - 1) / times,
                                .apart = place_lines * LINE_BYTES,
                                .parts = gemm->w_parts,
                                .part = weight_part(gemm->out, gemm->in) * (int64_t)sizeof(float)};
}

/* Steps are equal but for TILE_FLOATS. */
static int64_t step_depth(int64_t units, int64_t most) {
    const int64_t steps = (units - 1) / most + 1;
    return round_up((units + steps - 1) / steps, TILE_FLOATS);
}

/* Panels [out0, out1) of a group by units [k0, k1). */
typedef struct gemm_part {
    int64_t out0, out1, k0, k1;
} gemm_part;

/* While a step is multiplied the one that follows is fetched: of this panel, of the next, or of what `next` begins with;
 * NULL: of none. */
static void multiply_part(gemm_call *call, const gemm_part *part, const gemm_part *next) {
    const int64_t pairs = (call->row_tiles + 1) / 2;
    const int64_t panel_sums = call->x_depth < call->units ? pairs * Y_TILE : 0; /* all of them wait, or none */
    float *sums = call->sums;
    for (int64_t out = part->out0; out < part->out1; out += TILE_LANES, sums += panel_sums)
        for (int64_t k = part->k0; k < part->k1; k += call->depth) {
            const int64_t depth = mha_min(call->depth, part->k1 - k), times = pairs * (depth / TILE_FLOATS);
            const gemm_part *later = out + TILE_LANES < part->out1 ? part : next;
            call->fetch.left = 0;
            if (k + depth < part->k1) fetch_slice(call, out, k + depth, part->k1, times);
            else if (later != NULL)
                fetch_slice(call, later == part ? out + TILE_LANES : later->out0, later->k0, later->k1, times);
            multiply_slice(call, out, k, depth, sums);
        }
}

/* Rows of a call that are read where they lie. */
static int64_t rows_in_place(const mha_gemm *gemm, int64_t rows) {
    enum { SET_BYTES = 4096 };
    const bool whole = gemm->x_dtype == MHA_BF16 && gemm->in % (UNIT * TILE_FLOATS) == 0;
    if (!whole || (uint64_t)gemm->x_stride * sizeof(uint16_t) % SET_BYTES == 0) return 0;
    return rows / TILE_ROWS_2 * TILE_ROWS_2;
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    const int64_t units = step_units(gemm->in), tiles = (row1 - row0 + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t in_place = rows_in_place(gemm, row1 - row0), packed = tiles - in_place / TILE_ROWS;
    const int64_t room = packed > 0 ? GEMM_X_FLOATS / (packed * TILE_ROWS * gemm->x_parts) : INT32_MAX;
    const int64_t pairs = (tiles + 1) / 2;
    const int64_t most = mha_most_parts(gemm);
    const bool once = most == 1 && pairs == 1; /* nothing meets a slice of W again */
    const int64_t depth = step_depth(units, once ? units : GEMM_DEPTH / most / TILE_FLOATS * TILE_FLOATS);
    const int64_t x_depth = once ? step_depth(units, room / TILE_FLOATS * TILE_FLOATS)
                                 : mha_min(room / depth * depth, round_up(units, depth));
    gemm_call call = {.gemm = gemm,
                      .row0 = row0,
                      .rows = row1 - row0,
                      .row_tiles = tiles,
                      .in_place = in_place,
                      .packed_tiles = packed,
                      .units = units,
                      .depth = depth < x_depth ? depth : x_depth,
                      .x = scratch,
                      .sums = scratch + GEMM_X_FLOATS,
                      .y = scratch + GEMM_X_FLOATS + GEMM_SUM_FLOATS};
    const int64_t most_panels = x_depth < units ? GEMM_SUM_FLOATS / (pairs * Y_TILE) * TILE_LANES : out1 - out0;
    gemm_part part = {out0, mha_min(out1, out0 + most_panels), 0, mha_min(x_depth, units)};
    tiles_open();
    while (part.out0 < out1) {
        gemm_part next = part;
        next.k0 = part.k1 < units ? part.k1 : 0;
        next.k1 = mha_min(next.k0 + x_depth, units);
        if (next.k0 == 0) next.out0 = part.out1, next.out1 = mha_min(out1, part.out1 + most_panels);
        if (part.out0 == out0 || x_depth < units) pack_x(&call, part.k0, part.k1 - part.k0);
        multiply_part(&call, &part, next.out0 < out1 ? &next : NULL);
        part = next;
    }
    store_waiting(&call);
    tiles_close();
}

#endif

/* Projections by AMX: Y = X W^T + bias.  B is W as packed, a panel of 32 outputs, two tiles side by side.  A is X, packed
 * too, since rows lie in pages of their own and their lines share sets of the caches: [parts][rows / 16][depth / 16]
 * [16 rows][16 units].
 *
 *     for each group of panels whose sums there is room for
 *         for each depth of X that there is room for: pack it
 *             for each panel, for each step of at most GEMM_DEPTH: its slice of W stays in the first-level cache
 *                 for each 32 rows: 2 x 2 tiles of sums; meanwhile store rows of Y, fetch lines of the next slice
 *
 * Sums wait in scratch as they are, so that results do not depend on how the work is cut; only operands in parts take
 * them step by step. */
#ifndef MHA_AMX_GEMM_H
#define MHA_AMX_GEMM_H

#include "arith.h"

enum {
    GEMM_MAX_ROWS = 512,       /* that meet a slice of W */
    GEMM_MAX_PANELS = 1 << 20, /* any number, since each task packs X */
    GEMM_PANEL_ROWS = 10,
    GEMM_WHOLE_X_FLOATS = 1 << 18, /* up to here all of X is packed at once, */
    GEMM_X_FLOATS = 1 << 17,       /* otherwise so much, beside sums of many panels */
    GEMM_ROOM_FLOATS = 3 << 17,    /* for both */
    TILE_ROWS_2 = 2 * TILE_ROWS,
    Y_TILE = 4 * TILE, /* 32 x 32: rows 0 to 15 by both vectors of lanes, then the others */
    GEMM_SCRATCH_FLOATS = GEMM_ROOM_FLOATS + 2 * Y_TILE,
    STORED_ROWS = 4, /* of Y, beside a step of four products */
};

_Static_assert(GEMM_X_FLOATS >= GEMM_MAX_ROWS * GEMM_DEPTH, "all parts of X have room for a step");
_Static_assert(GEMM_ROOM_FLOATS - GEMM_WHOLE_X_FLOATS >= GEMM_MAX_ROWS / TILE_ROWS_2 * Y_TILE, "a panel's sums fit");

/* Lines of W still to be fetched: of each part alike. */
typedef struct slice_fetch {
    uintptr_t line;
    int64_t left, at_once; /* lines; beside a step of four products */
    int parts;
    uint64_t part; /* bytes from a part to the next */
} slice_fetch;

V_INLINE void fetch_lines(slice_fetch *f) {
    const int64_t n = mha_min(f->at_once, f->left);
    for (int64_t i = 0; i < n; i++, f->line += LINE_BYTES)
        for (int part = 0; part < f->parts; part++)
            __builtin_prefetch((const void *)(f->line + (uint64_t)part * f->part), 0, 2);
    f->left -= n;
}

/* A tile of Y whose sums are known. */
typedef struct y_tile {
    float *c;
    int64_t row, out;
    int64_t rows, stored; /* that Y has of it; that it has already */
} y_tile;

typedef struct gemm_call {
    const mha_gemm *gemm;
    int64_t row0, rows, row_tiles; /* of 16 */
    int64_t units, x_depth, depth; /* of the inputs; that are packed at a time; of a step */
    int64_t k0, packed;            /* the first unit that is packed, and how many are */
    float *x, *sums, *y;           /* y: two tiles in turn */
    y_tile waiting;
    int turn;
    slice_fetch fetch;
} gemm_call;

V_INLINE const float *weights_at(const mha_gemm *gemm, int64_t units, int64_t out, int64_t k) {
    return (const float *)gemm->packed + out * units + k * panel_lanes(out, gemm->out);
}

/* Rows of X that are there; the others of a tile become zeros. */
V_INLINE void pack_x_part(const gemm_call *call, mha_dtype dtype, int part, float *to) {
    const mha_gemm *gemm = call->gemm;
    for (int64_t row = 0; row < call->row_tiles * TILE_ROWS; row++) {
        const int64_t elements = row < call->rows ? gemm->in - call->k0 * UNIT : 0;
        const int64_t first = row < call->rows ? (call->row0 + row) * gemm->x_stride + call->k0 * UNIT : 0;
        float *tiles = row_at(to, row, call->packed / TILE_FLOATS, 0);
        for (int64_t u = 0; u < call->packed; u += TILE_FLOATS, tiles += TILE) {
            const int64_t at = u * UNIT, left = elements - at;
            v_store(tiles,
                    left > 0 ? load_tile_row(mha_element(gemm->x, first + at, dtype), left, dtype, part, 1) : v_zero());
        }
    }
}

static void pack_x(gemm_call *call, int64_t k0, int64_t depth) {
    call->k0 = k0;
    call->packed = depth;
    for (int part = 0; part < call->gemm->x_parts; part++) {
        float *to = call->x + part * call->row_tiles * TILE_ROWS * depth;
        V_WITH_DTYPE(call->gemm->x_dtype, pack_x_part(call, T, part, to));
    }
}

V_INLINE void load_bias(const mha_gemm *gemm, int64_t out, vf bias[2]) {
    for (int v = 0; v < 2; v++) {
        const int64_t left = gemm->bias != NULL ? gemm->out - out - v * V_LANES : 0;
        bias[v] = left > 0 ? v_load_n(gemm->bias + out + v * V_LANES, left) : v_zero();
    }
}

/* So many more rows of the tile that waits, plus the bias. */
V_INLINE void store_rows(gemm_call *call, int64_t n, const vf bias[2], mha_dtype dtype) {
    const mha_gemm *gemm = call->gemm;
    y_tile *tile = &call->waiting;
    const int64_t end = mha_min(tile->stored + n, tile->rows);
    for (; tile->stored < end; tile->stored++) {
        const float *c = row_at(tile->c, tile->stored, 2, 0);
        char *y = (char *)gemm->y + ((tile->row + tile->stored) * gemm->y_stride + tile->out) * mha_dtype_bytes(dtype);
        const vf first = v_add(v_load(c), bias[0]), second = v_add(v_load(c + TILE), bias[1]);
        store_columns(y, first, second, gemm->out - tile->out, dtype);
    }
}

static void store_waiting(gemm_call *call) {
    vf bias[2];
    load_bias(call->gemm, call->waiting.out, bias);
    V_WITH_DTYPE(call->gemm->y_dtype, store_rows(call, TILE_ROWS_2, bias, T));
}

typedef struct product {
    const float *x, *w; /* the first step's: two tiles of rows, x_second apart; a panel's slice */
    int64_t x_second, x_part, w_part;
    int64_t depth, lanes;
    const float *from; /* the sums so far; NULL: zeros */
    float *to;
} product;

/* Tiles 0 to 3 are the sums, 4 and 5 of X, 6 and 7 of W: each is loaded once for two products. */
V_INLINE void multiply_step(const float *x, int64_t x_second, const float *w, int row_tiles, int vectors) {
    const int64_t w_bytes = vectors * TILE_BYTES;
    tile_load_once(4, x, TILE_BYTES);
    tile_load(6, w, w_bytes);
    tile_dot(0, 4, 6);
    if (vectors > 1) {
        tile_load(7, w + V_LANES, w_bytes);
        tile_dot(1, 4, 7);
    }
    if (row_tiles == 1) return;
    tile_load_once(5, x + x_second, TILE_BYTES);
    tile_dot(2, 5, 6);
    if (vectors > 1) tile_dot(3, 5, 7);
}

V_INLINE void load_sums(const float *c, int row_tiles, int vectors) {
    if (c == NULL) {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
        return;
    }
    tile_load(0, c, TILE_BYTES);
    if (vectors > 1) tile_load(1, c + TILE, TILE_BYTES);
    if (row_tiles > 1) tile_load(2, c + 2 * TILE, TILE_BYTES);
    if (row_tiles > 1 && vectors > 1) tile_load(3, c + 3 * TILE, TILE_BYTES);
}

V_INLINE void store_sums(float *c, int row_tiles, int vectors) {
    tile_store(0, c, TILE_BYTES);
    if (vectors > 1) tile_store(1, c + TILE, TILE_BYTES);
    if (row_tiles > 1) tile_store(2, c + 2 * TILE, TILE_BYTES);
    if (row_tiles > 1 && vectors > 1) tile_store(3, c + 3 * TILE, TILE_BYTES);
}

/* Meanwhile stores rows of the tile that waits, in so many steps that vector units do not hold up the products. */
V_INLINE void multiply_tiles(gemm_call *call, const product *p, int row_tiles, int vectors, mha_dtype y_dtype) {
    const mha_gemm *gemm = call->gemm;
    const int most = mha_most_parts(gemm);
    vf bias[2];
    load_bias(gemm, call->waiting.out, bias);
    tile_fence();
    slice_fetch fetch = call->fetch; /* in registers */
    load_sums(p->from, row_tiles, vectors);
    for (int i = 0; i < gemm->x_parts; i++)
        for (int j = 0; j < gemm->w_parts && i + j < most; j++) {
            const float *x = p->x + i * p->x_part, *w = p->w + j * p->w_part;
            for (int64_t k = 0; k < p->depth; k += TILE_FLOATS, x += TILE, w += TILE_FLOATS * vectors * V_LANES) {
                fetch_lines(&fetch);
                multiply_step(x, p->x_second, w, row_tiles, vectors);
                if (call->waiting.stored == call->waiting.rows) continue;
                tile_fence();
                store_rows(call, STORED_ROWS, bias, y_dtype);
                tile_fence();
            }
        }
    call->fetch = fetch;
    store_sums(p->to, row_tiles, vectors);
    tile_fence();
}

static void multiply_product(gemm_call *call, const product *p, bool two) {
    const mha_dtype dtype = call->gemm->y_dtype;
    const bool wide = p->lanes > V_LANES;
    if (two && wide && dtype == MHA_BF16) multiply_tiles(call, p, 2, 2, MHA_BF16);
    else if (two && wide) multiply_tiles(call, p, 2, 2, dtype);
    else if (two) multiply_tiles(call, p, 2, 1, dtype);
    else if (wide) multiply_tiles(call, p, 1, 2, dtype);
    else multiply_tiles(call, p, 1, 1, dtype);
}

/* A step of a panel: `depth` units from k on, of all rows. */
static void multiply_slice(gemm_call *call, int64_t out, int64_t k, int64_t depth, float *sums) {
    const mha_gemm *gemm = call->gemm;
    const bool last = k + depth == call->units;
    const int64_t tile_floats = TILE_ROWS * call->packed; /* of 16 rows of X */
    product p = {.x = call->x + (k - call->k0) / TILE_FLOATS * TILE,
                 .w = weights_at(gemm, call->units, out, k),
                 .x_second = tile_floats,
                 .x_part = call->row_tiles * tile_floats,
                 .w_part = weight_part(gemm->out, gemm->in),
                 .depth = depth,
                 .lanes = panel_lanes(out, gemm->out)};
    for (int64_t t = 0; t < call->row_tiles; t += 2, sums += Y_TILE, p.x += 2 * tile_floats) {
        p.from = k > 0 ? sums : NULL;
        p.to = last ? call->y + call->turn * Y_TILE : sums;
        multiply_product(call, &p, t + 1 < call->row_tiles);
        store_waiting(call);
        if (!last) continue;
        const int64_t row = t * TILE_ROWS;
        call->waiting = (y_tile){p.to, call->row0 + row, out, mha_min(TILE_ROWS_2, call->rows - row), 0};
        call->turn = !call->turn;
    }
}

/* The slice of a panel that begins at k is fetched during `times` steps of tiles. */
static void fetch_slice(gemm_call *call, int64_t out, int64_t k, int64_t end, int64_t times) {
    const mha_gemm *gemm = call->gemm;
    const int64_t depth = mha_min(call->depth, end - k);
    const int64_t lines = depth * panel_lanes(out, gemm->out) * (int64_t)sizeof(float) / LINE_BYTES;
    /* 32 rows have no time to, unless they wait for DRAM. */
    const bool worth = gemm->level == MHA_DRAM || (gemm->level == MHA_SLOW_CACHE && call->row_tiles > 2);
    call->fetch = (slice_fetch){.line = (uintptr_t)weights_at(gemm, call->units, out, k),
                                .left = worth ? lines : 0,
                                .at_once = (lines + times - 1) / times,
                                .parts = gemm->w_parts,
                                .part = (uint64_t)weight_part(gemm->out, gemm->in) * sizeof(float)};
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

/* Steps are equal but for TILE_FLOATS. */
static int64_t step_depth(int64_t units, int64_t most) {
    const int64_t steps = (units - 1) / most + 1;
    return round_up((units + steps - 1) / steps, TILE_FLOATS);
}

static gemm_call call_of(const mha_gemm *gemm, int64_t row0, int64_t row1, float *scratch) {
    const int64_t units = step_units(gemm->in), tiles = (row1 - row0 + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t unit_floats = tiles * TILE_ROWS * gemm->x_parts, most = mha_most_parts(gemm);
    const bool once = most == 1 && tiles <= 2; /* nothing meets a slice of W again */
    const int64_t depth = step_depth(units, once ? units : GEMM_DEPTH / most / TILE_FLOATS * TILE_FLOATS);
    const int64_t room = GEMM_X_FLOATS / unit_floats / TILE_FLOATS * TILE_FLOATS;
    const int64_t some = once ? step_depth(units, room) : room / depth * depth;
    const int64_t x_depth = units * unit_floats <= GEMM_WHOLE_X_FLOATS ? units : some;
    return (gemm_call){.gemm = gemm,
                       .row0 = row0,
                       .rows = row1 - row0,
                       .row_tiles = tiles,
                       .units = units,
                       .x_depth = x_depth,
                       .depth = mha_min(depth, x_depth),
                       .x = scratch,
                       .sums = scratch + x_depth * unit_floats,
                       .y = scratch + GEMM_ROOM_FLOATS};
}

/* The panels of a group: those whose sums have room, if they wait; otherwise they share the room of one. */
static int64_t group_lanes(const gemm_call *call, int64_t lanes) {
    const int64_t panel_sums = (call->row_tiles + 1) / 2 * Y_TILE;
    return call->x_depth < call->units ? (call->y - call->sums) / panel_sums * TILE_LANES : lanes;
}

static gemm_part part_after(const gemm_call *call, const gemm_part *part, int64_t out1) {
    if (part->k1 < call->units)
        return (gemm_part){part->out0, part->out1, part->k1, mha_min(part->k1 + call->x_depth, call->units)};
    const int64_t lanes = group_lanes(call, out1 - part->out1);
    return (gemm_part){part->out1, mha_min(out1, part->out1 + lanes), 0, mha_min(call->x_depth, call->units)};
}

static void K(gemm)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    gemm_call call = call_of(gemm, row0, row1, scratch);
    gemm_part part = part_after(&call, &(gemm_part){.out1 = out0, .k1 = call.units}, out1);
    tiles_open();
    while (part.out0 < out1) {
        const gemm_part next = part_after(&call, &part, out1);
        pack_x(&call, part.k0, part.k1 - part.k0);
        multiply_part(&call, &part, next.out0 < out1 ? &next : NULL);
        part = next;
    }
    store_waiting(&call);
    tiles_close();
}

#endif

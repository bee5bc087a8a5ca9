/* What kernels fetch ahead, seen by kernels whose prefetches are recorded: what is needed next, hardly anything
 * else, and no more often than it must be.  Operands are made up in an arena whose lines count how often they are
 * fetched. */
#include "isas.h"
#include "kernels.h"
#include "record_fetch.h"
#include "test.h"

#include <stdio.h>
#include <string.h>

enum { LINE = 16, GAP = 1 << 12, ARENA = 3 << 20 }; /* floats */
static _Alignas(MHA_ALIGN) float arena[ARENA];
static int fetches[ARENA / LINE]; /* of each line; the last one stands for all that lies elsewhere */
static int64_t taken;

void mha_record_fetch(const void *address) {
    const uintptr_t byte = (uintptr_t)address - (uintptr_t)arena;
    fetches[byte < sizeof arena ? byte / sizeof *arena / LINE : COUNT(fetches) - 1]++;
}

/* Whole lines, with a gap before them. */
static float *take(int64_t floats) {
    float *start = arena + taken + GAP;
    taken += GAP + (floats + LINE - 1) / LINE * LINE;
    if (taken + GAP > ARENA) fail_msg("the arena has no room for %d floats", (int)floats);
    return start;
}

/* Rows whose lines may be fetched: such a share of them, none more often than so many times. */
typedef struct area {
    const char *what;
    const float *start;
    int64_t rows, floats, stride;
    double least, most;
    int times;
} area;

typedef struct areas {
    char who[128];
    size_t n;
    area area[64];
} areas;

static void allow(areas *all, area a) {
    if (a.floats > 0) all->area[all->n++] = a;
    assert_true(all->n < COUNT(all->area));
}

static void check(const areas *all) {
    static bool allowed[COUNT(fetches)];
    memset(allowed, 0, sizeof allowed);
    for (const area *a = all->area; a < all->area + all->n; a++) {
        int lines = 0, fetched = 0, times = 0;
        for (int64_t row = 0; row < a->rows; row++) {
            const int64_t first = a->start + row * a->stride - arena;
            for (int64_t line = first / LINE; line <= (first + a->floats - 1) / LINE; line++) {
                lines++, fetched += fetches[line] > 0;
                times = fetches[line] > times ? fetches[line] : times;
                allowed[line] = true;
            }
        }
        if (fetched < a->least * lines || fetched > a->most * lines || times > a->times)
            fail_msg("%s: %s: %d of %d lines are fetched, one %d times; wanted %.0f to %.0f%%, at most %d times",
                     all->who, a->what, fetched, lines, times, 100 * a->least, 100 * a->most, a->times);
    }
    for (size_t line = 0; line < COUNT(fetches); line++) {
        if (fetches[line] == 0 || allowed[line]) continue;
        const area *a = all->area + all->n - 1; /* the area before, if any */
        while (a > all->area && a->start > arena + line * LINE) a--;
        fail_msg("%s: fetched %d floats behind the start of %s, wanted nothing there", all->who,
                 (int)(arena + line * LINE - (all->n > 0 ? a->start : arena)), all->n > 0 ? a->what : "the arena");
    }
}

#define MHA_KERNEL_ROW(isa, features)     extern const mha_kernels mha_recording_f32_##isa;
#define MHA_BF16_ROW(isa, features, pays) extern const mha_bf16_kernels mha_recording_bf16_##isa;
#include "kernels.inc"

static const mha_kernels *recording_of(const char *isa) {
    static const mha_kernels *const rows[] = {
#define MHA_KERNEL_ROW(isa, features) &mha_recording_f32_##isa,
#include "kernels.inc"
    };
    return kernels_among(rows, COUNT(rows), isa);
}

static const mha_gemm_kernels *recording_gemm_of(const char *isa) {
#define MHA_BF16_ROW(name, features, pays)                                                                             \
    if (strcmp(isa, #name) == 0) return &mha_recording_bf16_##name.gemm;
#include "kernels.inc"
    return &recording_of(isa)->gemm;
}

static bool is_scalar(const char *isa) { return strcmp(isa, "scalar") == 0; } /* fetches nothing */

static bool is_amx(const char *isa) { return strcmp(isa, "amx") == 0; }

/* ---- GEMM: rows [8, 8 + rows) by panels [2, 2 + panels) and `more` outputs, a narrow panel.  Where bf16 is multiplied
 * X is bf16, and `in` counts pairs of it: as wide as f32, which both dtypes then are ---- */

enum { FEW_ROWS = 4, OFTEN = 1000 };

/* Elements of an operand that lie in a float of the arena. */
static int64_t in_a_float(mha_dtype dtype) { return dtype == MHA_F32 ? 1 : 2; }

typedef struct gemm_case {
    int64_t rows, panels, more, in;
    mha_level level;
    mha_dtype x, w;
    int vectors; /* of a panel */
    int32_t max_rows, max_panels;
} gemm_case;

/* lanes: floats that a term of a panel takes.  All whole panels but for the first step.  Places lose what a whole
 * number of terms leaves, and a step of fewer terms than the next fetches its own number only: 92% remain (NEON, a
 * single panel, 112 of 121 and 128 of 136 terms). */
static void allow_few(areas *all, const gemm_case *c, const float *w, int64_t lanes, int64_t first) {
    const int times = lanes % LINE == 0  ? 1
                      : lanes > LINE / 2 ? 2
                                         : 3; /* by terms that share a line; 6 lanes or more */
    for (int64_t p = 0; p < c->panels; p++, w += lanes * c->in) {
        const int64_t begin = p < c->max_panels ? first : 0;
        if (begin > 64) /* the first step's own terms are not fetched: 64 or more */
            allow(all, (area){"later inputs", w + 64 * lanes, 1, (begin - 64) * lanes, 0, 0, c->in > 256, times});
        allow(all, (area){"weights", w + begin * lanes, 1, (c->in - begin) * lanes, 0, .92, 1, times});
    }
}

/* All weights: the last panel of a call fetches what other rows begin with.  Many tiles fetch the same lines, since
 * each takes one a round of 8 terms, even if its share has fewer (half precision: half as many).  At most rows / 4
 * tiles have shares that exceed the slice by less than a line each, and the last of them has at most 32 rounds.  X is
 * fetched by halves of lines, or quarters of half precision, again for each group of panels; by a step that is longer
 * than the next one a line too far, by one that is shorter a line too few: 8 of 9 (in = 257), of half precision 4 of
 * 5. */
static void allow_many(areas *all, const gemm_case *c, const float *x, int64_t stride, const float *w, int64_t lanes,
                       int64_t first) {
    const int64_t group = c->max_rows / c->rows * c->max_panels, groups = (c->panels + group) / group;
    const int64_t vector = lanes * in_a_float(c->w) / c->vectors, per = in_a_float(c->x), in = (c->in + per - 1) / per;
    const int64_t narrow = (c->more + vector - 1) / vector * vector * c->in / in_a_float(c->w);
    const int twice = 2 * (int)(per * groups), times = c->rows < 32 ? 3 * (int)in_a_float(c->w) : OFTEN;
    x += 8 * stride;
    first /= per;
    if (c->level != MHA_FAST_CACHE) {
        for (int64_t p = 0; p < c->panels; p++, w += lanes * c->in)
            allow(all, (area){"weights", w, 1, lanes * c->in, 0, .98, 1, times});
        allow(all, (area){"the narrow panel", w, 1, narrow, 0, .98, 1, times});
        allow(all, (area){"behind the weights", w + narrow, 1, (c->rows / 4 + 32) * LINE, 0, 0, 1, OFTEN});
    }
    allow(all, (area){"X of the first step", x, c->rows, first, stride, groups > 1 ? .9 : 0, 1, twice});
    allow(all, (area){"X", x + first, c->rows, in - first, stride, per == 1 ? .88 : .8, 1, twice});
    allow(all, (area){"behind rows of X", x + in, c->rows, LINE, stride, 0, 1, twice});
}

/* All weights but the first step's, once; a single pair of tiles of rows has time to only if it waits for DRAM, and then
 * takes all inputs in one step. */
static void allow_tiles(areas *all, const gemm_case *c, const float *w) {
    enum { LANES = 32, DEPTH = 256, PAIR = 32 };
    const int64_t steps = c->rows <= PAIR ? 1 : (c->in + DEPTH - 1) / DEPTH, even = (c->in + steps - 1) / steps;
    if (c->level == MHA_FAST_CACHE || (c->level == MHA_SLOW_CACHE && c->rows <= PAIR)) return;
    for (int64_t p = 0; p < c->panels + (c->more > 0); p++, w += LANES * c->in) {
        const int64_t lanes = p == c->panels ? LANES / 2 : LANES, first = p == 0 ? (even + 15) / 16 * 16 : 0;
        allow(all, (area){"weights of the first step", w, 1, first * lanes, 0, 0, 0, 1});
        allow(all, (area){"weights", w + first * lanes, 1, (c->in - first) * lanes, 1, 1, 1, 1});
    }
}

static void check_gemm(const char *isa, const gemm_case *c) {
    const mha_gemm_kernels *kernels = recording_gemm_of(isa);
    const int64_t lanes = kernels->panel, out0 = 2 * lanes, out = out0 + c->panels * lanes + c->more;
    const int64_t per = in_a_float(c->w), unit = isa_has_bf16(isa) ? 2 : 1;
    const bool few = c->rows <= FEW_ROWS;
    /* Steps are even: the first has all inputs if these are few, otherwise half of them at most. */
    const int64_t first = c->in <= 256 ? c->in : c->in / 2 + 8;
    const int64_t x_stride = c->in / LINE * LINE + 4 * LINE;
    areas all = {.n = 0};
    snprintf(all.who, sizeof all.who, "isa %s: gemm rows %d panels %d outputs %d more in %d level %d dtypes %d %d", isa,
             (int)c->rows, (int)c->panels, (int)c->more, (int)c->in, c->level, c->x, c->w);
    taken = 0;
    const float *w = take((int64_t)(kernels->packed_bytes(out, unit * c->in, c->w, 1) / sizeof(float))),
                *x = take((8 + c->rows) * x_stride);
    const mha_gemm gemm = {.x = x,
                           .x_dtype = unit > 1 ? MHA_BF16 : c->x,
                           .x_parts = 1,
                           .w_parts = 1,
                           .x_stride = unit * in_a_float(c->x) * x_stride,
                           .packed = w,
                           .w_dtype = c->w,
                           .y = take((8 + c->rows) * out),
                           .y_dtype = MHA_F32,
                           .y_stride = out,
                           .in = unit * c->in,
                           .out = out,
                           .level = c->level};
    memset(fetches, 0, sizeof fetches);
    kernels->multiply(&gemm, 8, 8 + c->rows, out0, out, take((int64_t)kernels->scratch_floats));
    w += out0 * c->in / per;
    if (is_amx(isa)) allow_tiles(&all, c, w);
    else if (!few && !is_scalar(isa)) allow_many(&all, c, x, x_stride, w, lanes / per, first);
    else if (c->level != MHA_FAST_CACHE && !is_scalar(isa)) allow_few(&all, c, w, lanes / per, first);
    check(&all);
}

static void gemm(const char *isa) {
    static const int16_t ins[] = {128, 257, 320, 384, 768}, rows[] = {1, 2, 3, 4, 24, 100, 256};
    static const int8_t panels[][2] = {{5, 0}, {19, 5}, {9, 4}};
    const mha_gemm_kernels *kernels = recording_gemm_of(isa);
    const int64_t lanes = kernels->panel, step = (int64_t)kernels->packed_bytes(lanes, 1, MHA_F32, 1) / 4 / lanes;
    const mha_dtype last = isa_has_bf16(isa) ? MHA_F32 : MHA_F16;
    for (size_t i = 0; i < COUNT(ins) * COUNT(rows) * COUNT(panels); i++) {
        const int8_t *n = panels[i % COUNT(panels)];
        gemm_case c = {.rows = rows[i / COUNT(panels) / COUNT(ins)], .in = ins[i / COUNT(panels) % COUNT(ins)]};
        if (c.rows * c.in > 256 * 128) continue; /* an emulator would need long */
        c.panels = n[0], c.more = n[1], c.vectors = 3, c.max_rows = kernels->max_rows,
        c.max_panels = kernels->max_panels;
        c.in = (c.in + step - 1) / step * step;
        for (; c.level <= MHA_DRAM; c.level++)
            for (c.x = MHA_F32; c.x <= last; c.x++)
                for (c.w = MHA_F32; c.w <= last; c.w++) check_gemm(isa, &c);
    }
}

/* ---- decode: up to 3 tiles that see the first keys of a block and, if there are several, one that sees none ---- */

enum { MAX_TILES = 3, ROWS_AHEAD = 8 };

typedef struct decode_case {
    int32_t head_dim, v_head_dim; /* even */
    int32_t rows[MAX_TILES];      /* of each tile */
} decode_case;

static const decode_case decode_cases[] = {
    {64, 128, {1}},    {40, 40, {2}},       {200, 72, {4}},        {80, 200, {3}},       {128, 64, {4, 4}},
    {40, 128, {1, 3}}, {72, 80, {4, 4, 4}}, {128, 200, {3, 1, 2}}, {200, 40, {4, 3, 4}},
};

/* Rows of K or V as they lie in the arena. */
typedef struct row_area {
    const float *first;
    int64_t floats, stride;
} row_area;

static row_area rows_of(const void *first, mha_dtype dtype, int32_t dim, int64_t stride) {
    return (row_area){first, dim / in_a_float(dtype), stride / in_a_float(dtype)};
}

/* Out of a slow cache a lone tile fetches some rows ahead; single vectors of V may share a line. */
static void allow_rows_ahead(areas *all, const decode_case *c, const mha_kv_block *block, int32_t seen) {
    const row_area k = rows_of(block->k, block->k_dtype, c->head_dim, block->k_stride);
    const row_area v = rows_of(block->v, block->v_dtype, c->v_head_dim, block->v_stride);
    const float *keys = k.first + ROWS_AHEAD * k.stride, *values = v.first + ROWS_AHEAD * v.stride;
    allow(all, (area){"keys ahead", keys, seen, k.floats, k.stride, 1, 1, 1});
    allow(all, (area){"values ahead", values, seen, v.floats, v.stride, 1, 1, 2 * (int)in_a_float(block->v_dtype)});
}

/* Once as many lines of the next block as the tiles see of this one.  But three tiles may reach a place from which
 * fours do not lead to the last one, after V's single vectors (AVX-512): three lines a tile are then fetched up to
 * three places behind the block, instead of three in it. */
static void allow_next_block(areas *all, const decode_case *c, const mha_kv_block *block, int32_t seen) {
    const double share = (double)seen / block->keys, slack = c->rows[2] > 0 ? .01 : 0;
    const row_area k = rows_of(block->next_k, block->k_dtype, c->head_dim, block->k_stride);
    const row_area v = rows_of(block->next_v, block->v_dtype, c->v_head_dim, block->v_stride);
    const float *behind = v.first + block->keys * v.stride;
    allow(all, (area){"next keys", k.first, block->keys, k.floats, k.stride, share, share + slack, 1});
    allow(all, (area){"next values", v.first, block->keys, v.floats, v.stride, share - slack, share + slack, 1});
    if (slack > 0) allow(all, (area){"behind them", behind, block->keys * 3 / 16, v.floats, v.stride, 0, 1, 1});
}

/* Three blocks of rows `gap` floats apart: this one, one that nothing reads, the next one. */
static const void *take_rows(int64_t keys, int64_t gap, const void **next) {
    const float *first = take(3 * keys * gap);
    *next = first + 2 * keys * gap;
    return first;
}

/* seen, next_keys: in halves of a block, less so many. */
static void check_decode(const char *isa, const decode_case *c, mha_dtype dtype, int32_t halves_seen,
                         int32_t next_halves, int32_t less, mha_level level) {
    static const float zeros[256];
    static const void *const rows[] = {zeros, zeros, zeros, zeros};
    const mha_kernels *kernels = recording_of(isa);
    const mha_path *path = &kernels->decode[mha_is_half(dtype)];
    const mha_softmax softmax = {
        .q_factor = 1, .scale = 1, .bias_scale = 1, .exp_hi = 1.4427f, .exp_lo = 0, .exp_floor = -87};
    const int64_t keys = path->block_keys, per = in_a_float(dtype);
    const int32_t seen = halves_seen * path->block_keys / 2, next_keys = next_halves * path->block_keys / 2 - less;
    areas all = {.n = 0};
    snprintf(all.who, sizeof all.who, "isa %s: decode dims %d, %d rows %d, %d, %d seen %d next keys %d level %d %d",
             isa, c->head_dim, c->v_head_dim, c->rows[0], c->rows[1], c->rows[2], seen, next_keys, level, dtype);
    taken = 0;
    mha_kv_block block = {.keys = (int32_t)keys,
                          .block_keys = (int32_t)keys,
                          .next_keys = next_keys,
                          .head_dim = c->head_dim,
                          .v_head_dim = c->v_head_dim,
                          .k_dtype = dtype,
                          .v_dtype = dtype,
                          .k_stride = 2 * per * c->head_dim,
                          .v_stride = 4 * per * c->v_head_dim,
                          .level = level};
    block.k = take_rows(keys, 2 * c->head_dim, &block.next_k);
    block.v = take_rows(keys, 4 * c->v_head_dim, &block.next_v);
    mha_tile tiles[MAX_TILES + 1];
    size_t n = 0;
    for (; n < MAX_TILES && c->rows[n] > 0; n++) {
        mha_tile *tile = &tiles[n];
        *tile = (mha_tile){.rows = c->rows[n], .lanes = path->lanes(c->rows[n]), .end = seen};
        tile->q = take((int64_t)path->q_floats(tile->lanes, c->head_dim));
        tile->o = take((int64_t)path->o_floats(tile->lanes, c->v_head_dim));
        tile->max = take(MHA_MAX_LANES), tile->sum = take(MHA_MAX_LANES);
        path->load(tile, rows, dtype, c->head_dim, c->v_head_dim, 1);
    }
    if (n > 1) tiles[n] = tiles[0], tiles[n++].end = 0;
    memset(fetches, 0, sizeof fetches);
    path->block[1](&softmax, &block, tiles, n, take((int64_t)path->score_floats(MHA_MAX_LANES)));
    const bool quiet = is_scalar(isa) || level == MHA_FAST_CACHE, ahead = level == MHA_SLOW_CACHE && n == 1;
    if (!quiet && ahead) allow_rows_ahead(&all, c, &block, seen);
    if (!quiet && !ahead && next_keys >= keys / 2) allow_next_block(&all, c, &block, seen);
    check(&all);
}

static void decode(const char *isa) {
    static const int32_t next_keys[][2] = {{2, 0}, {1, 0}, {1, 1}, {0, 0}};
    for (size_t i = 0; i < COUNT(decode_cases) * COUNT(next_keys) * 2; i++)
        for (int level = MHA_FAST_CACHE; level <= MHA_DRAM; level++)
            for (mha_dtype dtype = MHA_F32; dtype <= MHA_BF16; dtype++) {
                const int32_t *next = next_keys[i / 2 % COUNT(next_keys)];
                check_decode(isa, &decode_cases[i / 2 / COUNT(next_keys)], dtype, i % 2 == 0 ? 2 : 1, next[0], next[1],
                             (mha_level)level);
            }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(gemm), F32_TEST(decode)};
    return isa_tests_run(tests, COUNT(tests));
}

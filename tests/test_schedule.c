/* Do the plans keep up to 256 workers busy?  The driver itself runs each plan's tasks, with kernels that count what
 * they are asked for and compute nothing, so that every instruction set of the build is tested on any CPU. 
 * What a plan answers for is how long its longest task is, beside the smallest pieces it could have cut. */
#include "kernels.h"
#include "plan.h"
#include "projection.h"
#include "isas.h"
#include "schedule.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PIECE_ROWS = 56,            /* of a product: even blocks of at least 48, in panels of 8 */
    MOST_WORKER_BYTES = 1 << 20 /* documented */
};
static const double WORTHWHILE = 0.04; /* of the work; plan.c lets packing cost 3% */

/* What the kernels were asked for; they have no closure.  A lane by a key of a tile costs four, a key whose K or V is
 * packed one for each of pack_lanes: for both half a tile, as plan.c has it. */
static struct {
    int64_t cost, pack_lanes; /* of the running task */
    int64_t pairs;            /* of a row and a key it sees, in all tasks */
    int64_t panel, max_rows;  /* of a product's outputs; of its calls */
} count;

/* ---- kernels that count ---- */

static void count_load(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim, int32_t v_head_dim,
                       float q_factor) {
    (void)tile, (void)rows, (void)dtype, (void)head_dim, (void)v_head_dim, (void)q_factor;
}

static void count_pack(const mha_kv_block *block, float *packed) {
    (void)packed;
    count.cost += count.pack_lanes * block->keys;
}

static void count_block(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s) {
    (void)softmax, (void)block, (void)s;
    for (const mha_tile *tile = tiles; tile < tiles + n; tile++) {
        const int64_t keys = tile->end - tile->begin;
        count.cost += 4 * tile->lanes * keys;
        count.pairs += tile->rows * keys;
        for (int32_t k = tile->begin; k < tile->end && tile->excluded != NULL; k++)
            count.pairs -= __builtin_popcountll(tile->excluded[k] & UINT64_MAX >> (64 - tile->rows));
    }
}

static void count_finish(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim,
                         bool normalise) {
    (void)tile, (void)rows, (void)dtype, (void)v_head_dim, (void)normalise;
}

static void count_gemm(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    (void)scratch;
    if (row0 < 0 || row0 >= row1 || row1 - row0 > count.max_rows || row0 % 8 != 0)
        fail_msg("rows [%d, %d) of a product: not what kernel.h allows", (int)row0, (int)row1);
    if (out0 < 0 || out0 >= out1 || out0 % count.panel != 0 || (out1 % count.panel != 0 && out1 != gemm->out))
        fail_msg("outputs [%d, %d) of a product: not what kernel.h allows", (int)out0, (int)out1);
    count.cost += (row1 - row0) * (out1 - out0) * gemm->in;
}

/* The running task has ended. */
static void end_task(tasks *t) {
    tasks_add(t, count.cost);
    count.cost = 0;
}

static void clear_tasks(tasks *t) {
    tasks_clear(t);
    count.cost = count.pairs = 0;
}

/* ---- attention ---- */

typedef struct shape {
    const char *what;
    int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim;
    bool causal;
    int64_t q_offset, window_left;
    int64_t piece_keys; /* so many of few queries' are enough for a task */
    const int64_t *kv_lens;
} shape;

enum { ALL = INT32_MAX };
static const int64_t padded[] = {512, 400, 300, 37, 512, 100, 256, 511};
static const int64_t long_last[] = {128, 128, 128, 128, 128, 128, 128, 4096};
static const int64_t mixed[] = {4096, 128, 512, 1000, 77, 2048, 300, 4000};

static const shape shapes[] = {
    {"prefill, 12 heads of 512", 1, 12, 12, 512, 512, 64, false, 0, ALL, ALL, NULL},
    {"prefill, 12 heads of 512, causal", 1, 12, 12, 512, 512, 64, true, 0, ALL, ALL, NULL},
    {"prefill, 16 heads of 2048", 1, 16, 16, 2048, 2048, 64, false, 0, ALL, ALL, NULL},
    {"prefill, 16 heads of 2048, causal", 1, 16, 16, 2048, 2048, 64, true, 0, ALL, ALL, NULL},
    {"prefill, 32:8 heads of 1024, causal", 1, 32, 8, 1024, 1024, 128, true, 0, ALL, ALL, NULL},
    {"prefill, 32:8 heads, 512 after 3584", 1, 32, 8, 512, 4096, 128, true, 3584, ALL, ALL, NULL},
    {"prefill, 32:8 heads of 4096, window of 1024", 1, 32, 8, 4096, 4096, 128, true, 0, 1023, ALL, NULL},
    {"prefill, one head of 4096", 1, 1, 1, 4096, 4096, 64, false, 0, ALL, ALL, NULL},
    {"prefill, one head of 4096, causal", 1, 1, 1, 4096, 4096, 64, true, 0, ALL, ALL, NULL},
    {"prefill, 8 x 12 heads of 128", 8, 12, 12, 128, 128, 64, false, 0, ALL, ALL, NULL},
    {"prefill, 8 x 12 heads of 512, padded", 8, 12, 12, 512, 512, 64, false, 0, ALL, ALL, padded},
    {"cross, 8 heads, 448 over 1500", 1, 8, 8, 448, 1500, 64, false, 0, ALL, ALL, NULL},
    {"cross, 8 heads, 4096 over 77", 1, 8, 8, 4096, 77, 40, false, 0, ALL, ALL, NULL},
    {"cross, 8 x 8 heads, 128 over 128 or 4096", 8, 8, 8, 128, 4096, 64, false, 0, ALL, ALL, long_last},
    {"verify 16, 32:8 heads, 4096", 1, 32, 8, 16, 4096, 128, true, 4080, ALL, 1024, NULL},
    {"decode, 32:32 heads, 4096", 1, 32, 32, 1, 4096, 128, false, 0, ALL, 1024, NULL},
    {"decode, 32:8 heads, 4096", 1, 32, 8, 1, 4096, 128, false, 0, ALL, 1024, NULL},
    {"decode, 32:1 heads, 4096", 1, 32, 1, 1, 4096, 128, false, 0, ALL, 1024, NULL},
    {"decode, 32:32 heads, 65536", 1, 32, 32, 1, 65536, 128, false, 0, ALL, 2048, NULL},
    {"decode, 32:8 heads, 65536", 1, 32, 8, 1, 65536, 128, false, 0, ALL, 2048, NULL},
    {"decode, 32:1 heads, 65536", 1, 32, 1, 1, 65536, 128, false, 0, ALL, 2048, NULL},
    {"decode, 8 x 32:8 heads, up to 4096", 8, 32, 8, 1, 4096, 128, false, 0, ALL, 1024, mixed},
};

static int64_t kv_len_of(const shape *s, int64_t batch) { return s->kv_lens != NULL ? s->kv_lens[batch] : s->kv_len; }

/* Pairs of a query row and a key it sees. */
static int64_t pairs_of(const shape *s) {
    int64_t pairs = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t query = 0; query < s->q_len; query++) {
            const int64_t position = query + s->q_offset;
            const int64_t first = mha_max(0, position - s->window_left);
            pairs += s->q_heads * (mha_min(kv_len_of(s, b), s->causal ? position + 1 : ALL) - first);
        }
    return pairs;
}

/* An executor.  Its second call would merge splits: little work, and none for kernels that compute nothing. */
static void one_by_one(void *user, size_t n_tasks, mha_task *task, void *closure) {
    tasks *t = user;
    if (t->n > 0) return;
    for (size_t i = 0; i < n_tasks; i++) task(closure, 0, i), end_task(t);
}

static void run_plan(const mha_plan *cut, tasks *t) {
    const mha_executor executor = {.n_workers = 2, .parallel_for = one_by_one, .user = t};
    mha_plan plan = *cut;
    mha_path path = *cut->path;
    mha_kernels kernels = *cut->kernels;
    mha_worker_memory unused;
    path.load = count_load, path.block[0] = path.block[1] = count_block, path.finish = count_finish;
    path.pack_keys = path.pack_values = path.pack_keys != NULL ? count_pack : NULL;
    plan.path = &path, plan.kernels = &kernels;
    clear_tasks(t);
    count.pack_lanes = path.max_rows;
    void *workspace = malloc(plan.partials_bytes + mha_worker_carve(&plan, NULL, &unused) + MHA_ALIGN);
    mha_attention_run(&plan, &executor, workspace);
    if (t->n == 0) end_task(t); /* a single one needs no executor */
    free(workspace);
}

/* The same plan in chunks of so many tiles. */
static mha_plan recut(const mha_plan *plan, int64_t chunk_tiles) {
    mha_plan other = *plan;
    other.chunk_tiles = chunk_tiles;
    other.chunk_rows = chunk_tiles * plan->path->max_rows;
    other.chunks = mha_ceil_div(plan->rows, other.chunk_rows);
    other.tasks = plan->args.batch * plan->args.kv_heads * other.chunks * plan->splits;
    return other;
}

/* Tiles with all their keys, or with piece_keys of them. */
static pieces pieces_of(const shape *s, const mha_plan *plan) {
    static tasks t;
    mha_plan finest = *plan;
    finest.splits = 1, finest.partials_bytes = 0;
    finest = recut(&finest, 1);
    run_plan(&finest, &t);
    int64_t splits = 0;
    for (int64_t b = 0; b < s->batch; b++) splits += mha_ceil_div(kv_len_of(s, b), s->piece_keys);
    const double of_keys = (double)mha_min(s->piece_keys, s->kv_len) / (double)s->kv_len;
    return (pieces){t.n / s->batch * splits, (double)t.largest * of_keys};
}

static void check_tasks(const char *what, const shape *s, const mha_plan *plan, tasks *t) {
    if (plan->chunk_rows > plan->chunk_tiles * plan->path->max_rows)
        fail_msg("%s: chunks of %d rows, with room for %d tiles", what, (int)plan->chunk_rows, (int)plan->chunk_tiles);
    run_plan(plan, t);
    if (count.pairs != pairs_of(s))
        fail_msg("%s: chunks of %d rows see %lld keys, wanted %lld", what, (int)plan->chunk_rows,
                 (long long)count.pairs, (long long)pairs_of(s));
    if (t->idle > 0 && s->kv_lens == NULL)
        fail_msg("%s: %d of %d tasks have nothing to do", what, (int)t->idle, (int)t->n);
}

/* Each chunk packs all keys it sees, so there is none for nothing: a head in one chunk less would not fit a worker's
 * memory, or leave less than twice the tasks that are even, or hardly less work. */
static void check_thrift(const char *what, const mha_plan *plan, size_t n, const tasks *t) {
    static tasks joined;
    mha_worker_memory unused;
    if (plan->chunks == 1) return;
    const int64_t tiles = mha_ceil_div(plan->rows, plan->path->max_rows);
    const mha_plan fewer = recut(plan, mha_ceil_div(tiles, plan->chunks - 1));
    if (mha_worker_carve(&fewer, NULL, &unused) > MOST_WORKER_BYTES) return;
    run_plan(&fewer, &joined);
    if (joined.largest * 2 * EVEN_TASKS * (int64_t)n > joined.total) return;
    const double got = (double)joined.total / (double)t->total;
    if (got < 1 - WORTHWHILE)
        fail_msg("%s: %zu workers: %d tasks, but %d would do and are %.3f of the work", what, n, (int)t->n,
                 (int)joined.n, got);
}

static void read_plan(mha_plan *plan, const char *isa, const shape *s) {
    static float some;
    const struct mha_context context = {.choice = {.kernels = kernels_of(isa)}};
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = s->batch, args.q_heads = s->q_heads, args.kv_heads = s->kv_heads;
    args.q_len = s->q_len, args.kv_len = s->kv_len, args.head_dim = s->head_dim;
    args.is_causal = s->causal, args.q_offset = s->q_offset, args.window_left = s->window_left;
    args.kv_lens = s->kv_lens;
    args.q = args.k = args.v = args.out = (mha_tensor){&some, MHA_F32, {0, 0, 0}};
    memset(plan, 0, sizeof *plan);
    assert_int_equal(MHA_OK, mha_plan_read(plan, &context, &args, (mha_message){0}));
    assert_int_equal(MHA_OK, mha_plan_cut(plan, 1, (mha_message){0}));
}

static void check_attention(const char *what, const char *isa, size_t i) {
    static tasks t;
    mha_plan plan, last = {0};
    read_plan(&plan, isa, &shapes[i]);
    const pieces p = pieces_of(&shapes[i], &plan);
    for (size_t n = 1; n <= MOST_WORKERS; n = next_workers(n)) {
        assert_int_equal(MHA_OK, mha_plan_cut(&plan, n, (mha_message){0}));
        plan.workspace_bytes = 0; /* what else differs may make other tasks */
        if (memcmp(&plan, &last, sizeof plan) != 0) {
            check_tasks(what, &shapes[i], &plan, &t);
            check_thrift(what, &plan, n, &t);
        }
        memcpy(&last, &plan, sizeof plan);
        tasks_check(what, &t, &p, shapes[i].kv_lens == long_last, n);
    }
}

/* ---- projections ---- */

typedef struct product {
    const char *what;
    int64_t batch, tokens, in, outs[3]; /* of weights whose tasks run together */
    bool apart;                         /* batch items do not follow each other */
} product;

static const product products[] = {
    {"Q, K and V, 512 x 768", 1, 512, 768, {768, 768, 768}, false},
    {"output, 512 x 768", 1, 512, 768, {768}, false},
    {"Q, K and V, 32:8 heads, 1024 x 4096", 1, 1024, 4096, {4096, 1024, 1024}, false},
    {"output, 1024 x 4096", 1, 1024, 4096, {4096}, false},
    {"Q, K and V, 8 x 128 x 768", 8, 128, 768, {768, 768, 768}, false},
    {"output, 8 x 100 x 768, apart", 8, 100, 768, {768}, true},
    {"Q, K and V, 32:8 heads, one token x 4096", 1, 1, 4096, {4096, 1024, 1024}, false},
    {"output, one token x 4096", 1, 1, 4096, {4096}, false},
    {"output, 2048 x 64 by 50", 1, 2048, 64, {50}, false},
};

static void check_products(const char *what, const char *isa, size_t i) {
    static tasks t;
    static float some[8];
    const product *c = &products[i];
    mha_gemm_kernels kernels = *gemm_kernels_of(isa);
    kernels.multiply = count_gemm;
    count.panel = kernels.panel;
    count.max_rows = kernels.max_rows;
    for (size_t n = 1; n <= MOST_WORKERS; n = next_workers(n)) {
        pieces p = {0, 0};
        int64_t wanted = 0;
        clear_tasks(&t);
        for (size_t w = 0; w < COUNT(c->outs) && c->outs[w] > 0; w++) {
            const mha_gemm weight = {.in = c->in, .out = c->outs[w], .w_dtype = MHA_F32};
            const mha_rows_view view = {some, MHA_F32, c->apart ? 1 : 0, 0};
            const mha_projection cut = mha_projection_cut(&kernels, &weight, c->batch, c->tokens, view, view, n);
            for (int64_t task = 0; task < cut.tasks; task++) mha_projection_task(&cut, task, NULL), end_task(&t);
            const int64_t rows = mha_min(cut.rows, PIECE_ROWS), outs = mha_min(kernels.panel, weight.out);
            p.n += cut.items * mha_ceil_div(cut.rows, rows) * mha_ceil_div(weight.out, outs);
            p.largest = fmax(p.largest, (double)(rows * outs * c->in));
            wanted += c->batch * c->tokens * c->in * weight.out;
        }
        if (t.total != wanted || t.idle > 0)
            fail_msg("%s: %zu workers: %lld multiply-adds, %d tasks without any; wanted %lld, 0", what, n,
                     (long long)t.total, (int)t.idle, (long long)wanted);
        tasks_check(what, &t, &p, false, n);
    }
}

/* ---- all instruction sets of the build, whatever this CPU has: what tells sizes is integer arithmetic ---- */

typedef struct unit {
    void (*check)(const char *what, const char *isa, size_t i);
    const char *isa;
    size_t i;
    char what[96], name[96]; /* the name as other tests have it: no spaces */
} unit;

static void run_unit(void **state) {
    const unit *u = *state;
    u->check(u->what, u->isa, u->i);
}

int main(void) {
    enum { MOST_ISAS = 16, CASES = COUNT(shapes) + COUNT(products) };
    static mha_isa isas[MOST_ISAS];
    static unit units[MOST_ISAS * CASES];
    static struct CMUnitTest tests[MOST_ISAS * CASES]; /* cmocka ignores the empty rest */
    const size_t n_isas = mha_isa_list(isas, MOST_ISAS);
    size_t n = 0;
    for (size_t i = 0; i < n_isas * CASES; i++) {
        const size_t c = i % CASES;
        const bool attention = c < COUNT(shapes);
        if (attention && isa_has_bf16(isas[i / CASES].name)) continue;
        unit *u = &units[i];
        *u = attention ? (unit){check_attention, isas[i / CASES].name, c, "", ""}
                       : (unit){check_products, isas[i / CASES].name, c - COUNT(shapes), "", ""};
        snprintf(u->what, sizeof u->what, "isa %s: %s", u->isa, attention ? shapes[u->i].what : products[u->i].what);
        snprintf(u->name, sizeof u->name, "%s/%s", u->isa, attention ? shapes[u->i].what : products[u->i].what);
        for (char *at = u->name; *at != 0; at++) *at = *at == ' ' ? '_' : *at;
        tests[n++] = (struct CMUnitTest){.name = u->name, .test_func = run_unit, .initial_state = u};
    }
    return cmocka_run_group_tests_name("schedules", tests, NULL, NULL);
}

/* A query row's bits depend on its own data alone: not on workers, nor on the batch, padding or shared KV heads. */
#include "check.h"
#include "contents.h"
#include "context.h"
#include "executor.h"
#include "half.h"
#include "isas.h"
#include "test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

static const int64_t window = 60;

static const spec cases[] = {
    {.what = "prefill", .batch = 3, .q_heads = 4, .kv_heads = 2, .q_len = 150, .kv_len = 260, .head_dim = 24},
    {.what = "causal",
     .batch = 2,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 300,
     .kv_len = 300,
     .head_dim = 17,
     .causal = true},
    {.what = "window",
     .batch = 2,
     .q_heads = 3,
     .kv_heads = 1,
     .q_len = 200,
     .kv_len = 333,
     .head_dim = 8,
     .left = &window,
     .causal = true,
     .q_offset = 133},
    {.what = "decode", .batch = 3, .q_heads = 8, .kv_heads = 2, .q_len = 1, .kv_len = 1700, .head_dim = 40},
    /* So many keys that splits are longer than the least. */
    {.what = "long decode", .batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 1, .kv_len = 40000, .head_dim = 4},
    {.what = "decode, lengths",
     .batch = 4,
     .q_heads = 4,
     .kv_heads = 1,
     .q_len = 2,
     .kv_len = 1300,
     .head_dim = 16,
     .lens = true},
    {.what = "few queries",
     .batch = 2,
     .q_heads = 6,
     .kv_heads = 2,
     .q_len = 30,
     .kv_len = 1100,
     .head_dim = 12,
     .causal = true,
     .q_offset = 1070},
    {.what = "bool mask",
     .batch = 2,
     .q_heads = 4,
     .kv_heads = 2,
     .q_len = 70,
     .kv_len = 140,
     .head_dim = 9,
     .mask = MASK_BOOL},
    /* So large that what comes next is fetched ahead. */
    {.what = "large, bias",
     .batch = 2,
     .q_heads = 4,
     .kv_heads = 2,
     .q_len = 130,
     .kv_len = 400,
     .head_dim = 128,
     .mask = MASK_MINUS_INF},
    {.what = "large, lengths",
     .batch = 3,
     .q_heads = 4,
     .kv_heads = 2,
     .q_len = 16,
     .kv_len = 2100,
     .head_dim = 24,
     .lens = true},
    {.what = "large, window",
     .batch = 2,
     .q_heads = 2,
     .kv_heads = 1,
     .q_len = 400,
     .kv_len = 900,
     .head_dim = 96,
     .left = &window,
     .causal = true,
     .q_offset = 500},
    {.what = "bias",
     .batch = 3,
     .q_heads = 2,
     .kv_heads = 1,
     .q_len = 70,
     .kv_len = 280,
     .head_dim = 16,
     .mask = MASK_MINUS_INF,
     .lens = true},
    {.what = "weights",
     .batch = 2,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 60,
     .kv_len = 140,
     .head_dim = 16,
     .scores = SOFTMAX},
};

/* Decode at forced levels: whole groups of vectors, single ones and what is left; tiles of 3, 4 and three times 4
 * rows. */
static const spec level_cases[] = {
    {.what = "200, 3 rows", .batch = 2, .q_heads = 3, .kv_heads = 1, .q_len = 1, .kv_len = 400, .head_dim = 200},
    {.what = "200, 4 rows", .batch = 1, .q_heads = 8, .kv_heads = 2, .q_len = 1, .kv_len = 330, .head_dim = 200},
    {.what = "200, 12 rows", .batch = 1, .q_heads = 12, .kv_heads = 1, .q_len = 1, .kv_len = 330, .head_dim = 200},
    {.what = "64, 3 rows", .batch = 2, .q_heads = 1, .kv_heads = 1, .q_len = 3, .kv_len = 400, .head_dim = 64},
    {.what = "64, 4 rows", .batch = 1, .q_heads = 4, .kv_heads = 1, .q_len = 1, .kv_len = 1700, .head_dim = 64},
    {.what = "64, 12 rows", .batch = 1, .q_heads = 24, .kv_heads = 2, .q_len = 1, .kv_len = 330, .head_dim = 64},
};

static const mha_exp exps[] = {MHA_EXP_SLEEF, MHA_EXP_FUSED};

typedef void check_function(const char *who, const mha_context *context, problem *p);

/* Each of n cases with each exponential. */
static void for_cases(const char *isa, const spec *list, size_t n, check_function *check) {
    for (size_t i = 0; i < n; i++)
        for (size_t e = test_quick() ? 1 : 0; e < COUNT(exps); e++) {
            spec s = spec_for(isa, &list[i]);
            s.lse = true;
            s.seed = i;
            if (test_quick()) s.q_len = s.q_len > 60 ? 60 : s.q_len;
            char who[64];
            snprintf(who, sizeof who, "isa %s exp %s", isa, exp_name(exps[e]));
            mha_context *context = isa_context(isa, exps[e]);
            problem p;
            problem_make(&p, &s, GUARD_END);
            check(who, context, &p);
            problem_free(&p);
            mha_context_destroy(context);
        }
}

static void for_each(const char *isa, check_function *check) { for_cases(isa, cases, COUNT(cases), check); }

static void check_workers(const char *who, const mha_context *context, problem *p) {
    static const size_t counts[] = {1, 2, 3, 8};
    outputs wanted = problem_run(p, context, NULL);
    for (size_t i = 0; i < COUNT(counts); i++) {
        const mha_executor executor = executor_backwards(counts[i]);
        char name[128];
        snprintf(name, sizeof name, "%s, %zu workers", who, counts[i]);
        outputs got = problem_run(p, context, &executor);
        check_same_outputs(name, p, &got, &wanted);
        outputs_free(&got);
    }
    outputs_free(&wanted);
}

/* Batch item b as a problem of its own; it shares the memory. */
static problem alone(const problem *p, int64_t b) {
    problem item = *p;
    mha_attention_args *a = &item.args;
    mha_tensor *tensors[] = {&a->q, &a->k, &a->v, &a->out};
    for (size_t i = 0; i < COUNT(tensors); i++)
        tensors[i]->data = (char *)tensors[i]->data + b * tensors[i]->stride[0] * mha_dtype_bytes(tensors[i]->dtype);
    if (a->mask.data != NULL)
        a->mask.data = (char *)a->mask.data + b * a->mask.stride[0] * (a->mask.dtype == MHA_BOOL ? 1 : 4);
    if (a->lse.data != NULL) a->lse.data += b * a->lse.stride[0];
    if (a->scores.data != NULL) a->scores.data = (float *)a->scores.data + b * a->scores.stride[0];
    if (a->kv_lens != NULL) a->kv_lens = &p->kv_lens[b];
    if (a->q_offsets != NULL) a->q_offsets = &p->q_offsets[b];
    a->batch = 1;
    return item;
}

static void check_batch(const char *who, const mha_context *context, problem *p) {
    outputs whole = problem_run(p, context, NULL);
    for (int64_t b = 0; b < p->args.batch; b++) {
        char name[128];
        snprintf(name, sizeof name, "%s, batch item %lld alone", who, (long long)b);
        problem item = alone(p, b);
        outputs got = problem_run(&item, context, NULL);
        const outputs wanted = {.n_out = got.n_out,
                                .n_lse = got.n_lse,
                                .n_scores = got.n_scores,
                                .out = whole.out + b * got.n_out,
                                .lse = whole.lse + b * got.n_lse,
                                .scores = whole.scores + b * got.n_scores};
        check_same_outputs(name, p, &got, &wanted);
        outputs_free(&got);
    }
    outputs_free(&whole);
}

/* The same keys as the whole of kv_len, and as the first of more: the rest hold NaN. */
static void check_padding(const char *who, const mha_context *context, problem *p) {
    static const int64_t lens[] = {1, 63, 64, 129, 512, 513, 1025};
    if (p->args.scores.data != NULL) return; /* has a column for each key */
    for (size_t i = 0; i < COUNT(lens); i++) {
        if (lens[i] >= p->spec.kv_len) continue;
        char name[128];
        snprintf(name, sizeof name, "%s, %lld keys and padding", who, (long long)lens[i]);
        spec s = p->spec;
        s.lens = false;
        problem padded, exact;
        problem_make(&padded, &s, GUARD_START);
        for (int64_t b = 0; b < s.batch; b++) padded.kv_lens[b] = lens[i];
        contents_fill_padding(&padded);
        exact = padded;
        exact.args.kv_len = lens[i];
        padded.args.kv_lens = padded.kv_lens;
        outputs wanted = problem_run(&exact, context, NULL), got = problem_run(&padded, context, NULL);
        check_same_outputs(name, p, &got, &wanted);
        outputs_free(&wanted);
        outputs_free(&got);
        problem_free(&padded);
    }
}

/* Query heads that share one KV head, and the same with a KV head for each (zero stride). */
static void check_groups(const char *who, const mha_context *context, problem *p) {
    spec s = p->spec;
    s.batch = 1, s.q_heads = 6, s.kv_heads = 1;
    problem together, apart;
    problem_make(&together, &s, GUARD_END);
    apart = together;
    apart.args.kv_heads = s.q_heads;
    apart.args.k.stride[1] = apart.args.v.stride[1] = 0;
    outputs wanted = problem_run(&together, context, NULL), got = problem_run(&apart, context, NULL);
    char name[128];
    snprintf(name, sizeof name, "%s, KV head repeated", who);
    check_same_outputs(name, &together, &got, &wanted);
    outputs_free(&wanted);
    outputs_free(&got);
    problem_free(&together);
}

/* The first query's bits do not change with what the others see, even the sign of a zero. */
static void check_neighbours(const char *who, const mha_context *context, problem *p) {
    spec s = p->spec;
    s.batch = 1, s.kv_heads = s.q_heads, s.mask = MASK_BOOL, s.scores = NO_SCORES, s.lens = false;
    for (logits shape = NORMAL; shape <= SUBNORMAL; shape++) {
        s.logits = shape;
        problem mixed;
        problem_make(&mixed, &s, GUARD_END);
        problem alike = mixed;
        alike.args.mask.stride[2] = 0; /* all see what the first does */
        alike.args.is_causal = false;
        mixed.args.is_causal = false;
        alike.args.window_left = mixed.args.window_left = -1;
        outputs wanted = problem_run(&alike, context, NULL), got = problem_run(&mixed, context, NULL);
        char name[128];
        snprintf(name, sizeof name, "%s, other neighbours", who);
        for (int64_t h = 0; h < s.q_heads; h++)
            check_same_bits(name, s.what, "out", got.out + h * s.q_len * s.head_dim,
                            wanted.out + h * s.q_len * s.head_dim, s.head_dim);
        outputs_free(&wanted);
        outputs_free(&got);
        problem_free(&mixed);
    }
}

/* An early value of -0x1p-140 whose weight shrinks to nothing: -0, unless blocks that the row does not see are added
 * to it. */
static void sign_of_zero(const char *isa) {
    enum { ROWS = 8, KEYS = 512 };
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    static float q[ROWS], k[KEYS], v[KEYS], out[2][ROWS];
    static unsigned char mask[ROWS * KEYS];
    static char workspace[1 << 20];
    v[0] = -0x1p-140f;
    for (int j = 0; j < KEYS; j++) k[j] = j < KEYS / 4 ? -20 : 0;
    for (int r = 0; r < ROWS; r++) q[r] = 1;
    for (int i = 0; i < ROWS * KEYS; i++) mask[i] = i >= KEYS || i < KEYS / 2;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = args.head_dim = 1;
    args.q_len = ROWS, args.kv_len = KEYS, args.scale = 1;
    args.q = (mha_tensor){q, MHA_F32, {0, 0, 1}};
    args.k = (mha_tensor){k, MHA_F32, {0, 0, 1}};
    args.v = (mha_tensor){v, MHA_F32, {0, 0, 1}};
    for (int i = 0; i < 2; i++) {
        args.out = (mha_tensor){out[i], MHA_F32, {0, 0, 1}};
        args.mask = (mha_score_tensor){mask, MHA_BOOL, {0, 0, i == 0 ? KEYS : 0, 1}};
        assert_int_equal(MHA_OK, mha_attention(context, &args, NULL, workspace, sizeof workspace));
    }
    check_same_bits(isa, "sign of zero", "out", out[0], out[1], 1);
    mha_context_destroy(context);
}

/* A score that exceeds the largest before it by 8 octaves, give or take a rounding, among scores of 2^17 octaves: AMX then
 * raises what weights are relative to, or not, whatever another row's query is. */
static void rising_scores(const char *isa) {
    enum { ROWS = 16, DIM = 4, V_DIM = 32, KEYS = 128, OTHER = 5 };
    static uint16_t q[ROWS * DIM], k[KEYS * DIM], v[KEYS * V_DIM];
    static float out[2][ROWS * V_DIM];
    static char workspace[1 << 20];
    for (int j = 0; j < KEYS; j++) {
        const double key[DIM] = {-709.5, j < KEYS / 2 ? -98 : j == KEYS / 2 ? -53 : -80, j < KEYS / 2 ? -1 : -42, 0};
        for (int d = 0; d < DIM; d++) element_set(k, MHA_F16, j * DIM + d, key[d]);
        for (int d = 0; d < V_DIM; d++) element_set(v, MHA_F16, j * V_DIM + d, (j * 37 + d * 11) % 101 / 101. + .1);
    }
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = ROWS, args.kv_len = KEYS, args.head_dim = DIM, args.v_head_dim = V_DIM, args.scale = .125f;
    args.q = (mha_tensor){q, MHA_F16, {0, 0, DIM}};
    args.k = (mha_tensor){k, MHA_F16, {0, 0, DIM}};
    args.v = (mha_tensor){v, MHA_F16, {0, 0, V_DIM}};
    for (mha_exp exp = MHA_EXP_SLEEF; exp <= MHA_EXP_FUSED; exp++) {
        mha_context *context = isa_context(isa, exp);
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < ROWS; r++) {
                const double query[DIM] = {256, r == OTHER && i == 1 ? 2 : 1, 1 / 64., 0};
                for (int d = 0; d < DIM; d++) element_set(q, MHA_F16, r * DIM + d, query[d]);
            }
            args.out = (mha_tensor){out[i], MHA_F32, {0, 0, V_DIM}};
            assert_int_equal(MHA_OK, mha_attention(context, &args, NULL, workspace, sizeof workspace));
        }
        check_same_bits(isa, "rising scores", "out", out[1], out[0], OTHER * V_DIM);
        mha_context_destroy(context);
    }
}

/* Sets a value in every column of key j. */
static void set_value(problem *p, int64_t j, double x) {
    const mha_tensor *v = &p->args.v;
    for (int64_t d = 0; d < p->spec.v_head_dim; d++) element_set(v->data, v->dtype, j * v->stride[2] + d, x);
    guard_remember(&p->memory[V]);
}

/* What a value is, finite or not, changes no bit of the rows that do not see it, although others do. */
static void check_unseen(const char *isa, mha_precision precision, const spec *s, int64_t j) {
    static const double values[] = {(double)NAN, -INFINITY, FLT_MAX};
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, precision);
    problem p;
    problem_make(&p, s, GUARD_END);
    set_value(&p, j, 1);
    outputs wanted = problem_run(&p, context, NULL);
    for (size_t i = 0; i < COUNT(values); i++) {
        char name[128];
        snprintf(name, sizeof name, "isa %s precision %d, key %lld is %g", isa, (int)precision, (long long)j,
                 values[i]);
        set_value(&p, j, values[i]);
        outputs got = problem_run(&p, context, NULL);
        check_same_bits(name, s->what, "out", got.out, wanted.out, j * s->v_head_dim);
        outputs_free(&got);
    }
    outputs_free(&wanted);
    problem_free(&p);
    mha_context_destroy(context);
}

static void unseen_values(const char *isa) {
    static const int64_t keys[] = {1, 5, 16, 31, 32, 63, 90, 127, 128, 149};
    for (size_t i = 0; i < COUNT(keys); i++)
        for (mha_precision precision = MHA_PRECISION_HIGHEST; precision <= MHA_PRECISION_MEDIUM; precision++) {
            spec s = {.what = "a value is not seen",
                      .batch = 1,
                      .q_heads = 1,
                      .kv_heads = 1,
                      .q_len = 150,
                      .kv_len = 150,
                      .head_dim = 24,
                      .v_head_dim = 35,
                      .causal = true};
            check_unseen(isa, precision, &s, keys[i]);
            s = spec_for(isa, &s);
            check_unseen(isa, precision, &s, keys[i]);
        }
}

/* K and V packed, or read where they lie; the plan chooses for speed alone. */
static void check_paths(const char *who, const mha_context *context, problem *p) {
    mha_kernels kernels = *context->choice.kernels;
    struct mha_context forced = *context;
    forced.choice.kernels = &kernels;
    kernels.in_place_tiles = 0;
    outputs wanted = problem_run(p, &forced, NULL);
    kernels.in_place_tiles = INT32_MAX;
    outputs got = problem_run(p, &forced, NULL);
    char name[128];
    snprintf(name, sizeof name, "%s, in place", who);
    check_same_outputs(name, p, &got, &wanted);
    outputs_free(&got);
    outputs_free(&wanted);
}

static void neighbours(const char *isa) { for_each(isa, check_neighbours); }
static void workers(const char *isa) { for_each(isa, check_workers); }
static void batches(const char *isa) { for_each(isa, check_batch); }
static void padding(const char *isa) { for_each(isa, check_padding); }
static void shared_kv_heads(const char *isa) { for_each(isa, check_groups); }

/* Decode has code of its own for each level, which small problems would not enter by their size. */
static mha_level decode_level;
static const mha_kernels *decode_kernels;

static void block_at_level(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s,
                           int exp) {
    mha_kv_block moved = *block;
    moved.level = decode_level;
    const mha_path *path = &decode_kernels->decode[mha_both_half(block->k_dtype, block->v_dtype)];
    path->block[exp](softmax, &moved, tiles, n, s);
}

static void block_sleef(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s) {
    block_at_level(softmax, block, tiles, n, s, 0);
}

static void block_fused(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s) {
    block_at_level(softmax, block, tiles, n, s, 1);
}

static void check_levels(const char *who, const mha_context *context, problem *p) {
    mha_kernels kernels = *context->choice.kernels;
    struct mha_context forced = *context;
    forced.choice.kernels = &kernels;
    decode_kernels = context->choice.kernels;
    for (int halves = 0; halves < 2; halves++) {
        kernels.decode[halves].block[0] = block_sleef;
        kernels.decode[halves].block[1] = block_fused;
    }
    outputs wanted = problem_run(p, context, NULL);
    for (int level = MHA_FAST_CACHE; level <= MHA_DRAM; level++) {
        decode_level = (mha_level)level;
        outputs got = problem_run(p, &forced, NULL);
        char name[128];
        snprintf(name, sizeof name, "%s, level %d", who, level);
        check_same_outputs(name, p, &got, &wanted);
        outputs_free(&got);
    }
    outputs_free(&wanted);
}

static void paths(const char *isa) { for_each(isa, check_paths); }
static void levels(const char *isa) { for_cases(isa, level_cases, COUNT(level_cases), check_levels); }

int main(void) {
    static const isa_test tests[] = {ISA_TEST(workers),      ISA_TEST(neighbours), ISA_TEST(sign_of_zero),
                                     ISA_TEST(batches),      ISA_TEST(padding),    ISA_TEST(shared_kv_heads),
                                     ISA_TEST(paths),        ISA_TEST(levels),     ISA_TEST(unseen_values),
                                     ISA_TEST(rising_scores)};
    return isa_tests_run(tests, COUNT(tests));
}

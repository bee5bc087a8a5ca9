/* The layer against its naive form, in every way it can be described, owned and borrowed. */
#include "check.h"
#include "executor.h"
#include "isas.h"
#include "layer_problem.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_run(const char *isa, layer_problem *p, const mha_layer *layer, const naive_layer_result *wanted) {
    char what[512];
    layer_text(&p->spec, what, sizeof what);
    layer_outputs first = layer_run(p, layer, NULL, isa);
    check_values(isa, what, "out", first.out, &wanted->out);
    if (first.n_scores > 0) check_values(isa, what, "scores", first.scores, &wanted->scores);
    const mha_executor executors[] = {executor_backwards(1), executor_backwards(3), executor_backwards(8)};
    for (size_t i = 0; i < COUNT(executors); i++) {
        layer_outputs again = layer_run(p, layer, &executors[i], isa);
        check_same_bits(isa, what, "out, other workers", again.out, first.out, first.n_out);
        check_same_bits(isa, what, "scores, other workers", again.scores, first.scores, first.n_scores);
        layer_outputs_free(&again);
    }
    layer_outputs_free(&first);
}

/* In how many parts of bf16 weights are multiplied, by any number of rows: as attention of many queries is. */
static int weight_parts(const char *isa, mha_precision precision, mha_dtype dtype) {
    return isa_bf16_parts(isa, precision, dtype, dtype, dtype, 5);
}

static naive_bf16 bf16_of(const char *isa, mha_precision precision, const mha_layer_args *args) {
    const mha_dtype kv = args->kv_len == -1 ? args->q.dtype : args->kv.dtype;
    naive_bf16 bf16 = {.attention = isa_bf16_parts(isa, precision, args->q.dtype, kv, kv, args->q_len),
                       .x_parts = 3 - (int)precision};
    for (mha_dtype dtype = MHA_F32; dtype <= MHA_BF16; dtype++)
        bf16.w_parts[dtype] = weight_parts(isa, precision, dtype);
    return bf16;
}

/* What mha_layer_describe says of each projection: which kernels, and of how many parts its inputs are. */
static void check_description(const char *isa, mha_precision precision, const layer_problem *p,
                              const mha_layer *layer) {
    const char *const names[] = {"wq", "wk", "wv", "wo"};
    const mha_linear *const linears[] = {&p->naive_desc.wq, &p->naive_desc.wk, &p->naive_desc.wv, &p->naive_desc.wo};
    const mha_dtype kv = p->args.kv_len == -1 ? p->args.q.dtype : p->args.kv.dtype;
    const mha_dtype inputs[] = {p->args.q.dtype, kv, kv, p->args.q.dtype};
    char text[2048], line[64];
    assert_int_equal(MHA_OK, mha_layer_describe(layer, &p->args, 2, text, sizeof text));
    for (int i = 0; i < 4; i++) {
        const int all = inputs[i] == MHA_BF16 ? 1 : inputs[i] == MHA_F16 ? 2 : 3, most = 3 - (int)precision;
        const int parts = weight_parts(isa, precision, linears[i]->dtype);
        const bool bf16 = parts > 0;
        snprintf(line, sizeof line, " bf16, weights in %d parts, inputs in %d\n", parts, all < most ? all : most);
        const char *name = strstr(text, names[i]), *wanted = bf16 ? line : " f32\n";
        const char *end = name != NULL ? strstr(name, wanted) : NULL;
        if (end == NULL || memchr(name, '\n', (size_t)(end - name)) != NULL || (bf16 && strstr(name, isa) == NULL))
            fail_msg("isa %s: description \"%s\", wanted of %s %s", isa, text, names[i], wanted);
    }
    assert_non_null(strstr(text, "\nkernels: "));
}

/* An owning layer needs the caller's weights no more; a borrowing one only reads the packed memory. */
static void check_layer(const char *isa, mha_exp exp, mha_precision precision, guard_side side, const layer_spec *s) {
    mha_context *context = isa_context_of(isa, exp, precision);
    mha_layer *owner = NULL, *borrower = NULL;
    char message[256] = "";
    size_t bytes = 0;
    ptrdiff_t offset;
    layer_problem p;
    layer_problem_make(&p, s, side);
    naive_layer_result wanted = naive_layer(&p.naive_desc, &p.args, bf16_of(isa, precision, &p.args));
    if (mha_layer_create(context, &p.desc, &owner, message, sizeof message) != MHA_OK)
        fail_msg("isa %s: %s; %s", isa, message, s->what);
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &p.desc, &bytes, NULL, 0));
    guard packed = guard_make(bytes, bytes % 64 == 0 ? GUARD_END : GUARD_START, 0);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, packed.data, bytes, NULL, 0));
    guard_remember(&packed);
    for (int i = 0; i < N_WEIGHTS; i++) {
        guard_free(&p.weight[i]);
        guard_free(&p.bias[i]);
    }
    check_run(isa, &p, owner, &wanted);
    check_description(isa, precision, &p, owner);
    mha_layer_destroy(owner);
    if (mha_layer_borrow(context, packed.data, bytes, &borrower, message, sizeof message) != MHA_OK)
        fail_msg("isa %s: %s; %s", isa, message, s->what);
    check_run(isa, &p, borrower, &wanted);
    mha_layer_destroy(borrower);
    if (guard_changed(&packed, &offset)) fail_msg("isa %s wrote to packed memory at byte %td", isa, offset);
    guard_free(&packed);
    naive_layer_result_free(&wanted);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Each in two ways; quickly in one of them. */
static void check_layers(const char *isa, const layer_spec *specs, size_t n) {
    for (size_t i = 0; i < n; i++) {
        layer_spec s = specs[i];
        s.seed = i + 1;
        const mha_precision less = i % 4 == 0 ? MHA_PRECISION_HIGH : MHA_PRECISION_MEDIUM;
        if (!test_quick() || i % 2 == 0) check_layer(isa, MHA_EXP_FUSED, less, GUARD_END, &s);
        if (!test_quick() || i % 2 == 1) check_layer(isa, MHA_EXP_SLEEF, MHA_PRECISION_HIGHEST, GUARD_START, &s);
    }
}

#define HEADS(q, kv, dim)    .q_heads = (q), .kv_heads = (kv), .head_dim = (dim)
#define TOKENS(items, q, kv) .batch = (items), .q_len = (q), .kv_len = (kv) /* kv -1: self-attention */

static const layer_spec base = {.what = "layer", HEADS(3, 3, 8), .q_dim = 24, TOKENS(2, 7, -1)};

static void forms(const char *isa) {
    static const layer_spec specs[] = {
        {.what = "plain", HEADS(4, 4, 16), .q_dim = 64, TOKENS(2, 20, -1)},
        {.what = "GQA", HEADS(6, 2, 8), .q_dim = 48, TOKENS(1, 9, -1)},
        {.what = "MQA", HEADS(4, 1, 5), .q_dim = 21, TOKENS(2, 6, -1)},
        {.what = "v_head_dim", HEADS(3, 3, 7), .v_head_dim = 12, .q_dim = 33, TOKENS(2, 5, -1)},
        {.what = "out_dim", HEADS(2, 2, 9), .q_dim = 30, .out_dim = 17, TOKENS(1, 50, -1)},
        {.what = "cross", HEADS(2, 2, 8), .q_dim = 16, TOKENS(2, 5, 31)},
        {.what = "cross, kv_dim",
         HEADS(4, 2, 8),
         .v_head_dim = 6,
         .q_dim = 19,
         .kv_dim = 40,
         .out_dim = 23,
         .biases = BIAS_ALL,
         TOKENS(3, 11, 70)},
        {.what = "stacked", HEADS(4, 4, 16), .q_dim = 64, .stacked = true, TOKENS(2, 12, -1)},
        {.what = "stacked, biases, GQA",
         HEADS(6, 2, 7),
         .v_head_dim = 9,
         .q_dim = 31,
         .stacked = true,
         .biases = BIAS_ALL,
         .gap = 3,
         TOKENS(2, 12, -1)},
        {.what = "batch items apart",
         HEADS(3, 3, 8),
         .q_dim = 24,
         .kv_dim = 40,
         .gap = 2,
         .item_gap = 5,
         TOKENS(3, 13, 110)},
        {.what = "stacked, cross", HEADS(2, 2, 8), .q_dim = 16, .stacked = true, .biases = BIAS_Q, TOKENS(1, 3, 9)},
        {.what = "one token", HEADS(4, 4, 16), .q_dim = 64, TOKENS(1, 1, -1)},
        {.what = "decode", HEADS(4, 2, 16), .q_dim = 64, TOKENS(2, 1, 1100)},
        {.what = "wide", HEADS(4, 4, 64), .q_dim = 256, .biases = BIAS_ALL, TOKENS(1, 130, -1)},
        {.what = "deep", HEADS(1, 1, 8), .q_dim = 700, TOKENS(1, 4, -1)},
        {.what = "batch 0", HEADS(2, 2, 8), .q_dim = 16, TOKENS(0, 4, -1)},
        {.what = "no query", HEADS(2, 2, 8), .q_dim = 16, TOKENS(2, 0, 4)},
        {.what = "no key: the output's bias", HEADS(2, 2, 8), .q_dim = 16, .biases = BIAS_ALL, TOKENS(2, 3, 0)},
    };
    check_layers(isa, specs, COUNT(specs));
}

/* Weights, inputs and output of any dtype: all the same, and mixed. */
static void half_precision(const char *isa) {
    static const struct {
        const char *what;
        mha_dtype weights[N_WEIGHTS], activations[N_ACTIVATIONS];
    } mixes[] = {
#define ALL(t) {t, t, t, t, t}
        {"all f16", ALL(MHA_F16), ALL(MHA_F16)},
        {"all bf16", ALL(MHA_BF16), ALL(MHA_BF16)},
        {"f16 weights", ALL(MHA_F16), ALL(0)},
        {"bf16 activations", ALL(0), ALL(MHA_BF16)},
        {"mixed", {MHA_F16, MHA_BF16, MHA_F32, MHA_BF16, MHA_F16}, {[X_Q] = MHA_BF16, [X_KV] = MHA_F16}},
        {"half output", ALL(MHA_BF16), {[X_OUT] = MHA_F16}},
#undef ALL
    };
    static const layer_spec forms[] = {
        {HEADS(4, 2, 9), .v_head_dim = 7, .q_dim = 37, .out_dim = 50, .biases = BIAS_ALL, .gap = 3, TOKENS(2, 21, -1)},
        {HEADS(4, 4, 16), .q_dim = 64, .stacked = true, .biases = BIAS_ALL, .scores = true, TOKENS(2, 12, -1)},
        {HEADS(2, 2, 24), .q_dim = 19, .kv_dim = 140, .causal = true, .q_offset = 30, .gap = 1, .item_gap = 1,
         TOKENS(2, 5, 70)},
        {HEADS(4, 2, 16), .q_dim = 64, .biases = BIAS_ALL, TOKENS(3, 1, 40)},
        {HEADS(2, 2, 8), .q_dim = 300, .mask = true, .item_gap = 2, TOKENS(1, 90, -1)},
    };
    layer_spec all[COUNT(mixes) * COUNT(forms)];
    for (size_t mix = 0; mix < COUNT(mixes); mix++)
        for (size_t form = 0; form < COUNT(forms); form++) {
            layer_spec *s = &all[mix * COUNT(forms) + form];
            *s = forms[form];
            s->what = mixes[mix].what;
            memcpy(s->weight_dtypes, mixes[mix].weights, sizeof s->weight_dtypes);
            memcpy(s->dtypes, mixes[mix].activations, sizeof s->dtypes);
            s->bias_dtype = (mha_dtype)((mix + form) % 4);
        }
    check_layers(isa, all, COUNT(all));
}

/* As test_precision's: what two parts leave out adds up.  Up to four queries are attended to in f32, which hides
 * nothing. */
static void large_second_parts(const char *isa) {
    const layer_spec specs[] = {
#define SPEC(t, x)                                                                                                     \
    {.what = "large second parts",                                                                                     \
     HEADS(1, 1, 1),                                                                                                   \
     .q_dim = 1,                                                                                                       \
     .scale = &(const float){1e-3f},                                                                                   \
     .elements = (x),                                                                                                  \
     .weight_dtypes = {t, t, t, t},                                                                                    \
     .dtypes = {[X_Q] = t},                                                                                            \
     TOKENS(1, 3, -1)}
        SPEC(MHA_F32, 1 + 0x1p-8 - 0x1.04p-17),
        SPEC(MHA_F16, 1 + 0x1p-8),
#undef SPEC
    };
    for (size_t i = 0; i < COUNT(specs); i++) check_layer(isa, MHA_EXP_FUSED, MHA_PRECISION_HIGH, GUARD_END, &specs[i]);
}

/* Keys lie in the workspace in kv's dtype: here they would be infinite in q's. */
static void keys_beyond_f16(const char *isa) {
    const layer_spec s = {.what = "keys beyond f16",
                          HEADS(4, 2, 8),
                          .q_dim = 16,
                          .k_factor = 0x1p18,
                          .scale = &(const float){0x1p-19f},
                          .dtypes = {[X_Q] = MHA_F16},
                          TOKENS(2, 9, 30)};
    check_layers(isa, &s, 1);
}

/* Inputs whose tokens share memory, as windows over one sequence do, or one sequence for all batch items. */
static void shared_inputs(const char *isa) {
    for (sharing sharing = SLIDING; sharing <= SAME_ALL; sharing++)
        for (int cross = 0; cross < 2; cross++) {
            layer_spec s = base;
            s.what = "shared inputs", s.sharing = sharing;
            s.batch = 3, s.kv_len = cross ? 11 : -1;
            check_layers(isa, &s, 1);
        }
}

static void biases_and_gaps(const char *isa) {
    for (unsigned biases = 0; biases <= BIAS_ALL; biases++) {
        layer_spec s = base;
        s.what = "biases";
        s.biases = biases;
        s.gap = biases % 3;
        check_layers(isa, &s, 1);
    }
}

static void options(const char *isa) {
    const layer_spec specs[] = {
        {.what = "causal", .causal = true},
        {.what = "causal, offset", .causal = true, .q_offset = -2},
        {.what = "offset per batch item", .causal = true, .q_offset_step = 4},
        {.what = "offset and length per batch item", .causal = true, .q_offset_step = 4, .lens = true},
        {.what = "window, left", .left = &(const int64_t){3}},
        {.what = "window, right", .right = &(const int64_t){2}, .q_offset = 1},
        {.what = "lengths", .lens = true},
        {.what = "mask", .mask = true},
        {.what = "weights", .scores = true},
        {.what = "scale", .scale = &(const float){-0.7f}},
        {.what = "softcap", .softcap = 1.5f},
        {.what = "all", .causal = true, .lens = true, .mask = true, .scores = true, .q_offset = 1},
    };
    for (size_t i = 0; i < COUNT(specs); i++)
        for (int cross = 0; cross < 2; cross++) {
            layer_spec s = specs[i];
            s.q_heads = 4, s.kv_heads = 2, s.head_dim = 8, s.q_dim = 24, s.batch = 3, s.q_len = 13;
            s.kv_len = cross ? 21 : -1;
            s.biases = BIAS_ALL;
            check_layers(isa, &s, 1);
        }
}

/* Every number of rows and outputs that a projection's tiles can be left with. */
static void tails(const char *isa) {
    for (int64_t n = 1; n <= (test_quick() ? 20 : 100); n++) {
        layer_spec s = base;
        s.what = "rows";
        s.batch = 1, s.q_len = n;
        check_layers(isa, &s, 1);
        s = base;
        s.what = "outputs";
        s.out_dim = n, s.head_dim = n % 19 + 1, s.q_dim = n % 37 + 1;
        check_layers(isa, &s, 1);
    }
}

/* A causal sequence piece by piece, the keys and values of earlier pieces in a cache. */
static void with_cache(const char *isa) {
    enum { TOKENS_OF_ITEM = 23, ITEMS = 2, KV_HEADS = 2, DIM = 8 };
    static const int16_t pieces[] = {9, 1, 4, 8, 1};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    const layer_spec s = {.what = "cache",
                          HEADS(4, KV_HEADS, DIM),
                          .q_dim = 24,
                          .biases = BIAS_ALL,
                          .causal = true,
                          TOKENS(ITEMS, TOKENS_OF_ITEM, -1)};
    static float k[ITEMS * KV_HEADS * TOKENS_OF_ITEM * DIM], v[ITEMS * KV_HEADS * TOKENS_OF_ITEM * DIM];
    mha_layer *layer;
    layer_problem p;
    layer_problem_make(&p, &s, GUARD_END);
    naive_layer_result wanted = naive_layer(&p.naive_desc, &p.args, bf16_of(isa, MHA_PRECISION_HIGHEST, &p.args));
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
    mha_kv_cache cache;
    mha_kv_cache_init(&cache, sizeof cache);
    cache.k = (mha_tensor){k, MHA_F32, {KV_HEADS * TOKENS_OF_ITEM * DIM, TOKENS_OF_ITEM * DIM, DIM}};
    cache.v = cache.k, cache.v.data = v;
    float *const q = p.args.q.data, *const out = p.args.out.data;
    for (size_t i = 0; i < COUNT(pieces); i++) {
        static char workspace[1 << 20];
        mha_layer_args piece = p.args;
        char message[256];
        piece.q_len = pieces[i], piece.q_offset = cache.past_len, piece.cache = &cache;
        piece.q.data = q + cache.past_len * piece.q.stride[1],
        piece.out.data = out + cache.past_len * piece.out.stride[1];
        const mha_status status =
            mha_layer_check(layer, &piece, NULL, workspace, sizeof workspace, message, sizeof message);
        if (status != MHA_OK) fail_msg("isa %s: %s", isa, message);
        assert_int_equal(MHA_OK, mha_layer_forward(layer, &piece, NULL, workspace, sizeof workspace));
        cache.past_len += pieces[i];
    }
    layer_outputs got = layer_outputs_take(&p);
    check_values(isa, s.what, "out", got.out, &wanted.out);
    layer_outputs_free(&got);
    naive_layer_result_free(&wanted);
    mha_layer_destroy(layer);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {F32_TEST(with_cache),         ISA_TEST(forms),           ISA_TEST(half_precision),
                                     ISA_TEST(large_second_parts), ISA_TEST(keys_beyond_f16), F32_TEST(shared_inputs),
                                     F32_TEST(biases_and_gaps),    F32_TEST(options),         ISA_TEST(tails)};
    return isa_tests_run(tests, COUNT(tests));
}

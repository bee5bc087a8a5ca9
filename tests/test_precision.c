/* What the context's precision makes of operands: which calls multiply bf16, that describe says so, and their bounds. */
#include "check.h"
#include "half.h"
#include "isas.h"
#include "matrix.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {"highest", "high", "medium"};

static const float scales[] = {0.3f, -0.3f, 0x1p-70f};

static const struct {
    mha_dtype q, k, v;
    int64_t q_len;
    const float *scale; /* NULL: the default */
    int parts[3];       /* of bf16, by precision; 0: f32.  Two only where they pay, otherwise f32 */
} cases[] = {
    {MHA_BF16, MHA_BF16, MHA_BF16, 5, NULL, {1, 1, 1}},
    {MHA_BF16, MHA_BF16, MHA_BF16, 70, &scales[0], {1, 1, 1}},
    {MHA_BF16, MHA_BF16, MHA_BF16, 9, &scales[1], {1, 1, 1}},
    {MHA_F32, MHA_F32, MHA_F32, 5, NULL, {0, 2, 1}},
    {MHA_F32, MHA_F32, MHA_F32, 33, &scales[1], {0, 2, 1}},
    {MHA_F16, MHA_F16, MHA_F16, 40, NULL, {2, 2, 1}},
    {MHA_F32, MHA_BF16, MHA_BF16, 7, NULL, {0, 2, 1}},
    {MHA_BF16, MHA_F16, MHA_BF16, 7, NULL, {2, 2, 1}},
    {MHA_BF16, MHA_BF16, MHA_F32, 7, NULL, {0, 2, 1}},
    {MHA_BF16, MHA_BF16, MHA_BF16, 4, NULL, {0, 0, 0}}, /* decode */
    {MHA_F32, MHA_F32, MHA_F32, 1, NULL, {0, 0, 0}},
    {MHA_BF16, MHA_BF16, MHA_BF16, 9, &scales[2], {0, 0, 0}}, /* a factor goes into Q */
};

static void check(const char *isa, mha_precision precision, problem *p, int parts, const outputs *highest) {
    static const char *const multiplied[] = {"f32", "bf16", "bf16 in 2 parts"};
    char who[64], kernels[64], text[1024];
    snprintf(who, sizeof who, "isa %s precision %s", isa, names[precision]);
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, precision);
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p->args, 1, text, sizeof text));
    snprintf(kernels, sizeof kernels, "kernels: %s %s, ", parts > 0 ? isa : isa_of_f32(isa), multiplied[parts]);
    if (strstr(text, kernels) == NULL)
        fail_msg("%s: describe says \"%.60s\", wanted \"%s\"; case of q_len %d", who, text, kernels,
                 (int)p->spec.q_len);
    naive_result wanted = naive_attention(&p->args, parts);
    outputs got = problem_run(p, context, NULL);
    check_outputs(who, p, &got, &wanted);
    if (parts == 0 && highest != NULL) check_same_outputs(who, p, &got, highest);
    outputs_free(&got);
    naive_result_free(&wanted);
    mha_context_destroy(context);
}

static void precisions(const char *isa) {
    for (size_t i = 0; i < COUNT(cases); i++) {
        const spec s = {.what = "precision",
                        .batch = 2,
                        .q_heads = 4,
                        .kv_heads = 2,
                        .q_len = cases[i].q_len,
                        .kv_len = 150,
                        .head_dim = 20,
                        .v_head_dim = 13,
                        .scale = cases[i].scale,
                        .causal = i % 2 == 1,
                        .q_offset = 60,
                        .lse = true,
                        .dtypes = {[Q] = cases[i].q, [K] = cases[i].k, [V] = cases[i].v},
                        .seed = i};
        problem p;
        problem_make(&p, &s, GUARD_END);
        const bool splits = isa_splits(isa);
        int parts[3];
        for (int j = 0; j < 3; j++)
            parts[j] = isa_has_bf16(isa) && (cases[i].parts[j] < 2 || splits) ? cases[i].parts[j] : 0;
        mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_HIGHEST);
        outputs highest = problem_run(&p, context, NULL);
        for (mha_precision precision = MHA_PRECISION_HIGHEST; precision <= MHA_PRECISION_MEDIUM; precision++)
            check(isa, precision, &p, parts[precision], parts[0] > 0 ? NULL : &highest);
        outputs_free(&highest);
        mha_context_destroy(context);
        problem_free(&p);
    }
}

/* Elements whose first part leaves as much as it can, 2^-8 of them, always of the same sign: what two parts leave out,
 * the product of what is left, adds up.  Scores are 30.  Few enough that the root mean square is not asked for: errors
 * that are all alike exceed what is typical. */
static void large_second_parts(const char *isa) {
    static const struct {
        mha_dtype dtype;
        double x;
    } operands[] = {{MHA_F16, 1 + 0x1p-8}, {MHA_F32, 1 + 0x1p-8 - 0x1.04p-17}};
    static const int64_t dims[] = {1, 2, 20, 64};
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_HIGH);
    for (size_t i = 0; i < COUNT(operands) * COUNT(dims); i++) {
        const mha_dtype dtype = operands[i / COUNT(dims)].dtype;
        const double x = operands[i / COUNT(dims)].x;
        const int64_t dim = dims[i % COUNT(dims)];
        const float scale = 30 / (float)dim;
        const spec s = {.what = "large second parts",
                        .batch = 1,
                        .q_heads = 1,
                        .kv_heads = 1,
                        .q_len = 5,
                        .kv_len = 40,
                        .head_dim = dim,
                        .v_head_dim = 3,
                        .scale = &scale,
                        .lse = true,
                        .dtypes = {[Q] = dtype, [K] = dtype, [V] = dtype}};
        problem p;
        problem_make(&p, &s, GUARD_END);
        for (int j = Q; j <= V; j++) matrix_fill(&p.memory[j], dtype, x);
        check_problem(isa, &p, context, isa_splits(isa) ? 2 : 0);
        problem_free(&p);
    }
    mha_context_destroy(context);
}

/* Weights are divided by the sum of what multiplied the values, not of what was rounded to it: values that are all 1
 * come out as 1. */
static void ones(const char *isa) {
    enum { KEYS = 150 };
    const spec s = {.what = "ones",
                    .batch = 1,
                    .q_heads = 2,
                    .kv_heads = 1,
                    .q_len = 9,
                    .kv_len = KEYS,
                    .head_dim = 20,
                    .v_head_dim = 13,
                    .dtypes = {[Q] = MHA_BF16, [K] = MHA_BF16, [V] = MHA_BF16}};
    problem p;
    problem_make(&p, &s, GUARD_END);
    matrix_fill(&p.memory[V], MHA_BF16, 1);
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_HIGHEST);
    outputs got = problem_run(&p, context, NULL);
    for (int64_t i = 0; i < got.n_out; i++)
        if (!(fabs(got.out[i] - 1.0) <= 2 * KEYS * 0x1p-24))
            fail_msg("isa %s: out[%d] is %.9g, wanted 1", isa, (int)i, got.out[i]);
    outputs_free(&got);
    mha_context_destroy(context);
    problem_free(&p);
}

/* Of each key in turn the score is so large that exp overflows unless it is the maximum, and where it may not be seen
 * underflows for all others if it is.  A tile is the heads of one query: then it excludes no key of its own, and the
 * products' maximum is what counts. */
static void largest_score(const char *isa) {
    enum { KEYS = 70, DIM = 4 };
    static const int64_t left = 20;
    static const float scale = 1;
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_HIGHEST);
    for (int64_t key = 35; key < KEYS; key++) {
        const spec s = {.what = "largest score",
                        .batch = 1,
                        .q_heads = 96,
                        .kv_heads = 1,
                        .q_len = 5,
                        .kv_len = KEYS,
                        .head_dim = DIM,
                        .v_head_dim = 5,
                        .scale = &scale,
                        .left = &left,
                        .q_offset = 60,
                        .dtypes = {[Q] = MHA_BF16, [K] = MHA_BF16, [V] = MHA_BF16},
                        .seed = (uint64_t)key};
        char who[64];
        problem p;
        snprintf(who, sizeof who, "isa %s key %d", isa, (int)key);
        problem_make(&p, &s, GUARD_END);
        matrix_fill(&p.memory[Q], MHA_BF16, 1);
        matrix_fill(&p.memory[K], MHA_BF16, 0);
        for (int64_t d = 0; d < DIM; d++) element_set(p.memory[K].data, MHA_BF16, key * DIM + d, 64);
        guard_remember(&p.memory[K]);
        check_problem(who, &p, context, isa_has_bf16(isa));
        problem_free(&p);
    }
    mha_context_destroy(context);
}

static void bad_options(const char *isa) {
    mha_context_options options;
    mha_context *context;
    char message[256];
    mha_context_options_init(&options, sizeof options);
    assert_int_equal(MHA_PRECISION_HIGHEST, options.precision);
    options.isa = isa;
    options.precision = (mha_precision)3;
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_context_create(&options, &context, message, sizeof message));
    assert_non_null(strstr(message, "precision is 3"));
    options.precision = MHA_PRECISION_MEDIUM;
    options.reserved = 1;
    assert_int_equal(MHA_UNSUPPORTED, mha_context_create(&options, &context, message, sizeof message));
    assert_non_null(strstr(message, "reserved is 1"));
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(precisions), ISA_TEST(large_second_parts), ISA_TEST(ones),
                                     ISA_TEST(largest_score), ISA_TEST(bad_options)};
    return isa_tests_run(tests, COUNT(tests));
}

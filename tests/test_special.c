/* Scores near +-100, NaN and infinity seen and unseen, rows without a finite score, subnormals, flush-to-zero. */
#include "check.h"
#include "fpenv.h"
#include "isas.h"
#include "test.h"

#include <fenv.h>
#include <float.h>
#include <math.h>

static const int16_t lengths[][2] = {{1, 1},   {1, 70},   {1, 600},  {3, 40},  {5, 300},
                                     {20, 21}, {70, 200}, {90, 150}, {40, 700}};

static spec sized(const char *what, size_t length, uint64_t seed) {
    return (spec){.what = what,
                  .batch = 2,
                  .q_heads = 2,
                  .kv_heads = 1,
                  .q_len = lengths[length][0],
                  .kv_len = lengths[length][1],
                  .head_dim = 18,
                  .v_head_dim = 11,
                  .lse = true,
                  .seed = seed};
}

static void large_scores(const char *isa) {
    for (logits shape = PLUS_100; shape <= SPIKE; shape++)
        for (size_t l = 0; l < COUNT(lengths); l++)
            for (mask_kind mask = NO_MASK; mask <= MASK_PREFIX; mask++) {
                spec s = sized("large scores", l, l);
                s.logits = shape;
                s.mask = mask;
                check_cases(isa, &s, 1);
            }
}

/* In turn: what sees the poison, and what does not. */
static const spec views[] = {
    {.what = "poison, all see it"},
    {.what = "poison, causal", .causal = true, .q_offset = 3},
    {.what = "poison, causal, bottom right", .causal = true, .q_offset_step = 60},
    {.what = "poison, bool", .mask = MASK_BOOL},
    {.what = "poison, prefix", .mask = MASK_PREFIX},
    {.what = "poison, -inf", .mask = MASK_MINUS_INF},
    {.what = "poison, lengths", .lens = true},
    {.what = "poison, out of sight", .causal = true, .q_offset = -1000},
};

static spec poisoned(size_t view, size_t length, poison kind, uint64_t seed) {
    const spec sizes = sized("", length, seed);
    spec s = views[view];
    s.batch = sizes.batch, s.q_heads = sizes.q_heads, s.kv_heads = sizes.kv_heads, s.q_len = sizes.q_len;
    s.kv_len = sizes.kv_len, s.head_dim = sizes.head_dim, s.v_head_dim = sizes.v_head_dim;
    s.lse = true;
    s.poison = kind;
    s.seed = seed;
    return s;
}

static void poison_seen_and_unseen(const char *isa) {
    for (poison kind = NAN_K; kind <= NAN_Q; kind++)
        for (size_t view = 0; view < COUNT(views); view++)
            for (size_t l = 0; l < COUNT(lengths); l++)
                for (uint64_t seed = 0; seed < 3; seed++) {
                    const spec s = poisoned(view, l, kind, seed);
                    check_cases(isa, &s, 1);
                }
}

static void poison_and_window(const char *isa) {
    const int64_t left = 12, right = 4;
    for (poison kind = NAN_K; kind <= INF_V; kind++)
        for (size_t l = 0; l < COUNT(lengths); l++)
            for (uint64_t seed = 0; seed < 4; seed++) {
                spec s = poisoned(0, l, kind, seed);
                s.what = "poison, window";
                s.left = &left, s.right = &right;
                s.q_offset = (int64_t)seed * 30;
                check_cases(isa, &s, 1);
            }
}

static void scores_minus_inf(const char *isa) {
    for (poison kind = ALL_MINUS_INF; kind <= FIRST_MINUS_INF; kind++)
        for (size_t view = 0; view < COUNT(views); view++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = poisoned(view, l, kind, l);
                check_cases(isa, &s, 1);
                s.scores = SOFTMAX;
                check_cases(isa, &s, 1);
            }
}

static void subnormals(const char *isa) {
    for (size_t l = 0; l < COUNT(lengths); l++) {
        spec s = sized("subnormals", l, l);
        s.logits = SUBNORMAL;
        check_cases(isa, &s, 1);
        s.scale = SCALE(0x1p+100f);
        check_cases(isa, &s, 1);
    }
}

/* The caller may flush subnormals to zero: the control register stays as it is, results are as right as before, and the
 * same bits where no subnormal is in play. */
static void flush_to_zero(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t l = 0; l < COUNT(lengths); l++)
        for (logits shape = NORMAL; shape <= SUBNORMAL; shape++) {
            spec s = sized("flush to zero", l, l);
            s.logits = shape;
            s = spec_for(isa, &s);
            problem p;
            problem_make(&p, &s, GUARD_END);
            naive_result wanted = naive_attention(&p.args, isa_has_bf16(isa) && s.q_len > 4);
            outputs gradual = problem_run(&p, context, NULL);
            const uint64_t before = fp_control();
            fp_set_control(before | FP_FLUSH);
            outputs flushed = problem_run(&p, context, NULL);
            const uint64_t after = fp_control();
            fp_set_control(before);
            if (after != (before | FP_FLUSH))
                fail_msg("isa %s left control register %#llx, found %#llx", isa, (unsigned long long)after,
                         (unsigned long long)(before | FP_FLUSH));
            check_outputs(isa, &p, &flushed, &wanted);
            if (shape == NORMAL) check_same_outputs(isa, &p, &flushed, &gradual);
            outputs_free(&gradual);
            outputs_free(&flushed);
            naive_result_free(&wanted);
            problem_free(&p);
        }
    mha_context_destroy(context);
}

/* Products beyond the range of floats on the way, scores within it. */
static void extreme_products(const char *isa) {
    static const struct {
        float q, k, scale;
    } extremes[] = {{1e10f, 1e-30f, 1e30f},       {1e30f, 1e20f, 1e-40f}, {1e-30f, 1e-30f, 1e38f},
                    {-1e10f, 1e-30f, -1e30f},     {1e38f, 1e-28f, 1},     {1e-20f, 1e30f, 1e-10f},
                    {0x1p-64f, 0x1p-64f, FLT_MAX}};
    static char workspace[1 << 20];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(extremes); i++)
        for (int64_t q_len = 1; q_len <= 8; q_len += 7) {
            float q[8], k[2] = {extremes[i].k, 0}, v[2] = {3, 5}, out[8];
            for (int64_t r = 0; r < q_len; r++) q[r] = extremes[i].q;
            mha_attention_args args;
            mha_attention_args_init(&args, sizeof args);
            args.batch = args.q_heads = args.kv_heads = args.head_dim = 1;
            args.q_len = q_len, args.kv_len = 2, args.scale = extremes[i].scale;
            args.q = (mha_tensor){q, MHA_F32, {0, 0, 1}};
            args.k = (mha_tensor){k, MHA_F32, {0, 0, 1}};
            args.v = (mha_tensor){v, MHA_F32, {0, 0, 1}};
            args.out = (mha_tensor){out, MHA_F32, {0, 0, 1}};
            assert_int_equal(MHA_OK, mha_attention(context, &args, NULL, workspace, sizeof workspace));
            naive_result wanted = naive_attention(&args, false);
            for (int64_t r = 0; r < q_len; r++) /* one weight is all, or both are of moderate scores: nothing is lost */
                if (!(fabs(out[r] - wanted.out.x[r]) <= 4e-6))
                    fail_msg("isa %s: out[%d] is %g, wanted %g; q %g k %g scale %g", isa, (int)r, (double)out[r],
                             wanted.out.x[r], (double)q[0], (double)k[0], (double)args.scale);
            naive_result_free(&wanted);
        }
    mha_context_destroy(context);
}

/* Scores that are all -inf yield zeros although their keys are seen, and whatever the values hold. */
static void minus_inf_and_nan(const char *isa) {
    enum { KEYS = 1100 };
    static const int64_t kv_lens[] = {1, 3, KEYS}; /* the last is split */
    static float k[KEYS], v[KEYS];
    static char workspace[1 << 20];
    for (int i = 0; i < KEYS; i++) k[i] = -INFINITY, v[i] = NAN;
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(kv_lens); i++)
        for (int64_t q_len = 1; q_len <= 5; q_len += 4) {
            float q[5] = {1, 1, 1, 1, 1}, out[5], lse[5];
            mha_attention_args args;
            mha_attention_args_init(&args, sizeof args);
            args.batch = args.q_heads = args.kv_heads = args.head_dim = 1;
            args.q_len = q_len, args.kv_len = kv_lens[i];
            args.q = (mha_tensor){q, MHA_F32, {0, 0, 1}};
            args.k = (mha_tensor){k, MHA_F32, {0, 0, 1}};
            args.v = (mha_tensor){v, MHA_F32, {0, 0, 1}};
            args.out = (mha_tensor){out, MHA_F32, {0, 0, 1}};
            args.lse = (mha_row_tensor){lse, {0, 0, 1}};
            assert_int_equal(MHA_OK, mha_attention(context, &args, NULL, workspace, sizeof workspace));
            for (int64_t r = 0; r < q_len; r++)
                if (!(out[r] == 0 && lse[r] == -INFINITY))
                    fail_msg("isa %s, q_len %d, kv_len %d: out[%d] is %g, lse %g, wanted 0 and -inf", isa, (int)q_len,
                             (int)kv_lens[i], (int)r, (double)out[r], (double)lse[r]);
        }
    mha_context_destroy(context);
}

/* Rows without a key are no division by zero. */
static void no_exception(const char *isa) {
    for (size_t l = 0; l < COUNT(lengths); l++)
        for (int lens = 0; lens < 2; lens++) {
            spec s = sized("no exception", l, l);
            s.batch = 3;
            s.lens = lens == 1;
            if (lens == 0) s.causal = true, s.q_offset = -s.q_len / 2 - 1;
            mha_context *context = isa_context(isa, MHA_EXP_AUTO);
            problem p;
            problem_make(&p, &s, GUARD_END);
            feclearexcept(FE_ALL_EXCEPT);
            outputs o = problem_run(&p, context, NULL);
            if (fetestexcept(FE_DIVBYZERO)) fail_msg("isa %s: a division by zero; length %zu", isa, l);
            outputs_free(&o);
            problem_free(&p);
            mha_context_destroy(context);
        }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(extreme_products),       ISA_TEST(no_exception),
                                     ISA_TEST(minus_inf_and_nan),      ISA_TEST(large_scores),
                                     ISA_TEST(poison_seen_and_unseen), ISA_TEST(poison_and_window),
                                     ISA_TEST(scores_minus_inf),       ISA_TEST(subnormals),
                                     ISA_TEST(flush_to_zero)};
    return isa_tests_run(tests, COUNT(tests));
}

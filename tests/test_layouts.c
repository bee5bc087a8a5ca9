/* Every layout of the operands gives the same bits, and the right ones; every scale and score output too. */
#include "check.h"
#include "isas.h"
#include "test.h"

static spec sized(const char *what, int64_t q_len, int64_t kv_len) {
    return (spec){.what = what,
                  .batch = 2,
                  .q_heads = 4,
                  .kv_heads = 2,
                  .q_len = q_len,
                  .kv_len = kv_len,
                  .head_dim = 20,
                  .v_head_dim = 12,
                  .lse = true,
                  .seed = (uint64_t)q_len};
}

static void layouts(const char *isa) {
    static const int16_t lens[][2] = {{1, 1}, {1, 40}, {3, 150}, {6, 6}, {50, 50}, {33, 140}, {90, 90}};
    for (layout l = BHTD; l <= SHARED_TOKENS; l++)
        for (size_t i = 0; i < COUNT(lens); i++) {
            spec s = sized("layout", lens[i][0], lens[i][1]);
            s.layout = l;
            if ((l == PACKED || l == PACKED_OUT) && s.q_len != s.kv_len) s.kv_len = s.q_len;
            check_cases(isa, &s, 1);
            s.causal = true;
            s.lens = l != SHARED_HEADS && l != SHARED_TOKENS; /* what is shared has no padding of its own */
            check_cases(isa, &s, 1);
        }
}

/* Bitwise: contents are drawn in logical order, so all these layouts hold the same problem. */
static void layouts_same_bits(const char *isa) {
    static const layout same[] = {BHTD, BTHD, WIDE, GAPPED, REVERSED, PACKED, PACKED_OUT};
    static const int16_t lens[] = {1, 4, 30, 100};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(lens); i++) {
        outputs wanted = {0};
        for (size_t l = 0; l < COUNT(same); l++) {
            spec s = sized("layouts, same bits", lens[i], lens[i]);
            s.layout = same[l];
            problem p;
            problem_make(&p, &s, GUARD_START);
            outputs got = problem_run(&p, context, NULL);
            if (l == 0) wanted = got;
            check_same_outputs(isa, &p, &got, &wanted);
            if (l > 0) outputs_free(&got);
            problem_free(&p);
        }
        outputs_free(&wanted);
    }
    mha_context_destroy(context);
}

static void scales(const char *isa) {
    static const float factors[] = {1, 0, -0.3f, 0.01f, 1e-6f, 1e-30f, -1e-30f, 0x1p-140f, 3, -2, 20};
    static const int16_t q_lens[] = {1, 20};
    for (size_t i = 0; i < COUNT(factors); i++)
        for (size_t j = 0; j < COUNT(q_lens); j++)
            for (mask_kind mask = NO_MASK; mask <= MASK_MINUS_INF; mask++) {
                spec s = sized("scale", q_lens[j], 100);
                s.scale = &factors[i];
                s.mask = mask;
                s.seed = i;
                check_cases(isa, &s, 1);
                s.scores = (scores_kind)(RAW + i % 4);
                check_cases(isa, &s, 1);
            }
}

/* The scale may be far from 1 where the products make up for it. */
static void extreme_scales(const char *isa) {
    static const float factors[] = {1e25f, 1e-25f, -1e25f, 0x1p70f, 0x1p-70f, 0x1p60f, 0x1p-60f};
    static const logits shapes[] = {PLUS_100, RISING};
    for (size_t i = 0; i < COUNT(factors); i++)
        for (size_t j = 0; j < COUNT(shapes); j++) {
            spec s = sized("extreme scale", 3 + (int64_t)(20 * j), 70);
            s.head_dim = 1; /* other dimensions would add noise of size scale */
            s.scale = &factors[i];
            s.logits = shapes[j];
            check_cases(isa, &s, 1);
        }
}

/* All score outputs with all that modifies scores; keys that nobody sees are written too. */
static void scores(const char *isa) {
    const spec cases[] = {
        {.what = "plain"},
        {.what = "causal", .causal = true, .q_offset = 3},
        {.what = "window", .left = KEYS(4), .right = KEYS(2), .q_offset = 5},
        {.what = "lengths", .lens = true},
        {.what = "bool", .mask = MASK_BOOL},
        {.what = "bias", .mask = MASK_BIAS},
        {.what = "-inf", .mask = MASK_MINUS_INF, .causal = true, .q_offset = 10},
        {.what = "lowest", .mask = MASK_LOWEST, .lens = true},
        {.what = "out of sight", .causal = true, .q_offset = -200},
        {.what = "negative scale", .scale = SCALE(-0.25f), .mask = MASK_BIAS},
        {.what = "zero scale", .scale = SCALE(0), .causal = true, .q_offset = 9},
        {.what = "100", .logits = PLUS_100},
        {.what = "falling", .logits = FALLING, .causal = true, .q_offset = 50},
        {.what = "gaps", .layout = GAPPED, .mask = MASK_BOOL, .causal = true, .q_offset = 9},
    };
    static const int16_t lens[][2] = {{6, 17}, {1, 17}, {3, 300}, {40, 200}, {5, 0}};
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t l = 0; l < COUNT(lens); l++)
            for (scores_kind mode = RAW; mode <= SOFTMAX; mode++) {
                spec s = sized(cases[i].what, lens[l][0], lens[l][1]);
                const spec sizes = s;
                s = cases[i];
                s.batch = sizes.batch, s.q_heads = sizes.q_heads, s.kv_heads = sizes.kv_heads;
                s.q_len = sizes.q_len, s.kv_len = sizes.kv_len;
                s.head_dim = sizes.head_dim, s.v_head_dim = sizes.v_head_dim;
                s.lse = l % 2 == 0;
                s.scores = mode;
                s.seed = i;
                check_cases(isa, &s, 1);
            }
}

static void scores_tails(const char *isa) {
    static const int16_t q_lens[] = {1, 3, 9};
    for (int64_t kv_len = 1; kv_len <= 70; kv_len++)
        for (size_t i = 0; i < COUNT(q_lens); i++) {
            spec s = sized("scores, kv_len", q_lens[i], kv_len);
            s.batch = 1;
            s.scores = (scores_kind)(RAW + (i + (size_t)kv_len) % 4);
            check_cases(isa, &s, 1);
            s.scores = SOFTMAX;
            check_cases(isa, &s, 1);
        }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(scores_tails), ISA_TEST(layouts),        ISA_TEST(layouts_same_bits),
                                     ISA_TEST(scales),       ISA_TEST(extreme_scales), ISA_TEST(scores)};
    return isa_tests_run(tests, COUNT(tests));
}

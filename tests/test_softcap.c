/* Scores that become softcap * tanh(score / softcap) before masks: alone and with every option that comes after. */
#include "check.h"
#include "isas.h"
#include "test.h"

/* Few queries, few tiles, many tiles; keys of one block and of several. */
static const int16_t lengths[][2] = {{1, 1}, {1, 37}, {3, 300}, {4, 600}, {7, 21}, {40, 150}, {130, 260}};

static spec sized(const char *what, size_t length, float softcap, uint64_t seed) {
    return (spec){.what = what,
                  .batch = 2,
                  .q_heads = 2,
                  .kv_heads = 1,
                  .q_len = lengths[length][0],
                  .kv_len = lengths[length][1],
                  .head_dim = 18,
                  .v_head_dim = 11,
                  .softcap = softcap,
                  .lse = true,
                  .seed = seed};
}

/* From caps that flatten every score to those that leave them as they are, with scales far from 1 either way. */
static void caps_and_scales(const char *isa) {
    static const float softcaps[] = {0x1p-60f, 1e-3f, 0.5f, 1, 50, 1e6f, 0x1p60f};
    static const float scales[] = {0, 1e-30f, 0.25f, -0.25f, 3, 1e15f};
    for (size_t c = 0; c < COUNT(softcaps); c++)
        for (size_t x = 0; x < COUNT(scales); x++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = sized("softcap", l, softcaps[c], c * 10 + x);
                s.scale = &scales[x];
                s.scores = (scores_kind)(RAW + (l + x) % 4);
                check_cases(isa, &s, 1);
            }
}

static void before_masks(const char *isa) {
    for (mask_kind mask = NO_MASK; mask <= MASK_PADDING; mask++)
        for (scores_kind scores = NO_SCORES; scores <= SOFTMAX; scores++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = sized("softcap and mask", l, 2, (uint64_t)mask * 10 + scores);
                s.mask = mask;
                s.scores = scores;
                s.causal = l % 2 == 1;
                s.q_offset = 9;
                s.lens = scores == NO_SCORES;
                check_cases(isa, &s, 1);
            }
}

static void large_scores(const char *isa) {
    for (logits shape = PLUS_100; shape <= SUBNORMAL; shape++)
        for (size_t l = 0; l < COUNT(lengths); l++) {
            const spec cases[] = {sized("softcap, large scores", l, 30, l), sized("softcap, larger scores", l, 500, l)};
            for (size_t i = 0; i < COUNT(cases); i++) {
                spec s = cases[i];
                s.logits = shape;
                check_cases(isa, &s, 1);
            }
        }
}

/* A score of -inf is capped to -softcap: visible.  NaN stays NaN, and what is excluded stays out. */
static void poison_seen_and_unseen(const char *isa) {
    for (poison kind = NAN_K; kind <= FIRST_MINUS_INF; kind++)
        for (mask_kind mask = NO_MASK; mask <= MASK_PREFIX; mask++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = sized("softcap, poison", l, 4, l);
                s.poison = kind;
                s.mask = mask;
                s.causal = l % 2 == 1;
                s.q_offset = 20;
                check_cases(isa, &s, 1);
            }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(caps_and_scales), ISA_TEST(before_masks), ISA_TEST(large_scores),
                                     ISA_TEST(poison_seen_and_unseen)};
    return isa_tests_run(tests, COUNT(tests));
}

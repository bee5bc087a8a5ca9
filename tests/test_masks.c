/* Which keys a query sees: causality, windows, lengths, masks; alone and together, at every edge. */
#include "check.h"
#include "isas.h"
#include "test.h"

#include <stdio.h>

static void check_both_lengths(const char *isa, spec s) {
    char what[96];
    snprintf(what, sizeof what, "%s, many queries", s.what);
    check_cases(isa, &s, 1);
    s.what = what;
    s.q_len = 70;
    s.kv_len = 130;
    check_cases(isa, &s, 1);
}

static spec small(const char *what, uint64_t seed) {
    return (spec){.what = what,
                  .batch = 2,
                  .q_heads = 2,
                  .kv_heads = 1,
                  .q_len = 7,
                  .kv_len = 21,
                  .head_dim = 8,
                  .v_head_dim = 5,
                  .lse = true,
                  .seed = seed};
}

static void causal(const char *isa) {
    static const int16_t offsets[] = {0, 1, 14, 13, 15, 20, 21, 100, -1, -3, -6, -7, -100, 60, 63, 64, 65};
    for (size_t i = 0; i < COUNT(offsets); i++) {
        spec s = small("causal", i);
        s.causal = true;
        s.q_offset = offsets[i];
        check_both_lengths(isa, s);
        s.what = "causal, offset per batch item";
        s.q_offset_step = -5;
        check_both_lengths(isa, s);
        s.what = "causal, one query";
        s.q_len = 1;
        check_cases(isa, &s, 1);
    }
}

static void windows(const char *isa) {
    static const logits shapes[] = {NORMAL, STEEP_UP, STEEP_DOWN};
    static const int16_t distances[] = {-1, 0, 1, 3, 64, 1000};
    static const int16_t offsets[] = {0, 5, 14, -4, 63, 200};
    for (size_t left = 0; left < COUNT(distances); left++)
        for (size_t right = 0; right < COUNT(distances); right++)
            for (size_t i = 0; i < COUNT(offsets) * 2; i++) {
                const int64_t l = distances[left], r = distances[right];
                spec s = small("window", (left * 10 + right) * 20 + i);
                s.batch = 1;
                s.left = &l, s.right = &r;
                s.q_offset = offsets[i / 2];
                s.logits = shapes[(left + right + i) % COUNT(shapes)];
                s.causal = i % 2 == 1;
                check_both_lengths(isa, s);
            }
}

/* A window may be as far as a position, and still binds. */
static void far_windows(const char *isa) {
    const int64_t far = INT64_C(1) << 60;
    const struct {
        int64_t left, right, q_offset;
        bool causal;
    } cases[] = {
        {-1, far + 1, -far, false},      {-1, far - 1, -far, false},        {far + 1, -1, far, false},
        {far - 1, -1, far, true},        {far + 1, far + 1, -far, false},   {far + 1, far + 1, far, false},
        {2 * far, 2 * far, -far, false}, {2 * far, 2 * far, far, false},    {2 * far + 1, 2 * far + 1, -far, false},
        {2 * far + 1, -1, far, true},    {INT64_MAX / 2, far, -far, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        spec s = small("far window", i);
        s.left = &cases[i].left, s.right = &cases[i].right;
        s.q_offset = cases[i].q_offset, s.causal = cases[i].causal;
        check_both_lengths(isa, s);
    }
}

static void lengths(const char *isa) {
    const int64_t nine = 9;
    for (uint64_t i = 0; i < 12; i++) {
        spec s = small("lengths", i);
        s.batch = 4;
        s.lens = true;
        s.causal = i % 2 == 1;
        s.q_offset_step = i % 4 == 3 ? 6 : 0;
        if (i >= 4) s.mask = i < 8 ? MASK_BOOL : MASK_BIAS;
        s.left = i >= 6 ? &nine : NULL;
        check_both_lengths(isa, s);
        s.q_len = 1;
        check_cases(isa, &s, 1);
    }
}

static void masks(const char *isa) {
    for (mask_kind mask = MASK_BOOL; mask <= MASK_PREFIX; mask++)
        for (unsigned same = 0; same < 16; same++)
            for (int variant = 0; variant < 3; variant++) {
                spec s = small("mask", same);
                s.mask = mask;
                s.same = same;
                s.causal = variant == 1;
                s.q_offset = variant == 1 ? 10 : 0;
                s.layout = variant == 2 ? (same % 2 == 0 ? GAPPED : REVERSED) : BHTD;
                if (same % 4 == (unsigned)variant) check_both_lengths(isa, s);
                else check_cases(isa, &s, 1);
            }
}

static void mask_one_query(const char *isa) {
    for (mask_kind mask = MASK_BOOL; mask <= MASK_PADDING; mask++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            spec s = small("mask, few queries", seed);
            s.mask = mask;
            s.q_len = 1 + (int64_t)seed;
            s.q_heads = 4;
            s.kv_len = 300;
            check_cases(isa, &s, 1);
            s.kv_len = 700;
            s.lens = true;
            check_cases(isa, &s, 1);
        }
}

/* Whole blocks of keys that no row, or only some rows, can see. */
static void sparse_blocks(const char *isa) {
    const spec cases[] = {
        {.what = "prefix", .q_len = 40, .kv_len = 600, .mask = MASK_PREFIX},
        {.what = "far window", .q_len = 40, .kv_len = 600, .left = KEYS(3), .right = KEYS(3), .q_offset = 250},
        {.what = "wide window", .q_len = 300, .kv_len = 600, .left = KEYS(130), .causal = true, .q_offset = 300},
        {.what = "window ahead", .q_len = 300, .kv_len = 600, .left = KEYS(0), .right = KEYS(130)},
        {.what = "out of sight, left", .q_len = 40, .kv_len = 600, .right = KEYS(2), .q_offset = -43},
        {.what = "out of sight, right", .q_len = 40, .kv_len = 600, .left = KEYS(2), .q_offset = 590},
        {.what = "causal square", .q_len = 300, .kv_len = 300, .causal = true},
        {.what = "causal tall", .q_len = 300, .kv_len = 100, .causal = true},
        {.what = "causal, bottom right", .q_len = 100, .kv_len = 333, .causal = true, .q_offset = 233},
        {.what = "causal, falling scores", .q_len = 300, .kv_len = 300, .causal = true, .logits = FALLING},
        {.what = "window, rising scores",
         .q_len = 300,
         .kv_len = 300,
         .causal = true,
         .left = KEYS(77),
         .logits = RISING},
        {.what = "causal prefix", .q_len = 200, .kv_len = 200, .causal = true, .mask = MASK_PREFIX},
        {.what = "weights before the window",
         .q_len = 9,
         .kv_len = 400,
         .left = KEYS(3),
         .q_offset = 290,
         .scores = SOFTMAX},
        {.what = "weights beyond the window", .q_len = 9, .kv_len = 400, .right = KEYS(3), .scores = SOFTMAX},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        spec s = cases[i];
        s.batch = 1, s.q_heads = 3, s.kv_heads = 1, s.head_dim = 9, s.v_head_dim = 4;
        s.lse = true;
        s.seed = i;
        check_cases(isa, &s, 1);
    }
}

/* Many heads share one KV head, so that all rows of a tile see the same keys, from and to anywhere within a panel. */
static void same_position(const char *isa) {
    for (int64_t distance = 0; distance <= 20; distance++)
        for (logits shape = STEEP_UP; shape <= STEEP_DOWN; shape++) {
            spec s = small("same position", (uint64_t)distance);
            s.q_heads = 64, s.q_len = 5, s.kv_len = 60;
            s.batch = 1;
            s.left = s.right = &distance;
            s.q_offset = 20;
            s.logits = shape;
            check_cases(isa, &s, 1);
            s.q_len = 1;
            check_cases(isa, &s, 1);
        }
}

/* Keys at the ends that no row sees, out of any alignment. */
static void padding(const char *isa) {
    static const int16_t kv_lens[] = {27, 130, 300};
    static const int16_t q_lens[] = {1, 3, 9, 70};
    static const logits shapes[] = {NORMAL, STEEP_UP, STEEP_DOWN};
    for (uint64_t seed = 0; seed < 14; seed++)
        for (size_t l = 0; l < COUNT(kv_lens); l++)
            for (size_t i = 0; i < COUNT(q_lens); i++) {
                spec s = small("padding", seed);
                s.mask = MASK_PADDING;
                s.same = seed % 2 == 0 ? SAME_H | SAME_Q : 0;
                s.q_len = q_lens[i], s.kv_len = kv_lens[l];
                s.logits = shapes[(seed + i) % COUNT(shapes)];
                s.scores = seed % 5 == 0 ? SOFTMAX : NO_SCORES;
                check_cases(isa, &s, 1);
            }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(causal),        ISA_TEST(windows),       ISA_TEST(far_windows),
                                     ISA_TEST(lengths),       ISA_TEST(masks),         ISA_TEST(mask_one_query),
                                     ISA_TEST(sparse_blocks), ISA_TEST(same_position), ISA_TEST(padding)};
    return isa_tests_run(tests, COUNT(tests));
}

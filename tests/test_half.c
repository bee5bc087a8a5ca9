/* Operands in half precision: the conversions themselves, and attention whose operands are of any mix of dtypes. */
#include "check.h"
#include "half.h"
#include "isas.h"
#include "kernels.h"
#include "rng.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const mha_dtype halves[] = {MHA_F16, MHA_BF16};
static const char *const names[] = {"f32", "f16", "bf16"};

enum { PATTERNS = 1 << 16 };

static void widen_every_pattern(const char *isa) {
    static uint16_t bits[PATTERNS];
    static float got[PATTERNS];
    for (int i = 0; i < PATTERNS; i++) bits[i] = (uint16_t)i;
    for (size_t d = 0; d < COUNT(halves); d++) {
        kernels_of(isa)->widen(bits, halves[d], got, PATTERNS);
        for (int i = 0; i < PATTERNS; i++) {
            const double wanted = half_value(bits[i], halves[d]);
            const bool same = isnan(wanted) ? isnan(got[i]) : (double)got[i] == wanted;
            if (!same || (signbit(got[i]) != 0) != ((bits[i] & 0x8000) != 0))
                fail_msg("isa %s: %s %#06x became %a, wanted %a", isa, names[halves[d] - MHA_F32], bits[i],
                         (double)got[i], wanted);
        }
    }
}

static void check_narrow(const char *isa, mha_dtype dtype, const float *x, size_t n) {
    static uint16_t got[4096];
    kernels_of(isa)->narrow(x, dtype, got, n);
    for (size_t i = 0; i < n; i++) {
        const uint16_t wanted = half_nearest((double)x[i], dtype);
        const bool same = isnan(x[i]) ? isnan(half_value(got[i], dtype)) : got[i] == wanted;
        if (!same)
            fail_msg("isa %s: %a became %s %#06x, wanted %#06x", isa, (double)x[i], names[dtype - MHA_F32], got[i],
                     wanted);
    }
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Each number of half precision, halfway to the next and a place of f32 beside it, NaN of every payload among them. */
static void narrow_at_every_tie(const char *isa) {
    for (size_t d = 0; d < COUNT(halves); d++)
        for (uint32_t pattern = 0; pattern < PATTERNS; pattern++) {
            const float here = (float)half_value((uint16_t)pattern, halves[d]);
            const float next = (float)half_value((uint16_t)(pattern + 1), halves[d]);
            const float tie =
                isfinite(here) && isinf(next) && halves[d] == MHA_F16 ? copysignf(65520, here) : here / 2 + next / 2;
            const float x[] = {here, nextafterf(here, INFINITY), nextafterf(here, -INFINITY),
                               tie,  nextafterf(tie, INFINITY),  nextafterf(tie, -INFINITY)};
            check_narrow(isa, halves[d], x, COUNT(x));
        }
}

/* A sample of all floats, in lengths that end anywhere in a vector. */
static void narrow_any_float(const char *isa) {
    static float x[64 * 63];
    rng r = {7};
    for (size_t d = 0; d < COUNT(halves); d++)
        for (size_t n = 1; n < COUNT(x); n += 37) {
            for (size_t i = 0; i < n; i++) x[i] = float_of((uint32_t)rng_next(&r));
            check_narrow(isa, halves[d], x, n);
        }
}

static const int16_t lengths[][2] = {{1, 1}, {1, 37}, {3, 1100}, {7, 21}, {40, 150}, {50, 300}};

/* Which operands are half: one each, all, and mixed. */
static const struct {
    const char *what;
    mha_dtype dtypes[N_OPERANDS];
} mixes[] = {
    {"half q", {[Q] = MHA_F16}},
    {"half k", {[K] = MHA_BF16}},
    {"half v", {[V] = MHA_F16}},
    {"half out", {[OUT] = MHA_BF16}},
    {"half mask", {[MASK] = MHA_F16}},
    {"half scores", {[SCORES] = MHA_BF16}},
    {"all f16", {[Q] = MHA_F16, [K] = MHA_F16, [V] = MHA_F16, [MASK] = MHA_F16, [OUT] = MHA_F16, [SCORES] = MHA_F16}},
    {"all bf16",
     {[Q] = MHA_BF16, [K] = MHA_BF16, [V] = MHA_BF16, [MASK] = MHA_BF16, [OUT] = MHA_BF16, [SCORES] = MHA_BF16}},
    {"mixed", {[Q] = MHA_BF16, [K] = MHA_F16, [V] = MHA_BF16, [MASK] = MHA_BF16, [OUT] = MHA_F16, [SCORES] = MHA_F16}},
};

static spec sized(size_t mix, size_t length, uint64_t seed) {
    spec s = {.what = mixes[mix].what,
              .batch = 2,
              .q_heads = 4,
              .kv_heads = 2,
              .q_len = lengths[length][0],
              .kv_len = lengths[length][1],
              .head_dim = 20,
              .v_head_dim = 13,
              .lse = true,
              .seed = seed};
    memcpy(s.dtypes, mixes[mix].dtypes, sizeof s.dtypes);
    return s;
}

static void mixed_dtypes(const char *isa) {
    for (size_t mix = 0; mix < COUNT(mixes); mix++)
        for (size_t l = 0; l < COUNT(lengths); l++)
            for (mask_kind mask = NO_MASK; mask <= MASK_PREFIX; mask++) {
                spec s = sized(mix, l, mix * 100 + (uint64_t)mask);
                s.mask = mask;
                s.causal = l % 2 == 1;
                s.q_offset = 11;
                s.same = (unsigned)(mix + l) % 16;
                if (mixes[mix].dtypes[SCORES] != 0) s.scores = (scores_kind)(RAW + (l + mask) % 4);
                check_cases(isa, &s, 1);
            }
}

/* Kernels that take elements of half precision two vectors at a time, up to eight, meet rests of any length. */
static void head_dims(const char *isa) {
    static const int16_t dims[] = {15, 16, 31, 32, 47, 64, 80, 100, 128, 145};
    static const size_t taken[] = {1, 2, 4}; /* lengths of decode and of prefill */
    for (size_t mix = 1; mix < COUNT(mixes); mix++)
        for (size_t d = 0; d < COUNT(dims); d++)
            for (size_t l = 0; l < COUNT(taken); l++) {
                spec s = sized(mix, taken[l], mix * 100 + d);
                s.head_dim = dims[d];
                s.v_head_dim = dims[COUNT(dims) - 1 - d];
                check_cases(isa, &s, 1);
            }
}

static void layouts(const char *isa) {
    for (size_t mix = 6; mix <= 7; mix++)
        for (layout layout = BHTD; layout <= SHARED_TOKENS; layout++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = sized(mix, l, l);
                s.layout = layout;
                if (layout == PACKED || layout == PACKED_OUT) s.kv_len = s.q_len;
                if (layout == WIDE) s.q_len = s.q_len % 50 + 1, s.kv_len = s.kv_len % 50 + 1;
                s.mask = l % 2 == 0 ? MASK_BIAS : NO_MASK;
                s.v_head_dim = l % 2 == 0 ? 16 : 33;
                check_cases(isa, &s, 1);
            }
}

static void poison_seen_and_unseen(const char *isa) {
    for (poison kind = NAN_K; kind <= FIRST_MINUS_INF; kind++) { /* by all rows */
        spec s = sized(6, 3, kind);
        s.poison = kind;
        check_cases(isa, &s, 1);
    }
    for (poison kind = NAN_K; kind <= FIRST_MINUS_INF; kind++)
        for (size_t mix = 6; mix <= 7; mix++)
            for (size_t l = 0; l < COUNT(lengths); l++) {
                spec s = sized(mix, l, l);
                s.poison = kind;
                s.causal = l % 2 == 1;
                s.q_offset = 11;
                s.lens = l % 3 == 0;
                check_cases(isa, &s, 1);
                s.mask = MASK_BOOL;
                check_cases(isa, &s, 1);
            }
}

/* Operands of any dtype that are rounded to bf16, where the instruction set multiplies it. */
static void check_medium(const char *isa, const spec *s) {
    char text[512], what[512];
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_MEDIUM);
    problem p;
    problem_make(&p, s, GUARD_END);
    spec_text(s, what, sizeof what);
    const bool bf16 = isa_has_bf16(isa) && s->q_len > 4;
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 1, text, sizeof text));
    if ((strstr(text, " bf16, tile path") != NULL) != bf16) fail_msg("isa %s: %s runs on %s", isa, what, text);
    check_problem(isa, &p, context, bf16);
    problem_free(&p);
    mha_context_destroy(context);
}

static void medium_precision(const char *isa) {
    static const int64_t head_dims[] = {35, 1, 19}; /* more than a vector of pairs, half a pair */
    for (size_t mix = 0; mix < COUNT(mixes); mix++)
        for (size_t l = 0; l < COUNT(lengths); l++) {
            spec s = sized(mix, l, l);
            s.causal = l % 2 == 1;
            s.q_offset = 11;
            s.lse = true;
            s.head_dim = head_dims[(mix + l) % 3];
            if (s.head_dim == 1) s.scores = RAW; /* how operands were rounded shows */
            s.poison = l % 3 == 2 ? NAN_V : NO_POISON;
            if (test_takes(s.batch * s.q_heads * s.q_len * s.kv_len * s.head_dim)) check_medium(isa, &s);
        }
}

int main(void) {
    static const isa_test tests[] = {F32_TEST(widen_every_pattern), F32_TEST(narrow_at_every_tie),
                                     F32_TEST(narrow_any_float),    ISA_TEST(mixed_dtypes),
                                     ISA_TEST(head_dims),           ISA_TEST(layouts),
                                     ISA_TEST(medium_precision),    ISA_TEST(poison_seen_and_unseen)};
    return isa_tests_run(tests, COUNT(tests));
}

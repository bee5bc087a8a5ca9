/* exp as the softmax evaluates it, for every float (quick runs: one in 4,099) from -inf to 0, against double. */
#include "isas.h"
#include "kernels.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 4096 };

static const double LN_LEAST_NORMAL = -87.336544750553102; /* ln 2^-126 */
static const uint32_t MINUS_ZERO = 0x80000000u, MINUS_INF = 0xff800000u;

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Distance between floats in the binade of y. */
static double ulp(double y) {
    uint64_t bits;
    memcpy(&bits, &y, sizeof bits);
    bits &= UINT64_C(0x7ff0000000000000);
    double power;
    memcpy(&power, &bits, sizeof power);
    return power * 0x1p-23;
}

static void reference(const float *x, double *y) {
    for (int i = 0; i < CHUNK; i++) {
        const double d = x[i];
        y[i] = d > -0x1p-20 ? 1 + d + d * d / 2 : exp(d); /* the series is right to 2^-62 */
    }
}

typedef struct worst {
    double error; /* in ULP */
    float x;
} worst;

static void find_worst(const float *x, const float *got, const double *wanted, worst *w) {
    for (int i = 0; i < CHUNK; i++) {
        const double error = fabs((double)got[i] - wanted[i]) / ulp(wanted[i]);
        if (!(error <= w->error)) *w = (worst){error, x[i]};
    }
}

/* All floats from -0 down to ln 2^-126, `step` apart. */
static void check_range(const char *isa, int kind, double limit) {
    const mha_kernels *kernels = kernels_of(isa);
    static float x[CHUNK], got[CHUNK];
    static double wanted[CHUNK];
    const uint64_t step = test_quick() ? 4099 : 1, last = to_bits((float)LN_LEAST_NORMAL);
    worst w = {0};
    for (uint64_t bits = MINUS_ZERO; bits <= last; bits += step * CHUNK) {
        for (uint64_t i = 0; i < CHUNK; i++) {
            x[i] = from_bits((uint32_t)(bits + i * step < last ? bits + i * step : last));
            if (x[i] < LN_LEAST_NORMAL) x[i] = 0;
        }
        reference(x, wanted);
        kernels->exp[kind](x, got, CHUNK);
        find_worst(x, got, wanted, &w);
    }
    printf("# isa %s exp %s: at most %.4f ULP, at %a\n", isa, kind == 0 ? "sleef" : "fused", w.error, (double)w.x);
    if (!(w.error <= limit))
        fail_msg("isa %s exp %s of %a is off by %.4f ULP, allowed are %.1f", isa, kind == 0 ? "sleef" : "fused",
                 (double)w.x, w.error, limit);
}

static void sleef_all(const char *isa) { check_range(isa, 0, 1.0); }
static void fused_all(const char *isa) { check_range(isa, 1, 1.1); }

static float exp_one(const char *isa, int kind, float x) {
    float y = -1;
    kernels_of(isa)->exp[kind](&x, &y, 1);
    return y;
}

static void below_is_zero(const char *isa) {
    const uint64_t first = to_bits((float)LN_LEAST_NORMAL);
    for (int kind = 0; kind < 2; kind++)
        for (uint64_t bits = first; bits <= MINUS_INF; bits += bits - first < 5000 ? 1 : 65521) {
            const float x = from_bits((uint32_t)bits);
            if ((double)x >= LN_LEAST_NORMAL) continue;
            const float y = exp_one(isa, kind, x);
            if (to_bits(y) != 0) fail_msg("isa %s exp %d of %a is %a, wanted +0", isa, kind, (double)x, (double)y);
        }
    for (int kind = 0; kind < 2; kind++)
        if (to_bits(exp_one(isa, kind, -INFINITY)) != 0) fail_msg("isa %s exp %d of -inf is not +0", isa, kind);
}

static void of_zero_is_one(const char *isa) {
    static const float zeros[] = {0.0f, -0.0f};
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < COUNT(zeros); i++) {
            const float y = exp_one(isa, kind, zeros[i]);
            if (y != 1) fail_msg("isa %s exp %d of %g is %a, wanted 1", isa, kind, (double)zeros[i], (double)y);
        }
}

static void nan_stays_nan(const char *isa) {
    static const uint32_t nans[] = {0x7fc00000, 0xffc00000, 0x7fffffff, 0xffffffff,
                                    0x7f800001, 0xff800001, 0x7fd12345, 0xffabcdef};
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < COUNT(nans); i++) {
            const float y = exp_one(isa, kind, from_bits(nans[i]));
            if (!isnan(y)) fail_msg("isa %s exp %d of NaN %#x is %a, wanted NaN", isa, kind, nans[i], (double)y);
        }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(sleef_all), ISA_TEST(fused_all), ISA_TEST(below_is_zero),
                                     ISA_TEST(of_zero_is_one), ISA_TEST(nan_stays_nan)};
    return isa_tests_run(tests, COUNT(tests));
}

/* exp(x scale) as softmax evaluates it, with the constants that the plan of a call makes of its scale, against double:
 * for every float x from -inf to 0 (quick runs: one in 4,099) at scale 1, and for samples at others. */
#include "isas.h"
#include "kernels.h"
#include "plan.h"
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

static mha_softmax softmax_at(float scale) { return mha_softmax_of(&(mha_attention_args){.scale = scale}); }

static void reference(const float *x, double scale, double *y) {
    for (int i = 0; i < CHUNK; i++) {
        const double d = x[i] * scale;                    /* exact */
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

/* Floats x from -0 down to ln 2^-126 / scale, `step` apart. */
static void check_range(const char *isa, int kind, float scale, uint64_t step, double limit) {
    const mha_kernels *kernels = kernels_of(isa);
    const mha_softmax softmax = softmax_at(scale);
    const float lowest = (float)(LN_LEAST_NORMAL / scale);
    static float x[CHUNK], got[CHUNK];
    static double wanted[CHUNK];
    worst w = {0};
    for (uint64_t bits = MINUS_ZERO; bits <= to_bits(lowest); bits += step * CHUNK) {
        for (uint64_t i = 0; i < CHUNK; i++) {
            x[i] = from_bits((uint32_t)(bits + i * step));
            if (!((double)x[i] * scale >= LN_LEAST_NORMAL)) x[i] = 0;
        }
        reference(x, scale, wanted);
        kernels->exp[kind](&softmax, x, got, CHUNK);
        find_worst(x, got, wanted, &w);
    }
    const char *form = kind == 0 ? "sleef" : "fused";
    printf("# isa %s exp %s at scale %g: at most %.4f ULP, at %a\n", isa, form, (double)scale, w.error, (double)w.x);
    if (!(w.error <= limit))
        fail_msg("isa %s exp %s of %a * %a is off by %.4f ULP, allowed are %.1f", isa, form, (double)w.x, (double)scale,
                 w.error, limit);
}

static uint64_t every(uint64_t step) { return test_quick() ? 4099 : step; }

static void sleef_all(const char *isa) { check_range(isa, 0, 1, every(1), 1.0); }
static void fused_all(const char *isa) { check_range(isa, 1, 1, every(1), 1.1); }

/* Other scales than 1 are part of the fused form; SLEEF is handed the rounded product. */
static void fused_scales(const char *isa) {
    static const float scales[] = {0.125f, 0.111803399f, 0.0416666679f, 3.7f, 1e-9f, 1e9f};
    for (size_t i = 0; i < COUNT(scales); i++) check_range(isa, 1, scales[i], every(211), 1.1);
}

static float exp_one(const char *isa, int kind, float x) {
    const mha_softmax softmax = softmax_at(1);
    float y = -1;
    kernels_of(isa)->exp[kind](&softmax, &x, &y, 1);
    return y;
}

/* Every float below ln 2^-126 (quick runs: one in 4,099), -inf included. */
static void below_is_zero(const char *isa) {
    const mha_kernels *kernels = kernels_of(isa);
    const mha_softmax softmax = softmax_at(1);
    const uint64_t step = every(1);
    static float x[CHUNK], y[CHUNK];
    uint64_t first = to_bits((float)LN_LEAST_NORMAL);
    while ((double)from_bits((uint32_t)first) >= LN_LEAST_NORMAL) first++;
    for (int kind = 0; kind < 2; kind++)
        for (uint64_t bits = first; bits <= MINUS_INF; bits += step * CHUNK) {
            for (uint64_t i = 0; i < CHUNK; i++)
                x[i] = from_bits((uint32_t)(bits + i * step < MINUS_INF ? bits + i * step : MINUS_INF));
            kernels->exp[kind](&softmax, x, y, CHUNK);
            for (int i = 0; i < CHUNK; i++)
                if (to_bits(y[i]) != 0)
                    fail_msg("isa %s exp %d of %a is %a, wanted +0", isa, kind, (double)x[i], (double)y[i]);
        }
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
    static const isa_test tests[] = {F32_TEST(sleef_all),     F32_TEST(fused_all),      F32_TEST(fused_scales),
                                     F32_TEST(below_is_zero), F32_TEST(of_zero_is_one), F32_TEST(nan_stays_nan)};
    return isa_tests_run(tests, COUNT(tests));
}

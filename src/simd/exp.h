/* The exponential of softmax, exp(x * scale) for x = score - max <= 0, in the two forms of mha_exp. */
#ifndef MHA_SIMD_EXP_H
#define MHA_SIMD_EXP_H

/* exp(x * scale) = 2^n 2^f with n = round(x * exp_hi) and f = x * (exp_hi + exp_lo) - n, |f| <= 1/2.
 *
 * Adding 1.5 * 2^23 + 127 rounds and leaves n + 127, the exponent field of 2^n, in the low bits of the sum.  The FMA
 * that subtracts n is exact but for its last rounding; exp_lo restores what rounding scale * log2(e) took, 1e-6 at
 * x = -87.
 * 2^f = 1 + f q(f): q began as the minimax polynomial of degree 5 for the relative error on [-1/2, 1/2] (2e-9); its
 * rounded coefficients (1.18 ULP in all) were then moved by units in the last place to lower the largest error over
 * four million arguments.  1.02 ULP over every float, by tests/test_exp.c. */
V_INLINE vf v_exp_u11(vf x, const mha_softmax *softmax) {
    const vf hi = v_set1(softmax->exp_hi), shift = v_set1(0x1.8p23f + 127);
    const vf t = v_fma(x, hi, shift);
    vf f = v_fma(x, hi, v_sub(shift, t));
    f = v_fma(x, v_set1(softmax->exp_lo), f);
    vf p = v_set1(0x1.420388p-13f);
    p = v_fma(p, f, v_set1(0x1.5f2b98p-10f));
    p = v_fma(p, f, v_set1(0x1.3b2dc4p-7f));
    p = v_fma(p, f, v_set1(0x1.c6af20p-5f));
    p = v_fma(p, f, v_set1(0x1.ebfbd8p-3f));
    p = v_fma(p, f, v_set1(0x1.62e430p-1f));
    p = v_fma(p, f, v_set1(1));
    return v_zero_where_less(v_mul(p, v_power_of_two(t)), x, v_set1(softmax->exp_floor));
}

/* By SLEEF, a call.  Denormal results would take it ten times as long, so they are zero here too. */
V_INLINE vf v_exp_u10(vf x, const mha_softmax *softmax) {
    const vf floor = v_set1(softmax->exp_floor);
    return v_zero_where_less(v_exp_sleef(v_mul(v_at_least(x, floor), v_set1(softmax->scale))), x, floor);
}

V_INLINE vf softmax_exp(vf x, const mha_softmax *softmax, bool fused) {
    return fused ? v_exp_u11(x, softmax) : v_exp_u10(x, softmax);
}

/* What is subtracted from scores: finite, so that -inf - max is -inf and not NaN. */
V_INLINE vf finite_max(vf max) { return v_at_least(max, v_set1(-FLT_MAX)); }

/* 1 / sum, and 1 for 0.  A sum and not a choice, which compilers move behind the division: it would raise an
 * exception. */
static inline float safe_inverse(float sum) { return 1 / (sum + (float)(sum == 0)); }

/* -0 becomes +0: an output that underflowed keeps its sign or loses it, as other rows let a block be skipped or not. */
V_INLINE vf positive_zero(vf x) { return v_add(x, v_zero()); }

#endif

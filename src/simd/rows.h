/* What is done to whole rows, outside of tiles: conversion, merging splits, log-sum-exp, attention weights. */
#ifndef MHA_SIMD_ROWS_H
#define MHA_SIMD_ROWS_H

static void K(widen)(const void *half, mha_dtype dtype, float *x, size_t n) {
    if (dtype == MHA_BF16) widen(half, MHA_BF16, x, (int64_t)n);
    else widen(half, MHA_F16, x, (int64_t)n);
}

static void K(narrow)(const float *x, mha_dtype dtype, void *half, size_t n) {
    if (dtype == MHA_BF16) narrow(x, MHA_BF16, half, (int64_t)n);
    else narrow(x, MHA_F16, half, (int64_t)n);
}

static void K(merge)(const mha_softmax *softmax, float *partials, size_t n, size_t stride, float *out,
                     int32_t v_head_dim) {
    float weight[MHA_MAX_SPLITS], max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) max = partials[i * stride] > max ? partials[i * stride] : max;
    const vf reference = finite_max(v_set1(max));
    for (size_t i = 0; i < n; i += V_LANES) {
        float x[V_LANES];
        for (size_t j = 0; j < V_LANES; j++) x[j] = i + j < n ? partials[(i + j) * stride] : -INFINITY;
        v_store(weight + i, v_exp_u11(v_sub(v_load(x), reference), softmax));
    }
    for (size_t i = 0; i < n; i++) sum += weight[i] * partials[i * stride + 1];
    const vf inverse = v_set1(safe_inverse(sum));
    for (int32_t d = 0; d < v_head_dim; d += V_LANES) {
        const int32_t left = v_head_dim - d;
        vf o = v_zero();
        for (size_t i = 0; i < n; i++) o = v_fma(v_set1(weight[i]), v_load_n(partials + i * stride + 2 + d, left), o);
        v_store_n(out + d, sum == 0 ? v_zero() : positive_zero(v_mul(o, inverse)), left);
    }
    partials[0] = max;
    partials[1] = sum;
}

static void K(lse)(const float *max, const float *sum, float *lse, size_t n, float scale) {
    for (size_t i = 0; i < n; i += V_LANES) {
        const int64_t left = (int64_t)(n - i);
        const vf log_sum = v_log_sleef(v_load_n(sum + i, left));
        v_store_n(lse + i, v_fma(v_load_n(max + i, left), v_set1(scale), log_sum), left);
    }
}

V_INLINE void softmax_row(const mha_softmax *softmax, float *s, size_t n, float max, float sum, bool fused) {
    const vf reference = finite_max(v_set1(max)), inverse = v_set1(safe_inverse(sum));
    for (size_t i = 0; i < n; i += V_LANES) {
        const int64_t left = (int64_t)(n - i);
        const vf x = v_load_n(s + i, left), p = softmax_exp(v_sub(x, reference), softmax, fused);
        const vf weight = v_zero_where_less(v_mul(p, inverse), x, v_set1(-FLT_MAX));
        v_store_n(s + i, weight, left);
    }
}

static void K(softmax_row_sleef)(const mha_softmax *softmax, float *s, size_t n, float max, float sum) {
    softmax_row(softmax, s, n, max, sum, false);
}

static void K(softmax_row_fused)(const mha_softmax *softmax, float *s, size_t n, float max, float sum) {
    softmax_row(softmax, s, n, max, sum, true);
}

/* For tests and benches. */
V_INLINE void exp_array(const mha_softmax *softmax, const float *x, float *y, size_t n, bool fused) {
    for (size_t i = 0; i < n; i += V_LANES) {
        const int64_t left = (int64_t)(n - i);
        v_store_n(y + i, softmax_exp(v_load_n(x + i, left), softmax, fused), left);
    }
}

static void K(exp_sleef)(const mha_softmax *softmax, const float *x, float *y, size_t n) {
    exp_array(softmax, x, y, n, false);
}

static void K(exp_fused)(const mha_softmax *softmax, const float *x, float *y, size_t n) {
    exp_array(softmax, x, y, n, true);
}

#endif

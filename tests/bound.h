/* How far from the exact result a right f32 implementation may be: the formulas of docs/numerics.md, in one place.
 *
 * u = 2^-24.  A sum of n roundings may be off by the factor g(n):
 *     WORST    g(n) = n u / (1 - n u)     no result may be further off (Higham, 2002, section 3.1)
 *     TYPICAL  g(n) = sqrt(n) u           roundings have random signs; held by the root mean square over a tensor
 *
 * One query row with scores s_j = raw_j + b_j, raw_j = scale * sum_d q_d k_jd, maximum m, weights p_j, over L keys:
 *
 *     c_j      = |scale| sum_d |q_d k_jd|
 *     t_j      = 2^-126 (1 + |scale| sum_d (1 + |q_d| + |k_jd|))            subnormals, which may count as zeros
 *     draw_j   = g(head_dim + 6) c_j + t_j + what q and k bring along       products, scale, factor folded into Q
 *     dcap_j   = draw_j + 4u |cap tanh(raw_j / cap)| + 2^-126 cap            with a softcap, else draw_j: the slope of tanh
 *                                                                           is at most 1, and x tanh'(x) / tanh(x) too
 *     dscore_j = dcap_j + 2u (|s_j| + |b_j|), the second term only where b_j did not absorb raw_j (s_j = b_j)
 *     x_j      = dscore_j + 2u |s_j - m| + 2.2u e(1 + L/32)                 error of the exponent, and of exp itself
 *     w_j      = p_j (exp(x_j) - 1),  W = sum_j w_j                          error of the weights before division
 *     n        = min(L, 512) + L/16 + 8                                     additions: within a block, over the blocks
 *
 *     |out_d error| <= [sum_j (w_j |v_jd| + p_j dv_jd) + |out_d| W] / (1 - W)
 *                      + (2 g(n) + 4u) (1 + W)/(1 - W) sum_j p_j |v_jd| + 2^-126 L (1 + max_j |v_jd|)
 *     |lse error|   <= min(W / (1 - W), max_j x_j) + g(n) + 4u (1 + |m| + |lse|)
 *     |p_j error|   <= (w_j + p_j W) / (1 - W) + (g(n) + 4u) p_j + 2^-126
 *
 * where e(k) counts the exponentials a weight goes through, its own and one per block for rescaling: k WORST, sqrt(k)
 * TYPICAL, each 1.1 ULP = 2.2u.  When W > 1/2 (scores so large that their rounding decides), out is only bound to lie
 * among the values: 2 max_j |v_jd|; such rows have no TYPICAL bound, which is then infinite.
 *
 * Kernels that multiply bf16 (bf16: in so many parts, 0: they do not) round operands that are none (q, k and v then bring
 * that along) and the weights.  That adds to x_j: 2^-8, WORST 2^-7.5, as far as AMX's words of 16 bits are off, and 2u |m|
 * for the references that those are relative to; in two parts 1.5 * 2^-18, WORST 2^-16 + 2^-22: what they leave, half of
 * the product of the second parts, which is left out, and the exponential.  An f16 brings the other half along, an f32 as
 * much as a weight.  Arm's BFMMLA rounds a sum of two products to odd, not to nearest: u is 2^-23 in the g of products (x86
 * rounds to nearest and stays within half of that).
 *
 * A projection y = sum_k x_k w_k + b:  |y error| <= g(parts n + 2) (sum_k |x_k w_k| + |b|) + sum_k dx_k |w_k|, for x in
 * so many parts; rounded to bf16, x and w bring that along. */
#ifndef TESTS_BOUND_H
#define TESTS_BOUND_H

#include <stdbool.h>
#include <stdint.h>

typedef enum bound_kind { BOUND_WORST, BOUND_TYPICAL, BOUND_KINDS } bound_kind;

#define BOUND_U    0x1p-24
#define BOUND_TINY 0x1p-126 /* the least normal float */

/* Relative to an f32, what two parts of bf16 leave of it: bf16 has 8 bits, and what is left of 2^-8 is rounded to as many. */
double bound_second_part(bound_kind kind);

/* Relative to the product of two parts by two, that of the second ones, which is left out. */
double bound_second_product(bound_kind kind);

/* g(n) */
double bound_roundings(bound_kind kind, double n);

/* draw_j without what q and k bring along; magnitude = sum_d (1 + |q_d| + |k_jd|) */
double bound_raw(bound_kind kind, int bf16, int64_t head_dim, double scale, double condition, double magnitude);

/* dcap_j - draw_j for a softcap, of which `capped` is the outcome */
double bound_softcap(double softcap, double capped);

/* dscore_j - dcap_j */
double bound_bias(double score, double bias);

/* x_j - dscore_j */
double bound_exponent(bound_kind kind, int bf16, int64_t keys, double distance, double max);

typedef struct bound_row {
    bound_kind kind;
    int bf16;
    int64_t keys; /* L */
    double W, max_x;
} bound_row;

double bound_out(const bound_row *row, double weighted, double out, double sum_pv, double max_v);
double bound_lse(const bound_row *row, double max, double lse);
double bound_weight(const bound_row *row, double w, double p);

/* Without what x brings along. */
double bound_linear(bound_kind kind, int bf16, int64_t in, double condition);

#endif

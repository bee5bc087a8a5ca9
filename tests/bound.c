#include "bound.h"

#include <math.h>

double bound_second_part(bound_kind kind) { return kind == BOUND_WORST ? 0x1p-17 : 0x1p-18; }

double bound_second_product(bound_kind kind) { return kind == BOUND_WORST ? 0x1p-16 : 0x1p-18; }

double bound_roundings(bound_kind kind, double n) {
    return kind == BOUND_WORST ? n * BOUND_U / (1 - n * BOUND_U) : sqrt(n) * BOUND_U;
}

/* g(n) of a sum of products; of two parts there are three */
static double products(bound_kind kind, int bf16, double n) {
    return bound_roundings(kind, bf16 == 2 ? 3 * n : n) * (bf16 > 0 ? 2 : 1);
}

double bound_raw(bound_kind kind, int bf16, int64_t head_dim, double scale, double condition, double magnitude) {
    return products(kind, bf16, (double)head_dim + 6) * condition + BOUND_TINY * (1 + fabs(scale) * magnitude);
}

double bound_softcap(double softcap, double capped) { return 4 * BOUND_U * fabs(capped) + BOUND_TINY * softcap; }

double bound_bias(double score, double bias) { return score == bias ? 0 : 2 * BOUND_U * (fabs(score) + fabs(bias)); }

double bound_exponent(bound_kind kind, int bf16, int64_t keys, double distance, double max) {
    const double exponentials = 1 + ceil((double)keys / 32);
    const double word = kind == BOUND_WORST ? 0x1.6ap-8 : 0x1p-8, exponential = kind == BOUND_WORST ? 0x1p-22 : 0;
    const double parts = bound_second_part(kind) + bound_second_product(kind) / 2 + exponential;
    const double rounding = bf16 == 1 ? word + 2 * BOUND_U * fabs(max) : bf16 == 2 ? parts : 0;
    return rounding + 2 * BOUND_U * distance +
           2.2 * BOUND_U * (kind == BOUND_WORST ? exponentials : sqrt(exponentials));
}

/* g(n) of the sums over keys */
static double accumulation(const bound_row *row) {
    const double keys = (double)row->keys;
    return products(row->kind, row->bf16, fmin(keys, 512) + ceil(keys / 16) + 8);
}

/* Rows of which rounding decides would hide all others from the root mean square. */
static double unbounded(const bound_row *row, double worst) { return row->kind == BOUND_WORST ? worst : INFINITY; }

double bound_out(const bound_row *row, double weighted, double out, double sum_pv, double max_v) {
    const double flushed = BOUND_TINY * (double)row->keys * (1 + max_v);
    if (!(row->W <= 0.5)) return unbounded(row, 2 * max_v + flushed);
    const double rest = 1 - row->W;
    return (weighted + fabs(out) * row->W) / rest +
           (2 * accumulation(row) + 4 * BOUND_U) * (1 + row->W) / rest * sum_pv + flushed;
}

double bound_lse(const bound_row *row, double max, double lse) {
    const double weights = row->W < 1 ? fmin(row->W / (1 - row->W), row->max_x) : row->max_x;
    const double bound = weights + accumulation(row) + 4 * BOUND_U * (1 + fabs(max) + fabs(lse));
    return row->W <= 0.5 ? bound : unbounded(row, bound);
}

double bound_weight(const bound_row *row, double w, double p) {
    if (!(row->W <= 0.5)) return unbounded(row, 1);
    return (w + p * row->W) / (1 - row->W) + (accumulation(row) + 4 * BOUND_U) * p + BOUND_TINY;
}

double bound_linear(bound_kind kind, int bf16, int64_t in, double condition) {
    return products(kind, bf16, (double)in + 2) * condition + BOUND_TINY * (double)in;
}

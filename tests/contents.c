#include "contents.h"
#include "half.h"
#include "rng.h"

#include <float.h>
#include <math.h>

static float *element(const mha_tensor *tensor, int64_t b, int64_t h, int64_t t) {
    return (float *)tensor->data + b * tensor->stride[0] + h * tensor->stride[1] + t * tensor->stride[2];
}

static void fill_normal(const mha_tensor *tensor, int64_t batch, int64_t heads, int64_t tokens, int64_t dim,
                        double factor, uint64_t seed) {
    rng r = {seed};
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t d = 0; d < dim; d++) element(tensor, b, h, t)[d] = (float)(factor * rng_normal(&r));
}

/* The score that key j should have, about, before the query varies it. */
static double target(const problem *p, int64_t b, int64_t j, rng *r) {
    const double along = (double)j / (double)p->spec.kv_len;
    switch (p->spec.logits) {
    case PLUS_100: return 90 + 10 * rng_unit(r);
    case MINUS_100: return -90 - 10 * rng_unit(r);
    case RISING: return 8 * along;
    case FALLING: return -8 * along;
    case STEEP_UP: return 40 * (double)(j - p->spec.kv_len);
    case STEEP_DOWN: return -40 * (double)j;
    case SPIKE: return j == (p->spec.kv_len - 1) * (b + 1) % p->spec.kv_len ? 30 : 0;
    case NORMAL:
    case SUBNORMAL: break;
    }
    return 0;
}

/* Puts the wanted score into the first element of each key, where all queries have about the same large number. */
static void shape_scores(problem *p, rng *r) {
    const spec *s = &p->spec;
    const double big = 4, scale = s->scale != NULL ? *s->scale : 1 / sqrt((double)s->head_dim);
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t h = 0; h < s->q_heads; h++)
            for (int64_t i = 0; i < s->q_len; i++)
                *element(&p->args.q, b, h, i) = (float)(big * (0.9 + 0.2 * rng_unit(r)));
        for (int64_t h = 0; h < s->kv_heads; h++)
            for (int64_t j = 0; j < s->kv_len; j++)
                *element(&p->args.k, b, h, j) = (float)(target(p, b, j, r) / (big * scale));
    }
}

static void fill_operands(problem *p, rng *r) {
    const spec *s = &p->spec;
    const double factor = s->logits == SUBNORMAL ? 0x1p-130 : 1;
    const int64_t v_dim = s->v_head_dim != 0 ? s->v_head_dim : s->head_dim;
    fill_normal(&p->args.q, s->batch, s->q_heads, s->q_len, s->head_dim, 1, rng_next(r));
    fill_normal(&p->args.k, s->batch, s->kv_heads, s->kv_len, s->head_dim, factor, rng_next(r));
    fill_normal(&p->args.v, s->batch, s->kv_heads, s->kv_len, v_dim, factor, rng_next(r));
    if (s->logits != NORMAL && s->logits != SUBNORMAL) shape_scores(p, r);
}

static void fill_lists(problem *p, rng *r) {
    const int64_t kv_len = p->spec.kv_len;
    for (int64_t b = 0; b < p->spec.batch; b++) {
        const int64_t lens[] = {kv_len - kv_len / 3, 0, kv_len, rng_between(r, 0, kv_len)};
        p->kv_lens[b] = lens[b % 4];
        p->q_offsets[b] = p->spec.q_offset + b * p->spec.q_offset_step;
    }
}

static void fill_token(const mha_tensor *tensor, int64_t b, int64_t h, int64_t t, int64_t dim, double x) {
    const int64_t at = b * tensor->stride[0] + h * tensor->stride[1] + t * tensor->stride[2];
    for (int64_t d = 0; d < dim; d++) element_set(tensor->data, tensor->dtype, at + d, x);
}

void contents_fill_padding(problem *p) {
    const spec *s = &p->spec;
    const int64_t v_dim = s->v_head_dim != 0 ? s->v_head_dim : s->head_dim;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->kv_heads; h++)
            for (int64_t j = p->kv_lens[b]; j < s->kv_len; j++) {
                fill_token(&p->args.k, b, h, j, s->head_dim, (double)NAN);
                fill_token(&p->args.v, b, h, j, v_dim, (double)NAN);
            }
    guard_remember(&p->memory[K]);
    guard_remember(&p->memory[V]);
}

/* Scores of -inf for the first n keys, whatever the mask says. */
static void fill_minus_inf(problem *p, int64_t n) {
    const spec *s = &p->spec;
    const int64_t group = s->q_heads / s->kv_heads;
    for (int64_t h = s->q_heads - group; h < s->q_heads; h++)
        for (int64_t i = 0; i < s->q_len; i++) *element(&p->args.q, s->batch - 1, h, i) = 1;
    for (int64_t j = 0; j < n; j++) *element(&p->args.k, s->batch - 1, s->kv_heads - 1, j) = -INFINITY;
}

static void fill_poison(problem *p, rng *r) {
    const spec *s = &p->spec;
    const int64_t j = rng_between(r, 0, s->kv_len - 1), v_dim = s->v_head_dim != 0 ? s->v_head_dim : s->head_dim;
    float *k = element(&p->args.k, s->batch - 1, s->kv_heads - 1, j) + rng_between(r, 0, s->head_dim - 1);
    float *v = element(&p->args.v, s->batch - 1, s->kv_heads - 1, j) + rng_between(r, 0, v_dim - 1);
    float *q = element(&p->args.q, s->batch - 1, s->q_heads - 1, rng_between(r, 0, s->q_len - 1));
    switch (s->poison) {
    case NAN_K: *k = NAN; break;
    case INF_K: *k = INFINITY; break;
    case NAN_V: *v = NAN; break;
    case INF_V: *v = -INFINITY; break;
    case NAN_Q: *q = NAN; break;
    case ALL_MINUS_INF: fill_minus_inf(p, s->kv_len); break;
    case FIRST_MINUS_INF: fill_minus_inf(p, j); break;
    case NO_POISON: break;
    }
}

static float bias(mask_kind kind, int64_t i, rng *r) {
    const float normal = rng_normal(r);
    const double chance = rng_unit(r);
    if (kind == MASK_MINUS_INF && (i % 5 == 3 || chance < 0.3)) return -INFINITY;
    if (kind == MASK_LOWEST && (i % 5 == 3 || chance < 0.3)) return -FLT_MAX;
    if (kind == MASK_LOWEST && chance < 0.4) return -INFINITY;
    return normal;
}

/* Keys [first, last) are true. */
static void padding_ends(const spec *s, int64_t *first, int64_t *last) {
    *first = (int64_t)(s->seed * 5 + 3) % 14;
    *last = s->kv_len - (int64_t)(s->seed * 3 + 1) % 11;
    if (*first >= *last) *first = 0, *last = s->kv_len;
}

static void fill_masked_padding(problem *p) {
    int64_t first, last;
    padding_ends(&p->spec, &first, &last);
    for (int64_t b = 0; b < p->spec.batch; b++)
        for (int64_t h = 0; h < p->spec.kv_heads; h++)
            for (int64_t j = 0; j < p->spec.kv_len; j++) {
                if (j >= first && j < last) continue;
                *element(&p->args.k, b, h, j) = INFINITY;
                *element(&p->args.v, b, h, j) = NAN;
            }
}

static unsigned char truth(const problem *p, int64_t i, int64_t j, rng *r) {
    const uint64_t bits = rng_next(r);
    int64_t first, last;
    padding_ends(&p->spec, &first, &last);
    if (p->spec.mask == MASK_PADDING) return j >= first && j < last;
    if (p->spec.mask == MASK_PREFIX) return j <= (i * 37 + 11) % p->spec.kv_len;
    if (i % 5 == 3 || bits % 10 < 3) return 0;
    return (unsigned char)(1u << (bits >> 32) % 8);
}

static void fill_mask(problem *p, rng *r) {
    const mha_score_tensor *mask = &p->args.mask;
    const spec *s = &p->spec;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->q_heads; h++)
            for (int64_t i = 0; i < s->q_len; i++)
                for (int64_t j = 0; j < s->kv_len; j++) {
                    const int64_t at =
                        b * mask->stride[0] + h * mask->stride[1] + i * mask->stride[2] + j * mask->stride[3];
                    if (mask->dtype == MHA_BOOL) ((unsigned char *)mask->data)[at] = truth(p, i, j, r);
                    else ((float *)mask->data)[at] = bias(s->mask, i, r);
                }
}

void contents_fill(problem *p) {
    rng r = {p->spec.seed};
    fill_lists(p, &r);
    fill_operands(p, &r);
    if (p->args.mask.data != NULL) fill_mask(p, &r);
    if (p->spec.mask == MASK_PADDING) fill_masked_padding(p);
    if (p->spec.lens) contents_fill_padding(p);
    if (p->spec.poison != NO_POISON && p->spec.batch > 0 && p->spec.q_len > 0 && p->spec.kv_len > 0) fill_poison(p, &r);
}

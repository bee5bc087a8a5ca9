#include "naive.h"
#include "half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

naive_array naive_array_make(int64_t n, bool with_bounds) {
    naive_array a = {.n = n, .x = calloc((size_t)n + 1, sizeof(double)), .dtype = MHA_F32, .roundings = 1};
    for (int kind = 0; with_bounds && kind < BOUND_KINDS; kind++) a.bound[kind] = calloc((size_t)n + 1, sizeof(double));
    return a;
}

double naive_allowed(const naive_array *a, bound_kind kind, int64_t i) {
    const double bound = a->bound[kind][i];
    return bound + a->roundings * half_rounding(fabs(a->x[i]) + bound, a->dtype);
}

void naive_array_free(naive_array *a) {
    free(a->x);
    for (int kind = 0; kind < BOUND_KINDS; kind++) free(a->bound[kind]);
    *a = (naive_array){0};
}

void naive_result_free(naive_result *result) {
    naive_array_free(&result->out);
    naive_array_free(&result->lse);
    naive_array_free(&result->scores);
}

naive_array naive_gather(const mha_tensor *tensor, int64_t batch, int64_t heads, int64_t tokens, int64_t dim) {
    naive_array a = naive_array_make(batch * heads * tokens * dim, false);
    double *x = a.x;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t d = 0; d < dim; d++)
                    *x++ = element_value(tensor->data, tensor->dtype,
                                         b * tensor->stride[0] + h * tensor->stride[1] + t * tensor->stride[2] + d);
    return a;
}

bool naive_visible(const mha_attention_args *args, int64_t b, int64_t h, int64_t i, int64_t j, double *bias) {
    const int64_t p = i + (args->q_offsets != NULL ? args->q_offsets[b] : args->q_offset);
    *bias = 0;
    if (args->kv_lens != NULL && j >= args->kv_lens[b]) return false;
    if (args->is_causal && j > p) return false;
    if (args->window_left != -1 && j < p - args->window_left) return false;
    if (args->window_right != -1 && j > p + args->window_right) return false;
    if (args->mask.data == NULL) return true;
    const int64_t *stride = args->mask.stride;
    const int64_t at = b * stride[0] + h * stride[1] + i * stride[2] + j * stride[3];
    if (args->mask.dtype == MHA_BOOL) return ((const unsigned char *)args->mask.data)[at] != 0;
    *bias = element_value(args->mask.data, args->mask.dtype, at);
    return *bias != -INFINITY;
}

/* One query and all that is known of its scores; arrays of kv_len. */
typedef struct row {
    int64_t b, h, i, index; /* index: of the row in [batch][q_heads][q_len] */
    int bf16;               /* is multiplied, in so many parts */
    double scale;
    double *raw, *capped, *score, *p;
    double *draw[BOUND_KINDS], *dcap[BOUND_KINDS], *dscore[BOUND_KINDS];
    double *w; /* of the kind at hand */
    bool *seen;
    int64_t n_seen;
    double max, sum, lse;
} row;

static void raw_score(const mha_attention_args *args, const naive_array *q, const naive_array *k, int64_t k0, int64_t j,
                      row *r) {
    const int64_t d = args->head_dim, q0 = r->index * d;
    const double *qx = q->x + q0, *kx = k->x + k0;
    double dot = 0, condition = 0, magnitude = 0;
    for (int64_t e = 0; e < d; e++) {
        dot += qx[e] * kx[e];
        condition += fabs(qx[e] * kx[e]);
        magnitude += 1 + fabs(qx[e]) + fabs(kx[e]);
    }
    r->raw[j] = r->scale * dot;
    for (int kind = 0; kind < BOUND_KINDS; kind++) {
        double brought = 0;
        for (int64_t e = 0; q->bound[kind] != NULL && e < d; e++) {
            const double dq = q->bound[kind][q0 + e], dk = k->bound[kind][k0 + e];
            brought += dq * fabs(kx[e]) + fabs(qx[e]) * dk + dq * dk;
        }
        r->draw[kind][j] =
            bound_raw(kind, r->bf16, d, r->scale, fabs(r->scale) * condition, magnitude) + fabs(r->scale) * brought;
    }
}

static void cap_score(double softcap, int64_t j, row *r) {
    r->capped[j] = softcap == 0 ? r->raw[j] : softcap * tanh(r->raw[j] / softcap);
    const bool exact = softcap != 0 && isinf(r->raw[j]); /* and infinite here as there */
    for (int kind = 0; kind < BOUND_KINDS; kind++)
        r->dcap[kind][j] = (exact ? 0 : r->draw[kind][j]) + (softcap == 0 ? 0 : bound_softcap(softcap, r->capped[j]));
}

static void row_scores(const mha_attention_args *args, const naive_array *q, const naive_array *k, row *r) {
    const int64_t kv_head = r->h / (args->q_heads / args->kv_heads);
    r->n_seen = 0;
    r->max = -INFINITY;
    for (int64_t j = 0; j < args->kv_len; j++) {
        const int64_t k0 = ((r->b * args->kv_heads + kv_head) * args->kv_len + j) * args->head_dim;
        raw_score(args, q, k, k0, j, r);
        cap_score(args->softcap, j, r);
        double bias;
        r->seen[j] = naive_visible(args, r->b, r->h, r->i, j, &bias);
        r->score[j] = r->seen[j] ? r->capped[j] + bias : -INFINITY;
        for (int kind = 0; kind < BOUND_KINDS; kind++)
            r->dscore[kind][j] = r->dcap[kind][j] + bound_bias(r->score[j], bias);
        if (!r->seen[j]) continue;
        r->n_seen++;
        if (r->score[j] > r->max || isnan(r->score[j])) r->max = r->score[j];
    }
}

static void row_softmax(int64_t kv_len, row *r) {
    r->sum = 0;
    const bool none = r->max == -INFINITY; /* nothing visible, or all scores -inf */
    for (int64_t j = 0; j < kv_len; j++) {
        r->p[j] = r->seen[j] && r->score[j] != -INFINITY ? exp(r->score[j] - r->max) : 0;
        r->sum += r->p[j];
    }
    for (int64_t j = 0; j < kv_len; j++)
        if (r->seen[j] && r->score[j] != -INFINITY) r->p[j] /= r->sum;
    r->lse = none ? -INFINITY : r->max + log(r->sum);
}

/* w_j, W and max x_j of bound.h; keys of weight 0 for a score of -inf have no error. */
static bound_row row_errors(int64_t kv_len, row *r, bound_kind kind) {
    bound_row bound = {.kind = kind, .bf16 = r->bf16, .keys = r->n_seen};
    for (int64_t j = 0; j < kv_len; j++) {
        r->w[j] = 0;
        if (!r->seen[j] || r->score[j] == -INFINITY) continue;
        const double distance = r->max - r->score[j];
        const double x = r->dscore[kind][j] + bound_exponent(kind, r->bf16, r->n_seen, distance, r->max);
        r->w[j] = (exp(x - distance) - exp(-distance)) / r->sum;
        bound.W += r->w[j];
        bound.max_x = fmax(bound.max_x, x);
    }
    return bound;
}

static void row_out(const mha_attention_args *args, const naive_array *v, const row *r, const bound_row *bound,
                    naive_array *out) {
    const int64_t dim = args->v_head_dim, kv_head = r->h / (args->q_heads / args->kv_heads);
    const int64_t v0 = (r->b * args->kv_heads + kv_head) * args->kv_len * dim;
    for (int64_t d = 0; d < dim; d++) {
        double sum = 0, sum_abs = 0, weighted = 0, max_v = 0;
        for (int64_t j = 0; j < args->kv_len && r->max != -INFINITY; j++) {
            if (!r->seen[j]) continue;
            const double x = v->x[v0 + j * dim + d];
            sum += r->p[j] * x;
            sum_abs += r->p[j] * fabs(x);
            weighted += r->w[j] * fabs(x);
            max_v = fmax(max_v, fabs(x));
            if (v->bound[bound->kind] != NULL) weighted += r->p[j] * v->bound[bound->kind][v0 + j * dim + d];
        }
        out->x[r->index * dim + d] = sum;
        out->bound[bound->kind][r->index * dim + d] = bound_out(bound, weighted, sum, sum_abs, max_v);
    }
}

static void row_score_output(const mha_attention_args *args, const row *r, const bound_row *bound,
                             naive_array *scores) {
    for (int64_t j = 0; j < args->kv_len; j++) {
        double x = r->raw[j], error = r->draw[bound->kind][j];
        if (args->scores_mode == MHA_SCORES_SOFTCAPPED) {
            x = r->capped[j];
            error = r->dcap[bound->kind][j];
        } else if (args->scores_mode == MHA_SCORES_BIASED) {
            x = r->score[j];
            error = r->seen[j] ? r->dscore[bound->kind][j] : 0;
        } else if (args->scores_mode == MHA_SCORES_SOFTMAX) {
            x = r->p[j];
            error = r->score[j] == -INFINITY ? 0 : bound_weight(bound, r->w[j], r->p[j]);
        }
        scores->x[r->index * args->kv_len + j] = x;
        scores->bound[bound->kind][r->index * args->kv_len + j] = error;
    }
}

static row row_make(const mha_attention_args *args) {
    const size_t n = (size_t)args->kv_len + 1;
    row r = {.scale = args->scale == MHA_SCALE_DEFAULT ? 1 / sqrt((double)args->head_dim) : args->scale};
    double **arrays[] = {&r.raw,     &r.capped,  &r.score,   &r.p,         &r.w,        &r.draw[0],
                         &r.draw[1], &r.dcap[0], &r.dcap[1], &r.dscore[0], &r.dscore[1]};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) *arrays[i] = calloc(n, sizeof(double));
    r.seen = calloc(n, sizeof(bool));
    return r;
}

static void row_free(row *r) {
    double *arrays[] = {r->raw,     r->capped,  r->score,   r->p,         r->w,        r->draw[0],
                        r->draw[1], r->dcap[0], r->dcap[1], r->dscore[0], r->dscore[1]};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) free(arrays[i]);
    free(r->seen);
}

/* What is too large for half precision is infinite there. */
static void overflow(naive_array *a) {
    for (int64_t i = 0; is_half(a->dtype) && i < a->n; i++) {
        const double rounded = half_value(half_nearest(a->x[i], a->dtype), a->dtype);
        if (isinf(rounded)) a->x[i] = rounded;
    }
}

naive_result naive_attention_of(const mha_attention_args *given, int bf16, const naive_array *q, const naive_array *k,
                                const naive_array *v) {
    mha_attention_args args = *given;
    if (args.v_head_dim == 0) args.v_head_dim = args.head_dim;
    const int64_t rows = args.batch * args.q_heads * args.q_len;
    naive_result result = {
        .out = naive_array_make(rows * args.v_head_dim, true),
        .lse = naive_array_make(rows, true),
        .scores = naive_array_make(args.scores.data != NULL ? rows * args.kv_len : 0, true),
    };
    result.out.dtype = args.out.dtype;
    result.scores.dtype = args.scores.dtype;
    row r = row_make(&args);
    r.bf16 = bf16;
    for (r.index = 0; r.index < rows; r.index++) {
        r.i = r.index % args.q_len;
        r.h = r.index / args.q_len % args.q_heads;
        r.b = r.index / args.q_len / args.q_heads;
        row_scores(&args, q, k, &r);
        row_softmax(args.kv_len, &r);
        result.lse.x[r.index] = r.lse;
        for (int kind = 0; kind < BOUND_KINDS; kind++) {
            const bound_row bound = row_errors(args.kv_len, &r, kind);
            row_out(&args, v, &r, &bound, &result.out);
            result.lse.bound[kind][r.index] = r.n_seen > 0 ? bound_lse(&bound, r.max, r.lse) : 0;
            if (args.scores.data != NULL) row_score_output(&args, &r, &bound, &result.scores);
        }
    }
    row_free(&r);
    overflow(&result.out);
    overflow(&result.scores);
    return result;
}

/* What an operand loses: by rounding; or of two parts, by what they leave of an f32 and half of the product of the second
 * parts. */
static double operand_loss(double x, mha_dtype dtype, int bf16, bound_kind kind) {
    if (bf16 == 0 || dtype == MHA_BF16) return 0;
    if (bf16 == 1) return half_rounding(x, MHA_BF16);
    return fabs(x) * (bound_second_product(kind) / 2 + (dtype == MHA_F16 ? 0 : bound_second_part(kind)));
}

/* An operand, and if it is not multiplied as it is, what that takes. */
static naive_array gather_operand(const mha_tensor *tensor, int bf16, int64_t batch, int64_t heads, int64_t tokens,
                                  int64_t dim) {
    naive_array dense = naive_gather(tensor, batch, heads, tokens, dim);
    if (bf16 == 0) return dense;
    naive_array rounded = naive_array_make(dense.n, true);
    for (int64_t i = 0; i < dense.n; i++) {
        rounded.x[i] = dense.x[i];
        for (int kind = 0; kind < BOUND_KINDS; kind++)
            rounded.bound[kind][i] = operand_loss(dense.x[i], tensor->dtype, bf16, kind);
    }
    naive_array_free(&dense);
    return rounded;
}

naive_result naive_attention(const mha_attention_args *args, int bf16) {
    const int64_t v_dim = args->v_head_dim == 0 ? args->head_dim : args->v_head_dim;
    naive_array q = gather_operand(&args->q, bf16, args->batch, args->q_heads, args->q_len, args->head_dim);
    naive_array k = gather_operand(&args->k, bf16, args->batch, args->kv_heads, args->kv_len, args->head_dim);
    naive_array v = gather_operand(&args->v, bf16, args->batch, args->kv_heads, args->kv_len, v_dim);
    const naive_result result = naive_attention_of(args, bf16, &q, &k, &v);
    naive_array_free(&q);
    naive_array_free(&k);
    naive_array_free(&v);
    return result;
}

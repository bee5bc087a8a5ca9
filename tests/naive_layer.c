#include "naive_layer.h"
#include "half.h"

#include <math.h>
#include <stdlib.h>

void naive_layer_result_free(naive_layer_result *result) {
    naive_array_free(&result->out);
    naive_array_free(&result->scores);
}

/* Parts of bf16 whose sum any element is. */
static int all_parts(mha_dtype dtype) { return dtype == MHA_BF16 ? 1 : dtype == MHA_F16 ? 2 : 3; }

/* What is left out of n numbers of which so many parts are multiplied (0: they are as they are). */
static double *left_out(const double *x, int64_t n, mha_dtype dtype, int parts, bound_kind kind) {
    double *left = calloc((size_t)n + 1, sizeof *left);
    for (int64_t i = 0; parts > 0 && parts < all_parts(dtype) && i < n; i++)
        left[i] = parts == 1 ? half_rounding(x[i], MHA_BF16) : fabs(x[i]) * bound_second_part(kind);
    return left;
}

/* Relative to a product of so many parts: those of parts that together are too small. */
static double products_left_out(int x_parts, int w_parts, bound_kind kind) {
    if (x_parts < 2 || w_parts < 2) return 0;
    return bound_second_product(kind) * (x_parts == 2 ? 1 : 0x1p-9); /* of the third part by the second */
}

static double *weights_of(const mha_linear *linear, int64_t out, int64_t in) {
    const int64_t stride = linear->weight_stride != 0 ? linear->weight_stride : in;
    double *w = malloc((size_t)(out * in) * sizeof *w);
    for (int64_t i = 0; i < out * in; i++)
        w[i] = element_value(linear->weight, linear->dtype, i / in * stride + i % in);
    return w;
}

/* [batch][tokens][out]; x is [batch][tokens][in], of a dtype. */
static naive_array naive_linear(const naive_array *x, mha_dtype dtype, int64_t rows, int64_t in, int64_t out,
                                const mha_linear *linear, naive_bf16 bf16) {
    naive_array y = naive_array_make(rows * out, true);
    const int w_parts = bf16.w_parts[linear->dtype], all = all_parts(dtype);
    const int x_parts = w_parts == 0 ? 0 : all < bf16.x_parts ? all : bf16.x_parts;
    const int64_t products = w_parts == 0 ? in : in * x_parts * w_parts;
    double *weights = weights_of(linear, out, in);
    double *dx[BOUND_KINDS], *dw[BOUND_KINDS], omitted[BOUND_KINDS];
    for (int kind = 0; kind < BOUND_KINDS; kind++) {
        dx[kind] = left_out(x->x, rows * in, dtype, x_parts, kind);
        dw[kind] = left_out(weights, out * in, linear->dtype, w_parts, kind);
        omitted[kind] = products_left_out(x_parts, w_parts, kind);
    }
    for (int64_t i = 0; i < rows * out; i++) {
        const int64_t row = i / out, o = i % out;
        const mha_dtype bias_dtype = linear->bias_dtype != 0 ? linear->bias_dtype : linear->dtype;
        y.x[i] = linear->bias != NULL ? element_value(linear->bias, bias_dtype, o) : 0;
        double condition = fabs(y.x[i]), brought[BOUND_KINDS] = {0};
        for (int64_t k = 0; k < in; k++) {
            const int64_t at = row * in + k, w = o * in + k;
            const double term = x->x[at] * weights[w];
            y.x[i] += term;
            condition += fabs(term);
            for (int kind = 0; kind < BOUND_KINDS; kind++) {
                const double error = dx[kind][at] + (x->bound[kind] != NULL ? x->bound[kind][at] : 0);
                brought[kind] += error * (fabs(weights[w]) + dw[kind][w]) + fabs(x->x[at]) * dw[kind][w] +
                                 fabs(term) * omitted[kind];
            }
        }
        for (int kind = 0; kind < BOUND_KINDS; kind++)
            y.bound[kind][i] = bound_linear(kind, w_parts > 0, products, condition) + brought[kind];
    }
    free(weights);
    for (int kind = 0; kind < BOUND_KINDS; kind++) free(dx[kind]), free(dw[kind]);
    return y;
}

/* What lies in the workspace is rounded to the dtype. */
static void round_to(naive_array *a, mha_dtype dtype) {
    for (int64_t i = 0; i < a->n; i++)
        for (int kind = 0; kind < BOUND_KINDS; kind++)
            a->bound[kind][i] += half_rounding(fabs(a->x[i]) + a->bound[kind][i], dtype);
}

/* [batch][a][b][dim] -> [batch][b][a][dim], values and bounds: tokens and heads change places. */
static naive_array swap(const naive_array *from, int64_t a, int64_t b, int64_t dim) {
    naive_array to = naive_array_make(from->n, true);
    for (int64_t i = 0; i < from->n; i++) {
        const int64_t d = i % dim, j = i / dim % b, k = i / dim / b % a, item = i / dim / b / a;
        const int64_t at = ((item * b + j) * a + k) * dim + d;
        to.x[at] = from->x[i];
        for (int kind = 0; kind < BOUND_KINDS; kind++) to.bound[kind][at] = from->bound[kind][i];
    }
    return to;
}

static naive_array gather_activation(const mha_activation *x, int64_t batch, int64_t tokens, int64_t width) {
    const mha_tensor tensor = {x->data, x->dtype, {x->stride[0], 0, x->stride[1]}};
    return naive_gather(&tensor, batch, 1, tokens, width);
}

/* Projects x and splits it into heads: [batch][heads][tokens][dim]. */
static naive_array project(const mha_activation *x, int64_t batch, int64_t tokens, int64_t in, int64_t heads,
                           int64_t dim, const mha_linear *linear, naive_bf16 bf16) {
    naive_array dense = gather_activation(x, batch, tokens, in);
    naive_array y = naive_linear(&dense, x->dtype, batch * tokens, in, heads * dim, linear, bf16);
    round_to(&y, x->dtype);
    if (bf16.attention == 1) round_to(&y, MHA_BF16);
    for (int64_t i = 0; bf16.attention == 2 && i < y.n; i++)
        for (int kind = 0; kind < BOUND_KINDS; kind++) y.bound[kind][i] += fabs(y.x[i]) * 0x1.8p-18;
    naive_array split = swap(&y, tokens, heads, dim);
    naive_array_free(&dense);
    naive_array_free(&y);
    return split;
}

static mha_attention_args attention_of(const mha_layer_desc *desc, const mha_layer_args *args) {
    mha_attention_args a;
    mha_attention_args_init(&a, sizeof a);
    a.batch = args->batch, a.q_len = args->q_len;
    a.kv_len = args->kv_len == -1 ? args->q_len : args->kv_len;
    a.q_heads = desc->q_heads, a.kv_heads = desc->kv_heads;
    a.head_dim = desc->head_dim, a.v_head_dim = desc->v_head_dim;
    a.scale = args->scale, a.softcap = args->softcap, a.is_causal = args->is_causal;
    a.window_left = args->window_left, a.window_right = args->window_right;
    a.q_offset = args->q_offset, a.q_offsets = args->q_offsets, a.kv_lens = args->kv_lens;
    a.mask = args->mask, a.scores = args->scores, a.scores_mode = args->scores_mode;
    return a;
}

naive_layer_result naive_layer(const mha_layer_desc *desc, const mha_layer_args *args, naive_bf16 bf16) {
    const mha_attention_args a = attention_of(desc, args);
    const mha_activation *kv = args->kv_len == -1 ? &args->q : &args->kv;
    naive_array q = project(&args->q, a.batch, a.q_len, desc->q_dim, a.q_heads, a.head_dim, &desc->wq, bf16);
    naive_array k = project(kv, a.batch, a.kv_len, desc->kv_dim, a.kv_heads, a.head_dim, &desc->wk, bf16);
    naive_array v = project(kv, a.batch, a.kv_len, desc->kv_dim, a.kv_heads, a.v_head_dim, &desc->wv, bf16);
    naive_result attention = naive_attention_of(&a, bf16.attention, &q, &k, &v);
    naive_array heads = swap(&attention.out, a.q_heads, a.q_len, a.v_head_dim);
    round_to(&heads, args->q.dtype);
    naive_layer_result result = {
        .out = naive_linear(&heads, args->q.dtype, a.batch * a.q_len, a.q_heads * a.v_head_dim, desc->out_dim,
                            &desc->wo, bf16),
        .scores = attention.scores,
    };
    result.out.dtype = args->out.dtype;
    naive_array *unused[] = {&q, &k, &v, &heads, &attention.out, &attention.lse};
    for (int i = 0; i < 6; i++) naive_array_free(unused[i]);
    return result;
}

/* Attention in double, straight from its definition in mha.h, with the error that an f32 implementation may make.
 * Shares no line with src/. */
#ifndef TESTS_NAIVE_H
#define TESTS_NAIVE_H

#include "bound.h"
#include "mha/mha.h"

/* Values, densely in row-major order, and for each how far off it may be (NULL: exact) before it is rounded to its
 * dtype. */
typedef struct naive_array {
    int64_t n;
    double *x;
    double *bound[BOUND_KINDS];
    mha_dtype dtype;
    int roundings; /* to it: 1, or 2 between results that are both rounded */
} naive_array;

/* How far off an element may be, roundings included. */
double naive_allowed(const naive_array *a, bound_kind kind, int64_t i);

naive_array naive_array_make(int64_t n, bool with_bounds);
void naive_array_free(naive_array *a);

typedef struct naive_result {
    naive_array out;    /* [batch][q_heads][q_len][v_head_dim] */
    naive_array lse;    /* [batch][q_heads][q_len] */
    naive_array scores; /* [batch][q_heads][q_len][kv_len]; n = 0 unless args->scores is there */
} naive_result;

void naive_result_free(naive_result *result);

/* The dense copy of [batch, heads, tokens, dim]. */
naive_array naive_gather(const mha_tensor *tensor, int64_t batch, int64_t heads, int64_t tokens, int64_t dim);

/* bf16: the implementation multiplies bf16, in so many parts (0: not); the result is the same, but for how far off it
 * may be. */
naive_result naive_attention(const mha_attention_args *args, int bf16);

/* The same for operands that are already dense and may bring errors along; args->q, k and v are not read. */
naive_result naive_attention_of(const mha_attention_args *args, int bf16, const naive_array *q, const naive_array *k,
                                const naive_array *v);

/* Whether key j is visible to query i: false where it is excluded.  *bias: what is added to its score. */
bool naive_visible(const mha_attention_args *args, int64_t b, int64_t h, int64_t i, int64_t j, double *bias);

#endif

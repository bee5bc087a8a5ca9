/* The layer in double: projections, attention, output projection, with the error that an f32 one may make. */
#ifndef TESTS_NAIVE_LAYER_H
#define TESTS_NAIVE_LAYER_H

#include "naive.h"

/* [batch][tokens][out]; x is [batch][tokens][in]. */
naive_array naive_linear(const naive_array *x, int64_t rows, int64_t in, int64_t out, const mha_linear *linear);

typedef struct naive_layer_result {
    naive_array out;    /* [batch][q_len][out_dim] */
    naive_array scores; /* [batch][q_heads][q_len][kv_len] */
} naive_layer_result;

void naive_layer_result_free(naive_layer_result *result);

/* desc's defaults are resolved by the caller: no size is 0, wq, wk and wv are set.  bf16: attention multiplies bf16. */
naive_layer_result naive_layer(const mha_layer_desc *desc, const mha_layer_args *args, bool bf16);

#endif

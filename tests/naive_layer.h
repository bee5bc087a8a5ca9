/* The layer in double: projections, attention, output projection, with the error that an f32 one may make. */
#ifndef TESTS_NAIVE_LAYER_H
#define TESTS_NAIVE_LAYER_H

#include "naive.h"

/* Where bf16 is multiplied: in attention, by weights that are bf16; rounds: by all weights, and all operands are
 * rounded. */
typedef struct naive_bf16 {
    bool attention, weights, rounds;
} naive_bf16;

typedef struct naive_layer_result {
    naive_array out;    /* [batch][q_len][out_dim] */
    naive_array scores; /* [batch][q_heads][q_len][kv_len] */
} naive_layer_result;

void naive_layer_result_free(naive_layer_result *result);

/* desc's defaults are resolved by the caller: no size is 0, wq, wk and wv are set. */
naive_layer_result naive_layer(const mha_layer_desc *desc, const mha_layer_args *args, naive_bf16 bf16);

#endif

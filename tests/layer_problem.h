/* A layer and its input from a line of a table, between guard pages. */
#ifndef TESTS_LAYER_PROBLEM_H
#define TESTS_LAYER_PROBLEM_H

#include "guard.h"
#include "naive_layer.h"

enum { BIAS_Q = 1, BIAS_K = 2, BIAS_V = 4, BIAS_O = 8, BIAS_ALL = 15 };

/* Where a token of batch item b lies in the inputs: which share memory. */
typedef enum sharing {
    OWN_TOKENS,
    SLIDING,     /* item b begins at token b of the first one: batch and token stride are the same */
    SAME_ITEMS,  /* batch stride 0 */
    SAME_TOKENS, /* token stride 0: an item's tokens are one */
    SAME_ALL     /* both */
} sharing;

enum { LQ, LK, LV, LO, LQKV, N_WEIGHTS };
enum { X_Q, X_KV, X_MASK, X_OUT, X_SCORES, N_ACTIVATIONS };

typedef struct layer_spec {
    const char *what;
    int64_t q_heads, kv_heads, head_dim, v_head_dim, q_dim, kv_dim, out_dim; /* the last four: 0 is the default */
    bool stacked;                    /* Q, K and V in one weight; their biases all or none */
    unsigned biases;                 /* BIAS_* */
    int64_t gap;                     /* beyond the rows of weights, inputs and output */
    int64_t item_gap;                /* rows between batch items of inputs and output */
    sharing sharing;                 /* item_gap is then the output's */
    int64_t batch, q_len, kv_len;    /* kv_len -1: self-attention */
    bool causal, lens, mask;         /* kv_lens; an additive mask with -inf, the same for all heads */
    bool scores;                     /* the attention weights */
    int64_t q_offset, q_offset_step; /* the step per batch item; if it is not 0, offsets are given for each */
    const int64_t *left, *right;
    const float *scale;
    float softcap;
    double k_factor;                                           /* of the keys' weights; 0: 1 */
    double elements;                                           /* of all weights and inputs; 0: random */
    mha_dtype weight_dtypes[N_WEIGHTS], dtypes[N_ACTIVATIONS]; /* 0: MHA_F32; not of mask and scores */
    mha_dtype bias_dtype;                                      /* 0: of each the weight's */
    uint64_t seed;
} layer_spec;

typedef struct layer_problem {
    layer_spec spec; /* with defaults resolved */
    guard_side side; /* of the workspace, too */
    mha_layer_desc desc, naive_desc;
    mha_layer_args args; /* points into this struct: do not move it */
    guard weight[N_WEIGHTS], bias[N_WEIGHTS], memory[N_ACTIVATIONS];
    int64_t kv_lens[8], q_offsets[8];
} layer_problem;

void layer_problem_make(layer_problem *p, const layer_spec *s, guard_side side);
void layer_problem_free(layer_problem *p);
void layer_text(const layer_spec *s, char *text, size_t bytes);

typedef struct layer_outputs {
    int64_t n_out, n_scores;
    float *out, *scores;
} layer_outputs;

/* As outputs_take and problem_run. */
layer_outputs layer_outputs_take(layer_problem *p);
layer_outputs layer_run(layer_problem *p, const mha_layer *layer, const mha_executor *executor, const char *isa);
void layer_outputs_free(layer_outputs *o);

#endif

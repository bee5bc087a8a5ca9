/* An attention problem from a line of a table: operands with the wanted layout and contents between guard pages. */
#ifndef TESTS_PROBLEM_H
#define TESTS_PROBLEM_H

#include "guard.h"
#include "mha/mha.h"

typedef enum layout {
    BHTD,         /* [batch, heads, tokens, dim] */
    BTHD,         /* [batch, tokens, heads, dim] */
    WIDE,         /* tokens 4,096 bytes apart */
    GAPPED,       /* odd gaps after each token, head and batch item; mask keys two apart */
    REVERSED,     /* the same with negative strides */
    PACKED,       /* q, k and v are columns of one buffer; needs q_len == kv_len */
    PACKED_OUT,   /* and out as well */
    SHARED_HEADS, /* zero strides: one K and V for all heads and batch items, one Q for all batch items */
    SHARED_TOKENS /* zero strides: all queries are the same, so are all keys and all values */
} layout;

typedef enum logits {
    NORMAL,    /* about N(0, 1) at the default scale */
    PLUS_100,  /* exp overflows unless the maximum is subtracted */
    MINUS_100, /* exp underflows unless it is */
    RISING,    /* every block of keys has a new maximum */
    FALLING,   /* only the first has */
    STEEP_UP,  /* each key's score is 40 above the one before: a maximum over one key too many loses all others */
    STEEP_DOWN,
    SPIKE,    /* one key outweighs all others, a different one for each batch item */
    SUBNORMAL /* subnormal Q, K and V elements */
} logits;

typedef enum mask_kind {
    NO_MASK,
    MASK_BOOL,      /* true is any byte but 0; some rows all false */
    MASK_BIAS,      /* finite, about N(0, 1) */
    MASK_MINUS_INF, /* bias and random -inf; some rows all -inf */
    MASK_LOWEST,    /* bias and the lowest float, some -inf; some rows all lowest */
    MASK_PREFIX,    /* booleans: true up to a key that differs by row */
    MASK_PADDING    /* booleans, the same for all rows: some keys at both ends are false, and hold infinities and NaN */
} mask_kind;

enum { Q, K, V, MASK, OUT, LSE, SCORES, N_OPERANDS };

enum { SAME_B = 1, SAME_H = 2, SAME_Q = 4, SAME_K = 8 }; /* zero strides of a mask */

/* All in the last head of the last batch item. */
typedef enum poison {
    NO_POISON,
    NAN_K, /* one element of a random key, value or query */
    INF_K,
    NAN_V,
    INF_V,
    NAN_Q,
    ALL_MINUS_INF,  /* keys whose scores are -inf: all, */
    FIRST_MINUS_INF /* or those before a random key */
} poison;

typedef enum scores_kind { NO_SCORES, RAW, SOFTCAPPED, BIASED, SOFTMAX } scores_kind;

/* What is not named is as mha_attention_args_init leaves it. */
typedef struct spec {
    const char *what;
    int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim;
    layout layout;
    logits logits;
    const float *scale; /* SCALE(x) */
    float softcap;
    bool causal;
    const int64_t *left, *right;     /* KEYS(n) */
    int64_t q_offset, q_offset_step; /* the step per batch item; if it is not 0, offsets are given for each */
    bool lens;                       /* kv_lens: short, 0, full, ...; what lies beyond is NaN */
    mask_kind mask;
    unsigned same; /* SAME_* bits */
    poison poison;
    bool lse;
    scores_kind scores;
    mha_dtype
        dtypes[N_OPERANDS]; /* 0: MHA_F32.  In a packed layout [Q] is for the whole buffer; a boolean mask has none */
    uint64_t seed;
} spec;

#define SCALE(x) (&(const float){x})
#define KEYS(n)  (&(const int64_t){n})

enum { MAX_BATCH = 16 };

typedef struct problem {
    spec spec;
    guard_side side;
    mha_attention_args args;  /* points into this struct: do not move it */
    guard memory[N_OPERANDS]; /* unused ones are empty */
    int64_t q_offsets[MAX_BATCH], kv_lens[MAX_BATCH];
} problem;

/* The same contents for either side. */
void problem_make(problem *p, const spec *s, guard_side side);
void problem_free(problem *p);

/* Writes the spec as text. */
void spec_text(const spec *s, char *text, size_t bytes);

/* Results, dense, in f32. */
typedef struct outputs {
    int64_t n_out, n_lse, n_scores;
    float *out, *lse, *scores;
} outputs;

void outputs_free(outputs *o);

/* Copies the outputs out of the problem's memory, which becomes what it was before the call. */
outputs outputs_take(problem *p);

/* Runs mha_attention with a workspace of exactly the size it asks for, misaligned and full of NaN; fails the test if
 * the call does, or if a byte was written that is not an output element.  The problem can be run again. */
outputs problem_run(problem *p, const mha_context *context, const mha_executor *executor);

#endif

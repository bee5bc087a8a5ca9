/* A token loop: one attention layer as a language model with random weights.  It reads a prompt, then generates token by
 * token.  Each step appends its key and value in place to a cache that belongs to this program; no step copies the past.
 *
 *     gcc -O2 decode_loop.c $(pkg-config --cflags --libs mha) -lm && ./a.out
 */
#include <mha/mha.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { VOCABULARY = 1000, PROMPT = 32, TOKENS = 512 };
enum { Q_HEADS = 8, KV_HEADS = 2, HEAD_DIM = 32, WIDTH = Q_HEADS * HEAD_DIM, KV_WIDTH = KV_HEADS * HEAD_DIM };

static struct {
    float token[VOCABULARY][WIDTH], position[TOKENS][WIDTH];               /* embeddings */
    float wq[WIDTH][WIDTH], wk[KV_WIDTH][WIDTH], wv[KV_WIDTH][WIDTH], wo[WIDTH][WIDTH]; /* projections [out, in] */
} model;

typedef struct cache {
    float k[KV_HEADS][TOKENS][HEAD_DIM], v[KV_HEADS][TOKENS][HEAD_DIM];
} cache;

static mha_context *context;
static void *workspace;
static size_t workspace_bytes;

static void *must(void *memory) {
    if (memory == NULL) exit((puts("out of memory"), EXIT_FAILURE));
    return memory;
}

/* Pseudo-random weights in [-1, 1) / sqrt(WIDTH), which keeps scores below 1. */
static void fill(float *x, size_t n) {
    static uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) / sqrtf(WIDTH);
    }
}

static float dot(const float *a, const float *b) {
    float sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += a[i] * b[i];
    return sum;
}

static void project(int n, const float *x, int n_out, const float (*weight)[WIDTH], float *y) {
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < n_out; i++) y[t * n_out + i] = dot(&x[t * WIDTH], weight[i]);
    }
}

/* [token, head, dim], as projections write them, or a cache's [head, token, dim] with room for TOKENS. */
static mha_tensor rows(float *data, int heads) { return (mha_tensor){data, MHA_F32, {0, HEAD_DIM, heads * HEAD_DIM}}; }
static mha_tensor room(float *data) { return (mha_tensor){data, MHA_F32, {0, TOKENS * HEAD_DIM, HEAD_DIM}}; }

/* Appends n keys and values to the `past` ones in the cache; then query i attends to the first past + i + 1 of them. */
static void attend(int past, int n, float *q, float *k, float *v, cache *cached, float *out) {
    mha_kv_cache kv;
    mha_kv_cache_init(&kv, sizeof kv);
    kv.k = room(&cached->k[0][0][0]);
    kv.v = room(&cached->v[0][0][0]);
    kv.past_len = past;

    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 1;
    args.q_heads = Q_HEADS;
    args.kv_heads = KV_HEADS;
    args.q_len = args.kv_len = n;
    args.head_dim = HEAD_DIM;
    args.q = rows(q, Q_HEADS);
    args.k = rows(k, KV_HEADS);
    args.v = rows(v, KV_HEADS);
    args.out = rows(out, Q_HEADS);
    args.is_causal = true;
    args.q_offset = past; /* keys are counted from the begin of the cache */
    args.cache = &kv;

    size_t bytes = 0;
    mha_status status = mha_attention_workspace_size(context, &args, 1, &bytes);
    if (bytes > workspace_bytes) workspace = must(realloc(workspace, workspace_bytes = bytes));
    if (status == MHA_OK) status = mha_attention(context, &args, NULL, workspace, workspace_bytes);
    if (status == MHA_OK) return;
    char why[256];
    mha_attention_check(context, &args, NULL, workspace, workspace_bytes, why, sizeof why);
    exit((printf("%s: %s\n", mha_status_string(status), why), EXIT_FAILURE));
}

/* Tokens [past, past + n) through the model: writes their attention outputs [n, WIDTH], returns the most likely next. */
static int forward(const int *tokens, int past, int n, cache *cached, float *heads) {
    static float x[TOKENS * WIDTH], q[TOKENS * WIDTH], k[TOKENS * KV_WIDTH], v[TOKENS * KV_WIDTH], y[WIDTH];
    for (int t = 0; t < n; t++) {
        const int at = past + t;
        for (int i = 0; i < WIDTH; i++) x[t * WIDTH + i] = 8 * (model.token[tokens[at]][i] + model.position[at][i]);
    }
    project(n, x, WIDTH, model.wq, q);
    project(n, x, KV_WIDTH, model.wk, k);
    project(n, x, KV_WIDTH, model.wv, v);
    attend(past, n, q, k, v, cached, heads);
    project(1, &heads[(n - 1) * WIDTH], WIDTH, model.wo, y);
    int best = 0;
    for (int token = 1; token < VOCABULARY; token++) {
        if (dot(y, model.token[token]) > dot(y, model.token[best])) best = token;
    }
    return best;
}

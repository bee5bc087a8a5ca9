/* A token loop: one attention layer as a language model with random weights reads a prompt, then generates token by
 * token.  Each step appends its key and value in place to a cache that belongs to this program; none copies the past.
 *
 *     gcc -O3 decode_loop.c $(pkg-config --cflags --libs mha) -lm && ./a.out
 */
#include <mha/mha.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { VOCABULARY = 1000, PROMPT = 32, TOKENS = 512 };
enum { Q_HEADS = 8, KV_HEADS = 2, HEAD_DIM = 32, WIDTH = Q_HEADS * HEAD_DIM, KV_WIDTH = KV_HEADS * HEAD_DIM };

static struct {
    float token[VOCABULARY * WIDTH], position[TOKENS * WIDTH];
} embedding;

static struct { /* projections y = x W, each [in, out] */
    float wq[WIDTH * WIDTH], wk[WIDTH * KV_WIDTH], wv[WIDTH * KV_WIDTH], wo[WIDTH * WIDTH], next[WIDTH * VOCABULARY];
} weight;

/* [head, token, dim], with room for TOKENS. */
typedef struct cache {
    float k[KV_HEADS * TOKENS * HEAD_DIM], v[KV_HEADS * TOKENS * HEAD_DIM];
} cache;

static mha_context *context;
static void *workspace;
static size_t workspace_bytes;

/* Pseudo-random, uniform in [-limit, limit). */
static void fill(void *memory, size_t bytes, float limit) {
    static uint32_t state = 1;
    float *x = memory;
    for (size_t i = 0; i < bytes / sizeof *x; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = limit * ((float)(state >> 8) / 8388608.0f - 1.0f);
    }
}

static void project(int n, const float *x, int n_out, const float *w, float *y) {
    for (int t = 0; t < n; t++, x += WIDTH, y += n_out) {
        for (int o = 0; o < n_out; o++) y[o] = 0;
        for (int i = 0; i < WIDTH; i++) {
            for (int o = 0; o < n_out; o++) y[o] += x[i] * w[i * n_out + o];
        }
    }
}

static mha_tensor tensor(float *data, int64_t head_stride, int64_t token_stride) {
    return (mha_tensor){data, MHA_F32, {0, head_stride, token_stride}};
}

/* Appends n keys and values to the `past` ones in the cache; then query i attends to the first past + i + 1 of them.
 * q, k, v and out are [token, head, dim], as projections write them. */
static void attend(int past, int n, float *q, float *k, float *v, cache *cached, float *out) {
    mha_kv_cache kv;
    mha_kv_cache_init(&kv, sizeof kv);
    kv.k = tensor(cached->k, TOKENS * HEAD_DIM, HEAD_DIM);
    kv.v = tensor(cached->v, TOKENS * HEAD_DIM, HEAD_DIM);
    kv.past_len = past;

    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 1;
    args.q_heads = Q_HEADS;
    args.kv_heads = KV_HEADS;
    args.q_len = args.kv_len = n;
    args.head_dim = HEAD_DIM;
    args.q = tensor(q, HEAD_DIM, WIDTH);
    args.k = tensor(k, HEAD_DIM, KV_WIDTH);
    args.v = tensor(v, HEAD_DIM, KV_WIDTH);
    args.out = tensor(out, HEAD_DIM, WIDTH);
    args.is_causal = true;
    args.q_offset = past; /* keys are counted from the begin of the cache */
    args.cache = &kv;

    size_t bytes = 0; /* differs from shape to shape; one workspace grows with what is asked for */
    mha_status status = mha_attention_workspace_size(context, &args, 1, &bytes);
    if (bytes > workspace_bytes) {
        free(workspace);
        workspace = malloc(bytes);
        workspace_bytes = workspace != NULL ? bytes : 0;
    }
    if (status == MHA_OK) status = mha_attention(context, &args, NULL, workspace, workspace_bytes);
    if (status == MHA_OK) return;
    char why[256];
    mha_attention_check(context, &args, NULL, workspace, workspace_bytes, why, sizeof why);
    printf("%s: %s\n", mha_status_string(status), why);
    exit(EXIT_FAILURE);
}

/* Tokens [past, past + n) through the model: writes what they attend to, [n, WIDTH]; returns the most likely next. */
static int forward(const int *tokens, int past, int n, cache *cached, float *heads) {
    static float x[TOKENS * WIDTH], q[TOKENS * WIDTH], k[TOKENS * KV_WIDTH], v[TOKENS * KV_WIDTH];
    static float y[WIDTH], logits[VOCABULARY];
    for (int t = past; t < past + n; t++) {
        const float *token = &embedding.token[tokens[t] * WIDTH], *position = &embedding.position[t * WIDTH];
        for (int i = 0; i < WIDTH; i++) x[(t - past) * WIDTH + i] = token[i] + position[i];
    }
    project(n, x, WIDTH, weight.wq, q);
    project(n, x, KV_WIDTH, weight.wk, k);
    project(n, x, KV_WIDTH, weight.wv, v);
    attend(past, n, q, k, v, cached, heads);
    project(1, &heads[(n - 1) * WIDTH], WIDTH, weight.wo, y);
    project(1, y, VOCABULARY, weight.next, logits);
    int best = 0;
    for (int token = 1; token < VOCABULARY; token++) {
        if (logits[token] > logits[best]) best = token;
    }
    return best;
}

int main(void) {
    static cache grown, filled;
    static float in_steps[TOKENS * WIDTH], at_once[TOKENS * WIDTH];
    static int tokens[TOKENS + 1];
    char why[256];
    if (mha_context_create(NULL, &context, why, sizeof why) != MHA_OK) return puts(why), EXIT_FAILURE;
    fill(&embedding, sizeof embedding, 1);
    fill(&weight, sizeof weight, 1.0f / 8);
    for (int t = 0; t < PROMPT; t++) tokens[t] = t;

    tokens[PROMPT] = forward(tokens, 0, PROMPT, &grown, in_steps);
    const clock_t start = clock();
    for (int t = PROMPT; t < TOKENS; t++) tokens[t + 1] = forward(tokens, t, 1, &grown, &in_steps[t * WIDTH]);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    printf("read %d tokens, generated %d with %s kernels: %.0f tokens/s\n", PROMPT, TOKENS - PROMPT,
           mha_context_isa(context), (TOKENS - PROMPT) / seconds);

    /* The same in one causal prefill.  Bits depend on q_len, which chooses the kernels; what may differ is rounding.
     * By docs/numerics.md the difference is at most this bound: a score's sum of |q_d k_d| / sqrt(HEAD_DIM) is below 8
     * here. */
    const int next = forward(tokens, 0, TOKENS, &filled, at_once);
    float difference = 0, largest = 0;
    for (int i = 0; i < TOKENS * WIDTH; i++) difference = fmaxf(difference, fabsf(in_steps[i] - at_once[i]));
    for (int i = 0; i < TOKENS * KV_WIDTH; i++) largest = fmaxf(largest, fabsf(filled.v[i]));
    const float bound = 4 * (8 * HEAD_DIM + TOKENS) * FLT_EPSILON * largest;
    printf("one prefill of all %d differs by %.1e, at most %.1e is rounding; its next token is %s\n", TOKENS,
           (double)difference, (double)bound, next == tokens[TOKENS] ? "the same" : "another");
    free(workspace);
    mha_context_destroy(context);
    return difference <= bound && next == tokens[TOKENS] ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Causal self-attention with grouped query heads, checked against the definition in plain C.
 *
 *     gcc attention.c $(pkg-config --cflags --libs mha) -lm && ./a.out
 */
#include <mha/mha.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, TOKENS = 100, Q_HEADS = 8, KV_HEADS = 2, HEAD_DIM = 64 };

/* [batch, token, head, dim], as a projection leaves them.  Strides tell the library; nothing needs to be transposed. */
static float q[BATCH][TOKENS][Q_HEADS][HEAD_DIM];
static float k[BATCH][TOKENS][KV_HEADS][HEAD_DIM];
static float v[BATCH][TOKENS][KV_HEADS][HEAD_DIM];
static float out[BATCH][TOKENS][Q_HEADS][HEAD_DIM];

static mha_tensor tensor(void *data, int64_t heads) {
    const int64_t token = heads * HEAD_DIM;
    return (mha_tensor){.data = data, .dtype = MHA_F32, .stride = {TOKENS * token, HEAD_DIM, token}};
}

/* Uniform in [-1, 1), the same on every machine. */
static void fill(float *x, size_t n, uint32_t seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
}

static double dot(const float *a, const float *b) {
    double sum = 0;
    for (int d = 0; d < HEAD_DIM; d++) sum += (double)a[d] * b[d];
    return sum;
}

/* out = softmax(q K^T / sqrt(HEAD_DIM)) V for one query, over the keys up to its own position. */
static void attend_plainly(int b, int token, int head, double *row) {
    const int kv_head = head / (Q_HEADS / KV_HEADS);
    const double scale = 1 / sqrt(HEAD_DIM);
    double max = -INFINITY, sum = 0;
    for (int d = 0; d < HEAD_DIM; d++) row[d] = 0;
    for (int j = 0; j <= token; j++) max = fmax(max, scale * dot(q[b][token][head], k[b][j][kv_head]));
    for (int j = 0; j <= token; j++) {
        const double weight = exp(scale * dot(q[b][token][head], k[b][j][kv_head]) - max);
        sum += weight;
        for (int d = 0; d < HEAD_DIM; d++) row[d] += weight * v[b][j][kv_head][d];
    }
    for (int d = 0; d < HEAD_DIM; d++) row[d] /= sum;
}

static double largest_difference(void) {
    double largest = 0, row[HEAD_DIM];
    for (int b = 0; b < BATCH; b++) {
        for (int t = 0; t < TOKENS; t++) {
            for (int h = 0; h < Q_HEADS; h++) {
                attend_plainly(b, t, h, row);
                for (int d = 0; d < HEAD_DIM; d++) largest = fmax(largest, fabs(row[d] - out[b][t][h][d]));
            }
        }
    }
    return largest;
}

int main(void) {
    fill(&q[0][0][0][0], sizeof q / sizeof(float), 1);
    fill(&k[0][0][0][0], sizeof k / sizeof(float), 2);
    fill(&v[0][0][0][0], sizeof v / sizeof(float), 3);

    /* One context serves the whole program: it holds which kernels this CPU runs. */
    mha_context *context;
    char why[256];
    if (mha_context_create(NULL, &context, why, sizeof why) != MHA_OK) return puts(why), EXIT_FAILURE;

    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = BATCH;
    args.q_heads = Q_HEADS;
    args.kv_heads = KV_HEADS;
    args.q_len = args.kv_len = TOKENS;
    args.head_dim = HEAD_DIM;
    args.q = tensor(q, Q_HEADS);
    args.k = tensor(k, KV_HEADS);
    args.v = tensor(v, KV_HEADS);
    args.out = tensor(out, Q_HEADS);
    args.is_causal = true;

    /* The library allocates nothing in a call: the workspace is yours.  A NULL executor is the calling thread. */
    size_t bytes = 0;
    void *workspace = NULL;
    mha_status status = mha_attention_workspace_size(context, &args, 1, &bytes);
    if (status == MHA_OK) workspace = malloc(bytes);
    if (status == MHA_OK) status = mha_attention(context, &args, NULL, workspace, bytes);
    if (status != MHA_OK) {
        mha_attention_check(context, &args, NULL, workspace, bytes, why, sizeof why);
        return printf("%s: %s\n", mha_status_string(status), why), EXIT_FAILURE;
    }

    const double difference = largest_difference();
    printf("libmha %s with %s kernels: at most %.1e from the definition\n", mha_version(), mha_context_isa(context),
           difference);
    free(workspace);
    mha_context_destroy(context);
    /* docs/numerics.md has the formula of what rounding may do; 1e-6 suits operands within [-1, 1). */
    return difference < 1e-6 ? EXIT_SUCCESS : EXIT_FAILURE;
}

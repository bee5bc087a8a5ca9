/* Prefill and decode through the public API. */
#define MHA_WITH_PTHREADPOOL
#include "bench.h"

#include "mha/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct shape {
    int64_t batch, q_heads, kv_heads, q_len, kv_len, head_dim;
    unsigned variant;
} shape;

enum {
    CAUSAL = 1,
    SLEEF = 2,
    THREADS = 4, /* as many as the machine has processors */
    DRAM = 8,    /* every run reads another K and V, so that they come from DRAM */
    BTHD = 16,   /* tensors [batch, tokens, heads, dim] */
    ROOM = 32,   /* K and V lie in caches with room for ROOM_TIMES as many tokens */
};

enum { ROOM_TIMES = 4 };

/* batch, query heads, KV heads, queries, keys, head_dim */
static const shape prefill_shapes[] = {
    {1, 12, 12, 512, 512, 64, 0},
    {1, 12, 12, 512, 512, 64, BTHD},
    {1, 12, 12, 512, 512, 64, CAUSAL},
    {1, 12, 12, 512, 512, 64, SLEEF},
    {1, 12, 12, 512, 512, 64, THREADS},
    {1, 16, 16, 2048, 2048, 64, 0},
    {1, 16, 16, 2048, 2048, 64, BTHD}, /* a token every 4,096 bytes */
    {1, 16, 16, 2048, 2048, 64, CAUSAL},
    {1, 16, 16, 2048, 2048, 64, THREADS},
    {1, 8, 8, 1024, 1024, 128, 0},
    {1, 8, 8, 1024, 1024, 128, BTHD},
    {1, 4, 4, 4096, 4096, 128, 0},
    {1, 32, 8, 1024, 1024, 128, CAUSAL},
    {1, 32, 8, 1024, 1024, 128, CAUSAL | THREADS},
    {1, 16, 16, 512, 512, 80, 0},
    {1, 12, 12, 32, 32, 64, 0},
    {8, 12, 12, 32, 32, 64, 0},
    {1, 12, 12, 77, 77, 64, 0},
    {1, 12, 12, 128, 128, 64, 0},
    {8, 12, 12, 128, 128, 64, 0},
    {8, 12, 12, 128, 128, 32, 0},
};

static const shape decode_shapes[] = {
    {1, 1, 1, 1, 16, 64, 0},     /* what a call costs beside its work */
    {1, 8, 2, 1, 256, 128, 0},   /* a second-level cache holds K and V */
    {1, 32, 8, 1, 1024, 128, 0}, /* a third-level one */
    {1, 32, 8, 1, 4096, 128, 0},     {1, 32, 32, 1, 4096, 128, DRAM},       {1, 32, 8, 1, 4096, 128, DRAM},
    {1, 32, 1, 1, 4096, 128, DRAM},  {1, 32, 32, 1, 65536, 128, DRAM},      {1, 32, 8, 1, 65536, 128, DRAM},
    {1, 32, 1, 1, 65536, 128, DRAM}, {32, 32, 8, 1, 256, 128, ROOM | DRAM},
};

typedef struct attention {
    mha_context *context;
    mha_attention_args args;
    pthreadpool_t pool;
    mha_executor executor;
    void *out, *workspace;
    size_t workspace_bytes;
    char *kv; /* copies of K and V, then Q */
    size_t kv_bytes, kv_copies, next_copy;
} attention;

static size_t k_elements(const shape *s) { return (size_t)(s->batch * s->kv_heads * s->kv_len * s->head_dim); }

static int64_t room(const shape *s) { return s->kv_len * (s->variant & ROOM ? ROOM_TIMES : 1); }

/* With their room. */
static size_t cache_elements(const shape *s) { return (size_t)(s->batch * s->kv_heads * room(s) * s->head_dim); }

static size_t q_elements(const shape *s) { return (size_t)(s->batch * s->q_heads * s->q_len * s->head_dim); }

static double kv_bytes(const shape *s, mha_dtype dtype) {
    return (double)(2 * k_elements(s) * bench_element_bytes(dtype));
}

static size_t kv_copies(const shape *s, mha_dtype dtype) {
    return s->variant & DRAM ? (size_t)(bench_dram_bytes() / kv_bytes(s, dtype)) + 1 : 1;
}

static mha_tensor tensor(void *data, mha_dtype dtype, const shape *s, int64_t heads, int64_t tokens) {
    const int64_t dim = s->head_dim;
    mha_tensor t = {data, dtype, {heads * tokens * dim, tokens * dim, dim}};
    if (s->variant & BTHD) t.stride[1] = dim, t.stride[2] = heads * dim;
    return t;
}

static void set_args(attention *a, const shape *s, mha_dtype dtype) {
    a->kv_bytes = 2 * cache_elements(s) * bench_element_bytes(dtype);
    a->kv_copies = kv_copies(s, dtype);
    a->kv = bench_random(2 * cache_elements(s) * a->kv_copies + q_elements(s), dtype);
    a->out = bench_allocate(q_elements(s) * bench_element_bytes(dtype));
    mha_attention_args_init(&a->args, sizeof a->args);
    a->args.batch = s->batch;
    a->args.q_heads = s->q_heads;
    a->args.kv_heads = s->kv_heads;
    a->args.q_len = s->q_len;
    a->args.kv_len = s->kv_len;
    a->args.head_dim = s->head_dim;
    a->args.is_causal = (s->variant & CAUSAL) != 0;
    a->args.q = tensor(a->kv + a->kv_bytes * a->kv_copies, dtype, s, s->q_heads, s->q_len);
    a->args.k = tensor(a->kv, dtype, s, s->kv_heads, room(s));
    a->args.v = tensor(a->kv + a->kv_bytes / 2, dtype, s, s->kv_heads, room(s));
    a->args.out = tensor(a->out, dtype, s, s->q_heads, s->q_len);
}

static void teardown(void *state) {
    attention *a = state;
    mha_context_destroy(a->context);
    pthreadpool_destroy(a->pool);
    free(a->out);
    free(a->workspace);
    free(a);
}

static const char *setup(const bench_case *self, void **state) {
    const shape *s = self->shape;
    mha_context *context;
    const char *why_not = bench_context(self->row, s->variant & SLEEF, &context);
    if (why_not != NULL) return why_not;
    attention *a = bench_allocate(sizeof *a);
    a->context = context;
    a->pool = s->variant & THREADS ? pthreadpool_create(self->threads) : NULL;
    a->executor = mha_pthreadpool_executor(a->pool);
    set_args(a, s, self->dtype);
    if (mha_attention_workspace_size(context, &a->args, a->executor.n_workers, &a->workspace_bytes) != MHA_OK) {
        teardown(a);
        return "mha_attention_workspace_size failed";
    }
    a->workspace = bench_allocate(a->workspace_bytes);
    *state = a;
    return NULL;
}

static void run(void *state) {
    attention *a = state;
    char *k = a->kv + a->kv_bytes * a->next_copy;
    a->next_copy = (a->next_copy + 1) % a->kv_copies;
    a->args.k.data = k;
    a->args.v.data = k + a->kv_bytes / 2;
    if (mha_attention(a->context, &a->args, &a->executor, a->workspace, a->workspace_bytes) == MHA_OK) return;
    fprintf(stderr, "bench: mha_attention failed\n");
    exit(1);
}

static bench_case case_of(const bench_row *row, const shape *s, mha_dtype dtype) {
    bench_case c = {
        .row = row, .shape = s, .dtype = dtype, .setup = setup, .run = run, .teardown = teardown, .threads = 1};
    if (s->variant & THREADS) c.threads = (size_t)sysconf(_SC_NPROCESSORS_ONLN);
    return c;
}

static void add_prefill(const bench_row *row, const shape *s, mha_dtype dtype) {
    bench_case c = case_of(row, s, dtype);
    c.items = (double)(s->batch * s->q_heads * s->q_len * s->kv_len) * (s->variant & CAUSAL ? 0.5 : 1);
    c.item = "score";
    c.flops = 4 * (double)s->head_dim * c.items;
    c.traffic = (double)(2 * (q_elements(s) + k_elements(s)) * bench_element_bytes(dtype));
    char heads[32], threads[32] = "";
    if (s->kv_heads == s->q_heads) snprintf(heads, sizeof heads, "H%d", (int)s->q_heads);
    else snprintf(heads, sizeof heads, "H%d.KV%d", (int)s->q_heads, (int)s->kv_heads);
    if (s->variant & THREADS) snprintf(threads, sizeof threads, ".threads%d", (int)c.threads);
    bench_add(&c, "prefill/%s/%s/B%d.%s.T%d.D%d%s%s%s%s", row->isa, bench_dtype_name(dtype), (int)s->batch, heads,
              (int)s->q_len, (int)s->head_dim, s->variant & BTHD ? ".bthd" : "", s->variant & CAUSAL ? ".causal" : "",
              s->variant & SLEEF ? ".sleef" : "", threads);
}

static void add_decode(const bench_row *row, const shape *s, mha_dtype dtype) {
    bench_case c = case_of(row, s, dtype);
    c.bytes = kv_bytes(s, dtype);
    c.flops = 4 * (double)(s->batch * s->q_heads * s->q_len * s->kv_len * s->head_dim);
    c.working_set = c.bytes * (double)kv_copies(s, dtype);
    bench_add(&c, "decode/%s/%s/B%d.H%d.KV%d.T%d.D%d%s%s", row->isa, bench_dtype_name(dtype), (int)s->batch,
              (int)s->q_heads, (int)s->kv_heads, (int)s->kv_len, (int)s->head_dim, s->variant & ROOM ? ".room" : "",
              s->variant & DRAM ? ".DRAM" : "");
}

void bench_add_attention(const bench_row *row, mha_dtype dtype) {
    for (size_t i = 0; i < sizeof prefill_shapes / sizeof *prefill_shapes; i++)
        add_prefill(row, &prefill_shapes[i], dtype);
    if (row->kernels == NULL) return;
    for (size_t i = 0; i < sizeof decode_shapes / sizeof *decode_shapes; i++) add_decode(row, &decode_shapes[i], dtype);
}

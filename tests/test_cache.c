/* The KV cache: attention with the last tokens given apart is attention over all of them, to the bit, and leaves a
 * cache that holds them all; in place, from a past elsewhere, with a past of each batch item, from and to any dtype. */
#include "call.h"
#include "check.h"
#include "executor.h"
#include "half.h"
#include "isas.h"
#include "mistake.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum past_kind { IN_PLACE, SAME_TENSORS, ELSEWHERE } past_kind;

typedef struct cache_case {
    spec spec; /* of the attention over all keys */
    int64_t new_len;
    past_kind past;
    bool ragged;         /* batch item b has b keys less; the last item's cache ends early */
    mha_dtype new_dtype; /* 0: as k and v */
} cache_case;

/* The problem's last keys and values in memory of their own; where they were is NaN. */
typedef struct cached {
    mha_kv_cache cache;
    mha_tensor k, v;
    guard memory[4];
    int64_t past_lens[MAX_BATCH];
} cached;

static int64_t past_of(const cache_case *c, int64_t b) { return c->spec.kv_len - c->new_len - (c->ragged ? b : 0); }

static char *element(const mha_tensor *t, int64_t b, int64_t h, int64_t token) {
    const int64_t at = b * t->stride[0] + h * t->stride[1] + token * t->stride[2];
    return (char *)t->data + at * (int64_t)element_bytes(t->dtype);
}

/* Tokens [first(b), first(b) + n) of each head go to dense memory; NaN takes their place. */
static mha_tensor move_out(const cache_case *c, const mha_tensor *from, int64_t dim, int64_t n, bool from_past,
                           mha_dtype dtype, guard *memory) {
    const spec *s = &c->spec;
    const int64_t tokens = n < 1 ? 1 : n;
    *memory = guard_make((size_t)(s->batch * s->kv_heads * tokens * dim) * element_bytes(dtype), GUARD_END, 0);
    const mha_tensor to = {memory->data, dtype, {s->kv_heads * tokens * dim, tokens * dim, dim}};
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t h = 0; h < s->kv_heads; h++)
            for (int64_t t = 0; t < (from_past ? past_of(c, b) : n); t++) {
                char *here = element(from, b, h, (from_past ? 0 : past_of(c, b)) + t);
                for (int64_t d = 0; d < dim; d++) {
                    element_set(element(&to, b, h, t), dtype, d, element_value(here, from->dtype, d));
                    element_set(here, from->dtype, d, (double)NAN);
                }
            }
    return to;
}

/* Values that every dtype can hold, so that conversions lose nothing. */
static void make_representable(problem *p, int operand, mha_dtype dtype) {
    guard *memory = &p->memory[operand];
    float *x = (float *)(void *)memory->data;
    for (size_t i = 0; is_half(dtype) && i < memory->bytes / sizeof *x; i++)
        x[i] = (float)half_value(half_nearest((double)x[i], dtype), dtype);
    guard_remember(memory);
}

static void open_cache(const cache_case *c, problem *p, cached *made) {
    mha_attention_args *a = &p->args;
    const int64_t v_dim = a->v_head_dim != 0 ? a->v_head_dim : a->head_dim, longest = past_of(c, 0);
    const mha_dtype k_dtype = c->new_dtype != 0 ? c->new_dtype : a->k.dtype;
    const mha_dtype v_dtype = c->new_dtype != 0 ? c->new_dtype : a->v.dtype;
    mha_kv_cache_init(&made->cache, sizeof made->cache);
    made->cache.k = a->k, made->cache.v = a->v;
    made->k = move_out(c, &a->k, a->head_dim, c->new_len, false, k_dtype, &made->memory[0]);
    made->v = move_out(c, &a->v, v_dim, c->new_len, false, v_dtype, &made->memory[1]);
    if (c->past == ELSEWHERE) {
        made->cache.past_k = move_out(c, &a->k, a->head_dim, longest, true, a->k.dtype, &made->memory[2]);
        made->cache.past_v = move_out(c, &a->v, v_dim, longest, true, a->v.dtype, &made->memory[3]);
    } else if (c->past == SAME_TENSORS) {
        made->cache.past_k = a->k, made->cache.past_v = a->v;
    }
    for (int64_t b = 0; b < c->spec.batch; b++) made->past_lens[b] = past_of(c, b);
    made->cache.past_len = c->ragged ? 12345 : longest; /* nonsense, which past_lens replaces */
    if (c->ragged) made->cache.past_lens = made->past_lens;
    a->k = made->k, a->v = made->v, a->kv_len = c->new_len;
    a->cache = &made->cache;
}

static void check_cache(const char *isa, const cache_case *c, const mha_executor *executor) {
    char who[64];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    problem p;
    problem_make(&p, &c->spec, GUARD_END);
    if (c->new_dtype != 0 && !is_half(p.args.k.dtype)) {
        make_representable(&p, K, c->new_dtype);
        make_representable(&p, V, c->new_dtype);
    }
    for (int64_t b = 0; b < c->spec.batch; b++) p.kv_lens[b] = c->spec.kv_len - (c->ragged ? b : 0);
    if (c->ragged) p.args.kv_lens = p.kv_lens;
    outputs wanted = problem_run(&p, context, NULL);
    cached made = {.cache = {0}};
    open_cache(c, &p, &made);
    p.args.kv_lens = NULL;
    /* That the cache now holds what the problem's k and v did, and nothing else was written, is checked here. */
    outputs got = problem_run(&p, context, executor);
    snprintf(who, sizeof who, "isa %s, %d new tokens, past %d%s", isa, (int)c->new_len, (int)c->past,
             c->ragged ? ", ragged" : "");
    check_same_outputs(who, &p, &got, &wanted);
    outputs_free(&wanted);
    outputs_free(&got);
    for (size_t i = 0; i < COUNT(made.memory); i++) guard_free(&made.memory[i]);
    problem_free(&p);
    mha_context_destroy(context);
}

static cache_case sized(int64_t q_len, int64_t kv_len, int64_t new_len, uint64_t seed) {
    const spec s = {.what = "cache",
                    .batch = 3,
                    .q_heads = 4,
                    .kv_heads = 2,
                    .q_len = q_len,
                    .kv_len = kv_len,
                    .head_dim = 21,
                    .v_head_dim = 14,
                    .causal = true,
                    .q_offset = kv_len - q_len,
                    .lse = true,
                    .seed = seed};
    return (cache_case){.spec = s, .new_len = new_len};
}

static const int16_t lengths[][3] = {{1, 40, 1},    {1, 1300, 1}, {4, 150, 4}, {9, 9, 7},
                                     {60, 200, 60}, {20, 700, 3}, {2, 30, 0}};

static void appended(const char *isa) {
    static const scores_kind outputs_of_scores[] = {NO_SCORES, SOFTMAX, BIASED};
    for (size_t l = 0; l < COUNT(lengths); l++)
        for (past_kind past = IN_PLACE; past <= ELSEWHERE; past++)
            for (int ragged = 0; ragged < 2; ragged++) {
                cache_case c = sized(lengths[l][0], lengths[l][1], lengths[l][2], l);
                c.past = past, c.ragged = ragged != 0;
                c.spec.layout = (layout[]){BHTD, BTHD, GAPPED, REVERSED}[(l + (size_t)past) % 4];
                c.spec.scores = outputs_of_scores[l % COUNT(outputs_of_scores)];
                c.spec.mask = l % 2 == 0 ? NO_MASK : MASK_MINUS_INF;
                check_cache(isa, &c, NULL);
            }
}

static void all_new(const char *isa) {
    const cache_case cases[] = {sized(5, 5, 5, 1), sized(1, 1, 1, 2), sized(70, 70, 70, 3)};
    for (size_t i = 0; i < COUNT(cases); i++)
        for (past_kind past = IN_PLACE; past <= ELSEWHERE; past++) {
            cache_case c = cases[i];
            c.past = past;
            check_cache(isa, &c, NULL);
        }
}

/* The cache's dtype by the new tokens'. */
static void converted(const char *isa) {
    static const mha_dtype dtypes[] = {MHA_F32, MHA_F16, MHA_BF16};
    for (size_t to = 0; to < COUNT(dtypes); to++)
        for (size_t from = 0; from < COUNT(dtypes); from++)
            for (size_t l = 0; l < 4; l++) {
                if (is_half(dtypes[to]) && is_half(dtypes[from]) && to != from) continue;
                cache_case c = sized(lengths[l][0], lengths[l][1], lengths[l][2], l);
                c.spec.dtypes[K] = c.spec.dtypes[V] = dtypes[to];
                c.spec.head_dim = l % 2 == 0 ? 21 : 300;
                c.new_dtype = dtypes[from];
                check_cache(isa, &c, NULL);
            }
}

/* From one half precision to the other, numbers that both have. */
static void between_halves(const char *isa) {
    static const mha_dtype dtypes[] = {MHA_F16, MHA_BF16};
    for (size_t to = 0; to < COUNT(dtypes); to++) {
        const int64_t dim = 700;
        uint16_t past[2 * 700], news[700], q[700], out[700];
        mha_context *context = isa_context(isa, MHA_EXP_AUTO);
        mha_attention_args args;
        mha_kv_cache cache;
        char message[256];
        mha_attention_args_init(&args, sizeof args);
        mha_kv_cache_init(&cache, sizeof cache);
        const mha_dtype from = dtypes[1 - to];
        for (int64_t d = 0; d < dim; d++) q[d] = 0, news[d] = half_nearest((double)(d % 255) / 64 - 2, from);
        args.batch = args.q_heads = args.kv_heads = args.q_len = args.kv_len = 1, args.head_dim = dim;
        args.q = (mha_tensor){q, MHA_F16, {0, 0, 0}};
        args.out = (mha_tensor){out, MHA_F16, {0, 0, 0}};
        args.k = args.v = (mha_tensor){news, from, {0, 0, 0}};
        cache.k = (mha_tensor){past, dtypes[to], {0, 0, dim}};
        cache.v = (mha_tensor){past + dim, dtypes[to], {0, 0, dim}};
        args.cache = &cache;
        if (call(context, &args, message) != MHA_OK) fail_msg("isa %s: %s", isa, message);
        for (int64_t d = 0; d < 2 * dim; d++)
            if (past[d] != half_nearest((double)(d % dim % 255) / 64 - 2, dtypes[to]))
                fail_msg("isa %s: dtype %d to %d: element %d is %#06x", isa, (int)from, (int)dtypes[to], (int)d,
                         past[d]);
        mha_context_destroy(context);
    }
}

/* Room of a cache that no token has come to yet is not read: the last item's memory ends where its tokens do. */
static void ends_with_its_tokens(const char *isa) {
    enum { ROOM = 150, DIM = 20 };
    static const int16_t q_lens[] = {1, 7, 60, 200};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (mha_dtype dtype = MHA_F32; dtype <= MHA_BF16; dtype++)
        for (size_t i = 0; i < COUNT(q_lens); i++) {
            const int64_t past_lens[] = {ROOM - 1, 20};
            const size_t bytes = (ROOM + 21) * DIM * element_bytes(dtype);
            guard k = guard_make(bytes, GUARD_END, 0), v = guard_make(bytes, GUARD_END, 0);
            static float q[2 * DIM * 200], out[2 * DIM * 200];
            mha_attention_args args;
            mha_kv_cache cache;
            char message[256];
            mha_attention_args_init(&args, sizeof args);
            mha_kv_cache_init(&cache, sizeof cache);
            args.batch = 2, args.q_heads = args.kv_heads = args.kv_len = 1, args.q_len = q_lens[i], args.head_dim = DIM;
            args.q = (mha_tensor){q, MHA_F32, {200 * DIM, 0, DIM}};
            args.out = (mha_tensor){out, MHA_F32, {200 * DIM, 0, DIM}};
            args.k = args.v = (mha_tensor){q, MHA_F32, {DIM, 0, 0}};
            cache.k = (mha_tensor){memset(k.data, 0, bytes), dtype, {ROOM * DIM, 0, DIM}};
            cache.v = (mha_tensor){memset(v.data, 0, bytes), dtype, {ROOM * DIM, 0, DIM}};
            cache.past_lens = past_lens;
            args.cache = &cache;
            if (call(context, &args, message) != MHA_OK) fail_msg("isa %s: %s", isa, message);
            guard_free(&k);
            guard_free(&v);
        }
    mha_context_destroy(context);
}

/* Enough to write that workers share it. */
static void by_workers(const char *isa) {
    cache_case c = sized(4, 300, 290, 5);
    c.past = ELSEWHERE;
    c.spec.head_dim = 128;
    const mha_executor executor = executor_backwards(3);
    check_cache(isa, &c, &executor);
}

static const mistake mistakes[] = {
    MISTAKE(mha_kv_cache, struct_size, 3, MHA_INVALID_ARGUMENT, "mha_kv_cache.struct_size", "3", "sizeof"),
    MISTAKE(mha_kv_cache, past_len, -1, MHA_INVALID_ARGUMENT, "cache.past_len", "-1", "expected 0"),
    MISTAKE(mha_kv_cache, past_len, INT64_MAX, MHA_INVALID_ARGUMENT, "cache.past_len", "9223372036854775807",
            "expected"),
    MISTAKE(mha_kv_cache, k.data, 0, MHA_INVALID_ARGUMENT, "cache.k.data", "NULL", "[1, 1, 3, 2]"),
    MISTAKE(mha_kv_cache, v.data, 0, MHA_INVALID_ARGUMENT, "cache.v.data", "NULL", "[1, 1, 3, 2]"),
    MISTAKE(mha_kv_cache, k.dtype, MHA_BOOL, MHA_INVALID_ARGUMENT, "cache.k.dtype", "4", "MHA_BF16"),
    MISTAKE(mha_kv_cache, v.dtype, 0, MHA_INVALID_ARGUMENT, "cache.v.dtype", "0", "MHA_BF16"),
    MISTAKE(mha_kv_cache, v.stride[2], 0, MHA_INVALID_ARGUMENT, "cache.v", "stride 0", "share memory"),
    MISTAKE(mha_kv_cache, past_k.data, 64, MHA_INVALID_ARGUMENT, "cache.past_k", "cache.past_v", "both or neither"),
    MISTAKE(mha_kv_cache, past_v.data, 64, MHA_INVALID_ARGUMENT, "cache.past_k", "no data", "both or neither"),
};

static void bad_fields(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    float q[2] = {1, 2}, out[2], k[6] = {0}, v[6] = {0};
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        mha_attention_args args;
        mha_kv_cache cache;
        char message[256];
        mha_attention_args_init(&args, sizeof args);
        mha_kv_cache_init(&cache, sizeof cache);
        args.batch = args.q_heads = args.kv_heads = args.q_len = args.kv_len = 1, args.head_dim = 2;
        args.q.data = args.k.data = args.v.data = q, args.out.data = out;
        cache.k = (mha_tensor){k, MHA_F32, {6, 6, 2}}, cache.v = (mha_tensor){v, MHA_F32, {6, 6, 2}};
        cache.past_len = 2;
        args.cache = &cache;
        assert_int_equal(MHA_OK, call(context, &args, message));
        mistake_make(&mistakes[i], &cache);
        mistake_check(&mistakes[i], call(context, &args, message), message);
    }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(bad_fields), ISA_TEST(appended),       ISA_TEST(all_new),
                                     ISA_TEST(converted),  ISA_TEST(between_halves), ISA_TEST(ends_with_its_tokens),
                                     ISA_TEST(by_workers)};
    return isa_tests_run(tests, COUNT(tests));
}

/* Where operands may lie: empty, apart, interleaved in one buffer; and where not: on what a call reads or writes. */
#include "call.h"
#include "isas.h"
#include "overlap.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_call {
    const mha_context *context;
    mha_attention_args args;
    mha_kv_cache cache;
    void *workspace;
    size_t workspace_bytes;
} attention_call;

static mha_status run(const void *given, char message[256]) {
    const attention_call *c = given;
    return call_in(c->context, &c->args, c->workspace, c->workspace_bytes, message);
}

static mha_status run_with_cache(const void *given, char message[256]) {
    attention_call c = *(const attention_call *)given;
    c.args.cache = &c.cache;
    return call_in(c.context, &c.args, c.workspace, c.workspace_bytes, message);
}

/* Dense, without memory. */
static attention_call small_call(const mha_context *context) {
    static float some;
    attention_call c = {.context = context};
    mha_attention_args *args = &c.args;
    mha_attention_args_init(args, sizeof *args);
    args->batch = args->q_heads = args->kv_heads = 2, args->q_len = 4, args->kv_len = 6, args->head_dim = 8;
    args->q = args->out = (mha_tensor){NULL, MHA_F32, {64, 32, 8}};
    args->k = args->v = (mha_tensor){NULL, MHA_F32, {96, 48, 8}};
    args->mask = args->scores = (mha_score_tensor){&some, MHA_F32, {48, 24, 6, 1}};
    args->lse = (mha_row_tensor){&some, {8, 4, 1}};
    assert_int_equal(MHA_OK, mha_attention_workspace_size(context, args, 1, &c.workspace_bytes));
    return c;
}

static void overlap(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    attention_call c = small_call(context);
    const overlap_operand operands[] = {
        {"q", offsetof(attention_call, args.q.data), 512, 4, false, false},
        {"k", offsetof(attention_call, args.k.data), 768, 4, false, false},
        {"v", offsetof(attention_call, args.v.data), 768, 4, false, false},
        {"mask", offsetof(attention_call, args.mask.data), 384, 4, false, false},
        {"kv_lens", offsetof(attention_call, args.kv_lens), 16, 8, false, false},
        {"q_offsets", offsetof(attention_call, args.q_offsets), 16, 8, false, false},
        {"out", offsetof(attention_call, args.out.data), 512, 4, true, false},
        {"lse", offsetof(attention_call, args.lse.data), 64, 4, true, false},
        {"scores", offsetof(attention_call, args.scores.data), 384, 4, true, false},
        {"workspace", offsetof(attention_call, workspace), c.workspace_bytes, 1, true, true},
    };
    guard memory = overlap_place(operands, COUNT(operands), &c);
    overlap_check(isa, operands, COUNT(operands), &c, &memory, run);
    /* A workspace that ends before out is too small, whatever it would have to be. */
    c.args.out.data = (char *)c.workspace + 64;
    assert_int_equal(MHA_WORKSPACE_TOO_SMALL, mha_attention(context, &c.args, NULL, c.workspace, 64));
    guard_free(&memory);
    mha_context_destroy(context);
}

/* The last two of six keys are new; the four before them elsewhere. */
static void overlap_with_cache(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    attention_call c = small_call(context);
    mha_kv_cache_init(&c.cache, sizeof c.cache);
    c.cache.k = c.args.k, c.cache.v = c.args.v, c.cache.past_len = 4;
    c.cache.past_k = c.cache.past_v = (mha_tensor){NULL, MHA_F32, {64, 32, 8}};
    c.args.k = c.args.v = (mha_tensor){NULL, MHA_F32, {32, 16, 8}};
    c.args.kv_len = 2;
    const overlap_operand operands[] = {
        {"q", offsetof(attention_call, args.q.data), 512, 4, false, false},
        {"k", offsetof(attention_call, args.k.data), 256, 4, false, false},
        {"v", offsetof(attention_call, args.v.data), 256, 4, false, false},
        {"mask", offsetof(attention_call, args.mask.data), 384, 4, false, false},
        {"cache.past_k", offsetof(attention_call, cache.past_k.data), 512, 4, false, false},
        {"cache.past_v", offsetof(attention_call, cache.past_v.data), 512, 4, false, false},
        {"out", offsetof(attention_call, args.out.data), 512, 4, true, false},
        {"lse", offsetof(attention_call, args.lse.data), 64, 4, true, false},
        {"scores", offsetof(attention_call, args.scores.data), 384, 4, true, false},
        {"cache.k", offsetof(attention_call, cache.k.data), 768, 4, true, false},
        {"cache.v", offsetof(attention_call, cache.v.data), 768, 4, true, false},
        {"workspace", offsetof(attention_call, workspace), c.workspace_bytes, 1, true, true},
    };
    guard memory = overlap_place(operands, COUNT(operands), &c);
    overlap_check(isa, operands, COUNT(operands), &c, &memory, run_with_cache);
    guard_free(&memory);
    /* Pasts of no token, given for each batch item. */
    c = small_call(context);
    mha_kv_cache_init(&c.cache, sizeof c.cache);
    c.cache.k = c.args.k, c.cache.v = c.args.v;
    c.args.mask.data = c.args.scores.data = c.args.lse.data = NULL;
    const overlap_operand with_lens[] = {
        {"q", offsetof(attention_call, args.q.data), 512, 4, false, false},
        {"k", offsetof(attention_call, args.k.data), 768, 4, false, false},
        {"v", offsetof(attention_call, args.v.data), 768, 4, false, false},
        {"cache.past_lens", offsetof(attention_call, cache.past_lens), 16, 8, false, false},
        {"out", offsetof(attention_call, args.out.data), 512, 4, true, false},
        {"cache.k", offsetof(attention_call, cache.k.data), 768, 4, true, false},
        {"cache.v", offsetof(attention_call, cache.v.data), 768, 4, true, false},
    };
    memory = overlap_place(with_lens, COUNT(with_lens), &c);
    c.workspace = malloc(c.workspace_bytes);
    overlap_check(isa, with_lens, COUNT(with_lens), &c, &memory, run_with_cache);
    free(c.workspace);
    guard_free(&memory);
    mha_context_destroy(context);
}

enum { TOKENS = 6, HEADS = 2, DIM = 8, WIDTH = HEADS * DIM, TOKEN = 4 * WIDTH, ITEM = TOKENS * TOKEN };

/* One buffer [tokens][q | k | v | out], heads or tokens maybe backwards. */
static void packed_args(mha_attention_args *args, float *buffer, bool heads_back, bool tokens_back) {
    mha_attention_args_init(args, sizeof *args);
    args->batch = 1, args->q_heads = args->kv_heads = HEADS, args->q_len = args->kv_len = TOKENS, args->head_dim = DIM;
    mha_tensor *tensors[] = {&args->q, &args->k, &args->v, &args->out};
    buffer += (heads_back ? DIM : 0) + (tokens_back ? ITEM - TOKEN : 0);
    for (int i = 0; i < 4; i++)
        *tensors[i] =
            (mha_tensor){buffer + i * WIDTH, MHA_F32, {ITEM, heads_back ? -DIM : DIM, tokens_back ? -TOKEN : TOKEN}};
}

/* Apart is fine, any shift of out is not: it lies on another part then.  Heads that run backwards may be refused. */
static void packed_rows(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    guard memory = guard_make((ITEM + TOKEN) * sizeof(float), GUARD_START, 0);
    memset(memory.data, 0, memory.bytes);
    for (int which = 0; which < 4; which++) {
        const bool heads_back = (which & 1) != 0, tokens_back = (which & 2) != 0;
        char message[256], what[64];
        mha_attention_args args;
        packed_args(&args, (float *)(void *)memory.data, heads_back, tokens_back);
        const mha_status status = call(context, &args, message);
        if (status != MHA_OK && !heads_back) fail_msg("isa %s: refused: \"%s\"", isa, message);
        float *out = args.out.data;
        for (int shift = 1; shift < TOKEN; shift++) {
            snprintf(what, sizeof what, "out moved by %d%s%s", shift, heads_back ? ", heads backwards" : "",
                     tokens_back ? ", tokens backwards" : "");
            args.out.data = out + shift;
            guard_remember(&memory);
            overlap_check_refused(isa, what, call(context, &args, message), message, "out", NULL, &memory);
        }
    }
    guard_free(&memory);
    mha_context_destroy(context);
}

/* Operands of other elements between the rows of out, which would be apart if theirs were floats. */
static void other_elements(const char *isa) {
    static float inputs[2 * ITEM];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    guard memory = guard_make(2 * ITEM * sizeof(float), GUARD_START, 0);
    memset(memory.data, 0, memory.bytes);
    float *out = (float *)(void *)memory.data;
    const void *list = out + TOKEN - 2; /* its second number is the next token's first two elements */
    const char *names[] = {"mask", "kv_lens", "q_offsets"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char message[256];
        mha_attention_args args;
        packed_args(&args, inputs, false, false);
        args.batch = 2, args.out.data = out;
        if (i == 0) args.mask = (mha_score_tensor){out + WIDTH, MHA_BOOL, {0, 0, TOKEN, 1}};
        if (i == 1) args.kv_lens = list;
        if (i == 2) args.q_offsets = list;
        guard_remember(&memory);
        overlap_check_refused(isa, "other elements", call(context, &args, message), message, "out", names[i], &memory);
    }
    guard_free(&memory);
    mha_context_destroy(context);
}

/* Operands that would go on at the other end of the address space. */
static void ends_of_the_address_space(const char *isa) {
    static float inputs[ITEM + TOKEN];
    static const char *const names[] = {"q", "k", "v", "out"};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (int i = 0; i < 8; i++) {
        const bool low = i % 2 != 0;
        char message[256] = "", some[64];
        mha_attention_args args;
        packed_args(&args, inputs, false, low);
        mha_tensor *const tensors[] = {&args.q, &args.k, &args.v, &args.out};
        tensors[i / 2]->data = (void *)(low ? (uintptr_t)64 : UINTPTR_MAX - 1023);
        size_t bytes;
        assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &args, 1, &bytes));
        const mha_status status = mha_attention_check(context, &args, NULL, some, bytes, message, sizeof message);
        if (status != MHA_INVALID_ARGUMENT || strncmp(message, names[i / 2], strlen(names[i / 2])) != 0 ||
            strstr(message, "address space") == NULL)
            fail_msg("isa %s: %s at %p: returned \"%s\": \"%s\"", isa, names[i / 2], tensors[i / 2]->data,
                     mha_status_string(status), message);
    }
    mha_context_destroy(context);
}

static void empty_operands(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    char message[256];
    float q[8] = {1}, out[8] = {5, 5, 5, 5, 5, 5, 5, 5}, both[32], lse = 5;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.q_heads = args.kv_heads = 1;
    args.head_dim = 8;
    assert_int_equal(MHA_OK, call(context, &args, message)); /* no batch item, all data NULL */
    args.q_heads = 1 << 16, args.q_len = INT64_C(1) << 48;
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message)); /* nor room for one */
    args.q_heads = 1, args.q_len = 0, args.batch = 1;
    args.kv_len = 3;
    args.k.data = args.v.data = q;
    assert_int_equal(MHA_OK, call(context, &args, message)); /* no query */
    args.q_len = 1;
    args.kv_len = 0;
    args.k.data = args.v.data = NULL;
    args.q.data = q, args.out.data = out, args.lse.data = &lse;
    assert_int_equal(MHA_OK, call(context, &args, message)); /* no key */
    for (int d = 0; d < 8; d++) assert_true(out[d] == 0);
    assert_true(lse == -INFINITY);
    args.scores.data = q + 1; /* empty: neither intersects nor strides */
    args.scores.stride[0] = args.scores.stride[1] = args.scores.stride[2] = INT64_MAX;
    args.q_heads = args.kv_heads = 2, args.q_len = 2;
    args.q.stride[1] = args.q.stride[2] = 0;
    args.out.data = both, args.out.stride[1] = 16, args.out.stride[2] = 8;
    args.lse.data = NULL;
    assert_int_equal(MHA_OK, call(context, &args, message));
    mha_context_destroy(context);
}

/* Strides of dimensions of one element are never used, however far they would lead. */
static void strides_of_one(const char *isa) {
    static const int64_t strides[] = {0,         -1,       INT64_C(1) << 30, INT64_C(1) << 61, INT64_C(1) << 62,
                                      INT64_MAX, INT64_MIN};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    char message[256];
    for (size_t i = 0; i < COUNT(strides); i++) {
        const int64_t s = strides[i];
        float q[4] = {1, 2, 3, 4}, k[4] = {1, 0, 1, 0}, v[4] = {5, 6, 7, 8}, out[4] = {0};
        mha_attention_args args;
        mha_attention_args_init(&args, sizeof args);
        args.batch = args.q_heads = args.kv_heads = args.q_len = args.kv_len = 1;
        args.head_dim = 4;
        args.q = (mha_tensor){q, MHA_F32, {s, s, s}};
        args.k = (mha_tensor){k, MHA_F32, {s, s, s}};
        args.v = (mha_tensor){v, MHA_F32, {s, s, s}};
        args.out = (mha_tensor){out, MHA_F32, {s, s, s}};
        assert_int_equal(MHA_OK, call(context, &args, message));
        assert_memory_equal(v, out, sizeof v);
    }
    mha_context_destroy(context);
}

/* Two heads [q | out], one token: the token stride says nothing about whether they are apart. */
static void interleaved_heads(const char *isa) {
    static const int64_t strides[] = {0, 1, 16, INT64_C(1) << 61, INT64_C(1) << 62, INT64_MAX, INT64_MIN};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    char message[256];
    for (size_t i = 0; i < COUNT(strides); i++) {
        const int64_t s = strides[i];
        float both[16] = {1, 2, 3, 4}, k[8] = {1}, v[8] = {5, 6, 7, 8, 9, 10, 11, 12};
        mha_attention_args args;
        mha_attention_args_init(&args, sizeof args);
        args.batch = args.q_len = args.kv_len = 1;
        args.q_heads = args.kv_heads = 2;
        args.head_dim = 4;
        args.q = (mha_tensor){both, MHA_F32, {s, 8, s}};
        args.k = (mha_tensor){k, MHA_F32, {s, 4, s}};
        args.v = (mha_tensor){v, MHA_F32, {s, 4, s}};
        args.out = (mha_tensor){both + 4, MHA_F32, {s, 8, s}};
        float before[16];
        memcpy(before, both, sizeof both);
        const mha_status status = call(context, &args, message);
        if (status == MHA_OK) {
            assert_memory_equal(v + 4, both + 12, 4 * sizeof(float));
        } else {
            assert_int_equal(MHA_INVALID_ARGUMENT, status);
            assert_memory_equal(before, both, sizeof both);
        }
    }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {
        ISA_TEST(overlap),        ISA_TEST(overlap_with_cache),        ISA_TEST(packed_rows),
        ISA_TEST(other_elements), ISA_TEST(ends_of_the_address_space), ISA_TEST(empty_operands),
        ISA_TEST(strides_of_one), ISA_TEST(interleaved_heads)};
    return isa_tests_run(tests, COUNT(tests));
}

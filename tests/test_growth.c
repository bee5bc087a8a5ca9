/* Structs that grow, operands that overlap or are empty, versions and descriptions. */
#include "check.h"
#include "executor.h"
#include "isas.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const spec plain = {
    .what = "plain", .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 5, .kv_len = 9, .head_dim = 8};

static mha_status call(const mha_context *context, const mha_attention_args *args, char message[256]) {
    static char workspace[4 << 20];
    message[0] = '\0';
    const mha_status status = mha_attention_check(context, args, NULL, workspace, sizeof workspace, message, 256);
    assert_int_equal(status, mha_attention(context, args, NULL, workspace, sizeof workspace));
    return status;
}

/* A caller that knows more fields than this library: fine while they are zero. */
static void larger_struct(const char *isa) {
    struct {
        mha_attention_args args;
        char unknown[32];
    } later;
    char message[256];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    problem p;
    problem_make(&p, &plain, GUARD_END);
    memset(&later, 0xee, sizeof later);
    mha_attention_args_init(&later.args, sizeof later);
    assert_int_equal(sizeof later, later.args.struct_size);
    for (size_t i = 0; i < sizeof later.unknown; i++) assert_int_equal(0, later.unknown[i]);
    later.args = p.args;
    later.args.struct_size = sizeof later;
    assert_int_equal(MHA_OK, call(context, &later.args, message));
    outputs first = outputs_take(&p);
    for (size_t i = 0; i < sizeof later.unknown; i += 31) {
        later.unknown[i] = 1;
        assert_int_equal(MHA_UNSUPPORTED, call(context, &later.args, message));
        assert_non_null(strstr(message, "struct_size"));
        later.unknown[i] = 0;
    }
    outputs wanted = problem_run(&p, context, NULL);
    check_same_outputs(isa, &p, &first, &wanted);
    outputs_free(&first);
    outputs_free(&wanted);
    problem_free(&p);
    mha_context_destroy(context);
}

/* A caller that knows fewer: the rest has its defaults, whatever lies there. */
static void smaller_struct(const char *isa) {
    const size_t known = offsetof(mha_attention_args, mask);
    char message[256];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    problem p;
    problem_make(&p, &plain, GUARD_END);
    mha_attention_args args;
    memset(&args, 0xee, sizeof args);
    mha_attention_args_init(&args, known);
    assert_int_equal(0xee, ((unsigned char *)&args)[known]);
    memcpy(&args, &p.args, known);
    args.struct_size = known;
    assert_int_equal(MHA_OK, call(context, &args, message));
    outputs first = outputs_take(&p), wanted = problem_run(&p, context, NULL);
    check_same_outputs(isa, &p, &first, &wanted);
    outputs_free(&first);
    outputs_free(&wanted);
    problem_free(&p);
    mha_context_destroy(context);
}

/* out moved onto each operand: refused; one element further: not. */
static void overlap(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    static float buffer[4096], bias[64];
    char message[256];
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = 4, args.kv_len = 6, args.head_dim = 8;
    args.q = (mha_tensor){buffer + 1000, MHA_F32, {32, 32, 8}};
    args.k = (mha_tensor){buffer + 2000, MHA_F32, {48, 48, 8}};
    args.v = (mha_tensor){buffer + 3000, MHA_F32, {48, 48, 8}};
    args.mask = (mha_score_tensor){bias, MHA_F32, {24, 24, 6, 1}};
    args.out = (mha_tensor){buffer, MHA_F32, {32, 32, 8}};
    assert_int_equal(MHA_OK, call(context, &args, message));
    const struct {
        const char *name;
        float *first;
        int64_t floats;
    } operands[] = {{"q", buffer + 1000, 32}, {"k", buffer + 2000, 48}, {"v", buffer + 3000, 48}};
    for (size_t i = 0; i < COUNT(operands); i++)
        for (int end = 0; end < 2; end++) {
            args.out.data = end == 0 ? operands[i].first - 31 : operands[i].first + operands[i].floats - 1;
            assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
            assert_non_null(strstr(message, "out"));
            assert_non_null(strstr(message, operands[i].name));
            args.out.data = end == 0 ? operands[i].first - 32 : operands[i].first + operands[i].floats;
            assert_int_equal(MHA_OK, call(context, &args, message));
        }
    args.out.data = buffer;
    args.lse = (mha_row_tensor){buffer + 31, {4, 4, 1}};
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
    args.lse.data = bias + 20;
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
    args.lse.data = bias + 24;
    assert_int_equal(MHA_OK, call(context, &args, message));
    mha_context_destroy(context);
}

/* Rows of one packed buffer [tokens][q | k | v | out]: apart is fine, one element too many is not. */
static void packed_rows(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    enum { TOKENS = 6, HEADS = 2, DIM = 8, WIDTH = HEADS * DIM, TOKEN = 4 * WIDTH };
    static float buffer[TOKENS * TOKEN + 2 * TOKEN];
    char message[256];
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 1, args.q_heads = args.kv_heads = HEADS, args.q_len = args.kv_len = TOKENS, args.head_dim = DIM;
    mha_tensor *tensors[] = {&args.q, &args.k, &args.v, &args.out};
    for (int i = 0; i < 4; i++) *tensors[i] = (mha_tensor){buffer + i * WIDTH, MHA_F32, {TOKENS * TOKEN, DIM, TOKEN}};
    assert_int_equal(MHA_OK, call(context, &args, message));
    args.out.data = buffer + 3 * WIDTH + 1; /* its last element is the next token's q */
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
    args.out.data = buffer + 3 * WIDTH - 1; /* its first is v's last */
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
    args.out.data = buffer; /* in the place of q */
    assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
    mha_context_destroy(context);
}

static void empty_operands(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    char message[256];
    float q[8] = {1}, out[8] = {5, 5, 5, 5, 5, 5, 5, 5}, lse = 5;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.q_heads = args.kv_heads = 1;
    args.head_dim = 8;
    assert_int_equal(MHA_OK, call(context, &args, message)); /* no batch item, all data NULL */
    args.batch = 1;
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
    mha_context_destroy(context);
}

static void describe(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_SLEEF);
    char text[1024] = "", version[32];
    problem p;
    problem_make(&p, &plain, GUARD_END);
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, isa));
    assert_non_null(strstr(text, "sleef"));
    assert_non_null(strstr(text, "splits"));
    p.args.batch = -3;
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, "-3"));
    snprintf(version, sizeof version, "%d.%d.%d", MHA_VERSION_MAJOR, MHA_VERSION_MINOR, MHA_VERSION_PATCH);
    assert_string_equal(version, mha_version());
    problem_free(&p);
    mha_context_destroy(context);
}

static size_t workspace_of(const mha_context *context, int64_t q_len, int64_t kv_len, int64_t dim, size_t n_workers) {
    static float some[4];
    size_t bytes = 0;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = q_len, args.kv_len = kv_len, args.head_dim = dim;
    args.q = args.k = args.v = (mha_tensor){some, MHA_F32, {0, 0, 0}};
    args.out = (mha_tensor){(float *)(INT64_C(1) << 36), MHA_F32, {0, 0, dim}};
    args.mask = (mha_score_tensor){some, MHA_F32, {0, 0, 0, 0}};
    assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &args, n_workers, &bytes));
    return bytes;
}

/* At most 1 MiB a worker up to head_dim 256, beside the partial results of at most 64 splits; for any length. */
static void workspace_is_small(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    static const int64_t q_lens[] = {1, 64, 65, 512, 4096};
    for (size_t i = 0; i < COUNT(q_lens); i++)
        for (int64_t dim = 16; dim <= 256; dim *= 2)
            for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
                const size_t partials =
                    q_lens[i] <= 64 ? (size_t)q_lens[i] * 64 * ((size_t)dim + 18) * sizeof(float) : 0;
                const size_t mid = workspace_of(context, q_lens[i], 4096, dim, n_workers);
                const size_t far = workspace_of(context, q_lens[i], 262144, dim, n_workers);
                assert_in_range(far, 1, n_workers * (1 << 20) + partials + 64);
                if (partials == 0) assert_int_equal(mid, far);
            }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(larger_struct),     ISA_TEST(smaller_struct), ISA_TEST(overlap),
                                     ISA_TEST(packed_rows),       ISA_TEST(empty_operands), ISA_TEST(describe),
                                     ISA_TEST(workspace_is_small)};
    return isa_tests_run(tests, COUNT(tests));
}

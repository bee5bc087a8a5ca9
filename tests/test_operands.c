/* Where operands may lie: empty, apart, interleaved in one buffer; and where not: on what a call reads or writes. */
#include "check.h"
#include "isas.h"
#include "test.h"

#include <math.h>
#include <string.h>

static char workspace[4 << 20];

static mha_status call(const mha_context *context, const mha_attention_args *args, char message[256]) {
    message[0] = '\0';
    const mha_status status = mha_attention_check(context, args, NULL, workspace, sizeof workspace, message, 256);
    assert_int_equal(status, mha_attention(context, args, NULL, workspace, sizeof workspace));
    return status;
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
        const mha_status status = call(context, &args, message);
        if (status == MHA_OK) assert_memory_equal(v + 4, both + 12, 4 * sizeof(float));
        else assert_int_equal(MHA_INVALID_ARGUMENT, status);
    }
    mha_context_destroy(context);
}

/* Lists and the workspace are operands too. */
static void overlap_with_lists_and_workspace(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    static float q[16], k[16], v[16];
    int64_t lists[16] = {0}; /* the first two are lengths or offsets */
    char message[256];
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 2, args.q_heads = args.kv_heads = args.q_len = args.kv_len = 1, args.head_dim = 4;
    args.q = (mha_tensor){q, MHA_F32, {4, 4, 4}};
    args.k = (mha_tensor){k, MHA_F32, {4, 4, 4}};
    args.v = (mha_tensor){v, MHA_F32, {4, 4, 4}};
    args.out = (mha_tensor){(float *)(lists + 2), MHA_F32, {4, 4, 4}};
    for (int which = 0; which < 2; which++) {
        args.kv_lens = which == 0 ? lists : NULL;
        args.q_offsets = which == 1 ? lists : NULL;
        args.out.data = lists + 2;
        assert_int_equal(MHA_OK, call(context, &args, message));
        memset(lists, 0, sizeof lists);
        args.out.data = (float *)(lists + 2) - 1;
        assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
        assert_non_null(strstr(message, which == 0 ? "kv_lens" : "q_offsets"));
    }
    args.q_offsets = NULL;
    mha_tensor *tensors[] = {&args.out, &args.q, &args.k, &args.v};
    args.out.data = lists;
    for (size_t i = 0; i < COUNT(tensors); i++) {
        void *data = tensors[i]->data;
        tensors[i]->data = workspace + 64;
        assert_int_equal(MHA_INVALID_ARGUMENT, call(context, &args, message));
        assert_non_null(strstr(message, "workspace"));
        tensors[i]->data = data;
    }
    assert_int_equal(MHA_OK, call(context, &args, message));
    args.out.data = workspace + 64; /* a workspace that ends before out is too small, whatever it would have to be */
    assert_int_equal(MHA_WORKSPACE_TOO_SMALL, mha_attention(context, &args, NULL, workspace, 64));
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(overlap),           ISA_TEST(packed_rows),
                                     ISA_TEST(empty_operands),    ISA_TEST(strides_of_one),
                                     ISA_TEST(interleaved_heads), ISA_TEST(overlap_with_lists_and_workspace)};
    return isa_tests_run(tests, COUNT(tests));
}

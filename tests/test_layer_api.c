/* Bad layers: descriptions and inputs.  Each is refused by name, and nothing is written. */
#include "isas.h"
#include "layer_problem.h"
#include "mistake.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

#define DESC(field, bits, ...) MISTAKE(mha_layer_desc, field, bits, MHA_INVALID_ARGUMENT, __VA_ARGS__)
#define ARGS(field, bits, ...) MISTAKE(mha_layer_args, field, bits, MHA_INVALID_ARGUMENT, __VA_ARGS__)

static const mistake bad_descs[] = {
    DESC(q_heads, 0, "q_heads", "0", "expected"),
    DESC(q_heads, -4, "q_heads", "-4", "expected"),
    DESC(q_heads, 3, "q_heads", "3", "multiple of kv_heads"),
    DESC(kv_heads, 0, "kv_heads", "0", "expected"),
    DESC(head_dim, -1, "head_dim", "-1", "expected"),
    DESC(head_dim, INT64_MAX, "head_dim", "9223372036854775807", "expected"),
    DESC(v_head_dim, -1, "v_head_dim", "-1", "expected"),
    DESC(q_dim, 0, "q_dim", "0", "expected"),
    DESC(q_dim, INT64_MAX, "q_dim", "9223372036854775807", "expected"),
    DESC(kv_dim, -5, "kv_dim", "-5", "expected"),
    DESC(out_dim, -5, "out_dim", "-5", "expected"),
    DESC(wq.weight, 0, "wq", "NULL", "expected"),
    DESC(wk.weight, 0, "wk", "NULL", "expected"),
    DESC(wv.weight, 0, "wv", "NULL", "expected"),
    DESC(wo.weight, 0, "wo", "NULL", "expected"),
    DESC(wqkv.weight, 64, "wqkv", "expected"), /* beside the separate ones */
    DESC(wq.dtype, MHA_BOOL, "wq", "4", "MHA_F32, MHA_F16 or MHA_BF16"),
    DESC(wk.dtype, 9, "wk", "9", "MHA_F32"),
    DESC(wv.bias_dtype, MHA_BOOL, "wv", "4", "MHA_F32"),
    DESC(wq.weight_stride, 31, "wq", "31", "expected"), /* rows of 32 */
    DESC(wk.weight_stride, -32, "wk", "-32", "expected"),
    DESC(struct_size, 3, "struct_size", "3", "expected"),
};

static const mistake bad_args[] = {
    ARGS(batch, -1, "batch", "-1", "expected"),
    ARGS(q_len, -2, "q_len", "-2", "expected"),
    ARGS(q_len, INT64_MAX, "q_len", "9223372036854775807", "expected"),
    ARGS(kv_len, -2, "kv_len", "-2", "expected"),
    ARGS(kv_len, -1, "kv.data", "-1", "NULL"), /* a length that was not set */
    ARGS(q.data, 0, "q.data", "NULL", "expected"),
    ARGS(kv.data, 0, "kv.data", "NULL", "expected"),
    ARGS(out.data, 0, "out.data", "NULL", "expected"),
    ARGS(q.data, -64, "q", "address space"),
    ARGS(kv.data, 2, "kv.data", "alignment", "4 bytes"),
    ARGS(mask.data, 2, "mask.data", "alignment", "4 bytes"),
    ARGS(scores.data, 2, "scores.data", "alignment", "4 bytes"),
    ARGS(q.dtype, 0, "q.dtype", "0", "MHA_F32, MHA_F16 or MHA_BF16"),
    ARGS(kv.dtype, MHA_BOOL, "kv.dtype", "4", "MHA_F32"),
    ARGS(mask.dtype, 42, "mask.dtype", "42", "MHA_BOOL"),
    ARGS(scores.dtype, MHA_BOOL, "scores.dtype", "4", "MHA_F32"),
    ARGS(out.dtype, 42, "out.dtype", "42", "MHA_F32"),
    ARGS(q.stride[1], INT64_MAX, "q", "9223372036854775807", "expected"),
    ARGS(out.stride[0], 0, "out", "0", "expected"),
    ARGS(out.stride[1], 0, "out", "0", "expected"),
    ARGS(kv.stride[0], INT64_MIN, "kv", "-9223372036854775808", "expected"),
    ARGS(mask.stride[0], INT64_MAX, "mask", "9223372036854775807", "expected"),
    ARGS(mask.stride[1], INT64_C(1) << 61, "mask", "2305843009213693952", "expected"),
    ARGS(mask.stride[2], INT64_MIN, "mask", "-9223372036854775808", "expected"),
    ARGS(mask.stride[3], INT64_MAX, "mask", "9223372036854775807", "expected"),
    ARGS(scores.stride[0], 0, "scores", "stride 0", "expected"),
    ARGS(scores.stride[1], 0, "scores", "stride 0", "expected"),
    ARGS(scores.stride[2], 0, "scores", "stride 0", "expected"),
    ARGS(scores.stride[3], 0, "scores", "0", "expected"),
    ARGS(scale, F32_NAN, "scale", "nan", "expected"),
    ARGS(softcap, F32_HUGE, "softcap", "1e+30", "2^60"),
    ARGS(window_left, -2, "window_left", "-2", "expected"),
    ARGS(q_offset, INT64_MAX, "q_offset", "9223372036854775807", "expected"),
    ARGS(scores_mode, 5, "scores_mode", "5", "expected"),
    MISTAKE(mha_layer_args, reserved, 1, MHA_UNSUPPORTED, "reserved", "1", "expected 0"),
    ARGS(struct_size, 1, "struct_size", "1", "expected"),
};

static const layer_spec valid = {.what = "valid",
                                 .q_heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 8,
                                 .q_dim = 32,
                                 .biases = BIAS_ALL,
                                 .bias_dtype = MHA_F32, /* else a weight's */
                                 .batch = 2,
                                 .q_len = 5,
                                 .kv_len = 7,
                                 .mask = true,
                                 .scores = true};

static void descriptions(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    layer_problem_make(&p, &valid, GUARD_END);
    for (size_t i = 0; i < COUNT(bad_descs); i++) {
        const mistake *m = &bad_descs[i];
        mha_layer_desc desc = p.desc;
        mistake_make(m, &desc);
        mha_layer *layer = (mha_layer *)(uintptr_t)8;
        char message[256] = "", unused[64];
        size_t bytes = 777;
        mistake_check(m, mha_layer_create(context, &desc, &layer, message, sizeof message), message);
        assert_null(layer);
        assert_int_equal(m->status, mha_layer_packed_size(context, &desc, &bytes, NULL, 0));
        assert_int_equal(777, bytes);
        assert_int_equal(m->status, mha_layer_pack(context, &desc, unused, sizeof unused, NULL, 0));
    }
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Stacked weights take the place of the separate ones, biases included, and need inputs of one width. */
static void stacked_or_separate(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem separate, stacked;
    layer_spec s = valid;
    layer_problem_make(&separate, &s, GUARD_END);
    s.stacked = true, s.biases = 0;
    layer_problem_make(&stacked, &s, GUARD_END);
    static const float bias[256];
    const mistake mistakes[] = {
        DESC(wqkv.bias, (intptr_t)bias, "wqkv", "expected"),
        DESC(wq.bias, (intptr_t)bias, "wq", "expected"),
        DESC(wk.bias, (intptr_t)bias, "wk", "expected"),
        DESC(wv.bias, (intptr_t)bias, "wv", "expected"),
        DESC(wk.weight, (intptr_t)bias, "wk", "expected"),
        DESC(kv_dim, 24, "kv_dim", "24", "wqkv"),
        DESC(kv_dim, 40, "kv_dim", "40", "wqkv"),
    };
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        mha_layer_desc desc = i == 0 ? separate.desc : stacked.desc;
        mha_layer *layer = NULL;
        char message[256] = "";
        mistake_make(&mistakes[i], &desc);
        mistake_check(&mistakes[i], mha_layer_create(context, &desc, &layer, message, sizeof message), message);
        assert_null(layer);
    }
    layer_problem_free(&separate);
    layer_problem_free(&stacked);
    mha_context_destroy(context);
}

/* Sizes whose product is no size. */
static void overflow(const char *isa) {
    static const struct {
        int64_t q_heads, head_dim, v_head_dim, q_dim;
    } sizes[] = {{1 << 24, 1 << 16, 0, 1 << 24}, {1 << 24, 1, 1 << 16, 1 << 24}, {1 << 20, 1 << 16, 1 << 16, 1 << 20}};
    static const float weight[4];
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(sizes); i++) {
        mha_layer_desc desc;
        size_t bytes = 777;
        char message[256] = "";
        mha_layer *layer = NULL;
        mha_layer_desc_init(&desc, sizeof desc);
        desc.q_heads = desc.kv_heads = sizes[i].q_heads, desc.q_dim = sizes[i].q_dim;
        desc.head_dim = sizes[i].head_dim, desc.v_head_dim = sizes[i].v_head_dim;
        desc.wq.weight = desc.wk.weight = desc.wv.weight = desc.wo.weight = weight;
        assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_packed_size(context, &desc, &bytes, message, sizeof message));
        assert_non_null(strstr(message, "expected"));
        assert_int_equal(777, bytes);
        assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_create(context, &desc, &layer, message, sizeof message));
        assert_null(layer);
    }
    mha_context_destroy(context);
}

static void refuse(const mistake *m, const mha_layer *layer, const mha_layer_args *valid_args, void *workspace,
                   size_t bytes) {
    mha_layer_args args = *valid_args;
    mistake_make(m, &args);
    char message[256] = "";
    mistake_check(m, mha_layer_check(layer, &args, NULL, workspace, bytes, message, sizeof message), message);
    assert_int_equal(m->status, mha_layer_forward(layer, &args, NULL, workspace, bytes));
}

static void inputs(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    mha_layer *layer;
    size_t size = 0;
    ptrdiff_t offset;
    layer_problem_make(&p, &valid, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_workspace_size(layer, &p.args, 1, &size));
    void *workspace = malloc(size);
    for (size_t i = 0; i < COUNT(bad_args); i++) refuse(&bad_args[i], layer, &p.args, workspace, size);
    const int64_t far[] = {0, -(INT64_C(1) << 60) - 1}, long_one[] = {7, 8}, negative[] = {-1, 7};
    const mistake bad_lists[] = {
        ARGS(kv_lens, (intptr_t)long_one, "kv_lens[1]", "8", "kv_len, 7"),
        ARGS(kv_lens, (intptr_t)negative, "kv_lens[0]", "-1", "expected"),
        ARGS(kv_lens, (intptr_t)long_one + 4, "kv_lens", "alignment", "8 bytes"),
        ARGS(q_offsets, (intptr_t)far, "q_offsets[1]", "-1152921504606846977", "expected"),
    };
    for (size_t i = 0; i < COUNT(bad_lists); i++) refuse(&bad_lists[i], layer, &p.args, workspace, size);
    mha_layer_args args = p.args;
    args.out.data = (float *)workspace + 16; /* that it lies in the workspace is told after that this is too small */
    assert_int_equal(MHA_WORKSPACE_TOO_SMALL, mha_layer_forward(layer, &args, NULL, workspace, 64));
    assert_int_equal(MHA_WORKSPACE_TOO_SMALL, mha_layer_forward(layer, &p.args, NULL, workspace, size - 1));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_forward(layer, &p.args, NULL, NULL, size));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_forward(NULL, &p.args, NULL, workspace, size));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_workspace_size(layer, &p.args, 0, &size));
    for (int i = 0; i < N_ACTIVATIONS; i++)
        if (guard_changed(&p.memory[i], &offset)) fail_msg("operand %d was written to", i);
    free(workspace);
    mha_layer_destroy(layer);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* Self-attention needs inputs of one width, whichever is the wider. */
static void widths_of_self_attention(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (int64_t kv_dim = 24; kv_dim <= 40; kv_dim += 16) {
        layer_spec spec = valid;
        spec.kv_dim = kv_dim;
        layer_problem p;
        mha_layer *layer;
        size_t size;
        layer_problem_make(&p, &spec, GUARD_END);
        assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
        assert_int_equal(MHA_OK, mha_layer_workspace_size(layer, &p.args, 1, &size));
        p.args.kv_len = -1, p.args.kv.data = NULL;
        assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_workspace_size(layer, &p.args, 1, &size));
        mha_layer_destroy(layer);
        layer_problem_free(&p);
    }
    mha_context_destroy(context);
}

static void null_places(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    char message[256] = "";
    layer_problem_make(&p, &valid, GUARD_END);
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_packed_size(context, &p.desc, NULL, message, sizeof message));
    assert_non_null(strstr(message, "packed_bytes"));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_create(context, &p.desc, NULL, message, sizeof message));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_create(NULL, &p.desc, NULL, message, sizeof message));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_layer_borrow(context, message, 10, NULL, message, sizeof message));
    layer_problem_free(&p);
    mha_context_destroy(context);
}

static void sizes(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    mha_layer *layer;
    mha_layer_desc desc;
    layer_problem_make(&p, &valid, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
    mha_layer_desc_init(&desc, sizeof desc);
    mha_layer_sizes(layer, &desc);
    const int64_t got[] = {desc.q_heads, desc.kv_heads, desc.head_dim, desc.v_head_dim,
                           desc.q_dim,   desc.kv_dim,   desc.out_dim};
    static const int64_t wanted[] = {4, 2, 8, 8, 32, 32, 32};
    assert_memory_equal(got, wanted, sizeof wanted);
    memset(&desc, 0xee, sizeof desc);
    mha_layer_desc_init(&desc, offsetof(mha_layer_desc, head_dim)); /* of a caller that knows no more */
    mha_layer_sizes(layer, &desc);
    assert_int_equal(4, desc.q_heads);
    assert_int_equal(2, desc.kv_heads);
    assert_int_equal(INT64_C(0xeeeeeeeeeeeeeeee), desc.head_dim);
    assert_int_equal(INT64_C(0xeeeeeeeeeeeeeeee), desc.out_dim);
    mha_layer_destroy(layer);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {
        ISA_TEST(descriptions), ISA_TEST(stacked_or_separate),      ISA_TEST(overflow), ISA_TEST(null_places),
        ISA_TEST(inputs),       ISA_TEST(widths_of_self_attention), ISA_TEST(sizes)};
    return isa_tests_run(tests, COUNT(tests));
}

/* Bad input: each mistake returns its status before a byte of output is written, and the sentence names the field, its
 * value and what was expected. */
#include "check.h"
#include "executor.h"
#include "isas.h"
#include "mistake.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET(field, bits, status, ...) MISTAKE(mha_attention_args, field, bits, status, __VA_ARGS__)
#define BAD(field, bits, ...)         SET(field, bits, MHA_INVALID_ARGUMENT, __VA_ARGS__)

static const mistake mistakes[] = {
    BAD(batch, -1, "batch", "-1", "expected"),
    BAD(batch, INT64_MAX, "batch", "9223372036854775807", "expected"),
    BAD(q_heads, -4, "q_heads", "-4", "expected"),
    BAD(q_heads, 0, "q_heads", "0", "expected"),
    BAD(q_heads, 3, "q_heads", "3", "multiple of kv_heads"),
    BAD(kv_heads, 0, "kv_heads", "0", "expected"),
    BAD(kv_heads, -2, "kv_heads", "-2", "expected"),
    BAD(kv_heads, 8, "q_heads", "4", "8"),
    BAD(q_len, -1, "q_len", "-1", "expected"),
    BAD(q_len, INT64_MAX, "q_len", "9223372036854775807", "expected"),
    BAD(q_len, INT64_C(1) << 47, "q_len", "140737488355328", "expected"),
    BAD(q_len, (INT64_C(1) << 45) + 1, "batch * q_heads * q_len", "2 * 4 * 35184372088833", "at most 2^48"),
    BAD(kv_len, -7, "kv_len", "-7", "expected"),
    BAD(kv_len, INT64_MAX, "kv_len", "9223372036854775807", "expected"),
    BAD(head_dim, 0, "head_dim", "0", "expected"),
    BAD(head_dim, -8, "head_dim", "-8", "expected"),
    BAD(head_dim, INT64_MAX, "head_dim", "9223372036854775807", "expected"),
    BAD(v_head_dim, -1, "v_head_dim", "-1", "expected"),
    BAD(q.data, 0, "q.data", "NULL", "expected"),
    BAD(k.data, 0, "k.data", "NULL", "expected"),
    BAD(v.data, 0, "v.data", "NULL", "expected"),
    BAD(out.data, 0, "out.data", "NULL", "expected"),
    BAD(softcap, F32_TINY, "softcap", "1.4013e-45", "2^-60"),
    BAD(softcap, F32_HUGE, "softcap", "1e+30", "2^60"),
    BAD(softcap, F32_INF, "softcap", "inf", "2^60"),
    BAD(softcap, F32_NAN, "softcap", "nan", "2^60"),
    BAD(q.dtype, MHA_BOOL, "q.dtype", "4", "MHA_F32"),
    BAD(v.dtype, 77, "v.dtype", "77", "MHA_F32"),
    BAD(k.dtype, 0, "k.dtype", "0", "MHA_F32"),
    BAD(mask.dtype, 99, "mask.dtype", "99", "MHA_BOOL"),
    BAD(mask.dtype, 0, "mask.dtype", "0", "MHA_BOOL"), /* as initialised: neither is a default */
    BAD(scores.dtype, MHA_BOOL, "scores.dtype", "4", "MHA_F32"),
    BAD(q.stride[2], INT64_MAX, "q", "9223372036854775807", "expected"),
    BAD(k.stride[1], INT64_MIN, "k", "-9223372036854775808", "expected"),
    BAD(v.stride[0], INT64_C(1) << 61, "v", "2305843009213693952", "expected"),
    BAD(mask.stride[3], INT64_MAX, "mask", "9223372036854775807", "expected"),
    BAD(out.stride[0], 0, "out", "stride 0", "expected"),
    BAD(out.stride[1], 0, "out", "stride 0", "expected"),
    BAD(out.stride[2], 0, "out", "stride 0", "expected"),
    BAD(out.stride[2], 7, "out", "stride 7", "expected"),
    BAD(out.stride[1], 36, "out", "stride 36", "expected"), /* beyond a head's last row, but within it: it ends at 40 */
    BAD(lse.stride[0], 0, "lse", "stride 0", "expected"),
    BAD(lse.stride[2], 0, "lse", "stride 0", "expected"),
    BAD(scores.stride[0], 0, "scores", "stride 0", "expected"),
    BAD(scores.stride[2], 0, "scores", "stride 0", "expected"),
    BAD(scores.stride[3], 0, "scores", "0", "expected"),
    BAD(scores.stride[3], 2, "scores", "2", "expected"),
    BAD(scale, F32_NAN, "scale", "nan", "expected"),
    BAD(scale, F32_INF, "scale", "inf", "expected"),
    BAD(window_left, -2, "window_left", "-2", "expected"),
    BAD(window_right, INT64_MIN, "window_right", "-9223372036854775808", "expected"),
    BAD(q_offset, INT64_MAX, "q_offset", "9223372036854775807", "expected"),
    BAD(q_offset, INT64_MIN, "q_offset", "-9223372036854775808", "expected"),
    BAD(scores_mode, 4, "scores_mode", "4", "expected"),
    BAD(scores_mode, -1, "scores_mode", "expected") /* printed as the enum is: signed or not */,
    SET(reserved, 1, MHA_UNSUPPORTED, "reserved", "1", "newer"),
    BAD(struct_size, 0, "struct_size", "0", "expected"),
    BAD(struct_size, 7, "struct_size", "7", "expected"),
    BAD(struct_size, 1 << 20, "struct_size", "1048576", "expected"), /* a size that was never set */
    BAD(struct_size, -1, "struct_size", "expected"),
};

static const spec valid = {.what = "valid",
                           .batch = 2,
                           .q_heads = 4,
                           .kv_heads = 2,
                           .q_len = 5,
                           .kv_len = 9,
                           .head_dim = 8,
                           .lse = true,
                           .scores = SOFTMAX,
                           .mask = MASK_BIAS};

typedef struct api {
    mha_context *context;
    problem p;
    size_t bytes;
    char *workspace;
    mha_executor executor;
} api;

static void api_open(api *a, const char *isa) {
    a->context = isa_context(isa, MHA_EXP_AUTO);
    a->executor = executor_backwards(2);
    problem_make(&a->p, &valid, GUARD_END);
    assert_int_equal(MHA_OK, mha_attention_workspace_size(a->context, &a->p.args, 2, &a->bytes));
    a->workspace = malloc(a->bytes);
}

static void api_close(api *a) {
    free(a->workspace);
    problem_free(&a->p);
    mha_context_destroy(a->context);
}

/* The check says so, the call fails so, and nothing was written. */
static void expect_failure(api *a, const mha_attention_args *args, const mha_executor *executor, void *workspace,
                           size_t bytes, const mistake *m) {
    char message[512] = "unset";
    ptrdiff_t offset;
    const mha_status status =
        mha_attention_check(a->context, args, executor, workspace, bytes, message, sizeof message);
    mistake_check(m, status, message);
    mistake_check(&(mistake){.what = m->what, .status = m->status},
                  mha_attention(a->context, args, executor, workspace, bytes), "");
    for (int i = 0; i < N_OPERANDS; i++)
        if (guard_changed(&a->p.memory[i], &offset)) fail_msg("%s: operand %d was written to", m->what, i);
}

/* The size of the workspace depends on sizes and options, not on where the operands lie. */
static bool about_memory(const mistake *m) {
    const size_t at = m->offset;
    return (at >= offsetof(mha_attention_args, q) && at < offsetof(mha_attention_args, scale)) ||
           (at >= offsetof(mha_attention_args, mask) && at < offsetof(mha_attention_args, scores_mode));
}

static void bad_fields(const char *isa) {
    api a;
    api_open(&a, isa);
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        mha_attention_args args = a.p.args;
        mistake_make(&mistakes[i], &args);
        expect_failure(&a, &args, &a.executor, a.workspace, a.bytes, &mistakes[i]);
        size_t bytes = 12345;
        if (about_memory(&mistakes[i])) continue;
        if (mha_attention_workspace_size(a.context, &args, 2, &bytes) != mistakes[i].status || bytes != 12345)
            fail_msg("%s: workspace_size did not refuse it", mistakes[i].what);
    }
    api_close(&a);
}

static void bad_lists(const char *isa) {
    static const int64_t one_more[] = {3, 10}, negative[] = {-1, 3}, highest[] = {3, INT64_MAX};
    static const int64_t above[] = {3, (INT64_C(1) << 60) + 1}, below[] = {-(INT64_C(1) << 60) - 1, 3};
    const mistake lists[] = {
        BAD(kv_lens, (intptr_t)one_more, "kv_lens[1]", "10", "kv_len, 9"),
        BAD(kv_lens, (intptr_t)negative, "kv_lens[0]", "-1", "expected"),
        BAD(kv_lens, (intptr_t)highest, "kv_lens[1]", "9223372036854775807", "expected"),
        BAD(kv_lens, (intptr_t)one_more + 4, "kv_lens", "alignment", "8 bytes"),
        BAD(q_offsets, (intptr_t)below + 4, "q_offsets", "alignment", "8 bytes"),
        BAD(q_offsets, (intptr_t)highest, "q_offsets[1]", "9223372036854775807", "expected"),
        BAD(q_offsets, (intptr_t)above, "q_offsets[1]", "1152921504606846977", "2^60"),
        BAD(q_offsets, (intptr_t)below, "q_offsets[0]", "-1152921504606846977", "-2^60"),
    };
    api a;
    api_open(&a, isa);
    for (size_t i = 0; i < COUNT(lists); i++) {
        mha_attention_args args = a.p.args;
        mistake_make(&lists[i], &args);
        expect_failure(&a, &args, &a.executor, a.workspace, a.bytes, &lists[i]);
    }
    api_close(&a);
}

/* Windows and offsets as far as they may be: sums of them are none that overflow. */
static void unbounded_windows(const char *isa) {
    static const int64_t windows[] = {INT64_MAX, INT64_MAX - 1, (INT64_C(1) << 62) + 1};
    static const int64_t offsets[] = {0, -3, 3, INT64_C(1) << 60, -(INT64_C(1) << 60)};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(windows) * COUNT(offsets); i++) {
        spec s = valid;
        s.what = "far windows", s.q_offset = offsets[i % COUNT(offsets)];
        problem unbounded, far_ones;
        problem_make(&unbounded, &s, GUARD_END);
        s.left = s.right = &windows[i / COUNT(offsets)];
        problem_make(&far_ones, &s, GUARD_END);
        outputs wanted = problem_run(&unbounded, context, NULL), got = problem_run(&far_ones, context, NULL);
        check_same_outputs(isa, &far_ones, &got, &wanted);
        outputs_free(&wanted);
        outputs_free(&got);
        problem_free(&unbounded);
        problem_free(&far_ones);
    }
    mha_context_destroy(context);
}

static void bad_pointers(const char *isa) {
    static const mistake null_args = {
        "no args", 0, 0, 0, MHA_INVALID_ARGUMENT, {"mha_attention_args", "NULL", "expected"}};
    static const mistake no_workers = {"no workers", 0, 0, 0, MHA_INVALID_ARGUMENT, {"n_workers", "0", "expected"}};
    static const mistake no_function = {
        "no function", 0, 0, 0, MHA_INVALID_ARGUMENT, {"parallel_for", "NULL", "expected"}};
    static const mistake no_space = {"no workspace", 0, 0, 0, MHA_INVALID_ARGUMENT, {"workspace", "NULL", "expected"}};
    static const mistake small = {
        "small workspace", 0, 0, 0, MHA_WORKSPACE_TOO_SMALL, {"workspace_bytes", "expected", "at least"}};
    static const mistake misaligned = {"misaligned q", 0, 0, 0, MHA_INVALID_ARGUMENT, {"q.data", "align", "4"}};
    api a;
    api_open(&a, isa);
    const mha_executor idle = {.n_workers = 0, .parallel_for = a.executor.parallel_for, .user = a.executor.user};
    const mha_executor empty = {.n_workers = 2};
    expect_failure(&a, NULL, &a.executor, a.workspace, a.bytes, &null_args);
    expect_failure(&a, &a.p.args, &idle, a.workspace, a.bytes, &no_workers);
    expect_failure(&a, &a.p.args, &empty, a.workspace, a.bytes, &no_function);
    expect_failure(&a, &a.p.args, &a.executor, NULL, a.bytes, &no_space);
    expect_failure(&a, &a.p.args, &a.executor, a.workspace, a.bytes - 1, &small);
    expect_failure(&a, &a.p.args, &a.executor, a.workspace, 0, &small);
    mha_attention_args args = a.p.args;
    args.q.data = (char *)args.q.data - 2;
    expect_failure(&a, &args, &a.executor, a.workspace, a.bytes, &misaligned);
    size_t bytes;
    char message[64];
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention(NULL, &a.p.args, NULL, a.workspace, a.bytes));
    assert_int_equal(MHA_INVALID_ARGUMENT,
                     mha_attention_check(NULL, &a.p.args, NULL, a.workspace, a.bytes, message, 64));
    assert_non_null(strstr(message, "context"));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention_workspace_size(a.context, &a.p.args, 0, &bytes));
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention_workspace_size(a.context, &a.p.args, 1, NULL));
    api_close(&a);
}

/* Cuts sentences to what fits, and takes no place at all. */
static void messages_fit(const char *isa) {
    api a;
    api_open(&a, isa);
    mha_attention_args args = a.p.args;
    args.batch = -1;
    char message[8];
    memset(message, 'x', sizeof message);
    mha_attention_check(a.context, &args, NULL, a.workspace, a.bytes, message, 6);
    assert_string_equal("batch", message);
    assert_int_equal('x', message[6]);
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention_check(a.context, &args, NULL, a.workspace, a.bytes, NULL, 0));
    assert_int_equal(MHA_OK, mha_attention_check(a.context, &a.p.args, &a.executor, a.workspace, a.bytes, message, 8));
    assert_string_equal("", message);
    api_close(&a);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(bad_fields), ISA_TEST(bad_lists), ISA_TEST(unbounded_windows),
                                     ISA_TEST(bad_pointers), ISA_TEST(messages_fit)};
    return isa_tests_run(tests, COUNT(tests));
}

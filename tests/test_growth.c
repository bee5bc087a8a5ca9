/* Structs that grow, versions, descriptions, workspaces. */
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

static void describe(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_SLEEF);
    char text[1024] = "", version[32];
    problem p;
    problem_make(&p, &plain, GUARD_END);
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, isa));
    assert_non_null(strstr(text, "sleef"));
    assert_non_null(strstr(text, "splits"));
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, NULL, 0));
    p.args.batch = -3;
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, "-3"));
    snprintf(version, sizeof version, "%d.%d.%d", MHA_VERSION_MAJOR, MHA_VERSION_MINOR, MHA_VERSION_PATCH);
    assert_string_equal(version, mha_version());
    problem_free(&p);
    mha_context_destroy(context);
}

/* Its size does not depend on where operands lie: data may be NULL still. */
static size_t workspace_of(const mha_context *context, int64_t q_len, int64_t kv_len, int64_t dim, int64_t v_dim,
                           size_t n_workers) {
    static float some;
    size_t bytes = 0;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = q_len, args.kv_len = kv_len, args.head_dim = dim, args.v_head_dim = v_dim;
    args.mask = (mha_score_tensor){&some, MHA_F32, {0, 0, 0, 0}};
    assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &args, n_workers, &bytes));
    return bytes;
}

/* At most 1 MiB a worker up to head_dim 256, beside the partial results of at most 64 splits; for any length. */
static void workspace_is_small(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    static const int64_t q_lens[] = {1, 4, 64, 65, 512, 4096};
    for (size_t i = 0; i < COUNT(q_lens); i++)
        for (int64_t dim = 1; dim <= 256; dim++)
            for (int64_t v_dim = dim % 7 + 1; v_dim <= 256; v_dim += 7) {
                const size_t n_workers = (size_t)(dim % 5) + 1;
                const size_t partial = ((size_t)v_dim + 18) * sizeof(float) * 64;
                const size_t partials = q_lens[i] <= 64 ? (size_t)q_lens[i] * partial : 0;
                const size_t mid = workspace_of(context, q_lens[i], 4096, dim, v_dim, n_workers);
                const size_t far = workspace_of(context, q_lens[i], 262144, dim, v_dim, n_workers);
                if (far > n_workers * (1 << 20) + partials + 64 || (partials == 0 && mid != far))
                    fail_msg("isa %s: %zu bytes for kv_len 4096, %zu for 262144, %zu workers, q_len %d, head_dim %d/%d",
                             isa, mid, far, n_workers, (int)q_lens[i], (int)dim, (int)v_dim);
            }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(larger_struct), ISA_TEST(smaller_struct), ISA_TEST(describe),
                                     ISA_TEST(workspace_is_small)};
    return isa_tests_run(tests, COUNT(tests));
}

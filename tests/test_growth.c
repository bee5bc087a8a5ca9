/* Structs that grow, versions, descriptions, workspaces. */
#include "call.h"
#include "check.h"
#include "executor.h"
#include "isas.h"
#include "layer_problem.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const spec plain = {
    .what = "plain", .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 5, .kv_len = 9, .head_dim = 8};

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
    outputs wanted = problem_run(&p, context, NULL);
    check_same_outputs(isa, &p, &first, &wanted);
    outputs_free(&first);
    outputs_free(&wanted);
    problem_free(&p);
    mha_context_destroy(context);
}

typedef struct valid_call {
    mha_context *context;
    problem attention;
    layer_problem layer;
} valid_call;

static mha_status use_attention(const valid_call *c, const void *args, char message[256]) {
    return call(c->context, args, message);
}

static mha_status use_options(const valid_call *c, const void *options, char message[256]) {
    (void)c;
    mha_context *context;
    const mha_status status = mha_context_create(options, &context, message, 256);
    mha_context_destroy(context);
    return status;
}

static mha_status use_desc(const valid_call *c, const void *desc, char message[256]) {
    mha_layer *layer;
    const mha_status status = mha_layer_create(c->context, desc, &layer, message, 256);
    mha_layer_destroy(layer);
    return status;
}

static mha_status use_layer_args(const valid_call *c, const void *args, char message[256]) {
    static char workspace[4 << 20];
    mha_layer *layer;
    assert_int_equal(MHA_OK, mha_layer_create(c->context, &c->layer.desc, &layer, NULL, 0));
    const mha_status status = mha_layer_check(layer, args, NULL, workspace, sizeof workspace, message, 256);
    assert_int_equal(status, mha_layer_forward(layer, args, NULL, workspace, sizeof workspace));
    mha_layer_destroy(layer);
    return status;
}

/* What the caller asks for in a field that this library does not know is not passed over, in any struct. */
static void unknown_fields(const char *isa) {
    enum { UNKNOWN = 32 };
    static const layer_spec layer = {
        .what = "plain", .q_heads = 2, .kv_heads = 2, .head_dim = 8, .q_dim = 16, .batch = 1, .q_len = 3, .kv_len = 4};
    valid_call c = {.context = isa_context(isa, MHA_EXP_AUTO)};
    mha_context_options options;
    problem_make(&c.attention, &plain, GUARD_END);
    layer_problem_make(&c.layer, &layer, GUARD_END);
    mha_context_options_init(&options, sizeof options);
    const struct {
        const char *name;
        const void *known;
        size_t bytes;
        mha_status (*use)(const valid_call *c, const void *given, char message[256]);
    } structs[] = {{"mha_attention_args", &c.attention.args, sizeof(mha_attention_args), use_attention},
                   {"mha_context_options", &options, sizeof options, use_options},
                   {"mha_layer_desc", &c.layer.desc, sizeof(mha_layer_desc), use_desc},
                   {"mha_layer_args", &c.layer.args, sizeof(mha_layer_args), use_layer_args}};
    for (size_t i = 0; i < COUNT(structs); i++)
        for (size_t at = 0; at <= UNKNOWN; at++) {
            const size_t bytes = structs[i].bytes;
            char later[1024] = {0}, message[256] = "";
            memcpy(later, structs[i].known, bytes);
            memcpy(later, &(size_t){bytes + UNKNOWN}, sizeof(size_t));
            later[bytes + at] = 1; /* the last one lies behind the struct */
            const mha_status status = structs[i].use(&c, later, message),
                             wanted = at < UNKNOWN ? MHA_UNSUPPORTED : MHA_OK;
            if (status != wanted || (at < UNKNOWN && strstr(message, structs[i].name) == NULL))
                fail_msg("isa %s: %s, unknown byte %zu: returned \"%s\": \"%s\"", isa, structs[i].name, at,
                         mha_status_string(status), message);
        }
    problem_free(&c.attention);
    layer_problem_free(&c.layer);
    mha_context_destroy(c.context);
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
    const spec s = spec_for(isa, &plain);
    problem_make(&p, &s, GUARD_END);
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, isa));
    assert_non_null(strstr(text, isa_has_bf16(isa) ? " bf16, tile path" : " f32, "));
    assert_non_null(strstr(text, "sleef"));
    assert_non_null(strstr(text, "splits"));
    assert_non_null(strstr(text, "mask: none"));
    p.args.mask = (mha_score_tensor){text, MHA_BOOL, {0, 1, 0, 1}};
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, "boolean, read score by score"));
    p.args.mask.stride[1] = 0;
    assert_int_equal(MHA_OK, mha_attention_describe(context, &p.args, 2, text, sizeof text));
    assert_non_null(strstr(text, "boolean, read once a tile"));
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
                           mha_dtype dtype, size_t n_workers) {
    static float some;
    size_t bytes = 0;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = q_len, args.kv_len = kv_len, args.head_dim = dim, args.v_head_dim = v_dim;
    args.mask = (mha_score_tensor){&some, dtype, {0, 0, 0, 0}};
    args.q.dtype = args.k.dtype = args.v.dtype = args.out.dtype = dtype;
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
                const mha_dtype dtype = v_dim % 2 == 0 ? MHA_F32 : MHA_F16;
                const size_t mid = workspace_of(context, q_lens[i], 4096, dim, v_dim, dtype, n_workers);
                const size_t far = workspace_of(context, q_lens[i], 262144, dim, v_dim, dtype, n_workers);
                if (far > n_workers * (1 << 20) + partials + 64 || (partials == 0 && mid != far))
                    fail_msg("isa %s: %zu bytes for kv_len 4096, %zu for 262144, %zu workers, q_len %d, head_dim %d/%d",
                             isa, mid, far, n_workers, (int)q_lens[i], (int)dim, (int)v_dim);
            }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(larger_struct), ISA_TEST(unknown_fields), ISA_TEST(smaller_struct),
                                     ISA_TEST(describe), ISA_TEST(workspace_is_small)};
    return isa_tests_run(tests, COUNT(tests));
}

/* What a layer reads or writes must not be where an output goes, its own packed weights included. */
#include "isas.h"
#include "layer_problem.h"
#include "overlap.h"
#include "test.h"

static const layer_spec small = {.what = "small",
                                 .q_heads = 4,
                                 .kv_heads = 2,
                                 .head_dim = 8,
                                 .q_dim = 32,
                                 .biases = BIAS_ALL,
                                 .batch = 2,
                                 .q_len = 5,
                                 .kv_len = 7,
                                 .mask = true,
                                 .scores = true};

typedef struct layer_call {
    mha_layer *layer;
    mha_layer_args args;
    mha_kv_cache cache;
    char *workspace, *packed;
    size_t workspace_bytes;
} layer_call;

static mha_status run(const void *given, char message[256]) {
    const layer_call *c = given;
    message[0] = '\0';
    const mha_status status = mha_layer_check(c->layer, &c->args, NULL, c->workspace, c->workspace_bytes, message, 256);
    assert_int_equal(status, mha_layer_forward(c->layer, &c->args, NULL, c->workspace, c->workspace_bytes));
    return status;
}

static mha_status run_with_cache(const void *given, char message[256]) {
    layer_call c = *(const layer_call *)given;
    c.args.cache = &c.cache;
    return run(&c, message);
}

static void check(const char *isa, bool with_cache) {
    enum { CACHE_OPERANDS = 3, CACHE_BYTES = 2 * 2 * 7 * 8 * sizeof(float) };
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    layer_problem_make(&p, &small, GUARD_END);
    layer_call c = {.args = p.args};
    mha_kv_cache_init(&c.cache, sizeof c.cache);
    c.cache.k = c.cache.v =
        (mha_tensor){NULL, MHA_F32, {112, 56, 8}}; /* of the new tokens alone: past_lens are zeros */
    size_t packed_bytes;
    assert_int_equal(MHA_OK, mha_layer_packed_size(context, &p.desc, &packed_bytes, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &c.layer, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_workspace_size(c.layer, &c.args, 1, &c.workspace_bytes));
    mha_layer_destroy(c.layer);
    const overlap_operand operands[] = {
        {"q", offsetof(layer_call, args.q.data), p.memory[X_Q].bytes, 4, false, false},
        {"kv", offsetof(layer_call, args.kv.data), p.memory[X_KV].bytes, 4, false, false},
        {"mask", offsetof(layer_call, args.mask.data), p.memory[X_MASK].bytes, 4, false, false},
        {"kv_lens", offsetof(layer_call, args.kv_lens), 16, 8, false, false},
        {"q_offsets", offsetof(layer_call, args.q_offsets), 16, 8, false, false},
        {"out", offsetof(layer_call, args.out.data), p.memory[X_OUT].bytes, 4, true, false},
        {"scores", offsetof(layer_call, args.scores.data), p.memory[X_SCORES].bytes, 4, true, false},
        {"workspace", offsetof(layer_call, workspace), c.workspace_bytes, 1, true, true},
        {"packed weights", offsetof(layer_call, packed), packed_bytes, 1, false, true},
        {"cache.k", offsetof(layer_call, cache.k.data), CACHE_BYTES, 4, true, false},
        {"cache.v", offsetof(layer_call, cache.v.data), CACHE_BYTES, 4, true, false},
        {"cache.past_lens", offsetof(layer_call, cache.past_lens), 16, 8, false, false},
    };
    const size_t n = COUNT(operands) - (with_cache ? 0 : CACHE_OPERANDS);
    guard memory = overlap_place(operands, n, &c);
    assert_int_equal(MHA_OK, mha_layer_pack(context, &p.desc, c.packed, packed_bytes, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_borrow(context, c.packed, packed_bytes, &c.layer, NULL, 0));
    overlap_check(isa, operands, n, &c, &memory, with_cache ? run_with_cache : run);
    mha_layer_destroy(c.layer);
    guard_free(&memory);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

static void overlap(const char *isa) { check(isa, false); }

static void overlap_with_cache(const char *isa) { check(isa, true); }

int main(void) {
    static const isa_test tests[] = {F32_TEST(overlap), F32_TEST(overlap_with_cache)};
    return isa_tests_run(tests, COUNT(tests));
}

/* AMX's kernels as they are compiled, on any CPU with AVX-512: what emulation in C leaves out are the tiles'
 * configuration, and whether compilers keep the order of tile instructions and of others that share memory with
 * them. */
#include "check.h"
#include "context.h"
#include "isas.h"
#include "layer_problem.h"
#include "test.h"
#include "trap_tiles.h"

#include <string.h>

extern const mha_bf16_kernels mha_trapped_bf16_amx;

static const spec cases[] = {
    {.what = "one step", .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 16, .kv_len = 32, .head_dim = 32},
    {.what = "tails", .batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 21, .kv_len = 70, .head_dim = 41},
    {.what = "blocks", .batch = 1, .q_heads = 1, .kv_heads = 1, .q_len = 70, .kv_len = 530, .head_dim = 16},
    {.what = "wide values",
     .batch = 1,
     .q_heads = 1,
     .kv_heads = 1,
     .q_len = 33,
     .kv_len = 40,
     .head_dim = 8,
     .v_head_dim = 100},
    {.what = "causal",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 90,
     .kv_len = 90,
     .head_dim = 24,
     .causal = true},
    {.what = "lengths",
     .batch = 3,
     .q_heads = 2,
     .kv_heads = 1,
     .q_len = 9,
     .kv_len = 600,
     .head_dim = 12,
     .lens = true},
    {.what = "padding",
     .batch = 1,
     .q_heads = 1,
     .kv_heads = 1,
     .q_len = 40,
     .kv_len = 80,
     .head_dim = 64,
     .mask = MASK_PADDING},
    {.what = "bias, softcap",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 20,
     .kv_len = 50,
     .head_dim = 20,
     .mask = MASK_MINUS_INF,
     .softcap = 3},
    {.what = "NaN",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 1,
     .q_len = 50,
     .kv_len = 60,
     .head_dim = 20,
     .causal = true,
     .poison = NAN_V},
    {.what = "scores",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 1,
     .q_len = 10,
     .kv_len = 37,
     .head_dim = 20,
     .scores = SOFTMAX},
};

static bool runs(const char *isa) {
    mha_isa isas[16];
    const size_t n = mha_isa_list(isas, COUNT(isas));
    for (size_t i = 0; i < n; i++)
        if (strcmp(isas[i].name, isa) == 0) return isas[i].supported;
    return false;
}

/* Steps of one and of several parts of X; whole panels, narrow ones and edges; whole tiles of rows and a single one. */
static const layer_spec layers[] = {
    {.what = "all bf16",
     .q_heads = 2,
     .kv_heads = 1,
     .head_dim = 24,
     .q_dim = 70,
     .batch = 1,
     .q_len = 40,
     .kv_len = -1,
     .weight_dtypes = {MHA_BF16, MHA_BF16, MHA_BF16, MHA_BF16},
     .dtypes = {MHA_BF16, MHA_BF16, [X_OUT] = MHA_BF16}},
    {.what = "bf16 weights",
     .q_heads = 4,
     .kv_heads = 4,
     .head_dim = 16,
     .q_dim = 300,
     .out_dim = 64,
     .biases = BIAS_ALL,
     .batch = 1,
     .q_len = 65,
     .kv_len = -1,
     .weight_dtypes = {MHA_BF16, MHA_BF16, MHA_BF16, MHA_BF16}},
    {.what = "one token",
     .q_heads = 2,
     .kv_heads = 2,
     .head_dim = 20,
     .q_dim = 33,
     .batch = 1,
     .q_len = 1,
     .kv_len = -1,
     .weight_dtypes = {MHA_BF16, MHA_BF16, MHA_BF16, MHA_BF16},
     .dtypes = {MHA_F16, MHA_F16}},
};

static void check_layers(const mha_context *forced) {
    for (size_t i = 0; i < COUNT(layers); i++) {
        const layer_spec *s = &layers[i];
        const bool attention = s->q_len > 4 && s->dtypes[X_Q] == MHA_BF16;
        layer_problem p;
        mha_layer *layer;
        layer_problem_make(&p, s, GUARD_END);
        naive_layer_result wanted =
            naive_layer(&p.naive_desc, &p.args,
                        (naive_bf16){.attention = attention, .w_parts = {[MHA_F16] = 2, [MHA_BF16] = 1}, .x_parts = 3});
        assert_int_equal(MHA_OK, mha_layer_create(forced, &p.desc, &layer, NULL, 0));
        layer_outputs got = layer_run(&p, layer, NULL, "AMX as compiled");
        check_values("AMX as compiled", s->what, "out", got.out, &wanted.out);
        assert_false(trapped_tiles_open());
        layer_outputs_free(&got);
        naive_layer_result_free(&wanted);
        mha_layer_destroy(layer);
        layer_problem_free(&p);
    }
}

static void trapped(void **state) {
    (void)state;
    if (!runs("avx512")) skip();
    trap_tiles(); /* where the CPU has them, nothing traps */
    mha_context *context = isa_context("avx512", MHA_EXP_AUTO);
    struct mha_context forced = *context;
    forced.choice.bf16 = &mha_trapped_bf16_amx;
    check_layers(&forced);
    for (size_t i = 0; i < COUNT(cases); i++) {
        problem p;
        spec s = spec_for("amx", &cases[i]);
        s.lse = true;
        s.seed = i;
        problem_make(&p, &s, GUARD_END);
        check_problem("AMX as compiled", &p, &forced, true);
        assert_false(trapped_tiles_open());
        problem_free(&p);
    }
    mha_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(trapped)};
    return cmocka_run_group_tests_name("AMX as compiled", tests, NULL, NULL);
}

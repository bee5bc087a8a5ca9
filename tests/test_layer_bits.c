/* What must not change a bit of a layer's output. */
#include "check.h"
#include "isas.h"
#include "layer_problem.h"
#include "test.h"

static const layer_spec base = {
    .q_heads = 3, .kv_heads = 3, .head_dim = 8, .q_dim = 24, .batch = 1, .q_len = 1, .kv_len = -1};

/* Each batch item alone has the bits it has in the batch. */
static void batch_bits(const char *isa) {
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_MEDIUM);
    static const int64_t lens[] = {1, 3, 40, 97, 200};
    for (size_t i = 0; i < COUNT(lens); i++) {
        layer_spec s = base;
        s.what = "batch bits";
        s.batch = 3, s.q_len = lens[i], s.biases = BIAS_ALL, s.seed = i;
        mha_layer *layer;
        layer_problem p;
        layer_problem_make(&p, &s, GUARD_END);
        assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
        layer_outputs whole = layer_run(&p, layer, NULL, isa);
        for (int64_t b = 0; b < s.batch; b++) {
            layer_problem item = p;
            item.spec.batch = item.args.batch = 1;
            item.args.q.data = (float *)p.args.q.data + b * p.args.q.stride[0];
            layer_outputs alone = layer_run(&item, layer, NULL, isa);
            check_same_bits(isa, s.what, "out", alone.out, whole.out + b * alone.n_out, alone.n_out);
            layer_outputs_free(&alone);
        }
        layer_outputs_free(&whole);
        mha_layer_destroy(layer);
        layer_problem_free(&p);
    }
    mha_context_destroy(context);
}

/* One token: strides that nothing multiplies may be anything. */
static void strides_of_one(const char *isa) {
    static const int64_t strides[] = {-1, INT64_C(1) << 61, INT64_C(1) << 62, INT64_MAX, INT64_MIN};
    static const mha_dtype dtypes[] = {MHA_F32, MHA_BF16};
    mha_context *context = isa_context_of(isa, MHA_EXP_AUTO, MHA_PRECISION_MEDIUM);
    for (size_t i = 0; i < COUNT(dtypes); i++) {
        layer_spec s = base;
        s.what = "strides of one";
        s.out_dim = 100;
        s.dtypes[X_OUT] = dtypes[i];
        mha_layer *layer;
        layer_problem p;
        layer_problem_make(&p, &s, GUARD_END);
        assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
        layer_outputs wanted = layer_run(&p, layer, NULL, isa);
        for (size_t k = 0; k < COUNT(strides); k++) {
            p.args.q.stride[0] = p.args.q.stride[1] = p.args.out.stride[0] = p.args.out.stride[1] = strides[k];
            layer_outputs got = layer_run(&p, layer, NULL, isa);
            check_same_bits(isa, s.what, "out", got.out, wanted.out, wanted.n_out);
            layer_outputs_free(&got);
        }
        layer_outputs_free(&wanted);
        mha_layer_destroy(layer);
        layer_problem_free(&p);
    }
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(batch_bits), ISA_TEST(strides_of_one)};
    return isa_tests_run(tests, COUNT(tests));
}

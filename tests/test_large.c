/* Operands beyond 4 GiB: sparse mappings of which only the pages that hold elements exist. */
#define _DEFAULT_SOURCE
#include "isas.h"
#include "naive.h"
#include "rng.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { KEYS = 6, DIM = 20 };

static void *sparse(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) skip();
    return memory;
}

/* [1, 1, tokens, DIM] with tokens 2^30 elements apart: element offsets pass 2^32, byte offsets 2^34. */
static mha_tensor far_apart(int64_t tokens, uint64_t seed) {
    const int64_t stride = INT64_C(1) << 30;
    rng r = {seed};
    mha_tensor t = {.data = sparse((size_t)(stride * tokens) * sizeof(float)),
                    .dtype = MHA_F32,
                    .stride = {stride * tokens, stride * tokens, stride}};
    for (int64_t i = 0; i < tokens; i++)
        for (int d = 0; d < DIM; d++) ((float *)t.data)[i * stride + d] = rng_normal(&r);
    return t;
}

static void call(const char *isa, const mha_attention_args *args) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    size_t bytes = 0;
    assert_int_equal(MHA_OK, mha_attention_workspace_size(context, args, 1, &bytes));
    void *workspace = malloc(bytes);
    assert_int_equal(MHA_OK, mha_attention(context, args, NULL, workspace, bytes));
    free(workspace);
    mha_context_destroy(context);
}

static void check_strides(const char *isa, int64_t q_len) {
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = 1;
    args.q_len = q_len, args.kv_len = KEYS, args.head_dim = DIM;
    args.q = far_apart(q_len, 1), args.k = far_apart(KEYS, 2), args.v = far_apart(KEYS, 3),
    args.out = far_apart(q_len, 4);
    const int64_t stride = args.out.stride[2];
    call(isa, &args);
    naive_result wanted = naive_attention(&args, false);
    for (int64_t i = 0; i < q_len; i++)
        for (int64_t d = 0; d < DIM; d++) {
            const float got = ((float *)args.out.data)[i * stride + d];
            if (!(fabs(got - wanted.out.x[i * DIM + d]) <= wanted.out.bound[BOUND_WORST][i * DIM + d]))
                fail_msg("isa %s: out[%d][%d] is %g, wanted %g; tokens 2^30 elements apart", isa, (int)i, (int)d,
                         (double)got, wanted.out.x[i * DIM + d]);
        }
    naive_result_free(&wanted);
    const mha_tensor *tensors[] = {&args.q, &args.k, &args.v, &args.out};
    for (size_t i = 0; i < COUNT(tensors); i++) munmap(tensors[i]->data, (size_t)tensors[i]->stride[0] * sizeof(float));
}

static void far_strides_decode(const char *isa) { check_strides(isa, 1); }
static void far_strides_tile(const char *isa) { check_strides(isa, 6); }

/* Keys of 4 GiB and a bit, all zero but the last: e^20 of its value, 1 of each other. */
static void many_keys(const char *isa) {
    if (test_quick()) skip();
    const int64_t kv_len = (INT64_C(1) << 24) + 3, dim = 64;
    const size_t k_bytes = (size_t)(kv_len * dim) * sizeof(float), v_bytes = (size_t)kv_len * sizeof(float);
    float q[64] = {1}, out = -1;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = args.q_heads = args.kv_heads = args.q_len = args.v_head_dim = 1;
    args.kv_len = kv_len, args.head_dim = dim;
    args.scale = 1;
    args.q = (mha_tensor){q, MHA_F32, {0, 0, dim}};
    args.k = (mha_tensor){sparse(k_bytes), MHA_F32, {0, 0, dim}};
    args.v = (mha_tensor){sparse(v_bytes), MHA_F32, {0, 0, 1}};
    args.out = (mha_tensor){&out, MHA_F32, {1, 1, 1}};
    ((float *)args.k.data)[(kv_len - 1) * dim] = 20;
    ((float *)args.v.data)[kv_len - 1] = 3;
    call(isa, &args);
    const double weight = exp(20), wanted = 3 * weight / (weight + (double)(kv_len - 1));
    munmap(args.k.data, k_bytes);
    munmap(args.v.data, v_bytes);
    if (!(fabs(out - wanted) <= 1e-4))
        fail_msg("isa %s: out is %g, wanted %g; 4 GiB of keys", isa, (double)out, wanted);
}

int main(void) {
    static const isa_test tests[] = {F32_TEST(far_strides_decode), F32_TEST(far_strides_tile), F32_TEST(many_keys)};
    return isa_tests_run(tests, COUNT(tests));
}

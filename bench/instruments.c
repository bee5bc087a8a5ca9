/* What scripts/comparison loads: the limits of one core, and the library called from C, on the caller's arrays, so that
 * they can take turns with other libraries.  isa: a row of kernels.inc; dtype: an mha_dtype, of all operands.  Returned
 * are seconds. */
#include "bench.h"

#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void end(const char *why) {
    fprintf(stderr, "instruments: %s\n", why);
    exit(1);
}

static const bench_row *row_of(const char *isa) {
    for (size_t i = 0; i < bench_row_count(); i++)
        if (strcmp(bench_row_at(i)->isa, isa) == 0 && bench_row_at(i)->supported) return bench_row_at(i);
    end("this CPU lacks the instruction set");
    return NULL;
}

/* The f32 kernels that a context for it has. */
static const bench_row *f32_row_of(const char *isa) {
    const bench_row *row = row_of(isa), *f32 = bench_row_at(0);
    for (size_t i = 0; bench_row_at(i) != row; i++)
        if (bench_row_at(i)->supported && bench_row_at(i)->kernels != NULL) f32 = bench_row_at(i);
    return row->kernels != NULL ? row : f32;
}

/* Those that weights of a dtype meet in a layer. */
static const mha_gemm_kernels *gemm_of(const char *isa, int dtype) {
    return (bench_takes(row_of(isa), (mha_dtype)dtype) ? row_of(isa) : f32_row_of(isa))->gemm;
}

/* So many floating-point operations on registers; in bf16 where the instruction set multiplies it. */
double instruments_multiply_add(const char *isa, int dtype, double flops) {
    const bench_row *row = dtype == MHA_BF16 ? row_of(isa) : f32_row_of(isa);
    const double start = bench_wall_seconds();
    bench_multiply_add(row, (size_t)(flops / row->multiply_add_flops));
    return bench_wall_seconds() - start;
}

/* Two arrays of n floats, such as K and V; n and alignment as bench_read wants them. */
double instruments_read(const char *isa, const float *a, const float *b, size_t n, size_t runs) {
    const bench_row *row = row_of(isa);
    const double start = bench_wall_seconds();
    for (size_t i = 0; i < runs; i++) {
        bench_read(row, a, n);
        bench_read(row, b, n);
    }
    return bench_wall_seconds() - start;
}

size_t instruments_packed_bytes(const char *isa, int dtype, int64_t out, int64_t in) {
    return gemm_of(isa, dtype)->packed_bytes(out, in, (mha_dtype)dtype, mha_bf16_parts((mha_dtype)dtype));
}

void instruments_pack(const char *isa, int dtype, const void *weight, int64_t out, int64_t in, void *packed) {
    gemm_of(isa, dtype)->pack(weight, (mha_dtype)dtype, mha_bf16_parts((mha_dtype)dtype), in, out, in, packed);
}

/* The projections' product: x [rows, in], y [rows, out]. */
double instruments_product(const char *isa, int dtype, const void *x, const void *packed, void *y, int64_t rows,
                           int64_t out, int64_t in, size_t runs) {
    const mha_gemm_kernels *kernels = gemm_of(isa, dtype);
    const mha_dtype t = (mha_dtype)dtype;
    const mha_gemm gemm = {.x = x,
                           .x_dtype = t,
                           .x_parts = mha_bf16_parts(t),
                           .w_parts = mha_bf16_parts(t),
                           .x_stride = in,
                           .packed = packed,
                           .w_dtype = t,
                           .y = y,
                           .y_dtype = t,
                           .y_stride = out,
                           .in = in,
                           .out = out,
                           .level = mha_level_of((double)out * (double)in * (double)bench_element_bytes(t))};
    float *scratch = bench_allocate(kernels->scratch_floats * sizeof(float));
    const double start = bench_wall_seconds();
    for (size_t i = 0; i < runs; i++) bench_product(kernels, &gemm, rows, scratch);
    const double seconds = bench_wall_seconds() - start;
    free(scratch);
    return seconds;
}

/* sizes: q_heads, kv_heads, q_len, kv_len, head_dim; tensors are [1, heads, tokens, dim]. */
static mha_attention_args args_of(int dtype, const int64_t sizes[5], const void *q, const void *k, const void *v,
                                  void *out) {
    const int64_t q_head = sizes[2] * sizes[4], kv_head = sizes[3] * sizes[4];
    const mha_dtype t = (mha_dtype)dtype;
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = 1;
    args.q_heads = sizes[0];
    args.kv_heads = sizes[1];
    args.q_len = sizes[2];
    args.kv_len = sizes[3];
    args.head_dim = sizes[4];
    args.q = (mha_tensor){(void *)q, t, {sizes[0] * q_head, q_head, sizes[4]}};
    args.k = (mha_tensor){(void *)k, t, {sizes[1] * kv_head, kv_head, sizes[4]}};
    args.v = (mha_tensor){(void *)v, t, {sizes[1] * kv_head, kv_head, sizes[4]}};
    args.out = (mha_tensor){out, t, {sizes[0] * q_head, q_head, sizes[4]}};
    return args;
}

static mha_context *context_of(const char *isa) {
    mha_context *context;
    const char *why_not = bench_context(row_of(isa), false, &context);
    if (why_not != NULL) end(why_not);
    return context;
}

double instruments_attention(const char *isa, int dtype, const int64_t sizes[5], const void *q, const void *k,
                             const void *v, void *out, size_t runs) {
    mha_context *context = context_of(isa);
    const mha_attention_args args = args_of(dtype, sizes, q, k, v, out);
    size_t bytes;
    if (mha_attention_workspace_size(context, &args, 1, &bytes) != MHA_OK) end("mha_attention_workspace_size failed");
    void *workspace = bench_allocate(bytes);
    mha_status status = MHA_OK;
    const double start = bench_wall_seconds();
    for (size_t i = 0; i < runs && status == MHA_OK; i++)
        status = mha_attention(context, &args, NULL, workspace, bytes);
    const double seconds = bench_wall_seconds() - start;
    if (status != MHA_OK) end("mha_attention failed");
    free(workspace);
    mha_context_destroy(context);
    return seconds;
}

/* What mha_attention_describe writes. */
void instruments_describe(const char *isa, int dtype, const int64_t sizes[5], size_t n_workers, char *text,
                          size_t text_bytes) {
    mha_context *context = context_of(isa);
    const mha_attention_args args = args_of(dtype, sizes, NULL, NULL, NULL, NULL);
    mha_attention_describe(context, &args, n_workers, text, text_bytes);
    mha_context_destroy(context);
}

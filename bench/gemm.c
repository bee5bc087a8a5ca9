/* The projections' product, Y = X W^T, cut into tasks as a layer does it: prepacked weights, one worker. */
#include "bench.h"

#include "projection.h"

#include <stdlib.h>

typedef struct shape {
    int64_t rows, out, in;
    bool dram; /* every run reads another copy of the weights, so that they come from DRAM */
} shape;

static const shape shapes[] = {
    {128, 768, 768, false}, {512, 768, 768, false},   {2048, 768, 768, false},
    {77, 768, 768, false},  {512, 4096, 4096, false}, {1, 768, 768, false},
    {1, 4096, 4096, true},  {2, 4096, 4096, true},    {4, 4096, 4096, true},
};

typedef struct product {
    const mha_gemm_kernels *kernels;
    mha_gemm gemm;
    int64_t rows;
    char *packed;
    float *scratch;
    size_t packed_bytes, copies, next_copy;
} product;

static size_t packed_bytes(const mha_gemm_kernels *kernels, const shape *s, mha_dtype dtype) {
    return kernels->packed_bytes(s->out, s->in, dtype, mha_bf16_parts(dtype));
}

static size_t copies(const shape *s, size_t bytes) {
    return s->dram ? (size_t)(bench_dram_bytes() / (double)bytes) + 1 : 1;
}

static const char *setup(const bench_case *self, void **state) {
    if (!self->row->supported) return bench_cpu_lacks_isa;
    const shape *s = self->shape;
    const mha_gemm_kernels *kernels = self->row->gemm;
    product *p = bench_allocate(sizeof *p);
    p->kernels = kernels;
    p->rows = s->rows;
    p->packed_bytes = packed_bytes(kernels, s, self->dtype);
    p->copies = copies(s, p->packed_bytes);
    p->packed = bench_allocate(p->copies * p->packed_bytes);
    p->scratch = bench_allocate(kernels->scratch_floats * sizeof(float));
    const void *random = bench_random((size_t)((s->out + s->rows) * s->in), self->dtype);
    for (size_t i = 0; i < p->copies; i++)
        kernels->pack(random, self->dtype, mha_bf16_parts(self->dtype), s->in, s->out, s->in,
                      p->packed + i * p->packed_bytes);
    p->gemm = (mha_gemm){.x = mha_element(random, s->out * s->in, self->dtype),
                         .x_dtype = self->dtype,
                         .x_parts = mha_bf16_parts(self->dtype),
                         .w_parts = mha_bf16_parts(self->dtype),
                         .x_stride = s->in,
                         .w_dtype = self->dtype,
                         .y = bench_allocate((size_t)(s->rows * s->out) * bench_element_bytes(self->dtype)),
                         .y_dtype = self->dtype,
                         .y_stride = s->out,
                         .in = s->in,
                         .out = s->out,
                         .level = mha_level_of((double)(p->packed_bytes * p->copies))};
    *state = p;
    return NULL;
}

void bench_product(const mha_gemm_kernels *kernels, const mha_gemm *gemm, int64_t rows, float *scratch) {
    const mha_rows_view x = {(void *)gemm->x, gemm->x_dtype, 0, gemm->x_stride};
    const mha_rows_view y = {gemm->y, gemm->y_dtype, 0, gemm->y_stride};
    const mha_projection p = mha_projection_cut(kernels, gemm, 1, rows, x, y, 1);
    for (int64_t task = 0; task < p.tasks; task++) mha_projection_task(&p, task, scratch);
}

static void run(void *state) {
    product *p = state;
    p->gemm.packed = p->packed + p->next_copy * p->packed_bytes;
    p->next_copy = (p->next_copy + 1) % p->copies;
    bench_product(p->kernels, &p->gemm, p->rows, p->scratch);
}

static void teardown(void *state) {
    product *p = state;
    free(p->packed);
    free(p->scratch);
    free(p->gemm.y);
    free(p);
}

void bench_add_gemm(const bench_row *row, mha_dtype dtype) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        const size_t bytes = packed_bytes(row->gemm, s, dtype);
        const double elements = (double)(s->rows * (s->in + s->out) + s->in * s->out);
        bench_case c = {.row = row,
                        .shape = s,
                        .dtype = dtype,
                        .setup = setup,
                        .run = run,
                        .teardown = teardown,
                        .threads = 1,
                        .flops = 2.0 * (double)(s->rows * s->out * s->in),
                        .traffic = elements * (double)bench_element_bytes(dtype)};
        if (s->dram) c.bytes = (double)bytes, c.working_set = c.bytes * (double)copies(s, bytes);
        bench_add(&c, "gemm/%s/%s/M%d.N%d.K%d%s", row->isa, bench_dtype_name(dtype), (int)s->rows, (int)s->out,
                  (int)s->in, s->dram ? ".DRAM" : "");
    }
}

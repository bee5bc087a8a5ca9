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
    const mha_kernels *kernels;
    mha_gemm gemm;
    int64_t rows;
    float *packed, *scratch;
    size_t packed_floats, copies, next_copy;
} product;

static size_t copies(const shape *s, size_t packed_floats) {
    return s->dram ? (size_t)(bench_dram_bytes() / (double)(packed_floats * sizeof(float))) + 1 : 1;
}

static const char *setup(const bench_case *self, void **state) {
    if (!self->row->supported) return bench_cpu_lacks_isa;
    const shape *s = self->shape;
    const mha_kernels *kernels = self->row->kernels;
    product *p = bench_allocate(sizeof *p);
    p->kernels = kernels;
    p->rows = s->rows;
    p->packed_floats = kernels->weight_floats(s->out, s->in);
    p->copies = copies(s, p->packed_floats);
    p->packed = bench_allocate(p->copies * p->packed_floats * sizeof(float));
    p->scratch = bench_allocate(kernels->gemm_scratch_floats * sizeof(float));
    const float *random = bench_random((size_t)((s->out + s->rows) * s->in));
    for (size_t i = 0; i < p->copies; i++)
        kernels->pack_weights(random, s->in, s->out, s->in, p->packed + i * p->packed_floats);
    p->gemm =
        (mha_gemm){.x = random + s->out * s->in, .x_stride = s->in, .y_stride = s->out, .in = s->in, .out = s->out};
    p->gemm.level = mha_level_of((double)(p->packed_floats * p->copies * sizeof(float)));
    p->gemm.y = bench_allocate((size_t)(s->rows * s->out) * sizeof(float));
    *state = p;
    return NULL;
}

void bench_product(const mha_kernels *kernels, const mha_gemm *gemm, int64_t rows, float *scratch) {
    const mha_rows_view x = {(float *)gemm->x, 0, gemm->x_stride}, y = {gemm->y, 0, gemm->y_stride};
    const mha_projection p = mha_projection_cut(kernels, gemm, 1, rows, x, y, 1);
    for (int64_t task = 0; task < p.tasks; task++) mha_projection_task(&p, task, scratch);
}

static void run(void *state) {
    product *p = state;
    p->gemm.packed = p->packed + p->next_copy * p->packed_floats;
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

void bench_add_gemm(const bench_row *row) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        const size_t floats = row->kernels->weight_floats(s->out, s->in);
        bench_case c = {.row = row,
                        .shape = s,
                        .setup = setup,
                        .run = run,
                        .teardown = teardown,
                        .threads = 1,
                        .flops = 2.0 * (double)(s->rows * s->out * s->in),
                        .traffic = (double)(s->rows * (s->in + s->out) + s->in * s->out) * sizeof(float)};
        if (s->dram) c.bytes = (double)(floats * sizeof(float)), c.working_set = c.bytes * (double)copies(s, floats);
        bench_add(&c, "gemm/%s/%s/M%d.N%d.K%d%s", row->isa, row->dtype, (int)s->rows, (int)s->out, (int)s->in,
                  s->dram ? ".DRAM" : "");
    }
}

/* The whole layer: projections, self-attention, output projection. */
#include "bench.h"

#include "mha/mha.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct shape {
    int64_t batch, tokens, width, heads;
} shape;

static const shape shapes[] = {
    {1, 512, 768, 12},
    {8, 128, 768, 12},
    {1, 128, 384, 12},
    {1, 32, 768, 12},
};

typedef struct forward {
    mha_context *context;
    mha_layer *layer;
    mha_layer_args args;
    void *workspace;
    size_t workspace_bytes;
} forward;

static void teardown(void *state) {
    forward *f = state;
    mha_layer_destroy(f->layer);
    mha_context_destroy(f->context);
    free(f->args.out.data);
    free(f->workspace);
    free(f);
}

/* All weights are slices of the same random numbers, scaled by nothing: speed does not depend on them. */
static mha_status create_layer(forward *f, const shape *s, mha_dtype dtype) {
    const char *random = bench_random((size_t)(4 * s->width * s->width), dtype);
    const size_t bytes = (size_t)(s->width * s->width) * bench_element_bytes(dtype);
    mha_layer_desc desc;
    mha_layer_desc_init(&desc, sizeof desc);
    desc.q_heads = desc.kv_heads = s->heads;
    desc.head_dim = s->width / s->heads;
    desc.q_dim = s->width;
    mha_linear *const linears[] = {&desc.wq, &desc.wk, &desc.wv, &desc.wo};
    for (int i = 0; i < 4; i++) {
        linears[i]->weight = random + (size_t)i * bytes;
        linears[i]->dtype = dtype;
        linears[i]->bias_dtype = MHA_F32;
        linears[i]->bias = bench_random((size_t)s->width, MHA_F32);
    }
    return mha_layer_create(f->context, &desc, &f->layer, NULL, 0);
}

static void set_args(forward *f, const shape *s, mha_dtype dtype) {
    const size_t elements = (size_t)(s->batch * s->tokens * s->width);
    mha_layer_args_init(&f->args, sizeof f->args);
    f->args.batch = s->batch;
    f->args.q_len = s->tokens;
    f->args.kv_len = -1;
    f->args.q = (mha_activation){bench_random(elements, dtype), dtype, {s->tokens * s->width, s->width}};
    f->args.out = f->args.q;
    f->args.out.data = bench_allocate(elements * bench_element_bytes(dtype));
}

static const char *setup(const bench_case *self, void **state) {
    mha_context *context;
    const char *why_not = bench_context(self->row, false, &context);
    if (why_not != NULL) return why_not;
    forward *f = bench_allocate(sizeof *f);
    f->context = context;
    if (create_layer(f, self->shape, self->dtype) != MHA_OK) {
        teardown(f);
        return "mha_layer_create failed";
    }
    set_args(f, self->shape, self->dtype);
    if (mha_layer_workspace_size(f->layer, &f->args, 1, &f->workspace_bytes) != MHA_OK) {
        teardown(f);
        return "mha_layer_workspace_size failed";
    }
    f->workspace = bench_allocate(f->workspace_bytes);
    *state = f;
    return NULL;
}

static void run(void *state) {
    forward *f = state;
    if (mha_layer_forward(f->layer, &f->args, NULL, f->workspace, f->workspace_bytes) == MHA_OK) return;
    fprintf(stderr, "bench: mha_layer_forward failed\n");
    exit(1);
}

void bench_add_layer(const bench_row *row, mha_dtype dtype) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        const double tokens = (double)(s->batch * s->tokens), width = (double)s->width;
        const bench_case c = {.row = row,
                              .shape = s,
                              .dtype = dtype,
                              .setup = setup,
                              .run = run,
                              .teardown = teardown,
                              .threads = 1,
                              .flops = 8 * tokens * width * width + 4 * tokens * (double)s->tokens * width,
                              .traffic = (2 * tokens * width + 4 * width * width) * (double)bench_element_bytes(dtype)};
        bench_add(&c, "layer/%s/%s/B%d.T%d.W%d.H%d", row->isa, bench_dtype_name(dtype), (int)s->batch, (int)s->tokens,
                  (int)s->width, (int)s->heads);
    }
}

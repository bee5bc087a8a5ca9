/* exp in both forms, as softmax calls it: a library call per vector, and fused. */
#include "bench.h"

#include "plan.h"

#include <stdlib.h>

enum { N = 4096 }; /* in and out stay in L1 */

typedef struct shape {
    const char *form, *range;
    int exp; /* index into mha_kernels.exp */
    float low, high;
} shape;

static const shape shapes[] = {
    {"sleef", "", 0, -20, 0},
    {"fused", "", 1, -20, 0},
    {"sleef", ".subnormal", 0, -103, -88}, /* results that libmha takes as 0 */
    {"fused", ".subnormal", 1, -103, -88},
};

typedef struct arrays {
    void (*exp)(const mha_softmax *softmax, const float *x, float *y, size_t n);
    mha_softmax softmax;
    float x[N], y[N];
} arrays;

static const char *setup(const bench_case *self, void **state) {
    if (!self->row->supported) return bench_cpu_lacks_isa;
    const shape *s = self->shape;
    arrays *a = bench_allocate(sizeof *a);
    a->exp = self->row->kernels->exp[s->exp];
    a->softmax = mha_softmax_of(&(mha_attention_args){.scale = 1});
    const float *random = bench_random(N, MHA_F32);
    for (size_t i = 0; i < N; i++) a->x[i] = s->low + (s->high - s->low) * (0.5f + 0.5f * random[i]);
    *state = a;
    return NULL;
}

static void run(void *state) {
    arrays *a = state;
    a->exp(&a->softmax, a->x, a->y, N);
}

void bench_add_exp(const bench_row *row) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const bench_case c = {.row = row,
                              .shape = &shapes[i],
                              .setup = setup,
                              .run = run,
                              .teardown = free,
                              .threads = 1,
                              .items = N,
                              .item = "exp"};
        bench_add(&c, "exp/%s/%s/%s.n%d%s", row->isa, "f32", shapes[i].form, N, shapes[i].range);
    }
}

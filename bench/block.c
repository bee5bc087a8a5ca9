/* What prefill is made of, through the kernel contract: packing a block of keys and values, and updating a tile with
 * it. */
#include "bench.h"

#include "plan.h"

#include <stdlib.h>

typedef enum part { PACK_KEYS, PACK_VALUES, UPDATE } part;

static const char *const part_names[] = {"pack/keys", "pack/values", "block/update"};

typedef struct shape {
    part part;
    int32_t head_dim;
} shape;

static const shape shapes[] = {
    {PACK_KEYS, 64}, {PACK_KEYS, 128}, {PACK_VALUES, 64}, {PACK_VALUES, 128}, {UPDATE, 64}, {UPDATE, 128},
};

typedef struct block_state {
    const mha_kernels *kernels;
    part part;
    mha_softmax softmax;
    mha_kv_block block;
    mha_tile tile;
    float *packed_k, *packed_v, *scores;
} block_state;

static void set_tile(block_state *b, const float *queries) {
    const mha_path *path = &b->kernels->tile;
    const int32_t dim = b->block.head_dim, lanes = path->lanes(path->max_rows);
    const void *rows[MHA_MAX_LANES];
    for (int32_t r = 0; r < path->max_rows; r++) rows[r] = queries + r * dim;
    b->tile = (mha_tile){.rows = path->max_rows, .lanes = lanes, .end = b->block.keys};
    b->tile.q = bench_allocate(path->q_floats(lanes, dim) * sizeof(float));
    b->tile.o = bench_allocate(path->o_floats(lanes, dim) * sizeof(float));
    b->tile.max = bench_allocate((size_t)lanes * sizeof(float));
    b->tile.sum = bench_allocate((size_t)lanes * sizeof(float));
    b->scores = bench_allocate(path->score_floats(lanes) * sizeof(float));
    path->load(&b->tile, rows, MHA_F32, dim, dim, 1);
}

static void teardown(void *state) {
    block_state *b = state;
    void *const memory[] = {b->packed_k, b->packed_v, b->tile.q, b->tile.o, b->tile.max, b->tile.sum, b->scores, b};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) free(memory[i]);
}

static const char *setup(const bench_case *self, void **state) {
    if (!self->row->supported) return bench_cpu_lacks_isa;
    const shape *s = self->shape;
    const mha_kernels *kernels = self->row->kernels;
    const int32_t dim = s->head_dim, keys = kernels->tile.block_keys;
    if (s->part != UPDATE && kernels->tile.pack_keys == NULL) return "skipped: these kernels do not pack";
    block_state *b = bench_allocate(sizeof *b);
    const float *random = bench_random((size_t)((2 * keys + kernels->tile.max_rows) * dim), MHA_F32);
    b->kernels = kernels;
    b->part = s->part;
    b->softmax = mha_softmax_of(&(mha_attention_args){.scale = 0.125f});
    b->block = (mha_kv_block){.k = random,
                              .v = random + keys * dim,
                              .k_dtype = MHA_F32,
                              .v_dtype = MHA_F32,
                              .k_stride = dim,
                              .v_stride = dim,
                              .keys = keys,
                              .block_keys = keys,
                              .head_dim = dim,
                              .v_head_dim = dim};
    set_tile(b, random + 2 * keys * dim);
    if (kernels->tile.pack_keys != NULL) {
        b->block.packed_k = b->packed_k = bench_allocate(kernels->tile.packed_k_floats(dim) * sizeof(float));
        b->block.packed_v = b->packed_v = bench_allocate(kernels->tile.packed_v_floats(dim) * sizeof(float));
        kernels->tile.pack_keys(&b->block, b->packed_k);
        kernels->tile.pack_values(&b->block, b->packed_v);
    }
    *state = b;
    return NULL;
}

static void run(void *state) {
    block_state *b = state;
    switch (b->part) {
    case PACK_KEYS: b->kernels->tile.pack_keys(&b->block, b->packed_k); break;
    case PACK_VALUES: b->kernels->tile.pack_values(&b->block, b->packed_v); break;
    case UPDATE: b->kernels->tile.block[1](&b->softmax, &b->block, &b->tile, 1, b->scores); break;
    }
}

void bench_add_block(const bench_row *row) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        const double keys = row->kernels->tile.block_keys, scores = keys * row->kernels->tile.max_rows;
        bench_case c = {
            .row = row, .shape = s, .setup = setup, .run = run, .teardown = teardown, .threads = 1, .item = "float"};
        c.items = s->part == UPDATE ? scores : keys * s->head_dim;
        if (s->part == UPDATE) c.item = "score", c.flops = 4 * scores * s->head_dim;
        bench_add(&c, "%s/%s/%s/D%d", part_names[s->part], row->isa, "f32", (int)s->head_dim);
    }
}

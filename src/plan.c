#include "executor.h"
#include "plan.h"

enum {
    DECODE_MAX_Q_LEN = 4,     /* up to here lanes run along head_dim: with queries in them most would be empty */
    SPLIT_MAX_Q_LEN = 64,     /* longer queries give enough tasks without splits */
    SPLIT_MIN_KEYS = 512,     /* merging costs 1% of a split of this length */
    CHUNK_MAX_TILES = 32,     /* packing a block costs 3% of 16 AVX-512 tiles, 6% to 8% of as many of AMX */
    CHUNK_MAX_BYTES = 1 << 20 /* of a worker's memory; documented.  One tile fits up to head_dim 256 */
};

mha_softmax mha_softmax_of(const mha_attention_args *args) {
    const double log2_e = 1.4426950408889634074, ln_least_normal = -87.336544750553109; /* ln 2^-126 */
    /* The exponent carries the scale's magnitude; its sign, and what is beyond 2^60 either way, go into Q. */
    const float carried = fminf(fmaxf(fabsf(args->scale), 0x1p-60f), 0x1p60f);
    mha_softmax softmax = {.q_factor = args->scale / carried, .scale = carried, .bias_scale = 1};
    if (args->softcap != 0) {
        /* 2^-60 is the least there is.  Compilers divide before they ask; by 0 that would raise an exception. */
        softmax.cap = carried / fmaxf(args->softcap, 0x1p-60f);
        softmax.scale = args->softcap;
    }
    if (args->mask.data != NULL && args->mask.dtype != MHA_BOOL) {
        softmax.bias_scale = softmax.scale;
        softmax.scale = 1;
    }
    const double log2_scale = softmax.scale * log2_e;
    softmax.exp_hi = (float)log2_scale;
    softmax.exp_lo = (float)(log2_scale - softmax.exp_hi);
    softmax.exp_floor = (float)(ln_least_normal / softmax.scale);
    if ((double)softmax.exp_floor * softmax.scale < ln_least_normal)
        softmax.exp_floor = nextafterf(softmax.exp_floor, 0); /* the least float that is not below */
    return softmax;
}

int64_t mha_plan_split_keys(const mha_plan *plan, int64_t b) {
    const int64_t kv_len = mha_plan_kv_len(plan, b), block = plan->path->block_keys;
    if (plan->splits == 1) return mha_max(kv_len, 1);
    int64_t keys = mha_ceil_div(SPLIT_MIN_KEYS, block) * block;
    while (mha_ceil_div(kv_len, keys) > MHA_MAX_SPLITS) keys *= 2;
    return keys;
}

static int64_t most_splits(const mha_plan *plan) {
    const mha_attention_args *args = &plan->args;
    if (args->q_len > SPLIT_MAX_Q_LEN || args->scores.data != NULL) return 1;
    return mha_max(1, mha_min(MHA_MAX_SPLITS, mha_ceil_div(args->kv_len, SPLIT_MIN_KEYS)));
}

static bool half_scores(const mha_attention_args *args) {
    return args->scores.data != NULL && mha_is_half(args->scores.dtype);
}

/* A bump allocator over a worker's memory; with base NULL it only measures. */
static void *carve(char *base, size_t *used, size_t bytes) {
    void *part = base == NULL ? NULL : base + *used;
    *used += mha_align_up(bytes);
    return part;
}

static float *carve_floats(char *base, size_t *used, bool wanted, size_t rows, size_t floats) {
    return carve(base, used, wanted ? rows * floats * sizeof(float) : 0);
}

size_t mha_worker_carve(const mha_plan *plan, char *memory, mha_worker_memory *worker) {
    const mha_path *path = plan->path;
    const mha_attention_args *args = &plan->args;
    const int32_t lanes = path->lanes(path->max_rows), d = (int32_t)args->head_dim, v_d = (int32_t)args->v_head_dim;
    const size_t block = (size_t)path->block_keys, tiles = (size_t)plan->chunk_tiles;
    const size_t rows = (size_t)path->max_rows;
    size_t used = 0;
    worker->tiles = carve(memory, &used, tiles * sizeof *worker->tiles);
    worker->rows = carve(memory, &used, tiles * sizeof *worker->rows);
    worker->excluded = carve(memory, &used, tiles * block * sizeof *worker->excluded);
    for (size_t t = 0; t < tiles; t++) {
        mha_tile tile = {.lanes = lanes};
        tile.q = carve_floats(memory, &used, true, 1, path->q_floats(lanes, d));
        tile.o = carve_floats(memory, &used, true, 1, path->o_floats(lanes, v_d));
        tile.max = carve_floats(memory, &used, true, 1, (size_t)lanes);
        tile.sum = carve_floats(memory, &used, true, 1, (size_t)lanes);
        if (memory != NULL) worker->tiles[t] = tile;
    }
    worker->scores = carve_floats(memory, &used, true, 1, path->score_floats(lanes));
    worker->bias = carve_floats(memory, &used, args->mask.data != NULL, 1, path->score_floats(lanes));
    worker->packed_k = path->pack_keys != NULL ? carve_floats(memory, &used, true, 1, path->packed_k_floats(d)) : NULL;
    worker->packed_v =
        path->pack_keys != NULL ? carve_floats(memory, &used, true, 1, path->packed_v_floats(v_d)) : NULL;
    worker->wide_scores = carve_floats(memory, &used, half_scores(args), rows, (size_t)args->kv_len);
    return used;
}

/* As many tiles as fit the worker's memory, but no more than leave MHA_TASKS_PER_WORKER tasks for each worker. */
static void cut_chunks(mha_plan *plan, size_t n_workers) {
    const mha_attention_args *args = &plan->args;
    const int64_t tiles = mha_ceil_div(plan->rows, plan->path->max_rows);
    const int64_t heads = mha_max(1, args->batch * args->kv_heads);
    mha_worker_memory unused;
    plan->chunk_tiles = 2;
    const size_t two = mha_worker_carve(plan, NULL, &unused);
    plan->chunk_tiles = 1;
    const size_t one = mha_worker_carve(plan, NULL, &unused);
    const int64_t fit = one >= CHUNK_MAX_BYTES ? 1 : 1 + (int64_t)((CHUNK_MAX_BYTES - one) / (two - one));
    int64_t most = half_scores(args) ? 1 : mha_min(mha_min(tiles, CHUNK_MAX_TILES), fit);
    if (n_workers > 1) {
        const int64_t wanted_chunks = mha_ceil_div((int64_t)n_workers * MHA_TASKS_PER_WORKER, heads * plan->splits);
        most = mha_min(most, mha_max(1, tiles / wanted_chunks));
    }
    const int64_t fewest_chunks = mha_ceil_div(mha_max(1, tiles), mha_max(1, most));
    plan->chunk_tiles = mha_ceil_div(mha_max(1, tiles), fewest_chunks); /* of even length */
    plan->chunk_rows = plan->chunk_tiles * plan->path->max_rows;
    plan->chunks = mha_ceil_div(plan->rows, plan->chunk_rows);
}

static double operand_bytes(const mha_attention_args *args) {
    const double q = (double)(args->head_dim * mha_dtype_bytes(args->q.dtype));
    const double k = (double)(args->head_dim * mha_dtype_bytes(args->k.dtype));
    const double v = (double)(args->v_head_dim * mha_dtype_bytes(args->v.dtype));
    const double out = (double)(args->v_head_dim * mha_dtype_bytes(args->out.dtype));
    const double q_rows = (double)args->batch * (double)args->q_heads * (double)args->q_len;
    const double kv_rows = (double)args->batch * (double)args->kv_heads * (double)args->kv_len;
    return q_rows * (q + out) + kv_rows * (k + v);
}

mha_status mha_plan_cut(mha_plan *plan, size_t n_workers, mha_message message) {
    const mha_attention_args *args = &plan->args;
    TRY(mha_check_n_workers(n_workers, message));
    plan->softmax = mha_softmax_of(args);
    if (fabsf(plan->softmax.q_factor) != 1) plan->bf16 = NULL; /* queries would be rounded on load */
    plan->group = args->kv_heads > 0 ? args->q_heads / args->kv_heads : 0;
    plan->rows = args->q_len * plan->group;
    const mha_path *decode = &plan->kernels->decode[mha_both_half(args->k.dtype, args->v.dtype)];
    if (args->q_len <= DECODE_MAX_Q_LEN) plan->path = decode;
    else plan->path = plan->bf16 != NULL ? plan->bf16 : &plan->kernels->tile;
    plan->level = mha_level_of(operand_bytes(args));
    plan->splits = most_splits(plan);
    cut_chunks(plan, n_workers);
    /* The same bits, so what depends on the number of workers may choose. */
    const bool floats = args->k.dtype == MHA_F32 && args->v.dtype == MHA_F32;
    if (plan->path == &plan->kernels->tile && floats && plan->chunk_tiles <= plan->kernels->in_place_tiles)
        plan->path = &plan->kernels->in_place;
    plan->tasks = args->batch * args->kv_heads * plan->chunks * plan->splits;

    mha_worker_memory unused;
    plan->worker_bytes = mha_worker_carve(plan, NULL, &unused);
    plan->partial_floats = mha_align_up((2 + (size_t)args->v_head_dim) * sizeof(float)) / sizeof(float);
    const size_t query_rows = (size_t)(args->batch * args->q_heads * args->q_len);
    const size_t partials = plan->splits > 1 ? query_rows * (size_t)plan->splits : 0;
    size_t workers_bytes;
    if (__builtin_mul_overflow(partials, plan->partial_floats * sizeof(float), &plan->partials_bytes) ||
        __builtin_mul_overflow(plan->worker_bytes, n_workers, &workers_bytes) ||
        __builtin_add_overflow(workers_bytes, plan->partials_bytes + MHA_ALIGN - 1, &plan->workspace_bytes) ||
        plan->workspace_bytes > PTRDIFF_MAX)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "n_workers is %zu, expected few enough for the workspace to fit in memory", n_workers);
    return MHA_OK;
}

/* The algorithm: softmax(Q K^T * scale) V, block by block of keys, for chunks of query rows (FlashAttention-2, Dao
 * 2023).
 *
 *     arguments -> plan -> tasks -> for each block of keys: pack once, update every tile of the chunk -> output
 *
 * A task is (batch item, KV head, chunk of query rows, split of the keys).  Splits leave partial results, merged at the
 * end in the order of the keys. */
#include "chunk.h"
#include "executor.h"
#include "mask.h"
#include "phases.h"
#include "scores.h"

static float *partial_of(const mha_attention_call *call, int64_t batch, int64_t head, int64_t query, int64_t split) {
    const mha_attention_args *args = &call->plan.args;
    const int64_t row = (batch * args->q_heads + head) * args->q_len + query;
    return (float *)(void *)call->partials + (row * call->plan.splits + split) * (int64_t)call->plan.partial_floats;
}

/* The tensor's rows of a tile. */
static void point_at_rows(const mha_chunk *chunk, const mha_tensor *tensor, int64_t row0, int32_t n, void *rows[]) {
    const mha_plan *plan = &chunk->call->plan;
    const int64_t query = mha_row_query(plan, row0);
    int64_t in_group = row0 - query * plan->group;
    /* In integers without sign: the stride of a dimension of one element may be anything. */
    uintptr_t row = (uintptr_t)mha_row_of(tensor, chunk->batch, chunk->kv_head * plan->group + in_group, query);
    const uint64_t bytes = (uint64_t)mha_dtype_bytes(tensor->dtype), next_head = (uint64_t)tensor->stride[1] * bytes;
    const uint64_t next_query = (uint64_t)tensor->stride[2] * bytes - (uint64_t)(plan->group - 1) * next_head;
    for (int32_t r = 0; r < n; r++) {
        rows[r] = (void *)row;
        const bool last = ++in_group == plan->group;
        row += last ? next_query : next_head;
        if (last) in_group = 0;
    }
}

/* Loads the query tiles and finds the keys they see. */
static void chunk_open(mha_chunk *chunk) {
    const mha_plan *plan = &chunk->call->plan;
    const mha_attention_args *args = &plan->args;
    const mha_path *path = plan->path;
    int64_t first = INT64_MAX, last = 0;
    chunk->tiles = mha_ceil_div(chunk->rows, path->max_rows);
    for (int64_t t = 0; t < chunk->tiles; t++) {
        mha_tile *tile = &chunk->memory.tiles[t];
        mha_rows *rows = &chunk->memory.rows[t];
        void *queries[MHA_MAX_LANES];
        tile->rows = (int32_t)mha_min(path->max_rows, chunk->rows - t * path->max_rows);
        tile->lanes = path->lanes(tile->rows);
        tile->scores_visitor = NULL;
        mha_rows_open(plan, chunk->batch, chunk->row0 + t * path->max_rows, tile->rows, rows);
        point_at_rows(chunk, &args->q, rows->row0, tile->rows, queries);
        for (int32_t r = 0; r < tile->lanes; r++) tile->max[r] = -INFINITY, tile->sum[r] = 0;
        path->load(tile, (const void *const *)queries, args->q.dtype, (int32_t)args->head_dim,
                   (int32_t)args->v_head_dim, plan->softmax.q_factor);
        first = mha_min(first, rows->first_min);
        last = mha_max(last, rows->last_max);
    }
    if (args->scores.data != NULL) first = 0, last = args->kv_len;
    const int64_t split_keys = mha_plan_split_keys(plan, chunk->batch);
    chunk->first_key = mha_max(first, chunk->split * split_keys);
    chunk->last_key = plan->splits == 1 ? last : mha_min(last, (chunk->split + 1) * split_keys);
}

static void pack(const mha_chunk *chunk, const mha_kv_block *block) {
    const mha_plan *plan = &chunk->call->plan;
    if (plan->path->pack_keys == NULL) return;
    plan->path->pack_keys(block, chunk->memory.packed_k);
    plan->path->pack_values(block, chunk->memory.packed_v);
    mha_phase_end(MHA_PHASE_PACK);
}

/* Marks the tiles and runs the kernel.  With an additive mask tile by tile, since there is room for one bias only. */
static void chunk_block(mha_chunk *chunk, int64_t key0) {
    const mha_plan *plan = &chunk->call->plan;
    const mha_attention_args *args = &plan->args;
    const mha_worker_memory *memory = &chunk->memory;
    mha_tile_place place = {.plan = plan,
                            .batch = chunk->batch,
                            .kv_head = chunk->kv_head,
                            .key0 = key0,
                            .wide_scores = memory->wide_scores};
    mha_ahead ahead = {.n = 0};
    mha_kv_block block = {.k = mha_row_of(&args->k, chunk->batch, chunk->kv_head, key0),
                          .v = mha_row_of(&args->v, chunk->batch, chunk->kv_head, key0),
                          .k_dtype = args->k.dtype,
                          .v_dtype = args->v.dtype,
                          .k_stride = args->k.stride[2],
                          .v_stride = args->v.stride[2],
                          .packed_k = memory->packed_k,
                          .packed_v = memory->packed_v,
                          .keys = (int32_t)mha_min(plan->path->block_keys, chunk->last_key - key0),
                          .block_keys = plan->path->block_keys,
                          .head_dim = (int32_t)args->head_dim,
                          .v_head_dim = (int32_t)args->v_head_dim,
                          .level = plan->level,
                          .ahead = plan->level != MHA_FAST_CACHE ? &ahead : NULL};
    if (block.ahead != NULL) mha_chunk_expect(chunk, key0, &block, &ahead);
    const bool one_by_one = args->scores.data != NULL || (args->mask.data != NULL && args->mask.dtype != MHA_BOOL);
    bool active = false;

    for (int64_t t = 0; t < chunk->tiles; t++) {
        mha_tile *tile = &memory->tiles[t];
        place.rows = &memory->rows[t];
        mha_mask_tile(&place, block.keys, tile, memory->excluded + t * plan->path->block_keys, memory->bias,
                      memory->scores);
        mha_phase_end(MHA_PHASE_MASK);
        if (tile->begin == tile->end) continue;
        if (!active) pack(chunk, &block);
        active = true;
        if (!one_by_one) continue;
        if (args->scores.data != NULL) tile->scores_visitor = &place;
        plan->path->block[plan->exp](&plan->softmax, &block, tile, 1, memory->scores);
        tile->scores_visitor = NULL;
        block.next_keys = 0; /* fetched by the first tile */
    }
    if (active && !one_by_one)
        plan->path->block[plan->exp](&plan->softmax, &block, memory->tiles, (size_t)chunk->tiles, memory->scores);
}

static void write_lse(const mha_plan *plan, int64_t batch, int64_t head, int64_t query, float lse) {
    const mha_row_tensor *tensor = &plan->args.lse;
    tensor->data[batch * tensor->stride[0] + head * tensor->stride[1] + query * tensor->stride[2]] = lse;
}

/* Writes a tile's rows: the output, or a partial result. */
static void tile_close(const mha_chunk *chunk, const mha_tile *tile, const mha_rows *rows) {
    const mha_attention_call *call = chunk->call;
    const mha_plan *plan = &call->plan;
    const bool whole = chunk->splits == 1;
    void *out[MHA_MAX_LANES];
    float lse[MHA_MAX_LANES];
    if (whole) point_at_rows(chunk, &plan->args.out, rows->row0, tile->rows, out);
    if (plan->args.lse.data != NULL && whole)
        plan->kernels->lse(tile->max, tile->sum, lse, (size_t)tile->rows, plan->softmax.scale);
    for (int32_t r = 0; r < tile->rows && (!whole || plan->args.lse.data != NULL); r++) {
        const int64_t head = mha_row_head(plan, chunk->kv_head, rows->row0 + r);
        const int64_t query = mha_row_query(plan, rows->row0 + r);
        if (!whole) {
            float *partial = partial_of(call, chunk->batch, head, query, chunk->split);
            partial[0] = tile->max[r];
            partial[1] = tile->sum[r];
            out[r] = partial + 2;
        } else {
            write_lse(plan, chunk->batch, head, query, lse[r]);
        }
    }
    plan->path->finish(tile, out, whole ? plan->args.out.dtype : MHA_F32, (int32_t)plan->args.v_head_dim, whole);
}

static void attention_task(void *closure, size_t worker, size_t index) {
    const mha_attention_call *call = closure;
    const mha_plan *plan = &call->plan;
    const int64_t step = plan->path->block_keys;
    mha_chunk chunk = {.call = call};
    mha_chunk_locate(plan, index, &chunk);
    if (chunk.split >= chunk.splits) return;
    mha_phase_start();
    mha_worker_carve(plan, call->workers + worker * plan->worker_bytes, &chunk.memory);
    if (plan->path->open != NULL) plan->path->open();
    chunk_open(&chunk);
    mha_phase_end(MHA_PHASE_LOAD);
    for (int64_t key0 = chunk.first_key / step * step; key0 < chunk.last_key; key0 += step) chunk_block(&chunk, key0);
    for (int64_t t = 0; t < chunk.tiles; t++) {
        const mha_tile_place place = {.plan = plan,
                                      .rows = &chunk.memory.rows[t],
                                      .batch = chunk.batch,
                                      .kv_head = chunk.kv_head,
                                      .wide_scores = chunk.memory.wide_scores};
        mha_scores_finish(&place, &chunk.memory.tiles[t]);
        tile_close(&chunk, &chunk.memory.tiles[t], place.rows);
    }
    if (plan->path->close != NULL) plan->path->close();
    mha_phase_end(MHA_PHASE_FINISH);
}

/* Merges the splits of all queries of one head. */
static void merge_task(void *closure, size_t worker, size_t index) {
    (void)worker;
    const mha_attention_call *call = closure;
    const mha_plan *plan = &call->plan;
    const int64_t batch = (int64_t)index / plan->args.q_heads, head = (int64_t)index % plan->args.q_heads;
    const int64_t splits = mha_splits_of(plan, batch);
    if (splits == 1) return;
    const mha_tensor *out = &plan->args.out;
    for (int64_t query = 0; query < plan->args.q_len; query++) {
        float *partial = partial_of(call, batch, head, query, 0), lse;
        void *row = mha_row_of(out, batch, head, query);
        float *merged = mha_is_half(out->dtype) ? partial + 2 : row;
        plan->kernels->merge(&plan->softmax, partial, (size_t)splits, plan->partial_floats, merged,
                             (int32_t)plan->args.v_head_dim);
        if (mha_is_half(out->dtype)) plan->kernels->narrow(merged, out->dtype, row, (size_t)plan->args.v_head_dim);
        if (plan->args.lse.data == NULL) continue;
        plan->kernels->lse(&partial[0], &partial[1], &lse, 1, plan->softmax.scale);
        write_lse(plan, batch, head, query, lse);
    }
}

void mha_attention_run(const mha_plan *plan, const mha_executor *executor, void *workspace) {
    if (plan->appends) mha_cache_append(plan, executor);
    if (plan->rows == 0) return;
    char *aligned = mha_align_pointer(workspace);
    mha_attention_call call = {.plan = *plan,
                               .partials = aligned,
                               .workers = aligned + plan->partials_bytes,
                               .n_workers = mha_n_workers(executor)};
    mha_parallel_for(executor, (size_t)plan->tasks, attention_task, &call);
    if (plan->splits > 1)
        mha_parallel_for(executor, (size_t)(plan->args.batch * plan->args.q_heads), merge_task, &call);
}

static mha_status prepare(mha_plan *plan, const mha_context *context, const mha_attention_args *args,
                          const mha_executor *executor, const void *workspace, size_t workspace_bytes,
                          mha_message message) {
    TRY(mha_plan_read(plan, context, args, message));
    TRY(mha_check_executor(executor, message));
    TRY(mha_plan_cut(plan, mha_n_workers(executor), message));
    TRY(mha_check_workspace(workspace, workspace_bytes, plan->workspace_bytes, message));
    TRY(mha_plan_check_memory(plan, workspace, message));
    return mha_succeed(message);
}

mha_status mha_attention(const mha_context *context, const mha_attention_args *args, const mha_executor *executor,
                         void *workspace, size_t workspace_bytes) {
    mha_plan plan;
    const mha_status status = prepare(&plan, context, args, executor, workspace, workspace_bytes, (mha_message){0});
    if (status == MHA_OK) mha_attention_run(&plan, executor, workspace);
    return status;
}

mha_status mha_attention_check(const mha_context *context, const mha_attention_args *args, const mha_executor *executor,
                               const void *workspace, size_t workspace_bytes, char *text, size_t text_bytes) {
    mha_plan plan;
    return prepare(&plan, context, args, executor, workspace, workspace_bytes, (mha_message){text, text_bytes});
}

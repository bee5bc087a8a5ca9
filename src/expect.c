/* The order of the tasks, and from it what a worker needs next. */
#include "chunk.h"
#include "mask.h"

/* Causal chunks at the end see the most keys; they come first, so that what is left when the
 * workers run out of tasks is short. */
void mha_chunk_locate(const mha_plan *plan, size_t index, mha_chunk *chunk) {
    const int64_t heads = plan->args.batch * plan->args.kv_heads;
    int64_t rest = (int64_t)index, head, part;
    chunk->index = index;
    chunk->split = rest % plan->splits;
    rest /= plan->splits;
    if (plan->args.is_causal) {
        head = rest % heads;
        part = plan->chunks - 1 - rest / heads;
    } else {
        head = rest / plan->chunks;
        part = rest % plan->chunks;
    }
    chunk->batch = head / plan->args.kv_heads;
    chunk->kv_head = head % plan->args.kv_heads;
    chunk->row0 = part * plan->chunk_rows;
    chunk->rows = mha_min(plan->chunk_rows, plan->rows - chunk->row0);
    chunk->splits = mha_splits_of(plan, chunk->batch);
}

/* Where a chunk's keys begin, or soon after: its first row's decide. */
static int64_t first_block(const mha_chunk *chunk) {
    const mha_plan *plan = &chunk->call->plan;
    mha_rows rows;
    mha_rows_open(plan, chunk->batch, chunk->row0, 1, &rows);
    const int64_t first = mha_max(rows.first[0], chunk->split * mha_plan_split_keys(plan, chunk->batch));
    return first / plan->path->block_keys * plan->path->block_keys;
}

/* A chunk's rows of q or out. */
static mha_ahead_rows query_rows(const mha_chunk *chunk, const mha_tensor *tensor, int64_t dim) {
    const mha_plan *plan = &chunk->call->plan;
    const int64_t head = mha_row_head(plan, chunk->kv_head, chunk->row0), query = mha_row_query(plan, chunk->row0);
    const int64_t bytes = mha_dtype_bytes(tensor->dtype);
    return (mha_ahead_rows){.row = (uintptr_t)mha_row_of(tensor, chunk->batch, head, query),
                            .left = chunk->rows,
                            .bytes = dim * bytes,
                            .stride = (uint64_t)tensor->stride[2] * (uint64_t)bytes,
                            .group = plan->group,
                            .group_stride = (uint64_t)tensor->stride[1] * (uint64_t)bytes,
                            .in_group = chunk->row0 % plan->group};
}

/* A block's rows of k or v. */
static mha_ahead_rows block_rows(const mha_chunk *chunk, const mha_tensor *tensor, int64_t key0, int64_t dim) {
    const mha_plan *plan = &chunk->call->plan;
    const int64_t keys = mha_plan_kv_len(plan, chunk->batch) - key0, bytes = mha_dtype_bytes(tensor->dtype);
    if (keys <= 0) return (mha_ahead_rows){.left = 0};
    return (mha_ahead_rows){.row = (uintptr_t)mha_row_of(tensor, chunk->batch, chunk->kv_head, key0),
                            .left = mha_min(plan->path->block_keys, keys),
                            .bytes = dim * bytes,
                            .stride = (uint64_t)tensor->stride[2] * (uint64_t)bytes,
                            .group = 1};
}

void mha_chunk_expect(const mha_chunk *now, int64_t key0, mha_kv_block *block, mha_ahead *ahead) {
    const mha_plan *plan = &now->call->plan;
    const mha_attention_args *args = &plan->args;
    mha_chunk next = *now;
    int64_t next_key0 = key0 + plan->path->block_keys;
    if (next_key0 >= now->last_key) {
        if (now->splits == 1) mha_ahead_add(ahead, query_rows(now, &args->out, args->v_head_dim));
        if (now->index + now->call->n_workers >= (size_t)plan->tasks) return;
        mha_chunk_locate(plan, now->index + now->call->n_workers, &next);
        if (next.split >= next.splits) return;
        mha_ahead_add(ahead, query_rows(&next, &args->q, args->head_dim));
        next_key0 = first_block(&next);
    }
    const mha_ahead_rows k = block_rows(&next, &args->k, next_key0, args->head_dim);
    const mha_ahead_rows v = block_rows(&next, &args->v, next_key0, args->v_head_dim);
    mha_ahead_add(ahead, v);
    mha_ahead_add(ahead, k);
    block->next_keys = (int32_t)k.left;
    block->next_k = (const void *)k.row;
    block->next_v = (const void *)v.row;
}

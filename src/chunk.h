/* What a task of mha_attention works on. */
#ifndef MHA_CHUNK_H
#define MHA_CHUNK_H

#include "plan.h"

typedef struct mha_attention_call {
    mha_plan plan;
    char *partials; /* [batch, q_heads, q_len, splits] rows of {max, sum, o[v_head_dim]} */
    char *workers;  /* [n_workers] of worker_bytes */
    size_t n_workers;
} mha_attention_call;

typedef struct mha_chunk {
    const mha_attention_call *call;
    mha_worker_memory memory;
    int64_t batch, kv_head, split, splits;
    int64_t row0, rows, tiles;
    int64_t first_key, last_key;
    size_t index; /* of the task */
} mha_chunk;

static inline int64_t mha_splits_of(const mha_plan *plan, int64_t batch) {
    return mha_max(1, mha_ceil_div(mha_plan_kv_len(plan, batch), mha_plan_split_keys(plan, batch)));
}

/* Which chunk task `index` is: sets all but call, memory, tiles, first_key and last_key. */
void mha_chunk_locate(const mha_plan *plan, size_t index, mha_chunk *chunk);

/* What is needed after the block at key0, in the order of need (expect.c): the next one; after the last, where the
 * output goes and what this worker's next task begins with, if workers take turns.  A wrong guess costs at most a
 * block's worth of reading. */
void mha_chunk_expect(const mha_chunk *now, int64_t key0, mha_kv_block *block, mha_ahead *ahead);

#endif

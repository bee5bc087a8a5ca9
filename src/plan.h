/* A call of mha_attention, checked and cut into tasks.  Everything the driver and its helpers need, and nothing that
 * depends on the contents of the tensors. */
#ifndef MHA_PLAN_H
#define MHA_PLAN_H

#include "arith.h"
#include "context.h"

/* The query rows of one KV head are numbered position-major, row = query * group + (head within the group), so that the
 * rows of a tile are close in position and see nearly the same keys. */
typedef struct mha_plan {
    mha_attention_args args; /* defaults resolved.  With a cache k, v and kv_len are its own, new tokens included, */
    bool appends;            /* and these are set: */
    mha_kv_cache cache;      /* past_k.data NULL: the past is where it belongs */
    mha_tensor new_k, new_v;
    int64_t new_len;
    const mha_kernels *kernels;
    const char *isa;      /* of the context */
    int parts;            /* of bf16 that operands are multiplied in, if they are */
    const mha_path *bf16; /* takes the call, if tiles do; NULL: those of kernels */
    const mha_path *path;
    int exp;
    mha_softmax softmax;

    int64_t group;       /* query heads that share a KV head */
    int64_t rows;        /* query rows of a KV head: q_len * group */
    int64_t chunk_rows;  /* rows that a task takes through all its key blocks */
    int64_t chunks;      /* of a KV head */
    int64_t splits;      /* room for partial results of a row; 1: there are none */
    int64_t tasks;       /* batch * kv_heads * chunks * splits */
    int64_t chunk_tiles; /* most tiles of a chunk */
    mha_level level;     /* where the operands are: from afar, what comes next is fetched ahead */

    size_t partial_floats; /* of a query row: max, sum, o */
    size_t partials_bytes; /* of all */
    size_t worker_bytes;   /* of each worker; after the partials */
    size_t workspace_bytes;
} mha_plan;

/* Tokens of batch item b in the cache before the new ones. */
static inline int64_t mha_plan_past_len(const mha_plan *plan, int64_t b) {
    return plan->cache.past_lens != NULL ? plan->cache.past_lens[b] : plan->cache.past_len;
}

/* The keys of batch item b. */
static inline int64_t mha_plan_kv_len(const mha_plan *plan, int64_t b) {
    if (plan->args.kv_lens != NULL) return plan->args.kv_lens[b];
    return plan->appends ? mha_plan_past_len(plan, b) + plan->new_len : plan->args.kv_len;
}

/* The keys of a split of batch item b; all there are, or a multiple of block_keys.  A function of its kv length and of
 * what holds for the whole call, so that bits depend neither on the batch nor on padding. */
int64_t mha_plan_split_keys(const mha_plan *plan, int64_t b);

/* Checks all but the operands' memory (check.c) and fills args, kernels and exp: enough to cut the work. */
mha_status mha_plan_read(mha_plan *plan, const mha_context *context, const mha_attention_args *args,
                         mha_message message);

/* How scores become weights. */
mha_softmax mha_softmax_of(const mha_attention_args *args);

/* Cuts the work for n_workers; args are valid. */
mha_status mha_plan_cut(mha_plan *plan, size_t n_workers, mha_message message);

/* Writes what the plan does, in lines, and returns MHA_OK (describe.c). */
mha_status mha_plan_describe(const mha_plan *plan, mha_message message);

/* Checks where the operands and the workspace lie (check.c). */
mha_status mha_plan_check_memory(const mha_plan *plan, const void *workspace, mha_message message);

/* Writes the new keys and values to the cache, the past too unless it is there (cache.c). */
void mha_cache_append(const mha_plan *plan, const mha_executor *executor);

/* Computes (attention.c). */
void mha_attention_run(const mha_plan *plan, const mha_executor *executor, void *workspace);

/* Where the parts of a worker's memory lie; all aligned. */
typedef struct mha_worker_memory {
    mha_tile *tiles;       /* [chunk_tiles], with q, o, max, sum set */
    struct mha_rows *rows; /* [chunk_tiles] */
    uint64_t *excluded;    /* [chunk_tiles][block_keys] */
    float *scores, *bias;  /* of one tile and block */
    float *packed_k, *packed_v;
    float *wide_scores; /* of half precision, as f32: [max_rows][kv_len]; chunks are then one tile */
} mha_worker_memory;

/* What the driver knows of a tile's rows beside the kernels' mha_tile. */
typedef struct mha_rows {
    int64_t row0;
    /* Row r sees keys first[r] <= key < last[r], but for the mask; both are 0 if it sees none.  first_min (INT64_MAX)
     * and last_max (0, if there is none) are over the rows that see a key, first_max and last_min over all: a row that
     * sees none leaves no block full. */
    int64_t first[MHA_MAX_LANES], last[MHA_MAX_LANES];
    int64_t first_min, first_max, last_min, last_max;
} mha_rows;

/* Carves a worker's memory and returns its size; with memory NULL only the size. */
size_t mha_worker_carve(const mha_plan *plan, char *memory, mha_worker_memory *worker);

#endif

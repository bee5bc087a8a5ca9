/* Which keys the rows of a tile see, and what is added to their scores. */
#ifndef MHA_MASK_H
#define MHA_MASK_H

#include "plan.h"

/* Where a tile's rows come from. */
typedef struct mha_tile_place {
    const mha_plan *plan;
    const mha_rows *rows;
    int64_t batch, kv_head;
    int64_t key0;       /* first key of the block */
    float *wide_scores; /* of the worker's memory */
} mha_tile_place;

/* A division takes as long as the copy of a row. */
static inline int64_t mha_row_query(const mha_plan *plan, int64_t row) {
    return plan->group == 1 ? row : row / plan->group;
}

static inline int64_t mha_row_head(const mha_plan *plan, int64_t kv_head, int64_t row) {
    return kv_head * plan->group + (row - mha_row_query(plan, row) * plan->group);
}

/* Where a mask or the scores output has a tile's row and a key. */
static inline char *mha_score_at(const mha_tile_place *place, const mha_score_tensor *tensor, int32_t r, int64_t key) {
    const int64_t row = place->rows->row0 + r;
    const int64_t at = place->batch * tensor->stride[0] +
                       mha_row_head(place->plan, place->kv_head, row) * tensor->stride[1] +
                       mha_row_query(place->plan, row) * tensor->stride[2] + key * tensor->stride[3];
    return (char *)tensor->data + at * mha_dtype_bytes(tensor->dtype);
}

/* Whether a mask is the same for all rows of a tile, as of padding. */
static inline bool mha_mask_is_shared(const mha_plan *plan) {
    const mha_score_tensor *mask = &plan->args.mask;
    return mask->stride[2] == 0 && (mask->stride[1] == 0 || plan->group == 1);
}

/* Fills rows for n rows from row0 on: the keys each sees by causality, window and kv length. */
void mha_rows_open(const mha_plan *plan, int64_t batch, int64_t row0, int32_t n, mha_rows *rows);

/* Sets begin, end, excluded and bias of the tile for a block of `keys` keys.  `excluded` has room for a block; `bias`
 * for its scores, laid out as the path has them, and `room` for as many floats; both are only used with an additive
 * mask. */
void mha_mask_tile(const mha_tile_place *place, int32_t keys, mha_tile *tile, uint64_t *excluded, float *bias,
                   float *room);

#endif

/* Y = X W^T + bias over [batch, tokens, width] activations, cut into tasks. */
#ifndef MHA_PROJECTION_H
#define MHA_PROJECTION_H

#include "kernel.h"

typedef struct mha_projection {
    const mha_gemm_kernels *kernels;
    mha_gemm gemm; /* of one item; x and y point at the first */
    int64_t items, x_item_stride, y_item_stride;
    int64_t rows;               /* of an item */
    int64_t row_step, out_step; /* of a task */
    int64_t row_tasks;          /* of an item */
    int64_t tasks;
} mha_projection;

/* [batch, tokens, width] with a stride of each of the first two. */
typedef struct mha_rows_view {
    void *data;
    mha_dtype dtype;
    int64_t batch_stride, token_stride;
} mha_rows_view;

/* weight: in, out, packed, w_dtype, bias, level, w_parts and the most x_parts there may be are set. */
mha_projection mha_projection_cut(const mha_gemm_kernels *kernels, const mha_gemm *weight, int64_t batch,
                                  int64_t tokens, mha_rows_view x, mha_rows_view y, size_t n_workers);

/* Task `index` of `tasks`; scratch as kernels->scratch_floats says. */
void mha_projection_task(const mha_projection *projection, int64_t index, float *scratch);

#endif

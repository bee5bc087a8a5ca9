#include "projection.h"

#include "arith.h"
#include "executor.h"

enum {
    OUT_PANELS = 8, /* of a task: its weights then stay in a second-level cache for all rows */
};

/* Unsigned, since strides are not checked yet when a workspace is measured. */
static bool is_one_matrix(const mha_rows_view *view, int64_t tokens) {
    return (uint64_t)view->batch_stride == (uint64_t)tokens * (uint64_t)view->token_stride;
}

mha_projection mha_projection_cut(const mha_kernels *kernels, const mha_gemm *weight, int64_t batch, int64_t tokens,
                                  mha_rows_view x, mha_rows_view y, size_t n_workers) {
    mha_projection p = {.kernels = kernels,
                        .gemm = *weight,
                        .items = batch,
                        .rows = tokens,
                        .x_item_stride = x.batch_stride,
                        .y_item_stride = y.batch_stride};
    p.gemm.x = x.data;
    p.gemm.x_stride = x.token_stride;
    p.gemm.y = y.data;
    p.gemm.y_stride = y.token_stride;
    if (is_one_matrix(&x, tokens) && is_one_matrix(&y, tokens)) p.items = 1, p.rows = batch * tokens;
    p.row_tasks = mha_ceil_div(p.rows, MHA_GEMM_ROWS);

    const int64_t panels = mha_ceil_div(weight->out, kernels->gemm_panel);
    const int64_t row_tasks = mha_max(1, p.items * p.row_tasks);
    const int64_t wanted = n_workers > 1 ? mha_ceil_div((int64_t)n_workers * MHA_TASKS_PER_WORKER, row_tasks) : 1;
    const int64_t task_panels = mha_max(1, mha_min(OUT_PANELS, panels / wanted));
    p.out_step = task_panels * kernels->gemm_panel;
    p.tasks = p.items * p.row_tasks * mha_ceil_div(panels, task_panels);
    return p;
}

/* Row blocks follow each other, so that a worker meets the same weights again. */
void mha_projection_task(const mha_projection *p, int64_t index, float *scratch) {
    const int64_t row_task = index % p->row_tasks, item = index / p->row_tasks % p->items;
    const int64_t row0 = row_task * MHA_GEMM_ROWS, out0 = index / p->row_tasks / p->items * p->out_step;
    mha_gemm gemm = p->gemm;
    gemm.x += item * p->x_item_stride;
    gemm.y += item * p->y_item_stride;
    p->kernels->gemm(&gemm, row0, mha_min(p->rows, row0 + MHA_GEMM_ROWS), out0, mha_min(gemm.out, out0 + p->out_step),
                     scratch);
}

#include "projection.h"

#include "arith.h"
#include "executor.h"

enum {
    ROW_UNIT = 8,   /* rows of a task are whole panels, but for AMX, which has panels of 32, */
    LEAST_ROWS = 48 /* and not so few that they wait for their weights */
};

/* Unsigned, since strides are not checked yet when a workspace is measured. */
static bool is_one_matrix(const mha_rows_view *view, int64_t tokens) {
    return (uint64_t)view->batch_stride == (uint64_t)tokens * (uint64_t)view->token_stride;
}

/* Rows of a task: even, and as many as leave enough tasks. */
static int64_t row_step(int64_t rows, int64_t most, int64_t wanted) {
    const int64_t fewest = mha_max(1, mha_ceil_div(rows, most));
    const int64_t blocks = mha_max(fewest, mha_min(wanted, rows / LEAST_ROWS));
    return mha_max(1, mha_ceil_div(mha_ceil_div(rows, blocks), ROW_UNIT)) * ROW_UNIT;
}

/* Blocks of rows, if so many tasks are wanted.  Where each task packs its rows, cuts of both sides waste least: a task
 * of n panels by r rows costs (n + 1) (r + panel_rows). */
static int64_t wanted_blocks(const mha_gemm_kernels *kernels, int64_t rows, int64_t panels, int64_t wanted) {
    int64_t blocks = mha_ceil_div(wanted, panels);
    if (kernels->panel_rows == 0) return blocks;
    while (blocks < wanted && (blocks + 1) * (blocks + 1) * kernels->panel_rows * panels <= rows * wanted) blocks++;
    return blocks;
}

mha_projection mha_projection_cut(const mha_gemm_kernels *kernels, const mha_gemm *weight, int64_t batch,
                                  int64_t tokens, mha_rows_view x, mha_rows_view y, size_t n_workers) {
    mha_projection p = {.kernels = kernels,
                        .gemm = *weight,
                        .items = batch,
                        .rows = tokens,
                        .x_item_stride = x.batch_stride,
                        .y_item_stride = y.batch_stride};
    p.gemm.x = x.data;
    p.gemm.x_dtype = x.dtype;
    p.gemm.x_parts = (int)mha_min(weight->x_parts, mha_bf16_parts(x.dtype));
    p.gemm.x_stride = x.token_stride;
    p.gemm.y = y.data;
    p.gemm.y_dtype = y.dtype;
    p.gemm.y_stride = y.token_stride;
    if (is_one_matrix(&x, tokens) && is_one_matrix(&y, tokens)) p.items = 1, p.rows = batch * tokens;
    const int64_t panels = mha_max(1, weight->out / kernels->panel); /* whole ones: the last may be short */
    const int64_t wanted = n_workers > 1 ? (int64_t)n_workers * MHA_TASKS_PER_WORKER : 1;
    const int64_t items = mha_max(1, p.items);
    const int64_t blocks = wanted_blocks(kernels, p.rows, panels, mha_ceil_div(wanted, items));
    p.row_step = row_step(p.rows, kernels->max_rows, blocks);
    p.row_tasks = mha_ceil_div(p.rows, p.row_step);
    const int64_t row_blocks = items * mha_max(1, p.row_tasks);
    const int64_t most = row_blocks > 1 ? kernels->max_panels : panels;
    const int64_t task_panels = mha_max(1, mha_min(most, panels / mha_ceil_div(wanted, row_blocks)));
    p.out_step = task_panels * kernels->panel;
    p.tasks = p.items * p.row_tasks * mha_ceil_div(weight->out, p.out_step);
    return p;
}

/* Row blocks follow each other, so that a worker meets the same weights again. */
void mha_projection_task(const mha_projection *p, int64_t index, float *scratch) {
    const int64_t row_task = index % p->row_tasks, item = index / p->row_tasks % p->items;
    const int64_t row0 = row_task * p->row_step, out0 = index / p->row_tasks / p->items * p->out_step;
    mha_gemm gemm = p->gemm;
    gemm.x = mha_element(gemm.x, item * p->x_item_stride, gemm.x_dtype);
    gemm.y = (char *)gemm.y + item * p->y_item_stride * mha_dtype_bytes(gemm.y_dtype);
    p->kernels->multiply(&gemm, row0, mha_min(p->rows, row0 + p->row_step), out0, mha_min(gemm.out, out0 + p->out_step),
                         scratch);
}

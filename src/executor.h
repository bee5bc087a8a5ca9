/* The caller's threads. */
#ifndef MHA_EXECUTOR_H
#define MHA_EXECUTOR_H

#include "mha/mha.h"

enum { MHA_TASKS_PER_WORKER = 4 /* so that the last task to finish is short */ };

static inline size_t mha_n_workers(const mha_executor *executor) { return executor != NULL ? executor->n_workers : 1; }

/* Runs tasks on the executor, or on the calling thread if one is enough. */
static inline void mha_parallel_for(const mha_executor *executor, size_t n_tasks, mha_task *task, void *closure) {
    if (mha_n_workers(executor) > 1 && n_tasks > 1) {
        executor->parallel_for(executor->user, n_tasks, task, closure);
        return;
    }
    for (size_t i = 0; i < n_tasks; i++) task(closure, 0, i);
}

#endif

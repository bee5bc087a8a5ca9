/* libmha: executors over thread pools that callers often have.  SPDX-License-Identifier: MIT
 *
 * Header only, so that the library itself depends on no thread pool.  Define what you want before including it, or
 * build with the compiler's OpenMP flag:
 *
 *     OpenMP        compile with -fopenmp         mha_openmp_executor
 *     pthreadpool   define MHA_WITH_PTHREADPOOL   mha_pthreadpool_executor; include path of <pthreadpool.h>, and link it
 *
 * Executors are plain values: they own nothing and need no destruction.
 */
#ifndef MHA_THREADS_H
#define MHA_THREADS_H

#include "mha/mha.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef MHA_WITH_PTHREADPOOL
#include <pthreadpool.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifdef _OPENMP

/* A mha_executor.parallel_for.  OpenMP may give the team fewer threads than asked for (OMP_DYNAMIC, a thread limit, an
 * enclosing parallel region), which is right but slower.  Dynamic, because tasks of causal attention differ in
 * length. */
static inline void mha_openmp_parallel_for(void *user, size_t n_tasks, mha_task *task, void *closure) {
    const int n_threads = (int)(intptr_t)user;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 1)
    for (size_t i = 0; i < n_tasks; i++) task(closure, (size_t)omp_get_thread_num(), i);
}

/* n_threads OpenMP threads of the thread that makes the call; 0 or less: omp_get_max_threads(). */
static inline mha_executor mha_openmp_executor(int n_threads) {
    const int n = n_threads > 0 ? n_threads : omp_get_max_threads();
    mha_executor executor;
    executor.n_workers = (size_t)n;
    executor.parallel_for = mha_openmp_parallel_for;
    executor.user = (void *)(intptr_t)n;
    return executor;
}

#endif

#ifdef MHA_WITH_PTHREADPOOL

typedef struct mha_pthreadpool_job {
    mha_task *task;
    void *closure;
    size_t n_tasks;
    size_t next; /* the first task that no worker has taken; atomic */
} mha_pthreadpool_job;

static inline void mha_pthreadpool_work(void *context, size_t worker) {
    mha_pthreadpool_job *job = (mha_pthreadpool_job *)context;
    for (;;) {
        const size_t i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (i >= job->n_tasks) return;
        job->task(job->closure, worker, i);
    }
}

/* A mha_executor.parallel_for.  Not every release of pthreadpool tells a task its thread, and one that does still lets
 * threads steal; so the pool runs one item per worker, whose index is the worker's, and workers take tasks in order. */
static inline void mha_pthreadpool_parallel_for(void *user, size_t n_tasks, mha_task *task, void *closure) {
    const pthreadpool_t pool = (pthreadpool_t)user;
    const size_t n_threads = pthreadpool_get_threads_count(pool);
    mha_pthreadpool_job job;
    job.task = task;
    job.closure = closure;
    job.n_tasks = n_tasks;
    job.next = 0;
    pthreadpool_parallelize_1d(pool, mha_pthreadpool_work, &job, n_tasks < n_threads ? n_tasks : n_threads, 0);
}

/* All threads of `pool`, the caller's among them; NULL: the calling thread.  The pool must outlive the executor's use.
 * Calls that share a pool wait for each other. */
static inline mha_executor mha_pthreadpool_executor(pthreadpool_t pool) {
    mha_executor executor;
    executor.n_workers = pthreadpool_get_threads_count(pool);
    executor.parallel_for = mha_pthreadpool_parallel_for;
    executor.user = pool;
    return executor;
}

#endif

#ifdef __cplusplus
}
#endif

#endif

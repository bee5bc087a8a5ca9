#include "executor.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MAX_WORKERS = 64 };

typedef struct job {
    mha_task *task;
    void *closure;
    size_t n_tasks;
    atomic_size_t next;
} job;

typedef struct worker {
    job *job;
    size_t index;
} worker;

static void *work(void *argument) {
    const worker *w = argument;
    for (;;) {
        const size_t i = atomic_fetch_add(&w->job->next, 1);
        if (i >= w->job->n_tasks) return NULL;
        w->job->task(w->job->closure, w->index, i);
    }
}

static void parallel_for(void *user, size_t n_tasks, mha_task *task, void *closure) {
    const size_t n_workers = (size_t)(uintptr_t)user;
    job j = {.task = task, .closure = closure, .n_tasks = n_tasks};
    worker workers[MAX_WORKERS];
    pthread_t threads[MAX_WORKERS];
    for (size_t i = 0; i < n_workers; i++) workers[i] = (worker){&j, i};
    for (size_t i = 1; i < n_workers; i++)
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0) abort();
    work(&workers[0]);
    for (size_t i = 1; i < n_workers; i++) pthread_join(threads[i], NULL);
}

mha_executor executor_make(size_t n_workers) {
    if (n_workers < 1 || n_workers > MAX_WORKERS) abort();
    return (mha_executor){.n_workers = n_workers, .parallel_for = parallel_for, .user = (void *)(uintptr_t)n_workers};
}

static void backwards(void *user, size_t n_tasks, mha_task *task, void *closure) {
    const size_t n_workers = (size_t)(uintptr_t)user;
    for (size_t i = n_tasks; i-- > 0;) task(closure, i * 5 % n_workers, i);
}

mha_executor executor_backwards(size_t n_workers) {
    return (mha_executor){.n_workers = n_workers, .parallel_for = backwards, .user = (void *)(uintptr_t)n_workers};
}

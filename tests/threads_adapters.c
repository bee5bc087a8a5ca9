/* Do the executors of mha/threads.h keep the promises of mha_executor?  Each index once, workers in range, no two tasks
 * at a time with the same worker, all done on return, and really in parallel. */
#define _GNU_SOURCE /* usleep */
#define MHA_WITH_PTHREADPOOL
#include "mha/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

enum { MAX_TASKS = 1000, MAX_WORKERS = 16 };

typedef struct tally {
    size_t n_workers;
    unsigned task_microseconds;
    atomic_int runs[MAX_TASKS];
    atomic_bool busy[MAX_WORKERS];
    atomic_int running, most_running, broken;
} tally;

static void count_task(void *closure, size_t worker, size_t index) {
    tally *t = closure;
    if (worker >= t->n_workers || index >= MAX_TASKS || atomic_exchange(&t->busy[worker], true)) {
        atomic_fetch_add(&t->broken, 1);
        return;
    }
    const int running = atomic_fetch_add(&t->running, 1) + 1;
    int most = atomic_load(&t->most_running);
    while (running > most && !atomic_compare_exchange_weak(&t->most_running, &most, running)) {
    }
    if (t->task_microseconds > 0) usleep(t->task_microseconds);
    atomic_fetch_add(&t->runs[index], 1);
    atomic_fetch_sub(&t->running, 1);
    atomic_store(&t->busy[worker], false);
}

/* Returns how many tasks ran at the same time. */
static int run_and_check(const mha_executor *executor, size_t n_tasks, unsigned task_microseconds) {
    static tally t;
    assert_true(executor->n_workers >= 1 && executor->n_workers <= MAX_WORKERS);
    t = (tally){.n_workers = executor->n_workers, .task_microseconds = task_microseconds};
    executor->parallel_for(executor->user, n_tasks, count_task, &t);
    assert_int_equal(t.running, 0);
    assert_int_equal(t.broken, 0);
    for (size_t i = 0; i < MAX_TASKS; i++) assert_int_equal(t.runs[i], i < n_tasks);
    return t.most_running;
}

static void check_executor(const mha_executor *executor, size_t n_workers) {
    assert_int_equal(executor->n_workers, n_workers);
    const size_t n_tasks[] = {0, 1, 2, n_workers, n_workers + 1, MAX_TASKS};
    for (size_t i = 0; i < sizeof n_tasks / sizeof *n_tasks; i++) run_and_check(executor, n_tasks[i], 0);
    /* 40 ms of sleeping each: with threads, the second one surely wakes up within them. */
    const int most = run_and_check(executor, 200, 200);
    if (n_workers > 1) assert_in_range(most, 2, n_workers);
    else assert_int_equal(most, 1);
}

static void test_pthreadpool(void **state) {
    (void)state;
    for (size_t n = 1; n <= 5; n++) {
        const pthreadpool_t pool = pthreadpool_create(n);
        assert_non_null(pool);
        const mha_executor executor = mha_pthreadpool_executor(pool);
        check_executor(&executor, n);
        pthreadpool_destroy(pool);
    }
}

static void test_no_pthreadpool(void **state) {
    (void)state;
    const mha_executor executor = mha_pthreadpool_executor(NULL);
    check_executor(&executor, 1);
}

#ifdef _OPENMP
static void test_openmp(void **state) {
    (void)state;
    for (int n = 1; n <= 5; n++) {
        const mha_executor executor = mha_openmp_executor(n);
        check_executor(&executor, (size_t)n);
    }
}

static void test_openmp_default(void **state) {
    (void)state;
    omp_set_num_threads(3);
    const mha_executor executor = mha_openmp_executor(0);
    check_executor(&executor, 3);
}

/* Inside a parallel region of the caller, where OpenMP grants one thread. */
static void test_openmp_nested(void **state) {
    (void)state;
    atomic_int wrong = 0;
    omp_set_max_active_levels(1);
#pragma omp parallel num_threads(2)
    {
        tally t = {.n_workers = 4};
        const mha_executor executor = mha_openmp_executor(4);
        executor.parallel_for(executor.user, MAX_TASKS, count_task, &t);
        if (t.broken != 0 || t.most_running != 1) wrong++;
        for (size_t i = 0; i < MAX_TASKS; i++)
            if (t.runs[i] != 1) wrong++;
    }
    assert_int_equal(wrong, 0);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pthreadpool), cmocka_unit_test(test_no_pthreadpool),
#ifdef _OPENMP
        cmocka_unit_test(test_openmp),      cmocka_unit_test(test_openmp_default), cmocka_unit_test(test_openmp_nested),
#endif
    };
    return cmocka_run_group_tests_name("threads adapters", tests, NULL, NULL);
}

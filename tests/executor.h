/* An executor on POSIX threads, made for tests: thread sanitizers see all of it. */
#ifndef TESTS_EXECUTOR_H
#define TESTS_EXECUTOR_H

#include "mha/mha.h"

/* Worker 0 is the thread that calls; the others are started by each parallel_for and joined before it returns. */
mha_executor executor_make(size_t n_workers);

/* The calling thread alone, tasks backwards, the worker a different one each time: what the contract allows and no
 * ordinary executor does. */
mha_executor executor_backwards(size_t n_workers);

#endif

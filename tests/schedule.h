/* Tasks of a plan, and what their greedy schedule is held to: each task goes, in order, to the worker that is free
 * first, as all executors with a shared counter have it. */
#ifndef TESTS_SCHEDULE_H
#define TESTS_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MOST_WORKERS = 256,
    MOST_TASKS = 1 << 14,
    EVEN_TASKS = 4 /* for each worker: if they are equal, the slowest is within 1.25 of the mean */
};

typedef struct tasks {
    int64_t n, idle, total, largest, cost[MOST_TASKS];
} tasks;

/* What work could be cut into. */
typedef struct pieces {
    int64_t n;
    double largest;
} pieces;

void tasks_clear(tasks *t);
void tasks_add(tasks *t, int64_t cost);

/* With EVEN_TASKS pieces or more for each of n workers the slowest is within 1.25 of the mean.  With fewer, it has at
 * most one piece above the mean; and while a worker has nothing, none has two.  Uneven: of lengths that the plan does
 * not look at, since its workspace must not depend on them; only the bound of any greedy schedule is left, the mean and
 * one task more (Graham, 1969). */
void tasks_check(const char *what, const tasks *t, const pieces *p, bool uneven, size_t n);

/* The number of workers after n.  Emulators take all small numbers and some large ones. */
size_t next_workers(size_t n);

#endif

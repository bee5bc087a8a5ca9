#include "schedule.h"

#include "arith.h"
#include "isas.h"
#include "test.h"

#include <math.h>

void tasks_clear(tasks *t) { t->n = t->idle = t->total = t->largest = 0; }

void tasks_add(tasks *t, int64_t cost) {
    if (t->n == MOST_TASKS) fail_msg("more than %d tasks", MOST_TASKS);
    t->total += cost;
    t->largest = mha_max(t->largest, cost);
    t->idle += cost == 0;
    t->cost[t->n++] = cost;
}

/* The load of the slowest worker. */
static int64_t slowest(const tasks *t, size_t n_workers) {
    int64_t load[MOST_WORKERS] = {0}, most = 0; /* a heap: no worker has more than those at 2 i + 1 and 2 i + 2 */
    for (int64_t i = 0; i < t->n; i++) {
        const int64_t end = load[0] + t->cost[i];
        size_t at = 0, child;
        for (; (child = 2 * at + 1) < n_workers; at = child) {
            if (child + 1 < n_workers && load[child + 1] < load[child]) child++;
            if (load[child] >= end) break;
            load[at] = load[child];
        }
        load[at] = end;
        most = mha_max(most, end);
    }
    return most;
}

void tasks_check(const char *what, const tasks *t, const pieces *p, bool uneven, size_t n) {
    const double mean = (double)t->total / (double)n, got = (double)slowest(t, n) / mean;
    const double least = uneven ? (double)t->largest : p->largest;
    const double wanted = 1 + fmax(1.0 / EVEN_TASKS, least / mean), rounding = 1e-9;
    if (got > 1 + (double)t->largest / mean + rounding) fail_msg("%s: %zu workers: not a greedy schedule", what, n);
    if (got > wanted + rounding)
        fail_msg("%s: %zu workers: %d tasks, the slowest has %.3f of the mean, wanted at most %.3f", what, n, (int)t->n,
                 got, wanted);
    if (t->n - t->idle < mha_min((int64_t)n, p->n))
        fail_msg("%s: %zu workers: %d tasks, wanted one for each, or all %d pieces", what, n, (int)(t->n - t->idle),
                 (int)p->n);
}

size_t next_workers(size_t n) { return n + 1 + (test_quick() ? n / 8 : 0); }

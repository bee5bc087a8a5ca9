/* The yardsticks: arithmetic peak and read bandwidth of one core. */
#define _GNU_SOURCE /* sysconf's cache sizes */
#include "bench.h"

#include <unistd.h>

/* Yardsticks are the best of so many tries of at least so long: the machine may be shared. */
enum { TRIES = 10 };
static const double TRY_SECONDS = 0.01;

static volatile float sink; /* keeps results alive */

static double seconds_of(void (*once)(const bench_row *, size_t), const bench_row *row, size_t size, size_t runs) {
    const double start = bench_cpu_seconds();
    for (size_t i = 0; i < runs; i++) once(row, size);
    return bench_cpu_seconds() - start;
}

/* How often per second once(row, size) runs. */
static double best_rate(void (*once)(const bench_row *, size_t), const bench_row *row, size_t size) {
    size_t runs = 1;
    while (seconds_of(once, row, size, runs) < TRY_SECONDS) runs *= 2;
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        const double rate = (double)runs / seconds_of(once, row, size, runs);
        if (rate > best) best = rate;
    }
    return best;
}

/* 0.5 and 0.25 keep x at its fixed point 0.5: no overflow, no subnormals. */
void bench_multiply_add(const bench_row *row, size_t n) { sink = row->multiply_add(n, 0.5f, 0.25f); }

void bench_read(const bench_row *row, const float *data, size_t n) { sink = row->read(data, n); }

static void read_once(const bench_row *row, size_t n) { bench_read(row, bench_random(n, MHA_F32), n); }

static const size_t multiply_adds = 10000;

static double flops_once(const bench_row *row) { return (double)multiply_adds * row->multiply_add_flops; }

double bench_peak(const bench_row *row) {
    static struct {
        const bench_row *row;
        double peak;
    } known[32];
    size_t i = 0;
    while (known[i].row != NULL && known[i].row != row) i++;
    if (known[i].row == NULL) {
        known[i].row = row;
        known[i].peak = best_rate(bench_multiply_add, row, multiply_adds) * flops_once(row);
    }
    return known[i].peak;
}

/* The loop reads 4 of the widest vectors from 16 places in turn. */
static size_t read_floats(double working_set) {
    const size_t step = 16 * 4 * 64 / sizeof(float), n = (size_t)(working_set / sizeof(float)) / step * step;
    return n > step ? n : step;
}

double bench_bandwidth(const bench_row *row, double working_set) {
    static struct {
        const bench_row *row;
        size_t n;
        double rate;
    } known[256];
    const size_t n = read_floats(working_set);
    size_t i = 0;
    while (known[i].row != NULL && (known[i].row != row || known[i].n != n)) i++;
    if (known[i].row == NULL) {
        known[i].row = row;
        known[i].n = n;
        known[i].rate = best_rate(read_once, row, n) * (double)n * sizeof(float);
    }
    return known[i].rate;
}

/* ---- the same as cases: how far they are from 100 percent says how quiet the machine is ------------------------- */

static const char *setup(const bench_case *self, void **state) {
    *state = (void *)self;
    return self->row->supported ? NULL : bench_cpu_lacks_isa;
}

static void run_multiply_add(void *state) { bench_multiply_add(((const bench_case *)state)->row, multiply_adds); }

static void run_read(void *state) {
    const bench_case *c = state;
    read_once(c->row, read_floats(c->working_set));
}

static void teardown(void *state) { (void)state; }

/* Half of a cache; where sysconf does not know, half of a size that is common. */
static double half_cache(int name, double common) {
    const long bytes = sysconf(name);
    return (bytes > 0 ? (double)bytes : common) / 2;
}

double bench_dram_bytes(void) {
    const double twice_last_level = 4 * half_cache(_SC_LEVEL3_CACHE_SIZE, 0);
    return twice_last_level > 0x1p30 ? twice_last_level : 0x1p30;
}

void bench_add_limits(const bench_row *row) {
    bench_case c = {.row = row, .setup = setup, .teardown = teardown, .threads = 1};
    c.run = run_multiply_add;
    c.flops = flops_once(row);
    bench_add(&c, "peak/%s", row->isa);

    const double l3 = half_cache(_SC_LEVEL3_CACHE_SIZE, 0x1p25);
    const struct {
        const char *name;
        double bytes;
    } levels[] = {
        {"L1", half_cache(_SC_LEVEL1_DCACHE_SIZE, 0x1p15)},
        {"L2", half_cache(_SC_LEVEL2_CACHE_SIZE, 0x1p19)},
        {"L3", l3 < 0x1p24 ? l3 : 0x1p24}, /* of a cache that other machines on the host fill too */
        {"DRAM", bench_dram_bytes()},
    };
    c.run = run_read;
    c.flops = 0;
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        c.working_set = levels[i].bytes;
        c.bytes = (double)read_floats(c.working_set) * sizeof(float);
        bench_add(&c, "read/%s/%s.%.0fKiB", row->isa, levels[i].name, levels[i].bytes / 1024);
    }
}

/* Memory and time for the cases. */
#define _POSIX_C_SOURCE 200112L /* posix_memalign, clock_gettime */
#include "bench.h"

#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

static void *allocate_pages(size_t bytes) {
    void *memory;
    if (posix_memalign(&memory, 4096, bytes) != 0) {
        fprintf(stderr, "bench: cannot allocate %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

void *bench_allocate(size_t bytes) { return memset(allocate_pages(bytes), 0, bytes); }

/* xorshift64* (Marsaglia, 2003; Vigna, 2016) */
static uint64_t random_next(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

static void fill(char *numbers, size_t n, mha_dtype dtype) {
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++, numbers += mha_dtype_bytes(dtype)) {
        const float x = (float)(int32_t)(random_next(&state) >> 32) * 0x1p-31f;
        if (dtype == MHA_F32) memcpy(numbers, &x, sizeof x);
        else mha_kernels_f32_scalar.narrow(&x, dtype, numbers, 1);
    }
}

void *bench_random(size_t n, mha_dtype dtype) {
    static struct {
        void *numbers;
        size_t n;
    } all[MHA_BF16 + 1];
    if (n > all[dtype].n) {
        free(all[dtype].numbers);
        all[dtype].numbers = allocate_pages(n * bench_element_bytes(dtype));
        all[dtype].n = n;
        fill(all[dtype].numbers, n, dtype);
    }
    return all[dtype].numbers;
}

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_cpu_seconds(void) { return seconds_of(CLOCK_THREAD_CPUTIME_ID); }

double bench_wall_seconds(void) { return seconds_of(CLOCK_MONOTONIC); }

uint64_t bench_ticks(void) {
#if defined(__x86_64__)
    return __rdtsc();
#else
    return 0;
#endif
}

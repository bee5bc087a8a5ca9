/* The benchmarks as a table of C functions; main.cc hands it to Google Benchmark. */
#ifndef MHA_BENCH_H
#define MHA_BENCH_H

#include "mha/mha.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct mha_gemm;
struct mha_gemm_kernels;
struct mha_kernels;

/* A row of kernels.inc, and the yardsticks compiled with its instruction set's flags (limits_isa.c): of bf16 for a row
 * that multiplies it. */
typedef struct bench_row {
    const char *isa;
    const struct mha_kernels *kernels; /* NULL: it multiplies bf16 and nothing else */
    const struct mha_gemm_kernels *gemm;
    bool splits;    /* multiplies f16 in two parts of bf16 */
    bool supported; /* by this CPU */
    float (*multiply_add)(size_t n, float a, float b);
    double multiply_add_flops; /* of each of the n */
    float (*read)(const float *data, size_t n);
} bench_row;

size_t bench_row_count(void);
const bench_row *bench_row_at(size_t i);

typedef struct bench_case bench_case;
struct bench_case {
    char name[96];
    const bench_row *row;
    const void *shape; /* the family's own */
    mha_dtype dtype;   /* of the operands */
    /* Returns NULL and a state, or why the case cannot run here. */
    const char *(*setup)(const bench_case *self, void **state);
    void (*run)(void *state);
    void (*teardown)(void *state);
    size_t threads;
    /* Of one run; 0: has no meaning. */
    double flops;
    double bytes;       /* read */
    double traffic;     /* of operands and results, each byte once; 0: bytes */
    double items;       /* what ticks are counted per, */
    const char *item;   /* and what one is called */
    double working_set; /* bytes that runs read before they read the first again */
};

/* The table. */
size_t bench_case_count(void);
const bench_case *bench_case_at(size_t i);

/* Adds a copy to the table; the name is formatted from what follows. */
void bench_add(const bench_case *c, const char *name_format, ...) __attribute__((format(printf, 2, 3)));

/* The families; each adds its cases for one row of kernels.inc, some for operands of one dtype. */
void bench_add_limits(const bench_row *row);
void bench_add_exp(const bench_row *row);
void bench_add_block(const bench_row *row);
void bench_add_attention(const bench_row *row, mha_dtype dtype);
void bench_add_gemm(const bench_row *row, mha_dtype dtype);
void bench_add_layer(const bench_row *row, mha_dtype dtype);

/* Whether a layer or attention in this dtype runs on it, and not on another row. */
bool bench_takes(const bench_row *row, mha_dtype dtype);

/* As in the names of cases; and how many bytes an element has. */
const char *bench_dtype_name(mha_dtype dtype);
size_t bench_element_bytes(mha_dtype dtype);

/* Yardsticks, measured by this process when first asked for, on one core with the row's instructions:
 * multiply-adds on registers, in flop/s, and a plain read of working_set bytes over and over, in bytes/s. */
double bench_peak(const bench_row *row);
double bench_bandwidth(const bench_row *row, double working_set);

/* n multiply-adds, each multiply_add_flops; and a read of n floats, a multiple of 64 vectors at a vector's
 * alignment. */
void bench_multiply_add(const bench_row *row, size_t n);
void bench_read(const bench_row *row, const float *data, size_t n);

/* A working set that the last-level cache cannot hold, its neighbours' share of the host included. */
double bench_dram_bytes(void);

/* Y = X W^T of so many rows, by one worker. */
void bench_product(const struct mha_gemm_kernels *kernels, const struct mha_gemm *gemm, int64_t rows, float *scratch);

/* What setup returns for a row that is not supported. */
extern const char *const bench_cpu_lacks_isa;

/* A context for the row's instruction set, or why there is none. */
const char *bench_context(const bench_row *row, bool sleef, mha_context **context);

/* Random numbers in [-1, 1), written before they are returned: pages that never were all map to one page of zeros,
 * which stays in L1.  All cases read the same; valid until more of the dtype are asked for. */
void *bench_random(size_t n, mha_dtype dtype);

/* Memory at a page's start, set to zero, or an end of the program. */
void *bench_allocate(size_t bytes);

/* Of this thread, without what others took of its core: measures of one thread then hold on a shared machine too. */
double bench_cpu_seconds(void);
double bench_wall_seconds(void);

/* Time-stamp counter; 0 where there is none. */
uint64_t bench_ticks(void);

/* Phases of a call on this thread since the reset; none unless built with -Dphases=true. */
size_t bench_phase_count(void);
const char *bench_phase_name(size_t phase);
double bench_phase_ticks(size_t phase);
void bench_phases_reset(void);

#ifdef __cplusplus
}
#endif

#endif

/* The table of cases: every family for every row of kernels.inc. */
#include "bench.h"

#include "kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MHA_KERNEL_ROW(isa, features)                                                                                  \
    float bench_multiply_add_##isa(size_t n, float a, float b);                                                        \
    extern const double bench_multiply_add_flops_##isa;                                                                \
    float bench_read_##isa(const float *data, size_t n);
#define MHA_BF16_ROW(isa, features, pays) MHA_KERNEL_ROW(isa, features)
#include "kernels.inc"

enum {
#define MHA_KERNEL_ROW(isa, features)     ROW_##isa,
#define MHA_BF16_ROW(isa, features, pays) ROW_##isa,
#include "kernels.inc"
    ROWS,
    MOST_CASES = 2048
};

size_t bench_row_count(void) { return ROWS; }

static bool isa_is_supported(const char *name) {
    enum { MOST_ISAS = 16 };
    mha_isa isas[MOST_ISAS];
    const size_t n = mha_isa_list(isas, MOST_ISAS);
    for (size_t i = 0; i < n; i++)
        if (strcmp(isas[i].name, name) == 0) return isas[i].supported;
    return false;
}

const bench_row *bench_row_at(size_t i) {
    static bench_row rows[ROWS];
    if (rows[0].isa == NULL) {
#define ROW(isa, f32, gemm, splits)                                                                                    \
    rows[ROW_##isa] = (bench_row){#isa,                                                                                \
                                  f32,                                                                                 \
                                  gemm,                                                                                \
                                  splits,                                                                              \
                                  isa_is_supported(#isa),                                                              \
                                  bench_multiply_add_##isa,                                                            \
                                  bench_multiply_add_flops_##isa,                                                      \
                                  bench_read_##isa};
#define MHA_KERNEL_ROW(isa, features) ROW(isa, &mha_kernels_f32_##isa, &mha_kernels_f32_##isa.gemm, false)
#define MHA_BF16_ROW(isa, features, pays)                                                                              \
    ROW(isa, NULL, &mha_kernels_bf16_##isa.gemm, mha_kernels_bf16_##isa.split.max_rows > 0)
#include "kernels.inc"
    }
    return &rows[i];
}

bool bench_takes(const bench_row *row, mha_dtype dtype) {
    return row->kernels != NULL || dtype == MHA_BF16 || (dtype == MHA_F16 && row->splits);
}

const char *bench_dtype_name(mha_dtype dtype) { return dtype == MHA_F16 ? "f16" : dtype == MHA_BF16 ? "bf16" : "f32"; }

size_t bench_element_bytes(mha_dtype dtype) { return (size_t)mha_dtype_bytes(dtype); }

const char *const bench_cpu_lacks_isa = "skipped: this CPU lacks the instruction set";

const char *bench_context(const bench_row *row, bool sleef, mha_context **context) {
    if (!row->supported) return bench_cpu_lacks_isa;
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = row->isa;
    options.exp = sleef ? MHA_EXP_SLEEF : MHA_EXP_FUSED;
    return mha_context_create(&options, context, NULL, 0) == MHA_OK ? NULL : "mha_context_create failed";
}

static struct {
    bench_case cases[MOST_CASES];
    size_t n;
} table;

void bench_add(const bench_case *c, const char *name_format, ...) {
    if (table.n == MOST_CASES) {
        fprintf(stderr, "bench: more than %d cases\n", MOST_CASES);
        exit(1);
    }
    bench_case *added = &table.cases[table.n++];
    *added = *c;
    va_list arguments;
    va_start(arguments, name_format);
    vsnprintf(added->name, sizeof added->name, name_format, arguments);
    va_end(arguments);
}

static void add_f32(const bench_row *row) {
    bench_add_exp(row);
    bench_add_block(row);
}

static void add_any_dtype(const bench_row *row) {
    for (mha_dtype dtype = MHA_F32; dtype <= MHA_BF16; dtype++) {
        if (!bench_takes(row, dtype)) continue;
        bench_add_gemm(row, dtype);
        bench_add_attention(row, dtype);
        bench_add_layer(row, dtype);
    }
}

size_t bench_case_count(void) {
    if (table.n == 0) {
        for (size_t r = 0; r < ROWS; r++) bench_add_limits(bench_row_at(r));
        for (size_t r = 0; r < ROWS; r++)
            if (bench_row_at(r)->kernels != NULL) add_f32(bench_row_at(r));
        for (size_t r = 0; r < ROWS; r++) add_any_dtype(bench_row_at(r));
    }
    return table.n;
}

const bench_case *bench_case_at(size_t i) { return &table.cases[i]; }

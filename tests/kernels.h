/* The kernels of an instruction set, for tests below the public API. */
#ifndef TESTS_KERNELS_H
#define TESTS_KERNELS_H

#include "kernel.h"

/* The row of kernels.inc with this name, or the test fails. */
const mha_kernels *kernels_of(const char *isa);

/* Those of either kind of row. */
const mha_gemm_kernels *gemm_kernels_of(const char *isa);

/* The one of n rows that is for this instruction set, or the test fails. */
const mha_kernels *kernels_among(const mha_kernels *const rows[], size_t n, const char *isa);

#endif

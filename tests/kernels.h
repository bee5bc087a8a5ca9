/* The kernels of an instruction set, for tests below the public API. */
#ifndef TESTS_KERNELS_H
#define TESTS_KERNELS_H

#include "kernel.h"

/* The row of kernels.inc with this name, or the test fails. */
const mha_kernels *kernels_of(const char *isa);

#endif

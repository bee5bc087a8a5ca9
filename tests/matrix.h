/* Matrices of random numbers, of any dtype, between guard pages. */
#ifndef TESTS_MATRIX_H
#define TESTS_MATRIX_H

#include "guard.h"
#include "rng.h"

#include "mha/mha.h"

#include <stdint.h>

/* rows of cols numbers, N(0, factor^2), `gap` elements apart. */
guard matrix_make(int64_t rows, int64_t cols, int64_t gap, mha_dtype dtype, double factor, guard_side side, rng *r);

/* Makes all elements x. */
void matrix_fill(guard *memory, mha_dtype dtype, double x);

/* The dense copy of items of rows of cols, which may have changed. */
float *matrix_take(guard *memory, mha_dtype dtype, int64_t items, int64_t rows, int64_t cols, int64_t item_stride,
                   int64_t stride);

#endif

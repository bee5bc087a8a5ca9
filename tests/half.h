/* Half precision by its definition (IEEE 754-2019 section 3.4; bfloat16: binary32's first 16 bits), in double
 * arithmetic. */
#ifndef TESTS_HALF_H
#define TESTS_HALF_H

#include "mha/mha.h"

static inline bool is_half(mha_dtype dtype) { return dtype == MHA_F16 || dtype == MHA_BF16; }

/* Of an element that is no boolean. */
static inline size_t element_bytes(mha_dtype dtype) { return is_half(dtype) ? sizeof(uint16_t) : sizeof(float); }

/* The number that the bits stand for. */
double half_value(uint16_t bits, mha_dtype dtype);

/* The nearest number's bits, of two the even one; beyond the largest by half a place or more: infinity. */
uint16_t half_nearest(double x, mha_dtype dtype);

/* An element of an array of f32 or half precision. */
double element_value(const void *array, mha_dtype dtype, int64_t i);

/* Sets it to the nearest number. */
void element_set(void *array, mha_dtype dtype, int64_t i, double x);

/* How far off rounding to the dtype, once, may take a number of this size (f32: nothing, numbers are f32 already). */
double half_rounding(double x, mha_dtype dtype);

#endif

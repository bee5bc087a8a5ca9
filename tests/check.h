/* Results against references. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include "naive.h"
#include "problem.h"

/* Fails the test unless every element is within the bounds of bound.h: each within WORST, their root mean square within
 * that of TYPICAL; NaN, infinity and -infinity where they are wanted and nowhere else.  `who`: isa and options. */
void check_values(const char *who, const char *what, const char *operand, const float *got, const naive_array *wanted);

void check_outputs(const char *who, const problem *p, const outputs *got, const naive_result *wanted);

/* Runs a problem and checks its outputs against the naive ones of so many parts of bf16. */
void check_problem(const char *who, problem *p, const mha_context *context, int parts);

/* Fails the test unless all bits are the same, NaN payloads aside. */
void check_same_bits(const char *who, const char *what, const char *operand, const float *got, const float *wanted,
                     int64_t n);

void check_same_outputs(const char *who, const problem *p, const outputs *got, const outputs *wanted);

/* Runs one problem on an instruction set with both exponentials against guard pages on both sides; results must agree
 * with the naive ones and with those of the scalar kernels, and must be bitwise the same on both sides. */
void check_case(const char *isa, const spec *s);

/* With q, k and v of bf16, where it sets no dtype, on an instruction set that multiplies it. */
spec spec_for(const char *isa, const spec *s);

/* check_case for those of a table that test_takes. */
void check_cases(const char *isa, const spec *cases, size_t n);

#endif

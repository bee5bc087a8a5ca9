/* Every test on every instruction set: forced, not detected; skipped, not passed, where this machine lacks it. */
#ifndef TESTS_ISAS_H
#define TESTS_ISAS_H

#include "mha/mha.h"

typedef struct isa_test {
    const char *name;
    void (*run)(const char *isa);
    bool f32; /* of kernels that instruction sets which only multiply bf16 do not have: these are left out */
} isa_test;

#define ISA_TEST(function) {#function, function, false}
#define F32_TEST(function) {#function, function, true}

/* Runs n <= 32 tests under cmocka on each instruction set of mha_isa_list, or the one that MHA_TEST_ISA names, prints
 * which were exercised, and returns how many tests failed, or 77 if none was to be run. */
int isa_tests_run(const isa_test *tests, size_t n);

/* Whether this instruction set is a row of kernels.inc that multiplies bf16. */
bool isa_has_bf16(const char *isa);

/* The instruction set that does here what a row of this one lacks: the last before it that has all kernels, or
 * itself. */
const char *isa_of_f32(const char *isa);

/* Whether it is one for which two parts of bf16 pay. */
bool isa_splits(const char *isa);

/* In how many parts of bf16 attention of these is multiplied on it; 0: in f32. */
int isa_bf16_parts(const char *isa, mha_precision precision, mha_dtype q, mha_dtype k, mha_dtype v, int64_t q_len);

/* A context that was made for this instruction set, or the test fails. */
mha_context *isa_context(const char *isa, mha_exp exp);
mha_context *isa_context_of(const char *isa, mha_exp exp, mha_precision precision);

const char *exp_name(mha_exp exp);

/* MHA_TEST_QUICK=1: a short list of cases, for emulators and sanitizers. */
bool test_quick(void);

/* Whether the running test takes its next case, of so many multiply-adds.  Quick runs take the first few and then one
 * in four, the same on every instruction set, but none that an emulator needs long for; a test left without any fails. */
bool test_takes(int64_t work);

#endif

/* The floating-point control register: rounding, exceptions, flush to zero. */
#ifndef TESTS_FPENV_H
#define TESTS_FPENV_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
enum { FP_FLUSH = 0x8040, FP_STATUS = 0x3f }; /* FTZ and DAZ; sticky flags */
static inline uint64_t fp_control(void) { return _mm_getcsr() & ~(unsigned)FP_STATUS; }
static inline void fp_set_control(uint64_t control) { _mm_setcsr((unsigned)control); }
#elif defined(__aarch64__)
enum { FP_FLUSH = 1 << 24 }; /* FZ */
static inline uint64_t fp_control(void) {
    uint64_t control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
}
static inline void fp_set_control(uint64_t control) { __asm__ volatile("msr fpcr, %0" ::"r"(control)); }
#endif

#endif

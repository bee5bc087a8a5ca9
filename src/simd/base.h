/* The vector vocabulary.  An instruction set's vec.h defines, for f32 vectors of V_LANES lanes:
 *
 *   constants  V_LANES; TILE_VECTORS and PANEL, the FMA tile is PANEL rows by TILE_VECTORS vectors; BLOCK_KEYS;
 *              GEMM_DEPTH; DECODE_VECTORS and DECODE_SCORES, sizes of the decode kernel's register tiles
 *   macro      IN_PLACE_TILES, 0: that path is not compiled
 *   vf, vm     a vector, a mask
 *   v_zero v_set1 v_load v_store             memory needs the alignment of an element only
 *   v_load_n v_store_n                       the first min(n, V_LANES), 0 < n; the rest reads as 0 and is not touched
 *   v_in_register(x)                         x, which the compiler is not to load again for each use
 *   v_add v_sub v_mul
 *   v_fma(a, b, c)                           a * b + c, rounded once, or as if but for 2^-50
 *   v_max(x, m)                              the larger; m if x is NaN
 *   v_at_least(x, low)                       the larger; NaN if x is NaN
 *   v_zero_where_less(r, x, low)             r, but 0 where x < low; r where x is NaN
 *   v_power_of_two(t)                        2^(t - 2^23 * 1.5 - 127) for t whose fraction bits are the biased exponent
 *   v_mask(bits), v_blend(m, no, yes)        lane i of the mask is bit i
 *   v_equal(a, b)                            bit i: lanes i are equal
 *   v_sum(x), v_largest(x)                   over the lanes; none is NaN for the second
 *   v_sum_rows(rows, x, out, stride)         x[r][0..3] summed into out[r * stride + 0..3], in one order for any `rows`
 *   v_transpose(r)                           V_LANES x V_LANES, in place
 *   v_store_panels(dst, stride, x)           the lanes in groups of PANEL (or all, if PANEL is larger), stride apart
 *   va, va_load(p), va_fma(a, i, b, c)       PANEL consecutive floats; v_fma(a[i], b, c), i a constant after unrolling
 *   v_load_f16 v_load_bf16 v_store_f16 v_store_bf16      V_LANES elements of half precision; stores round to nearest,
 *                                            ties to even, and keep NaN
 *   v_even_bf16(p), v_odd_bf16(p)            every other one of 2 V_LANES bf16
 *   v_unzip(x), v_zip(x)                     2 V_LANES in order into their even and their odd ones, and back
 *   v_exp_sleef v_log_sleef v_tanh_sleef     SLEEF, the 1.0 ULP ones
 *
 * An instruction set that multiplies pairs of bf16 includes such a vec.h and defines UNIT 2 and, for vectors of V_LANES
 * pairs (the first in the low half of a lane; FMA tiles then multiply pairs, everything else stays f32):
 *   v_dot(a, b, c), va_dot(a, i, b, c)       c + a0 b0 + a1 b1; as v_fma and va_fma
 *   v_set_pairs(x), v_load_pairs(p)          x's bits in each lane; 2 V_LANES bf16, as aligned as an element
 *   v_pair(even, odd)                        rounded to bf16, to nearest, ties to even, NaN kept
 *
 * One whose instructions multiply two rows by two lanes defines TERM 2 instead of va_dot, for vectors of two halves:
 *   v_interleave(units)                      V_LANES lanes of two units: the first half of the lanes, then the second
 *   v_load_halves(p, q)                      two units at p, two at q
 *   v_dot_rows(a, b, c)                      c[2 i + j] + a[2 i] b[2 j] + a[2 i + 1] b[2 j + 1], of units; as v_dot
 *   v_swap_halves(a, b)                      a's second half and b's first change places
 *
 * src/simd's templates are written in it and include nothing of an instruction set. */
#ifndef MHA_SIMD_BASE_H
#define MHA_SIMD_BASE_H

#include "kernel.h"
#include "phases.h"

#include <float.h>
#include <string.h>

#define V_INLINE static inline __attribute__((always_inline))

/* An array of vectors stays in registers only if every loop over it is unrolled entirely. */
#if defined(__clang__)
#define V_UNROLL _Pragma("clang loop unroll(full)")
#else
#define V_UNROLL _Pragma("GCC unroll 32")
#endif

/* Fetches the line `bytes` behind p into the first-level cache.  In integers, since it may lie anywhere. */
V_INLINE void v_prefetch(const void *p, int64_t bytes) {
    __builtin_prefetch((const void *)((uintptr_t)p + (uint64_t)bytes), 0, 3);
}

/* Names of the functions that the kernel table exports: mha_<op>_<what is multiplied>_<isa>. */
#define K_NAME_(op, type, isa) mha_##op##_##type##_##isa
#define K_NAME(op, type, isa)  K_NAME_(op, type, isa)
#define K(op)                  K_NAME(op, K_TYPE, MHA_ISA)

static inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

#endif

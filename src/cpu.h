/* What this CPU can do and this operating system saves.  Only cpu_x86.c and cpu_arm.c ask the hardware. */
#ifndef MHA_CPU_H
#define MHA_CPU_H

#include <stdbool.h>
#include <stdint.h>

/* Name of each feature, for mha_cpu_features and docs.  AMD is the vendor: where flags do not tell fast from slow. */
#define MHA_CPU_FEATURES(FEATURE)                                                                                      \
    FEATURE(AVX2, 0, "avx2")                                                                                           \
    FEATURE(FMA, 1, "fma")                                                                                             \
    FEATURE(F16C, 2, "f16c")                                                                                           \
    FEATURE(AVX512F, 3, "avx512f")                                                                                     \
    FEATURE(AVX512BW, 4, "avx512bw")                                                                                   \
    FEATURE(AVX512DQ, 5, "avx512dq")                                                                                   \
    FEATURE(AVX512VL, 6, "avx512vl")                                                                                   \
    FEATURE(AVX512BF16, 7, "avx512bf16")                                                                               \
    FEATURE(AMD, 8, "amd")                                                                                             \
    FEATURE(AMX, 9, "amx")                                                                                             \
    FEATURE(NEON, 10, "neon")                                                                                          \
    FEATURE(NEONBF16, 11, "neonbf16")

#define MHA_CPU_ENUM(name, bit, text) MHA_CPU_##name = 1u << (bit),
enum { MHA_CPU_FEATURES(MHA_CPU_ENUM) };
#undef MHA_CPU_ENUM

/* A set of MHA_CPU_* bits. */
uint32_t mha_cpu_detect(void);

#endif

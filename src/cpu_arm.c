#include "cpu.h"

/* Advanced SIMD is part of every AArch64 profile that runs an operating system. */
uint32_t mha_cpu_detect(void) { return MHA_CPU_NEON; }

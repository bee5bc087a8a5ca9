#include "cpu.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

/* Advanced SIMD is part of every AArch64 profile that runs an operating system. */
uint32_t mha_cpu_detect(void) {
    uint32_t features = MHA_CPU_NEON;
#if defined(__linux__)
    const unsigned long hwcap2_bf16 = 1ul << 14; /* HWCAP2_BF16 of Linux's uapi/asm/hwcap.h */
    if ((getauxval(AT_HWCAP2) & hwcap2_bf16) != 0) features |= MHA_CPU_NEONBF16;
#endif
    return features;
}

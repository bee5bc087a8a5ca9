#include "cpu.h"

#include <cpuid.h>

/* XCR0: which registers the operating system saves. */
static uint64_t xgetbv0(void) {
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

static bool is_amd(void) {
    uint32_t a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && d == signature_AMD_edx && c == signature_AMD_ecx;
}

/* The instructions that emulating tests have in C. */
static bool is_emulated(void) {
#ifdef MHA_EMULATE
    return true;
#else
    return false;
#endif
}

uint32_t mha_cpu_detect(void) {
    const uint64_t xcr0_ymm = 0x06, xcr0_zmm = 0xe6; /* SSE, AVX; and opmask, both halves of ZMM */
    uint32_t a, b, c, d, features = 0;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27) /* OSXSAVE */) return 0;
    const uint64_t xcr0 = xgetbv0();
    if ((xcr0 & xcr0_ymm) != xcr0_ymm) return 0;
    if (bit(c, 12)) features |= MHA_CPU_FMA;
    if (bit(c, 29)) features |= MHA_CPU_F16C;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    if (bit(b, 5)) features |= MHA_CPU_AVX2;
    if ((xcr0 & xcr0_zmm) != xcr0_zmm) return features;
    if (bit(b, 16)) features |= MHA_CPU_AVX512F;
    if (bit(b, 17)) features |= MHA_CPU_AVX512DQ;
    if (bit(b, 30)) features |= MHA_CPU_AVX512BW;
    if (bit(b, 31)) features |= MHA_CPU_AVX512VL;
    if (is_amd()) features |= MHA_CPU_AMD;
    if ((__get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5)) || is_emulated()) features |= MHA_CPU_AVX512BF16;
    return features;
}

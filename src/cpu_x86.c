#define _GNU_SOURCE /* syscall */
#include "cpu.h"

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

/* Tiles are 8 KiB of state, which Linux saves for a process that has asked for it (Documentation/arch/x86/xstate.rst).
 * Asking again is harmless. */
static bool may_use_tiles(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

uint32_t mha_cpu_detect(void) {
    /* SSE, AVX; opmask, both halves of ZMM; the tiles' configuration and data. */
    const uint64_t xcr0_ymm = 0x06, xcr0_zmm = 0xe6, xcr0_tiles = 0x60000;
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
    /* With VBMI, which every CPU with tiles has. */
    const bool tiles = bit(c, 1) && bit(d, 22) && bit(d, 24) && (xcr0 & xcr0_tiles) == xcr0_tiles && may_use_tiles();
    if (tiles || is_emulated()) features |= MHA_CPU_AMX;
    if (is_amd()) features |= MHA_CPU_AMD;
    if ((__get_cpuid_count(7, 1, &a, &b, &c, &d) && bit(a, 5)) || is_emulated()) features |= MHA_CPU_AVX512BF16;
    return features;
}

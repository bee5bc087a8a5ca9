/* Where the time of a call goes.  With -Dphases=true, every thread counts the time-stamp ticks of each phase; without
 * it nothing is left in the code. */
#ifndef MHA_PHASES_H
#define MHA_PHASES_H

#define MHA_PHASE_LIST(PHASE)                                                                                          \
    PHASE(LOAD, "load")                                                                                                \
    PHASE(MASK, "mask")                                                                                                \
    PHASE(PACK, "pack")                                                                                                \
    PHASE(QK, "QK")                                                                                                    \
    PHASE(MODIFY, "modify")                                                                                            \
    PHASE(SOFTMAX, "softmax")                                                                                          \
    PHASE(PV, "PV")                                                                                                    \
    PHASE(FINISH, "finish")

enum {
#define MHA_PHASE_ENUM(name, text) MHA_PHASE_##name,
    MHA_PHASE_LIST(MHA_PHASE_ENUM)
#undef MHA_PHASE_ENUM
        MHA_PHASES
};

#ifdef MHA_COUNT_PHASES

#include <stdint.h>

typedef struct mha_phase_clock {
    uint64_t last, ticks[MHA_PHASES];
} mha_phase_clock;

extern _Thread_local mha_phase_clock mha_phases; /* phases.c */

static inline uint64_t mha_phase_now(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#endif
}

/* What has passed since the last mark belongs to nobody, */
static inline void mha_phase_start(void) { mha_phases.last = mha_phase_now(); }

/* or to a phase. */
static inline void mha_phase_end(int phase) {
    const uint64_t now = mha_phase_now();
    mha_phases.ticks[phase] += now - mha_phases.last;
    mha_phases.last = now;
}

#else

static inline void mha_phase_start(void) {}
static inline void mha_phase_end(int phase) { (void)phase; }

#endif

#endif

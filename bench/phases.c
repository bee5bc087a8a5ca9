/* The phases that the library counted on this thread. */
#include "bench.h"

#include "phases.h"

#include <string.h>

#ifdef MHA_COUNT_PHASES

size_t bench_phase_count(void) { return MHA_PHASES; }

double bench_phase_ticks(size_t phase) { return (double)mha_phases.ticks[phase]; }

void bench_phases_reset(void) {
    memset(&mha_phases, 0, sizeof mha_phases);
    mha_phase_start();
}

#else

size_t bench_phase_count(void) { return 0; }

double bench_phase_ticks(size_t phase) { return (void)phase, 0; }

void bench_phases_reset(void) {}

#endif

const char *bench_phase_name(size_t phase) {
    static const char *const names[] = {
#define PHASE_NAME(name, text) text,
        MHA_PHASE_LIST(PHASE_NAME)
#undef PHASE_NAME
    };
    return names[phase];
}

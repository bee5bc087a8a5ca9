#include "phases.h"

_Thread_local mha_phase_clock mha_phases;

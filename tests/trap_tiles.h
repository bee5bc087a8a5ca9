/* AMX on a CPU without it: its instructions raise SIGILL, and the handler does what they would. */
#ifndef TESTS_TRAP_TILES_H
#define TESTS_TRAP_TILES_H

#include <stdbool.h>

/* From now on, for one thread.  An instruction that hardware would refuse, for its configuration, ends the program. */
void trap_tiles(void);

/* Whether the tiles are in use: configured, and not released. */
bool trapped_tiles_open(void);

#endif

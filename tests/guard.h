/* Memory between two pages that cannot be touched, every byte of it accounted for. */
#ifndef TESTS_GUARD_H
#define TESTS_GUARD_H

#include <stdbool.h>
#include <stddef.h>

/* Which end of the usable memory the data touch: one byte further on that side is a fault. */
typedef enum guard_side { GUARD_END, GUARD_START, GUARD_SIDES } guard_side;

typedef struct guard {
    char *data; /* `bytes` bytes; NULL if there are none */
    size_t bytes;
    char *mapping; /* with the pages at both ends */
    size_t mapped;
    char *usable; /* without them */
    size_t usable_bytes;
    char *snapshot; /* of the usable memory */
} guard;

/* Maps the memory and fills it with bytes 0xff: float NaNs.  With GUARD_START the data begin `shift` bytes after the
 * page. */
guard guard_make(size_t bytes, guard_side side, size_t shift);
void guard_free(guard *g);

/* Remembers all usable memory, data and slack. */
void guard_remember(guard *g);

/* Puts one element back to what was remembered: it may have changed. */
void guard_forgive(guard *g, void *element, size_t bytes);

/* The offset from data (maybe negative) of the first byte that is not as remembered; true if there is one. */
bool guard_changed(const guard *g, ptrdiff_t *offset);

#endif

/* Operands that share memory with an output: refused by both names, nothing written; right beside it: accepted. */
#ifndef TESTS_OVERLAP_H
#define TESTS_OVERLAP_H

#include "guard.h"
#include "mha/mha.h"

typedef struct overlap_operand {
    const char *name;  /* in sentences */
    size_t pointer;    /* offset of its pointer in the struct that is the call */
    size_t bytes;      /* dense; of one that is moved, at most OVERLAP_MARGIN / 2 */
    size_t alignment;  /* of its elements */
    bool output, stay; /* stay: others are moved onto it, not it onto others */
} overlap_operand;

enum { OVERLAP_MARGIN = 8192 };

/* Gives every operand a place of zeros in one memory, far from the others. */
guard overlap_place(const overlap_operand *operands, size_t n, void *call);

/* Moves operands to both ends of every other one, if one of the two is an output, by one element onto it and off it.
 * run(call) checks and then makes the call. */
void overlap_check(const char *isa, const overlap_operand *operands, size_t n, void *call, guard *memory,
                   mha_status (*run)(const void *call, char message[256]));

/* Fails the test unless the call was refused since these two intersect (b NULL: since a intersects something) and the
 * memory is as remembered. */
void overlap_check_refused(const char *isa, const char *what, mha_status status, const char *message, const char *a,
                           const char *b, const guard *memory);

#endif

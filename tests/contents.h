/* What a problem's operands hold.  Elements are drawn in logical order: contents do not depend on the layout. */
#ifndef TESTS_CONTENTS_H
#define TESTS_CONTENTS_H

#include "problem.h"

/* Fills q, k, v and the mask, whose memory exists, and kv_lens and q_offsets. */
void contents_fill(problem *p);

/* Makes keys and values beyond kv_lens NaN, whether or not args->kv_lens is set, and remembers the memory. */
void contents_fill_padding(problem *p);

#endif

/* Memory that is needed soon.  The driver says which rows; kernels fetch some of them before each product, so that they
 * come out of a slow cache or DRAM while the multipliers are busy. */
#ifndef MHA_AHEAD_H
#define MHA_AHEAD_H

#include <stdint.h>

/* Rows still to be fetched: `group` of them group_stride apart, then the next group, `stride` after this one.  All in
 * bytes and without signs: what is never reached may lie anywhere. */
typedef struct mha_ahead_rows {
    uintptr_t row;
    int64_t left, bytes; /* rows, and what each has */
    uint64_t stride, group_stride;
    int64_t group, in_group; /* in_group: which of its group `row` is */
} mha_ahead_rows;

enum { MHA_AHEAD_MATRICES = 4 };

typedef struct mha_ahead {
    mha_ahead_rows matrices[MHA_AHEAD_MATRICES]; /* a stack: the last is fetched first */
    int32_t n;
    int64_t per_step; /* rows */
} mha_ahead;

static inline void mha_ahead_add(mha_ahead *ahead, mha_ahead_rows rows) {
    if (rows.left > 0) ahead->matrices[ahead->n++] = rows;
}

/* Spreads all rows evenly over so many steps. */
void mha_ahead_pace(mha_ahead *ahead, int64_t steps);

/* Fetches a step's share into the second-level cache. */
void mha_ahead_step(mha_ahead *ahead);

#endif

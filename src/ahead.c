#include "ahead.h"

#include "arith.h"

enum { LINE_BYTES = 64 };

void mha_ahead_pace(mha_ahead *ahead, int64_t steps) {
    int64_t left = 0;
    for (int32_t i = 0; i < ahead->n; i++) left += ahead->matrices[i].left;
    ahead->per_step = mha_ceil_div(left, mha_max(1, steps));
}

static void fetch_row(mha_ahead_rows *rows) {
    for (int64_t byte = 0; byte < rows->bytes; byte += LINE_BYTES)
        __builtin_prefetch((const void *)(rows->row + (uintptr_t)byte), 0, 2);
    rows->left--;
    rows->row += rows->group_stride;
    if (++rows->in_group < rows->group) return;
    rows->in_group = 0;
    rows->row += rows->stride - (uint64_t)rows->group * rows->group_stride;
}

void mha_ahead_step(mha_ahead *ahead) {
    for (int64_t quota = ahead->per_step; quota > 0 && ahead->n > 0;) {
        mha_ahead_rows *rows = &ahead->matrices[ahead->n - 1];
        for (; quota > 0 && rows->left > 0; quota--) fetch_row(rows);
        if (rows->left == 0) ahead->n--;
    }
}

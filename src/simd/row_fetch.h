/* What decode fetches ahead.  The scores fetch keys that come later, the output values.  Out of a slow cache these are
 * ROWS_AHEAD.  Out of DRAM they are the next block's, a few lines at a time from FETCH_PLACES of it in turn.  Each line
 * that is read pays for one, divided by how many times the tiles read it. */
#ifndef MHA_SIMD_ROW_FETCH_H
#define MHA_SIMD_ROW_FETCH_H

enum { ROWS_AHEAD = 8 };

typedef struct row_fetch {
    uintptr_t block;            /* the next one */
    uint64_t stride, row_bytes; /* in bytes */
    int32_t place_rows;         /* from a place to the next */
    int32_t passes;             /* of all tiles over a row: a call in so many fetches */
    int32_t wait;               /* calls until then */
    uintptr_t next;             /* to be fetched: */
    int32_t place, row;         /* a line of this row */
    uint64_t line;              /* of each place; its first byte */
} row_fetch;

static row_fetch fetch_from_block(const void *block, int32_t keys, mha_dtype dtype, int64_t stride, int32_t dim) {
    const uint64_t bytes = (uint64_t)mha_dtype_bytes(dtype);
    return (row_fetch){.block = (uintptr_t)block,
                       .stride = (uint64_t)stride * bytes, /* of a single row it may be anything */
                       .row_bytes = (uint64_t)dim * bytes,
                       .place_rows = keys / FETCH_PLACES,
                       .wait = 1,
                       .next = (uintptr_t)block};
}

/* Elements of a cache line. */
V_INLINE int32_t line_of(mha_dtype dtype) { return (int32_t)(LINE_BYTES / mha_dtype_bytes(dtype)); }

/* Called for each `lines` of the present block that are read, 1, 2 or 4. */
V_INLINE void fetch_next_block(row_fetch *f, int lines) {
    if (--f->wait > 0) return;
    f->wait = f->passes;
    V_UNROLL
    for (int i = 0; i < lines; i++, f->next += (uint64_t)f->place_rows * f->stride)
        v_prefetch((const void *)f->next, 0);
    f->place += lines;
    if (f->place < FETCH_PLACES) return;
    f->place = 0;
    f->line += LINE_BYTES;
    if (f->line >= f->row_bytes) f->line = 0, f->row++;
    if (f->row == f->place_rows) f->wait = INT32_MAX;
    f->next = f->block + (uint64_t)f->row * f->stride + f->line;
}

#endif

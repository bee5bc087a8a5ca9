/* A tile of Y = X W^T + bias: the products of some rows of X and one panel of W over a step's inputs, added to the
 * sums of the steps before, while what comes next is fetched.  Inputs are counted in units. */
#ifndef MHA_SIMD_GEMM_TILE_H
#define MHA_SIMD_GEMM_TILE_H

/* Inputs between two times that a tile fetches: all at once, its own operands would wait behind. */
enum { FETCH_TERMS = 8 };

/* What comes next, tile by tile: in each FETCH_TERMS terms so many lines of weights, and one of so many rows of X. */
typedef struct tile_fetch {
    const char *w;
    int64_t w_share, w_lines; /* bytes a tile */
    int64_t x_rows, x_left;
    uint64_t x, x_stride, x_bytes; /* an address; of a row, which may be anything if there is one only; of a unit */
} tile_fetch;

typedef struct gemm_tile {
    const mha_gemm *gemm;
    const float *x; /* unless the rows are few: a packed panel, [parts][depth] */
    const void *w;  /* [depth][w_stride], of a dtype that only few rows tell from f32 */
    int64_t depth, w_stride;
    int64_t row, out, outs;  /* first of the tile; outs valid lanes */
    bool first, last;        /* of the steps that make up the sums */
    float bias[TILE_LANES];  /* what sums begin with */
    float *sums;             /* [PANEL][TILE_LANES], of the steps before */
    const tile_fetch *fetch; /* set unless the rows are few */
} gemm_tile;

V_INLINE void fetch_share(const tile_fetch *f, int64_t k) {
    const char *w = f->w + k / FETCH_TERMS * f->w_lines * LINE_BYTES;
    uint64_t x = f->x + (uint64_t)k * f->x_bytes;
    for (int64_t i = 0; i < f->w_lines; i++) __builtin_prefetch(w + i * LINE_BYTES, 0, 2);
    for (int64_t i = 0; i < f->x_rows; i++, x += f->x_stride) __builtin_prefetch((const void *)(uintptr_t)x, 0, 2);
}

/* A tile at an edge of Y, or for half precision, is stored as sums and copied: with conditions around its stores not
 * every compiler would keep the accumulators in registers. */
static void copy_sums(const gemm_tile *tile, int valid, int64_t lanes) {
    const mha_gemm *gemm = tile->gemm;
    const int64_t outs = tile->outs < lanes ? tile->outs : lanes, bytes = mha_dtype_bytes(gemm->y_dtype);
    for (int i = 0; i < valid; i++) {
        char *y = (char *)gemm->y + ((tile->row + i) * gemm->y_stride + tile->out) * bytes;
        const float *sums = tile->sums + i * TILE_LANES;
        if (gemm->y_dtype == MHA_F32) memcpy(y, sums, (size_t)(outs * bytes));
        else narrow(sums, gemm->y_dtype, (uint16_t *)(void *)y, outs);
    }
}

#endif

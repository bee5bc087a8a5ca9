/* The kernel contract: what the driver (attention.c, layer.c) asks of an instruction set.
 *
 * The tile and in_place paths, but for AMX's (src/amx/rows.h), are laid out with QUERIES IN VECTOR LANES.  A tile holds up to `lanes` queries of one KV
 * head:
 *
 *     q [head_dim][lanes]     the queries, transposed                 S = K Q^T   is [keys][lanes]
 *     o [v_head_dim][lanes]   the output before division, transposed  O += V^T P  is [v_head_dim][lanes]
 *     max, sum [lanes]        online softmax state (Milakov and Gimelshein, 2018; Dao et al., 2022)
 *
 * so that maxima and sums are vertical, a lane's result cannot depend on its neighbours, and the matrix products of
 * attention and of the projections are one and the same FMA tile: C[i][lane] += A[i][k] * B[k][lane], A broadcast.
 */
#ifndef MHA_KERNEL_H
#define MHA_KERNEL_H

#include "mha/mha.h"
#include "ahead.h"
#include "cpu.h"

enum {
    MHA_MAX_LANES = 64,  /* so that a key's lanes fit a bit mask */
    MHA_MAX_SPLITS = 64, /* KV splits of a head */
    MHA_MAX_BLOCK_KEYS = 256,
    MHA_ALIGN = 64, /* of all memory the driver hands to kernels, in bytes */
};

/* Constants of softmax, fixed per call.  The kernels keep scores as products leave them, s = (q * q_factor) . k; with a
 * softcap then as tanh(s * cap), and with additive masks then as s * bias_scale + bias.  The exponential is
 * exp((s - max) * scale). */
typedef struct mha_softmax {
    float q_factor;   /* folded into Q on load: the sign or size that `scale` cannot carry, otherwise 1 */
    float cap;        /* 0: no softcap */
    float scale;      /* > 0; 1 with additive masks */
    float bias_scale; /* 1 without additive masks */
    float exp_hi;     /* scale * log2(e), rounded, */
    float exp_lo;     /* and what rounding took */
    float exp_floor;  /* exp(x * scale) is below 2^-126, and taken as 0, for x below this */
} mha_softmax;

/* Where operands (of a projection: the weights) probably are, by their size: in a core's own caches, where to fetch
 * them ahead costs more than it brings; in what others leave of a shared cache; or in DRAM. */
typedef enum mha_level { MHA_FAST_CACHE, MHA_SLOW_CACHE, MHA_DRAM } mha_level;

enum { MHA_FAST_CACHE_BYTES = 1 << 20, MHA_SLOW_CACHE_BYTES = 1 << 24 };

static inline mha_level mha_level_of(double bytes) {
    return bytes <= MHA_FAST_CACHE_BYTES ? MHA_FAST_CACHE : bytes <= MHA_SLOW_CACHE_BYTES ? MHA_SLOW_CACHE : MHA_DRAM;
}

static inline int64_t mha_dtype_bytes(mha_dtype dtype) { return dtype == MHA_F32 ? 4 : dtype == MHA_BOOL ? 1 : 2; }

static inline bool mha_is_half(mha_dtype dtype) { return dtype == MHA_F16 || dtype == MHA_BF16; }

/* Terms of bf16 whose sum any element is. */
static inline int mha_bf16_parts(mha_dtype dtype) { return dtype == MHA_BF16 ? 1 : dtype == MHA_F16 ? 2 : 3; }

/* Element i. */
static inline const void *mha_element(const void *elements, int64_t i, mha_dtype dtype) {
    return (const char *)elements + i * mha_dtype_bytes(dtype);
}

/* A block of keys and values of one KV head.  Blocks sit at absolute multiples of block_keys. */
typedef struct mha_kv_block {
    const void *k, *v;          /* first row; where they lie.  Half precision is converted as it is read */
    mha_dtype k_dtype, v_dtype; /* for a path that reads them in place f32 */
    int64_t k_stride, v_stride; /* between tokens */
    const float *packed_k;      /* as pack_keys and pack_values left them; not for a path that does not pack */
    const float *packed_v;
    int32_t keys;       /* valid ones, at most: */
    int32_t block_keys; /* the path's */
    int32_t head_dim, v_head_dim;
    mha_level level; /* where keys and values are read from */
    /* What a kernel may fetch meanwhile: paced once a call, a step before each product; or NULL.  A kernel that fetches
     * K and V in an order of its own finds them here, strides as above; next_keys is 0 if no block follows. */
    mha_ahead *ahead;
    const void *next_k, *next_v;
    int32_t next_keys;
} mha_kv_block;

/* Query rows that share a KV head, and their state. */
typedef struct mha_tile {
    float *q, *o; /* as many floats as path->q_floats and path->o_floats say */
    /* [lanes]; the driver sets -inf and 0 at first.  Sums are relative to max, which need not be the largest score: no
     * score seen exceeds it by more than a factor of 2^8. */
    float *max, *sum;
    int32_t rows;  /* queries: the first so many lanes */
    int32_t lanes; /* what path->lanes makes of rows: but for decode whole vectors */

    /* Set by the driver for each block.  The tile attends to keys [begin, end) of the block; empty: begin == end. */
    int32_t begin, end;
    const uint64_t *excluded; /* [block_keys], bit r of a key set: row r does not see it.  NULL: a full tile, all rows
                                 see all of [begin, end) */
    const float *bias;        /* added to s * bias_scale; laid out as the path's scores.  NULL: none */
    void *scores_visitor;     /* not NULL: show it the scores of each stage */
} mha_tile;

/* Baseline code (scores.c): copies a tile's scores s, laid out as the path has them, to the caller's tensor, if it
 * wants those of this stage: MHA_SCORES_RAW, _SOFTCAPPED or _BIASED. */
void mha_scores_visit(void *visitor, const mha_tile *tile, const float *s, mha_scores_mode stage);

/* A way to process tiles, all with the same signatures.
 * `tile`: many queries, in lanes; K and V are packed once per block and chunk of tiles.
 * `in_place`: the same for too few tiles to make up for packing; K and V, both f32, are read where they lie.  The same
 * bits.
 * `decode`: few queries; K and V are read where they lie, lanes run along head_dim.  [0]: any K and V; [1]: both in
 * half precision, whose rows are half as long, so that blocks of twice the keys spread over as many pages. */
typedef struct mha_path {
    /* Called before the first and after the last of the other functions of a task; NULL: not needed. */
    void (*open)(void);
    void (*close)(void);
    int32_t max_rows;   /* in a tile */
    int32_t block_keys; /* at most MHA_MAX_BLOCK_KEYS */
    /* Where the score of (key, row) lies: s[key * key_stride + row * row_stride]; key_stride 0 stands for `lanes`. */
    int32_t score_key_stride, score_row_stride;
    int32_t (*lanes)(int32_t rows);
    size_t (*q_floats)(int32_t lanes, int32_t head_dim);
    size_t (*o_floats)(int32_t lanes, int32_t v_head_dim);
    size_t (*score_floats)(int32_t lanes); /* of one tile and block */
    /* What blocks need; NULL: K and V are read where they lie. */
    size_t (*packed_k_floats)(int32_t head_dim);
    size_t (*packed_v_floats)(int32_t v_head_dim);
    void (*pack_keys)(const mha_kv_block *block, float *packed);
    void (*pack_values)(const mha_kv_block *block, float *packed);
    /* rows[r]: the query of lane r, multiplied by q_factor on the way.  o becomes 0, or is made by the first block. */
    void (*load)(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim, int32_t v_head_dim,
                 float q_factor);
    /* Scores, online softmax, accumulation: one block against n tiles.  By exp: 0 SLEEF, 1 fused. */
    void (*block[2])(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s);
    /* Lays out addends rows[r][key - begin] as the scores are, and sets the bits in excluded of those that are -inf.
     * NULL: the driver does. */
    void (*load_bias)(const mha_tile *tile, const float *const rows[], float *bias, uint64_t *excluded);
    /* rows[r] = o / sum, zeros where sum is 0; or o as it is. */
    void (*finish)(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim, bool normalise);
} mha_path;

/* Which of a row's decode paths. */
static inline bool mha_both_half(mha_dtype k, mha_dtype v) { return mha_is_half(k) && mha_is_half(v); }

static inline int64_t mha_score_key_stride(const mha_path *path, const mha_tile *tile) {
    return path->score_key_stride != 0 ? path->score_key_stride : tile->lanes;
}

/* Y = X W^T + bias, W prepacked; summed in f32 whatever the dtypes are.  Kernels that multiply bf16 make parts of X and
 * W: what rounding to bf16 makes of them, what that left, rounded, and so on. */
typedef struct mha_gemm {
    const void *x; /* [rows, in] */
    mha_dtype x_dtype;
    int x_parts, w_parts; /* that are multiplied: one to three; one, or two where split pays */
    int64_t x_stride;
    const void *packed; /* as `pack` left it */
    mha_dtype w_dtype;
    const float *bias; /* [out] or NULL */
    void *y;           /* [rows, out] */
    mha_dtype y_dtype;
    int64_t y_stride;
    int64_t in, out;
    mha_level level; /* where the weights are read from */
} mha_gemm;

/* Parts i of X and j of W are multiplied where i + j is less. */
static inline int mha_most_parts(const mha_gemm *gemm) {
    return gemm->x_parts > gemm->w_parts ? gemm->x_parts : gemm->w_parts;
}

typedef struct mha_gemm_kernels {
    int32_t panel;      /* outputs are packed, and tasks cut, in multiples of this */
    int32_t max_rows;   /* of a call */
    int32_t max_panels; /* of a task, if there are several blocks of rows: the next one meets the same weights again */
    int32_t panel_rows; /* 0: rows are cut last.  Otherwise each task packs its rows, which costs what a panel does, and
                           loading a panel what so many rows do */
    size_t (*packed_bytes)(int64_t out, int64_t in, mha_dtype dtype, int parts);
    /* Elements keep their dtype, or become parts in bf16. */
    void (*pack)(const void *weight, mha_dtype dtype, int parts, int64_t stride, int64_t out, int64_t in, void *packed);
    size_t scratch_floats;
    /* Rows [row0, row1), one to max_rows, by outputs [out0, out1): multiples of panel, but out1 may be `out`. */
    void (*multiply)(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch);
} mha_gemm_kernels;

/* A row of kernels.inc. */
typedef struct mha_kernels {
    const char *isa;
    mha_path tile, in_place, decode[2];
    int32_t in_place_tiles; /* chunks of up to so many tiles take in_place */
    mha_gemm_kernels gemm;

    /* Half precision, MHA_F16 or MHA_BF16: n elements to f32, exactly, and back, rounded to nearest, ties to even. */
    void (*widen)(const void *half, mha_dtype dtype, float *x, size_t n);
    void (*narrow)(const float *x, mha_dtype dtype, void *half, size_t n);
    /* Merges n <= MHA_MAX_SPLITS partial rows, `stride` floats apart, each {max, sum, o[v_head_dim]}, in index order
     * into out[v_head_dim], which may be the first partial's o; leaves the merged max and sum in the first partial. */
    void (*merge)(const mha_softmax *softmax, float *partials, size_t n, size_t stride, float *out, int32_t v_head_dim);
    /* lse[i] = max[i] * scale + log(sum[i]); all three [n] */
    void (*lse)(const float *max, const float *sum, float *lse, size_t n, float scale);
    /* s[i] = exp((s[i] - max) * scale) / sum, but 0 where s[i] is -inf, whatever sum is.  By exp, as above.  max is a
     * tile's. */
    void (*softmax_row[2])(const mha_softmax *softmax, float *s, size_t n, float max, float sum);
    /* y[i] = exp(x[i] * scale), x <= 0, as softmax evaluates it.  By exp, as above; for tests and benches. */
    void (*exp[2])(const mha_softmax *softmax, const float *x, float *y, size_t n);
} mha_kernels;

/* A row of kernels.inc that multiplies bf16: operands of attention that are no bf16 are rounded to it, and so are the
 * weights of softmax; inputs of a projection are, or become several of it.  Scores, sums and results are f32. */
typedef struct mha_bf16_kernels {
    const char *isa;
    mha_path tile;
    mha_path split; /* in two parts: operands to 16 bits, or an f16 whole.  max_rows 0: it would not pay */
    mha_gemm_kernels gemm;
} mha_bf16_kernels;

#define MHA_TEXT_(x) #x
#define MHA_TEXT(x)  MHA_TEXT_(x)

#define MHA_KERNEL_ROW(isa, features)     extern const mha_kernels mha_kernels_f32_##isa;
#define MHA_BF16_ROW(isa, features, pays) extern const mha_bf16_kernels mha_kernels_bf16_##isa;
#include "kernels.inc"

#endif

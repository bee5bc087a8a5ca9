/* The kernels in plain C: the reference every other row of kernels.inc is held against, and what runs on any CPU.  It
 * is written to be read; lanes are plain inner loops.  K and V are read where they lie. */
#include "elements.h"
#include "kernel.h"

#include <float.h>
#include <sleef.h>
#include <string.h>

enum {
    LANES = 16,      /* queries of a tile */
    BLOCK_KEYS = 64, /* rows of K and V, and the scores, then stay in a first-level cache */
    GEMM_PANEL = 8,  /* outputs side by side */
    GEMM_DEPTH = 128 /* terms summed before they are added to the rest: rounding grows with the root of either */
};

/* ---- exp ---- */

static const double LN_LEAST_NORMAL = -87.336544750553109; /* ln 2^-126: smaller results are zero */

/* 2^n 2^f with |f| <= 1/2 by Taylor's series in double, whose rest, f^11 ln2^11 / 11!, is below 1e-12: what remains is
 * the final rounding. */
static float exp_fused(double x) {
    if (x < LN_LEAST_NORMAL) return 0;
    if (x != x) return (float)x;
    const double t = x * 1.4426950408889634074, n = (t + 0x1.8p52) - 0x1.8p52, y = (t - n) * 0.69314718055994530942;
    double p = 1;
    for (int i = 10; i > 0; i--) p = 1 + p * y / i;
    const uint64_t bits = (uint64_t)((int64_t)n + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return (float)(p * power);
}

static float exp_sleef(double x) { return x < LN_LEAST_NORMAL ? 0 : Sleef_expf1_u10purec((float)x); }

typedef float exp_function(double x);

static void exp_array(const mha_softmax *softmax, const float *x, float *y, size_t n, exp_function *exp) {
    for (size_t i = 0; i < n; i++) y[i] = exp((double)x[i] * softmax->scale);
}

static void exp_array_sleef(const mha_softmax *softmax, const float *x, float *y, size_t n) {
    exp_array(softmax, x, y, n, exp_sleef);
}

static void exp_array_fused(const mha_softmax *softmax, const float *x, float *y, size_t n) {
    exp_array(softmax, x, y, n, exp_fused);
}

/* A maximum that is subtracted from scores: finite, so that -inf - max is -inf and not NaN. */
static double reference_max(float max) { return max > -FLT_MAX ? max : -FLT_MAX; }

/* -0 becomes +0: an output that underflowed keeps its sign or loses it, as other rows let a block be skipped or not. */
static float positive_zero(float x) { return x + 0.0f; }

/* ---- attention ---- */

static int32_t tile_lanes(int32_t rows) {
    (void)rows;
    return LANES;
}

static size_t tile_floats(int32_t lanes, int32_t dim) { return (size_t)lanes * (size_t)dim; }
static size_t score_floats(int32_t lanes) { return (size_t)lanes * BLOCK_KEYS; }

static void load(mha_tile *tile, const void *const rows[], mha_dtype dtype, int32_t head_dim, int32_t v_head_dim,
                 float q_factor) {
    for (int32_t d = 0; d < head_dim; d++)
        for (int32_t r = 0; r < LANES; r++)
            tile->q[d * LANES + r] = r < tile->rows ? load_element(rows[r], d, dtype) * q_factor : 0;
    memset(tile->o, 0, tile_floats(LANES, v_head_dim) * sizeof(float));
}

/* S = K Q^T */
static void multiply_keys(const mha_kv_block *block, const mha_tile *tile, float *s) {
    for (int32_t k = tile->begin; k < tile->end; k++) {
        float sum[LANES] = {0};
        for (int32_t d = 0; d < block->head_dim; d++) {
            const float key = load_element(block->k, k * block->k_stride + d, block->k_dtype);
            for (int32_t r = 0; r < LANES; r++) sum[r] += key * tile->q[d * LANES + r];
        }
        memcpy(s + k * LANES, sum, sizeof sum);
    }
}

static void cap_scores(const mha_softmax *softmax, const mha_tile *tile, float *s) {
    if (softmax->cap == 0) return;
    for (int32_t i = tile->begin * LANES; i < tile->end * LANES; i++) s[i] = Sleef_tanhf1_u10purec(s[i] * softmax->cap);
}

static bool is_excluded(const mha_tile *tile, int32_t key, int32_t row) {
    return tile->excluded != NULL && (tile->excluded[key] >> row & 1) != 0;
}

static void modify_scores(const mha_softmax *softmax, const mha_tile *tile, float *s) {
    for (int32_t k = tile->begin; k < tile->end; k++)
        for (int32_t r = 0; r < LANES; r++) {
            float *score = &s[k * LANES + r];
            if (tile->bias != NULL) *score = *score * softmax->bias_scale + tile->bias[k * LANES + r];
            if (is_excluded(tile, k, r)) *score = -INFINITY;
        }
}

/* P = exp((S - max) scale) in the place of S.  alpha rescales what earlier blocks left. */
static void online_softmax(const mha_softmax *softmax, mha_tile *tile, float *s, float alpha[LANES],
                           exp_function *exp) {
    for (int32_t r = 0; r < LANES; r++) {
        float max = tile->max[r], sum = 0;
        for (int32_t k = tile->begin; k < tile->end; k++)
            if (s[k * LANES + r] > max) max = s[k * LANES + r]; /* false for NaN, which must not hide the rest */
        const double reference = reference_max(max);
        for (int32_t k = tile->begin; k < tile->end; k++) {
            s[k * LANES + r] = exp((s[k * LANES + r] - reference) * softmax->scale);
            sum += s[k * LANES + r];
        }
        alpha[r] = exp((tile->max[r] - reference) * softmax->scale);
        tile->max[r] = max;
        tile->sum[r] = tile->sum[r] * alpha[r] + sum;
    }
}

/* O = O alpha + V^T P.  An excluded value is skipped, not multiplied by zero: it may be NaN. */
static void accumulate_values(const mha_kv_block *block, mha_tile *tile, const float *p, const float alpha[LANES]) {
    for (int32_t d = 0; d < block->v_head_dim; d++) {
        float sum[LANES] = {0}, *o = tile->o + d * LANES;
        for (int32_t k = tile->begin; k < tile->end; k++) {
            const float value = load_element(block->v, k * block->v_stride + d, block->v_dtype);
            for (int32_t r = 0; r < LANES; r++)
                if (!is_excluded(tile, k, r)) sum[r] += value * p[k * LANES + r];
        }
        for (int32_t r = 0; r < LANES; r++) o[r] = o[r] * alpha[r] + sum[r];
    }
}

static void process_block(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s,
                          exp_function *exp) {
    for (mha_tile *tile = tiles; tile < tiles + n; tile++) {
        float alpha[LANES];
        if (tile->begin == tile->end) continue;
        multiply_keys(block, tile, s);
        if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_RAW);
        cap_scores(softmax, tile, s);
        if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_SOFTCAPPED);
        modify_scores(softmax, tile, s);
        if (tile->scores_visitor != NULL) mha_scores_visit(tile->scores_visitor, tile, s, MHA_SCORES_BIASED);
        online_softmax(softmax, tile, s, alpha, exp);
        accumulate_values(block, tile, s, alpha);
    }
}

static void block_sleef(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s) {
    process_block(softmax, block, tiles, n, s, exp_sleef);
}

static void block_fused(const mha_softmax *softmax, const mha_kv_block *block, mha_tile *tiles, size_t n, float *s) {
    process_block(softmax, block, tiles, n, s, exp_fused);
}

static void finish(const mha_tile *tile, void *const rows[], mha_dtype dtype, int32_t v_head_dim, bool normalise) {
    for (int32_t r = 0; r < tile->rows; r++)
        for (int32_t d = 0; d < v_head_dim; d++) {
            float o = tile->o[d * LANES + r];
            if (normalise) o = tile->sum[r] == 0 ? 0 : positive_zero(o / tile->sum[r]);
            store_element(rows[r], d, dtype, o);
        }
}

static void widen(const void *half, mha_dtype dtype, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = load_element(half, (int64_t)i, dtype);
}

static void narrow(const float *x, mha_dtype dtype, void *half, size_t n) {
    for (size_t i = 0; i < n; i++) store_element(half, (int64_t)i, dtype, x[i]);
}

static void merge(const mha_softmax *softmax, float *partials, size_t n, size_t stride, float *out,
                  int32_t v_head_dim) {
    float max = -INFINITY, sum = 0, weight[MHA_MAX_SPLITS];
    for (size_t i = 0; i < n; i++)
        if (partials[i * stride] > max) max = partials[i * stride];
    for (size_t i = 0; i < n; i++) {
        weight[i] = exp_fused((partials[i * stride] - reference_max(max)) * softmax->scale);
        sum += weight[i] * partials[i * stride + 1];
    }
    for (int32_t d = 0; d < v_head_dim; d++) {
        float o = 0;
        for (size_t i = 0; i < n; i++) o += weight[i] * partials[i * stride + 2 + (size_t)d];
        out[d] = sum == 0 ? 0 : positive_zero(o / sum);
    }
    partials[0] = max;
    partials[1] = sum;
}

static void lse(const float *max, const float *sum, float *lse, size_t n, float scale) {
    for (size_t i = 0; i < n; i++) lse[i] = max[i] * scale + Sleef_logf1_u10purec(sum[i]);
}

static void softmax_row(const mha_softmax *softmax, float *s, size_t n, float max, float sum, exp_function *exp) {
    for (size_t i = 0; i < n; i++)
        s[i] = s[i] == -INFINITY ? 0 : exp((s[i] - reference_max(max)) * softmax->scale) / sum;
}

static void softmax_row_sleef(const mha_softmax *softmax, float *s, size_t n, float max, float sum) {
    softmax_row(softmax, s, n, max, sum, exp_sleef);
}

static void softmax_row_fused(const mha_softmax *softmax, float *s, size_t n, float max, float sum) {
    softmax_row(softmax, s, n, max, sum, exp_fused);
}

/* ---- projections: weights as panels [out / GEMM_PANEL][in][GEMM_PANEL], zeros beyond the last output ---- */

static size_t packed_weight_bytes(int64_t out, int64_t in, mha_dtype dtype, int parts) {
    (void)parts;
    return (size_t)((out + GEMM_PANEL - 1) / GEMM_PANEL * GEMM_PANEL * in * mha_dtype_bytes(dtype));
}

static void pack_weights(const void *weight, mha_dtype dtype, int parts, int64_t stride, int64_t out, int64_t in,
                         void *packed) {
    (void)parts;
    int64_t i = 0;
    for (int64_t o = 0; o < out; o += GEMM_PANEL)
        for (int64_t k = 0; k < in; k++)
            for (int64_t j = o; j < o + GEMM_PANEL; j++)
                store_element(packed, i++, dtype, j < out ? load_element(weight, j * stride + k, dtype) : 0);
}

static void gemm(const mha_gemm *gemm, int64_t row0, int64_t row1, int64_t out0, int64_t out1, float *scratch) {
    (void)scratch;
    for (int64_t o = out0; o < out1; o += GEMM_PANEL)
        for (int64_t row = row0; row < row1; row++) {
            float total[GEMM_PANEL] = {0};
            for (int64_t depth = 0; depth < gemm->in; depth += GEMM_DEPTH) {
                const int64_t end = depth + GEMM_DEPTH < gemm->in ? depth + GEMM_DEPTH : gemm->in;
                float sum[GEMM_PANEL] = {0};
                for (int64_t k = depth; k < end; k++) {
                    const float x = load_element(gemm->x, row * gemm->x_stride + k, gemm->x_dtype);
                    const int64_t w = o * gemm->in + k * GEMM_PANEL;
                    for (int64_t j = 0; j < GEMM_PANEL; j++)
                        sum[j] += x * load_element(gemm->packed, w + j, gemm->w_dtype);
                }
                for (int64_t j = 0; j < GEMM_PANEL; j++) total[j] += sum[j];
            }
            for (int64_t j = 0; j < GEMM_PANEL && o + j < out1; j++) {
                const float bias = gemm->bias != NULL ? gemm->bias[o + j] : 0;
                store_element(gemm->y, row * gemm->y_stride + o + j, gemm->y_dtype, total[j] + bias);
            }
        }
}

/* One path serves many queries and few. */
#define PATH                                                                                                           \
    {.max_rows = LANES,                                                                                                \
     .block_keys = BLOCK_KEYS,                                                                                         \
     .score_row_stride = 1,                                                                                            \
     .lanes = tile_lanes,                                                                                              \
     .q_floats = tile_floats,                                                                                          \
     .o_floats = tile_floats,                                                                                          \
     .score_floats = score_floats,                                                                                     \
     .load = load,                                                                                                     \
     .block = {block_sleef, block_fused},                                                                              \
     .finish = finish}

const mha_kernels mha_kernels_f32_scalar = {
    .isa = "scalar",
    .tile = PATH,
    .in_place = PATH,
    .decode = {PATH, PATH},
    .gemm = {.panel = GEMM_PANEL,
             .max_rows = 256,
             .max_panels = 8,
             .packed_bytes = packed_weight_bytes,
             .pack = pack_weights,
             .multiply = gemm},
    .widen = widen,
    .narrow = narrow,
    .merge = merge,
    .lse = lse,
    .softmax_row = {softmax_row_sleef, softmax_row_fused},
    .exp = {exp_array_sleef, exp_array_fused},
};

#include "scores.h"

/* The caller's row of scores. */
static void *scores_row(const mha_tile_place *place, int32_t r) {
    return mha_score_at(place, &place->plan->args.scores, r, 0);
}

/* Where it is put together: there, or if it is in half precision, in the worker's memory. */
static float *scores_floats(const mha_tile_place *place, int32_t r) {
    const mha_attention_args *args = &place->plan->args;
    return mha_is_half(args->scores.dtype) ? place->wide_scores + r * args->kv_len : scores_row(place, r);
}

/* What the kernels' scores of a stage are multiplied by to be in natural units. */
static float natural_units(const mha_plan *plan) {
    const mha_softmax *softmax = &plan->softmax;
    switch (plan->args.scores_mode) {
    case MHA_SCORES_RAW:
        if (softmax->cap != 0) return softmax->cap * plan->args.softcap;
        return softmax->scale * softmax->bias_scale;
    case MHA_SCORES_SOFTCAPPED: return softmax->scale * softmax->bias_scale;
    case MHA_SCORES_BIASED: return softmax->scale;
    case MHA_SCORES_SOFTMAX: break; /* finished later, in the kernels' units */
    }
    return 1;
}

void mha_scores_visit(void *visitor, const mha_tile *tile, const float *s, mha_scores_mode stage) {
    const mha_tile_place *place = visitor;
    const mha_plan *plan = place->plan;
    const mha_scores_mode mode = plan->args.scores_mode;
    if (stage != (mode == MHA_SCORES_SOFTMAX ? MHA_SCORES_BIASED : mode)) return;
    const float factor = natural_units(plan);
    const int64_t row_stride = plan->path->score_row_stride;
    const int64_t key_stride = mha_score_key_stride(plan->path, tile);
    for (int32_t r = 0; r < tile->rows; r++) {
        float *row = scores_floats(place, r) + place->key0;
        for (int32_t k = tile->begin; k < tile->end; k++) row[k] = s[k * key_stride + r * row_stride] * factor;
    }
}

void mha_scores_finish(const mha_tile_place *place, const mha_tile *tile) {
    const mha_plan *plan = place->plan;
    const mha_attention_args *args = &plan->args;
    const size_t n = (size_t)args->kv_len;
    if (args->scores.data == NULL || n == 0) return; /* strides of nothing are not checked */
    for (int32_t r = 0; r < tile->rows; r++) {
        float *s = scores_floats(place, r);
        if (args->scores_mode == MHA_SCORES_SOFTMAX)
            plan->kernels->softmax_row[plan->exp](&plan->softmax, s, n, tile->max[r], tile->sum[r]);
        if (mha_is_half(args->scores.dtype)) plan->kernels->narrow(s, args->scores.dtype, scores_row(place, r), n);
    }
}

#include "layer_problem.h"
#include "half.h"
#include "matrix.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float *floats(const guard *g) { return (float *)(void *)g->data; }

/* One weight and its bias; scaled so that outputs are about N(0, 1). */
static mha_linear make_linear(layer_problem *p, int which, int64_t out, int64_t in, bool bias, guard_side side,
                              rng *r) {
    const mha_dtype dtype = p->spec.weight_dtypes[which], given = p->spec.bias_dtype;
    const mha_dtype bias_dtype = given != 0 ? given : dtype;
    const double factor = which == LK && p->spec.k_factor != 0 ? p->spec.k_factor : 1;
    p->weight[which] = matrix_make(out, in, p->spec.gap, dtype, factor / sqrt((double)in), side, r);
    if (bias) p->bias[which] = matrix_make(1, out, 0, bias_dtype, 0.3, side, r);
    return (mha_linear){.weight = p->weight[which].data,
                        .dtype = dtype,
                        .bias_dtype = given,
                        .weight_stride = p->spec.gap != 0 ? in + p->spec.gap : 0,
                        .bias = bias ? p->bias[which].data : NULL};
}

static mha_linear part(const mha_linear *stacked, int64_t row, int64_t in) {
    mha_linear linear = *stacked;
    const int64_t stride = stacked->weight_stride != 0 ? stacked->weight_stride : in;
    linear.weight = (const char *)stacked->weight + row * stride * (int64_t)element_bytes(stacked->dtype);
    const mha_dtype bias_dtype = stacked->bias_dtype != 0 ? stacked->bias_dtype : stacked->dtype;
    if (stacked->bias != NULL) linear.bias = (const char *)stacked->bias + row * (int64_t)element_bytes(bias_dtype);
    return linear;
}

static void make_weights(layer_problem *p, const layer_spec *given, guard_side side, rng *r) {
    const layer_spec *s = &p->spec;
    const int64_t q = s->q_heads * s->head_dim, k = s->kv_heads * s->head_dim, v = s->kv_heads * s->v_head_dim;
    mha_layer_desc *d = &p->desc, *n = &p->naive_desc;
    mha_layer_desc_init(d, sizeof *d);
    d->q_heads = s->q_heads, d->kv_heads = s->kv_heads, d->head_dim = s->head_dim, d->v_head_dim = given->v_head_dim;
    d->q_dim = s->q_dim, d->kv_dim = given->kv_dim, d->out_dim = given->out_dim;
    d->wo = make_linear(p, LO, s->out_dim, s->q_heads * s->v_head_dim, (s->biases & BIAS_O) != 0, side, r);
    *n = *d;
    n->v_head_dim = s->v_head_dim, n->kv_dim = s->kv_dim, n->out_dim = s->out_dim;
    if (s->stacked) {
        d->wqkv = make_linear(p, LQKV, q + k + v, s->q_dim, (s->biases & BIAS_Q) != 0, side, r);
        n->wq = part(&d->wqkv, 0, s->q_dim);
        n->wk = part(&d->wqkv, q, s->q_dim);
        n->wv = part(&d->wqkv, q + k, s->q_dim);
        return;
    }
    n->wq = d->wq = make_linear(p, LQ, q, s->q_dim, (s->biases & BIAS_Q) != 0, side, r);
    n->wk = d->wk = make_linear(p, LK, k, s->kv_dim, (s->biases & BIAS_K) != 0, side, r);
    n->wv = d->wv = make_linear(p, LV, v, s->kv_dim, (s->biases & BIAS_V) != 0, side, r);
}

/* Rows from one batch item to the next, and from one token to the next. */
static void row_steps(const layer_spec *s, int which, int64_t tokens, int64_t *item, int64_t *token) {
    const sharing sharing = which == X_OUT ? OWN_TOKENS : s->sharing;
    *token = sharing == SAME_TOKENS || sharing == SAME_ALL ? 0 : 1;
    *item = sharing == OWN_TOKENS ? tokens + s->item_gap : sharing == SLIDING || sharing == SAME_TOKENS ? 1 : 0;
}

static mha_activation activation(layer_problem *p, int which, int64_t tokens, int64_t width, guard_side side, rng *r) {
    const int64_t stride = width + p->spec.gap;
    int64_t item, token;
    row_steps(&p->spec, which, tokens, &item, &token);
    const bool empty = p->spec.batch == 0 || tokens == 0;
    const mha_dtype dtype = p->spec.dtypes[which];
    const int64_t rows = empty ? 0 : (p->spec.batch - 1) * item + (tokens - 1) * token + 1;
    p->memory[which] = matrix_make(rows, width, p->spec.gap, dtype, 1, side, r);
    return (mha_activation){p->memory[which].data, dtype, {item * stride, token * stride}};
}

static void make_mask(layer_problem *p, int64_t kv_len, guard_side side, rng *r) {
    const layer_spec *s = &p->spec;
    p->memory[X_MASK] = matrix_make(s->batch * s->q_len, kv_len, 0, MHA_F32, 1, side, r);
    p->args.mask = (mha_score_tensor){p->memory[X_MASK].data, MHA_F32, {s->q_len * kv_len, 0, kv_len, 1}};
    for (int64_t i = 0; i < s->batch * s->q_len * kv_len; i++)
        if (rng_chance(r, 0.3)) floats(&p->memory[X_MASK])[i] = -INFINITY;
    guard_remember(&p->memory[X_MASK]);
}

static void make_args(layer_problem *p, guard_side side, rng *r) {
    const layer_spec *s = &p->spec;
    const int64_t kv_len = s->kv_len == -1 ? s->q_len : s->kv_len;
    mha_layer_args *a = &p->args;
    mha_layer_args_init(a, sizeof *a);
    a->batch = s->batch, a->q_len = s->q_len, a->kv_len = s->kv_len;
    a->is_causal = s->causal, a->q_offset = s->q_offset;
    if (s->scale != NULL) a->scale = *s->scale;
    a->softcap = s->softcap;
    a->q = activation(p, X_Q, s->q_len, s->q_dim, side, r);
    if (s->kv_len != -1) a->kv = activation(p, X_KV, kv_len, s->kv_dim, side, r);
    a->out = activation(p, X_OUT, s->q_len, s->out_dim, side, r);
    if (s->mask) make_mask(p, kv_len, side, r);
    if (s->scores) {
        p->memory[X_SCORES] = matrix_make(s->batch * s->q_heads * s->q_len, kv_len, 0, MHA_F32, 1, side, r);
        a->scores = (mha_score_tensor){
            p->memory[X_SCORES].data, MHA_F32, {s->q_heads * s->q_len * kv_len, s->q_len * kv_len, kv_len, 1}};
    }
    for (int64_t b = 0; b < s->batch; b++) p->kv_lens[b] = b == 1 ? 0 : kv_len - b * kv_len / 4;
    for (int64_t b = 0; b < s->batch; b++) p->q_offsets[b] = s->q_offset + b * s->q_offset_step;
    if (s->lens) a->kv_lens = p->kv_lens;
    if (s->q_offset_step != 0) a->q_offsets = p->q_offsets;
    if (s->left != NULL) a->window_left = *s->left;
    if (s->right != NULL) a->window_right = *s->right;
}

void layer_problem_make(layer_problem *p, const layer_spec *given, guard_side side) {
    memset(p, 0, sizeof *p);
    p->spec = *given;
    p->side = side;
    layer_spec *s = &p->spec;
    if (s->v_head_dim == 0) s->v_head_dim = s->head_dim;
    if (s->kv_dim == 0) s->kv_dim = s->q_dim;
    if (s->out_dim == 0) s->out_dim = s->q_dim;
    for (int i = 0; i < N_WEIGHTS; i++)
        if (s->weight_dtypes[i] == 0) s->weight_dtypes[i] = MHA_F32;
    for (int i = 0; i < N_ACTIVATIONS; i++)
        if (s->dtypes[i] == 0) s->dtypes[i] = MHA_F32;
    rng r = {s->seed};
    make_weights(p, given, side, &r);
    make_args(p, side, &r);
    for (int i = LQ; s->elements != 0 && i <= LO; i++) matrix_fill(&p->weight[i], s->weight_dtypes[i], s->elements);
    if (s->elements != 0) matrix_fill(&p->memory[X_Q], s->dtypes[X_Q], s->elements);
}

void layer_problem_free(layer_problem *p) {
    for (int i = 0; i < N_WEIGHTS; i++) guard_free(&p->weight[i]);
    for (int i = 0; i < N_WEIGHTS; i++) guard_free(&p->bias[i]);
    for (int i = 0; i < N_ACTIVATIONS; i++) guard_free(&p->memory[i]);
}

void layer_text(const layer_spec *s, char *text, size_t bytes) {
    static const char *const dtypes[] = {"", "f32", "f16", "bf16"};
    static const char *const sharings[] = {"", " sliding", " same items", " same tokens", " same item and token"};
    const long long left = s->left != NULL ? *s->left : -1, right = s->right != NULL ? *s->right : -1;
    snprintf(
        text, bytes,
        "%s: %s %s -> %s, heads %d:%d of %d/%d, width %d/%d/%d%s biases %u gap %d item gap %d%s, batch %d q_len %d "
        "kv_len %d "
        "scale %g softcap %g%s window %lld/%lld offset %lld+%lld%s%s%s seed %d",
        s->what, dtypes[s->dtypes[X_Q]], dtypes[s->dtypes[X_KV]], dtypes[s->dtypes[X_OUT]], (int)s->q_heads,
        (int)s->kv_heads, (int)s->head_dim, (int)s->v_head_dim, (int)s->q_dim, (int)s->kv_dim, (int)s->out_dim,
        s->stacked ? " stacked" : "", s->biases, (int)s->gap, (int)s->item_gap, sharings[s->sharing], (int)s->batch,
        (int)s->q_len, (int)s->kv_len, s->scale != NULL ? (double)*s->scale : -INFINITY, (double)s->softcap,
        s->causal ? " causal" : "", left, right, (long long)s->q_offset, (long long)s->q_offset_step,
        s->lens ? " lens" : "", s->mask ? " mask" : "", s->scores ? " scores" : "", (int)s->seed);
}

layer_outputs layer_outputs_take(layer_problem *p) {
    const layer_spec *s = &p->spec;
    const int64_t rows = s->batch * s->q_len, score_rows = rows * s->q_heads;
    const int64_t kv_len = s->kv_len == -1 ? s->q_len : s->kv_len;
    layer_outputs o = {.n_out = rows * s->out_dim, .n_scores = s->scores ? score_rows * kv_len : 0};
    const int64_t *stride = p->args.out.stride;
    o.out = matrix_take(&p->memory[X_OUT], p->args.out.dtype, s->batch, s->q_len, s->out_dim, stride[0], stride[1]);
    if (s->scores) o.scores = matrix_take(&p->memory[X_SCORES], MHA_F32, 1, score_rows, kv_len, 0, kv_len);
    return o;
}

layer_outputs layer_run(layer_problem *p, const mha_layer *layer, const mha_executor *executor, const char *isa) {
    const layer_spec *s = &p->spec;
    char what[512];
    size_t bytes = 0;
    ptrdiff_t offset;
    layer_text(s, what, sizeof what);
    const size_t n_workers = executor != NULL ? executor->n_workers : 1;
    if (mha_layer_workspace_size(layer, &p->args, n_workers, &bytes) != MHA_OK)
        fail_msg("isa %s: no workspace size; %s", isa, what);
    guard workspace = guard_make(bytes, p->side, 0);
    if (mha_layer_forward(layer, &p->args, executor, workspace.data, bytes) != MHA_OK) {
        char message[256];
        mha_layer_check(layer, &p->args, executor, workspace.data, bytes, message, sizeof message);
        fail_msg("isa %s: %s; %s", isa, message, what);
    }
    guard_free(&workspace);
    layer_outputs o = layer_outputs_take(p);
    for (int i = 0; i < N_ACTIVATIONS; i++)
        if (guard_changed(&p->memory[i], &offset))
            fail_msg("isa %s: wrote to operand %d at byte %td, which is no output; %s", isa, i, offset, what);
    return o;
}

void layer_outputs_free(layer_outputs *o) {
    free(o->out);
    free(o->scores);
    *o = (layer_outputs){0};
}

#include "problem.h"
#include "contents.h"
#include "half.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t v_dim(const spec *s) { return s->v_head_dim != 0 ? s->v_head_dim : s->head_dim; }

static bool packed(const spec *s) { return s->layout == PACKED || s->layout == PACKED_OUT; }

/* Elements of a token of the packed buffer, up to the operand; N_OPERANDS: all. */
static int64_t column(const spec *s, int operand) {
    const int64_t k = s->q_heads * s->head_dim, v = k + s->kv_heads * s->head_dim, out = v + s->kv_heads * v_dim(s);
    switch (operand) {
    case Q: return 0;
    case K: return k;
    case V: return v;
    case OUT: return out;
    default: return s->layout == PACKED_OUT ? out + s->q_heads * v_dim(s) : out;
    }
}

/* Strides of [batch, heads, tokens, dim] from those of one token: dense, with gaps, or backwards. */
static void nest(int64_t token, int64_t gap, int sign, int64_t heads, int64_t tokens, int64_t stride[3]) {
    stride[2] = sign * token;
    stride[1] = sign * (tokens * token + gap);
    stride[0] = sign * (heads * (tokens * token + gap) + gap);
}

static void lay_out(const spec *s, int operand, int64_t heads, int64_t tokens, int64_t dim, int64_t stride[3]) {
    switch (s->layout) {
    case BHTD: nest(dim, 0, 1, heads, tokens, stride); break;
    case GAPPED: nest(dim + 3, 5, 1, heads, tokens, stride); break;
    case REVERSED: nest(dim + 3, 5, -1, heads, tokens, stride); break;
    case WIDE: nest(1024, 0, 1, heads, tokens, stride); break;
    case BTHD: stride[0] = tokens * heads * dim, stride[1] = dim, stride[2] = heads * dim; break;
    case PACKED:
    case PACKED_OUT:
        if (operand == OUT && s->layout == PACKED) {
            nest(dim, 0, 1, heads, tokens, stride);
        } else {
            stride[0] = tokens * column(s, N_OPERANDS), stride[1] = dim, stride[2] = column(s, N_OPERANDS);
        }
        break;
    case SHARED_HEADS:
        nest(dim, 0, 1, heads, tokens, stride);
        if (operand != OUT) stride[0] = 0;
        if (operand == K || operand == V) stride[1] = 0;
        break;
    case SHARED_TOKENS:
        nest(dim, 0, 1, heads, tokens, stride);
        if (operand != OUT) stride[2] = 0;
        break;
    }
}

/* Memory for exactly the elements that the strides reach; returns where element 0 is. */
static void *place(problem *p, int operand, int n, const int64_t *extent, const int64_t *stride, int64_t dim,
                   size_t element_bytes) {
    int64_t low = 0, high = 0;
    for (int i = 0; i < n; i++) {
        if (extent[i] == 0) return NULL;
        if (stride[i] < 0) low += (extent[i] - 1) * stride[i];
        else high += (extent[i] - 1) * stride[i];
    }
    p->memory[operand] = guard_make((size_t)(high - low + dim) * element_bytes, p->side, 0);
    return p->memory[operand].data - low * (int64_t)element_bytes;
}

static void make_tensor(problem *p, int operand, mha_tensor *tensor, int64_t heads, int64_t tokens, int64_t dim) {
    const spec *s = &p->spec;
    const int64_t extent[] = {s->batch, heads, tokens};
    lay_out(s, operand, heads, tokens, dim, tensor->stride);
    if (packed(s) && (operand != OUT || s->layout == PACKED_OUT)) {
        const int64_t stride[] = {tensor->stride[0], 0, tensor->stride[2]};
        if (operand == Q) p->args.q.data = place(p, Q, 3, extent, stride, column(s, N_OPERANDS), sizeof(float));
        tensor->data = (float *)p->args.q.data + column(s, operand);
    } else {
        tensor->data = place(p, operand, 3, extent, tensor->stride, dim, sizeof(float));
    }
}

static void make_mask(problem *p) {
    const spec *s = &p->spec;
    mha_score_tensor *mask = &p->args.mask;
    const int sign = s->layout == REVERSED ? -1 : 1, key = s->layout == GAPPED || s->layout == REVERSED ? 2 : 1;
    const int64_t extent[] = {s->batch, s->q_heads, s->q_len, s->kv_len};
    if (s->mask == NO_MASK) return;
    mask->dtype = s->mask == MASK_BOOL || s->mask >= MASK_PREFIX ? MHA_BOOL : MHA_F32;
    mask->stride[3] = (s->same & SAME_K) != 0 ? 0 : sign * key;
    nest(s->kv_len * key, 1 + key, sign, s->q_heads, s->q_len, mask->stride);
    if ((s->same & SAME_B) != 0) mask->stride[0] = 0;
    if ((s->same & SAME_H) != 0) mask->stride[1] = 0;
    if ((s->same & SAME_Q) != 0) mask->stride[2] = 0;
    mask->data = place(p, MASK, 4, extent, mask->stride, 1, mask->dtype == MHA_BOOL ? 1 : sizeof(float));
}

static void make_row_outputs(problem *p) {
    const spec *s = &p->spec;
    const int64_t gap = s->layout == BHTD ? 0 : 2, extent[] = {s->batch, s->q_heads, s->q_len, s->kv_len};
    if (s->lse) {
        nest(1 + gap, gap, 1, s->q_heads, s->q_len, p->args.lse.stride);
        p->args.lse.data = place(p, LSE, 3, extent, p->args.lse.stride, 1, sizeof(float));
    }
    if (s->scores != NO_SCORES) {
        nest(s->kv_len + gap, gap, 1, s->q_heads, s->q_len, p->args.scores.stride);
        p->args.scores.stride[3] = 1;
        p->args.scores.data = place(p, SCORES, 4, extent, p->args.scores.stride, 1, sizeof(float));
        p->args.scores_mode = (mha_scores_mode)(s->scores - RAW);
    }
}

static void set_options(problem *p) {
    const spec *s = &p->spec;
    mha_attention_args *a = &p->args;
    mha_attention_args_init(a, sizeof *a);
    a->batch = s->batch, a->q_heads = s->q_heads, a->kv_heads = s->kv_heads;
    a->q_len = s->q_len, a->kv_len = s->kv_len, a->head_dim = s->head_dim, a->v_head_dim = s->v_head_dim;
    if (s->scale != NULL) a->scale = *s->scale;
    a->softcap = s->softcap;
    a->is_causal = s->causal;
    if (s->left != NULL) a->window_left = *s->left;
    if (s->right != NULL) a->window_right = *s->right;
    if (s->lens) a->kv_lens = p->kv_lens;
    if (s->q_offset_step != 0) a->q_offsets = p->q_offsets;
    /* What q_offsets replaces is set to nonsense. */
    a->q_offset = s->q_offset_step != 0 ? -12345 : s->q_offset;
}

/* What lies in an operand's memory in half precision, element by element, and every pointer into it. */
static void halve_memory(problem *p, int operand, mha_dtype dtype) {
    mha_attention_args *a = &p->args;
    guard *old = &p->memory[operand];
    const size_t n = old->bytes / sizeof(float);
    if (n == 0) return;
    guard half = guard_make(n * sizeof(uint16_t), p->side, 0);
    for (size_t i = 0; i < n; i++)
        ((uint16_t *)(void *)half.data)[i] = half_nearest(element_value(old->data, MHA_F32, (int64_t)i), dtype);
    void **data[] = {&a->q.data, &a->k.data, &a->v.data, &a->mask.data, &a->out.data, &a->scores.data};
    for (size_t i = 0; i < COUNT(data); i++) {
        const uintptr_t at = (uintptr_t)*data[i] - (uintptr_t)old->data;
        if (at < old->bytes) *data[i] = half.data + at / sizeof(float) * sizeof(uint16_t);
    }
    guard_free(old);
    *old = half;
}

static void halve(problem *p) {
    mha_attention_args *a = &p->args;
    mha_dtype *dtypes[N_OPERANDS] = {&a->q.dtype,   &a->k.dtype, &a->v.dtype,     &a->mask.dtype,
                                     &a->out.dtype, NULL,        &a->scores.dtype};
    for (int i = 0; i < N_OPERANDS; i++) {
        const bool in_q = packed(&p->spec) && (i == K || i == V || (i == OUT && p->spec.layout == PACKED_OUT));
        const mha_dtype dtype = p->spec.dtypes[in_q ? Q : i];
        if (i == LSE || !is_half(dtype) || *dtypes[i] == MHA_BOOL) continue;
        halve_memory(p, i, dtype);
        *dtypes[i] = dtype;
    }
}

void problem_make(problem *p, const spec *s, guard_side side) {
    memset(p, 0, sizeof *p);
    p->spec = *s;
    p->side = side;
    if (s->batch > MAX_BATCH) abort();
    set_options(p);
    make_tensor(p, Q, &p->args.q, s->q_heads, s->q_len, s->head_dim);
    make_tensor(p, K, &p->args.k, s->kv_heads, s->kv_len, s->head_dim);
    make_tensor(p, V, &p->args.v, s->kv_heads, s->kv_len, v_dim(s));
    make_tensor(p, OUT, &p->args.out, s->q_heads, s->q_len, v_dim(s));
    make_mask(p);
    make_row_outputs(p);
    contents_fill(p);
    halve(p);
    for (int i = 0; i < N_OPERANDS; i++) guard_remember(&p->memory[i]);
}

void problem_free(problem *p) {
    for (int i = 0; i < N_OPERANDS; i++) guard_free(&p->memory[i]);
}

void spec_text(const spec *s, char *text, size_t bytes) {
    static const char *const layouts[] = {"bhtd",   "bthd",       "wide",         "gapped",       "reversed",
                                          "packed", "packed out", "shared heads", "shared tokens"};
    const long long left = s->left != NULL ? *s->left : -1, right = s->right != NULL ? *s->right : -1;
    snprintf(
        text, bytes,
        "%s: batch %lld heads %lld:%lld q_len %lld kv_len %lld dim %lld/%lld %s logits %d scale %g softcap %g%s window "
        "%lld/%lld offset %lld+%lld%s mask %d same %u poison %d scores %d dtypes %d%d%d%d%d%d seed %llu",
        s->what, (long long)s->batch, (long long)s->q_heads, (long long)s->kv_heads, (long long)s->q_len,
        (long long)s->kv_len, (long long)s->head_dim, (long long)v_dim(s), layouts[s->layout], s->logits,
        s->scale != NULL ? (double)*s->scale : -INFINITY, (double)s->softcap, s->causal ? " causal" : "", left, right,
        (long long)s->q_offset, (long long)s->q_offset_step, s->lens ? " lens" : "", s->mask, s->same, s->poison,
        s->scores, s->dtypes[Q], s->dtypes[K], s->dtypes[V], s->dtypes[MASK], s->dtypes[OUT], s->dtypes[SCORES],
        (unsigned long long)s->seed);
}

/* Validation of mha_attention_args: every refusal names the field, its value and what was expected. */
#include "operands.h"
#include "plan.h"

#include <inttypes.h>
#include <string.h>

static mha_status check_sizes(mha_attention_args *args, mha_message message) {
    const int64_t most = INT64_C(1) << 48;
    if (args->v_head_dim == 0) args->v_head_dim = args->head_dim;
    TRY(mha_check_range("batch", args->batch, 0, most, message));
    TRY(mha_check_range("q_len", args->q_len, 0, most, message));
    TRY(mha_check_range("kv_len", args->kv_len, 0, most, message));
    TRY(mha_check_heads(args->q_heads, args->kv_heads, args->head_dim, args->v_head_dim, message));
    int64_t rows;
    if (__builtin_mul_overflow(mha_max(1, args->batch), args->q_heads, &rows) ||
        __builtin_mul_overflow(rows, mha_max(1, args->q_len), &rows) || rows > most)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "batch * q_heads * q_len is %" PRId64 " * %" PRId64 " * %" PRId64 ", expected at most 2^48",
                       args->batch, args->q_heads, args->q_len);
    return MHA_OK;
}

/* By which workspace and paths are chosen. */
static mha_status check_dtypes(const mha_attention_args *args, mha_message message) {
    TRY(mha_check_dtype("q", args->q.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("k", args->k.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("v", args->v.dtype, MHA_FLOATS, message));
    return mha_check_dtype("out", args->out.dtype, MHA_FLOATS, message);
}

static const mha_kv_cache default_cache = {
    .struct_size = sizeof(mha_kv_cache),
    .k = {.dtype = MHA_F32},
    .v = {.dtype = MHA_F32},
    .past_k = {.dtype = MHA_F32},
    .past_v = {.dtype = MHA_F32},
};

void mha_kv_cache_init(mha_kv_cache *cache, size_t struct_size) {
    mha_init_struct(cache, struct_size, &default_cache, sizeof default_cache);
}

static bool same_tensor(const mha_tensor *a, const mha_tensor *b) {
    return a->data == b->data && a->dtype == b->dtype && memcmp(a->stride, b->stride, sizeof a->stride) == 0;
}

/* Puts the cache, as it is after the call, in the place of k and v. */
static mha_status read_cache(mha_plan *plan, mha_message message) {
    mha_attention_args *args = &plan->args;
    mha_kv_cache *cache = &plan->cache;
    const int64_t most = INT64_C(1) << 47;
    mha_span unused;
    plan->appends = args->cache != NULL;
    if (!plan->appends) return MHA_OK;
    *cache = default_cache;
    TRY(mha_read_struct(cache, sizeof *cache, args->cache, "mha_kv_cache", message));
    TRY(mha_check_dtype("cache.k", cache->k.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("cache.v", cache->v.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("cache.past_k", cache->past_k.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("cache.past_v", cache->past_v.dtype, MHA_FLOATS, message));
    TRY(mha_check_range("kv_len", args->kv_len, 0, most, message));
    TRY(mha_check_range("cache.past_len", cache->past_len, 0, most, message));
    TRY(mha_lengths_span("cache.past_lens", cache->past_lens, args->batch, &unused, message));
    int64_t longest = cache->past_lens == NULL ? cache->past_len : 0;
    for (int64_t b = 0; cache->past_lens != NULL && b < args->batch; b++) {
        if (cache->past_lens[b] < 0 || cache->past_lens[b] > most)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "cache.past_lens[%" PRId64 "] is %" PRId64 ", expected 0 to 2^47", b, cache->past_lens[b]);
        longest = mha_max(longest, cache->past_lens[b]);
    }
    if ((cache->past_k.data == NULL) != (cache->past_v.data == NULL) && longest > 0)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "cache.past_k has%s data and cache.past_v has%s, expected both or neither",
                       cache->past_k.data == NULL ? " no" : "", cache->past_v.data == NULL ? " no" : "");
    if (same_tensor(&cache->past_k, &cache->k) && same_tensor(&cache->past_v, &cache->v))
        cache->past_k.data = cache->past_v.data = NULL;
    plan->new_k = args->k, plan->new_v = args->v, plan->new_len = args->kv_len;
    args->k = cache->k, args->v = cache->v, args->kv_len = longest + plan->new_len;
    return MHA_OK;
}

static mha_status check_options(mha_plan *plan, mha_message message) {
    mha_attention_args *args = &plan->args;
    const int64_t far = INT64_C(1) << 60;       /* of a position */
    const int64_t unbounded = INT64_C(1) << 61; /* beyond every key from every position, and sums do not overflow */
    mha_span unused;
    if (args->scale == MHA_SCALE_DEFAULT) args->scale = (float)(1 / sqrt((double)args->head_dim));
    if (!isfinite(args->scale))
        return mha_say(message, MHA_INVALID_ARGUMENT, "scale is %g, expected a finite value or MHA_SCALE_DEFAULT",
                       (double)args->scale);
    TRY(mha_check_range("window_left", args->window_left, -1, INT64_MAX, message));
    TRY(mha_check_range("window_right", args->window_right, -1, INT64_MAX, message));
    if (args->window_left > unbounded) args->window_left = -1;
    if (args->window_right > unbounded) args->window_right = -1;
    TRY(mha_check_range("q_offset", args->q_offset, -far, far, message));
    TRY(mha_lengths_span("q_offsets", args->q_offsets, args->batch, &unused, message));
    TRY(mha_lengths_span("kv_lens", args->kv_lens, args->batch, &unused, message));
    for (int64_t b = 0; args->q_offsets != NULL && b < args->batch; b++)
        if (args->q_offsets[b] < -far || args->q_offsets[b] > far)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "q_offsets[%" PRId64 "] is %" PRId64 ", expected -2^60 to 2^60", b, args->q_offsets[b]);
    for (int64_t b = 0; args->kv_lens != NULL && b < args->batch; b++) {
        const int64_t keys = plan->appends ? mha_plan_past_len(plan, b) + plan->new_len : args->kv_len;
        if (args->kv_lens[b] < 0 || args->kv_lens[b] > keys)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "kv_lens[%" PRId64 "] is %" PRId64 ", expected 0 to %s, %" PRId64, b, args->kv_lens[b],
                           plan->appends ? "past + kv_len" : "kv_len", keys);
    }
    if (args->softcap != 0 && !(args->softcap >= 0x1p-60f && args->softcap <= 0x1p60f))
        return mha_say(message, MHA_INVALID_ARGUMENT, "softcap is %g, expected 0 or 2^-60 to 2^60",
                       (double)args->softcap);
    if (args->reserved != 0)
        return mha_say(message, MHA_UNSUPPORTED,
                       "reserved is %" PRIu32 ", expected 0: the feature is newer than version %s", args->reserved,
                       mha_version());
    return mha_check_range("scores_mode", (int64_t)args->scores_mode, MHA_SCORES_RAW, MHA_SCORES_SOFTMAX, message);
}

static mha_status tensor_span(const char *name, const mha_tensor *tensor, int64_t batch, int64_t heads, int64_t tokens,
                              int64_t dim, mha_span *span, mha_message message) {
    *span = (mha_span){.name = name,
                       .pointer = ".data",
                       .data = tensor->data,
                       .element_bytes = mha_dtype_bytes(tensor->dtype),
                       .extent = {batch, heads, tokens, dim},
                       .stride = {tensor->stride[0], tensor->stride[1], tensor->stride[2], 1}};
    return mha_span_resolve(span, message);
}

mha_status mha_scores_span(const char *name, const mha_score_tensor *tensor, const mha_attention_args *args, bool mask,
                           mha_span *span, mha_message message) {
    *span = (mha_span){.name = name, .empty = true};
    if (tensor->data == NULL) return MHA_OK;
    TRY(mha_check_dtype(name, tensor->dtype, mask ? MHA_FLOATS_AND_BOOL : MHA_FLOATS, message));
    *span = (mha_span){.name = name,
                       .pointer = ".data",
                       .data = tensor->data,
                       .element_bytes = mha_dtype_bytes(tensor->dtype),
                       .extent = {args->batch, args->q_heads, args->q_len, args->kv_len},
                       .stride = {tensor->stride[0], tensor->stride[1], tensor->stride[2], tensor->stride[3]}};
    if (!mask && tensor->stride[3] != 1 && args->kv_len > 1)
        return mha_say(message, MHA_INVALID_ARGUMENT, "%s.stride[3] is %" PRId64 ", expected 1: keys are contiguous",
                       name, tensor->stride[3]);
    return mha_span_resolve(span, message);
}

static mha_status lse_span(const mha_attention_args *args, mha_span *span, mha_message message) {
    const mha_row_tensor *lse = &args->lse;
    *span = (mha_span){.name = "lse", .empty = true};
    if (lse->data == NULL) return MHA_OK;
    *span = (mha_span){.name = "lse",
                       .pointer = ".data",
                       .data = lse->data,
                       .element_bytes = sizeof(float),
                       .extent = {args->batch, args->q_heads, args->q_len, 1},
                       .stride = {lse->stride[0], lse->stride[1], lse->stride[2], 1}};
    return mha_span_resolve(span, message);
}

/* One number for each batch item; optional. */
mha_status mha_lengths_span(const char *name, const int64_t *lengths, int64_t batch, mha_span *span,
                            mha_message message) {
    *span = (mha_span){.name = name, .empty = true};
    if (lengths == NULL) return MHA_OK;
    *span = (mha_span){.name = name,
                       .pointer = "",
                       .data = lengths,
                       .element_bytes = sizeof *lengths,
                       .extent = {1, 1, 1, batch},
                       .stride = {0, 0, 0, 1}};
    return mha_span_resolve(span, message);
}

mha_status mha_bytes_span(const char *name, const void *memory, size_t bytes, mha_span *span, mha_message message) {
    *span = (mha_span){.name = name, .empty = true};
    if (memory == NULL) return MHA_OK; /* its own refusal */
    *span = (mha_span){.name = name,
                       .pointer = "",
                       .data = memory,
                       .element_bytes = 1,
                       .extent = {1, 1, 1, (int64_t)bytes},
                       .stride = {0, 0, 0, 1}};
    return mha_span_resolve(span, message);
}

mha_status mha_cache_spans(const mha_plan *plan, mha_span spans[MHA_CACHE_SPANS], mha_message message) {
    const mha_attention_args *a = &plan->args;
    const mha_kv_cache *c = &plan->cache;
    for (int i = 0; i < MHA_CACHE_SPANS; i++) spans[i].empty = true;
    if (!plan->appends) return MHA_OK;
    const int64_t heads = a->kv_heads, past = a->kv_len - plan->new_len;
    TRY(tensor_span("cache.k", &c->k, a->batch, heads, a->kv_len, a->head_dim, &spans[MHA_CACHE_K], message));
    TRY(tensor_span("cache.v", &c->v, a->batch, heads, a->kv_len, a->v_head_dim, &spans[MHA_CACHE_V], message));
    TRY(mha_lengths_span("cache.past_lens", c->past_lens, a->batch, &spans[MHA_PAST_LENS], message));
    if (c->past_k.data == NULL) return MHA_OK;
    TRY(tensor_span("cache.past_k", &c->past_k, a->batch, heads, past, a->head_dim, &spans[MHA_PAST_K], message));
    return tensor_span("cache.past_v", &c->past_v, a->batch, heads, past, a->v_head_dim, &spans[MHA_PAST_V], message);
}

mha_status mha_plan_check_memory(const mha_plan *plan, const void *workspace, mha_message message) {
    enum { OUT, LSE, SCORES, WORKSPACE, CACHE, OUTPUTS = CACHE + MHA_CACHE_OUTPUTS };
    enum { Q = CACHE + MHA_CACHE_SPANS, K, V, MASK, LENS, OFFSETS, OPERANDS };
    const mha_attention_args *a = &plan->args;
    const mha_tensor *k = plan->appends ? &plan->new_k : &a->k, *v = plan->appends ? &plan->new_v : &a->v;
    const int64_t kv_len = plan->appends ? plan->new_len : a->kv_len;
    mha_span spans[OPERANDS];
    TRY(tensor_span("q", &a->q, a->batch, a->q_heads, a->q_len, a->head_dim, &spans[Q], message));
    TRY(tensor_span("k", k, a->batch, a->kv_heads, kv_len, a->head_dim, &spans[K], message));
    TRY(tensor_span("v", v, a->batch, a->kv_heads, kv_len, a->v_head_dim, &spans[V], message));
    TRY(tensor_span("out", &a->out, a->batch, a->q_heads, a->q_len, a->v_head_dim, &spans[OUT], message));
    TRY(mha_cache_spans(plan, &spans[CACHE], message));
    TRY(mha_scores_span("mask", &a->mask, a, true, &spans[MASK], message));
    TRY(mha_scores_span("scores", &a->scores, a, false, &spans[SCORES], message));
    TRY(mha_lengths_span("kv_lens", a->kv_lens, a->batch, &spans[LENS], message));
    TRY(mha_lengths_span("q_offsets", a->q_offsets, a->batch, &spans[OFFSETS], message));
    TRY(mha_bytes_span("workspace", workspace, plan->workspace_bytes, &spans[WORKSPACE], message));
    TRY(lse_span(a, &spans[LSE], message));
    return mha_span_check_outputs(spans, OUTPUTS, OPERANDS, message);
}

_Static_assert(sizeof(mha_attention_args) == offsetof(mha_attention_args, cache) + sizeof(const mha_kv_cache *) &&
                   sizeof(mha_kv_cache) == offsetof(mha_kv_cache, past_lens) + sizeof(const int64_t *),
               "a struct that grows ends with a field: what lies in padding cannot be told from a new one");

static const mha_attention_args default_args = {
    .struct_size = sizeof(mha_attention_args),
    .q = {.dtype = MHA_F32},
    .k = {.dtype = MHA_F32},
    .v = {.dtype = MHA_F32},
    .out = {.dtype = MHA_F32},
    .scale = MHA_SCALE_DEFAULT,
    .window_left = -1,
    .window_right = -1,
    .scores = {.dtype = MHA_F32, .stride = {0, 0, 0, 1}},
    .scores_mode = MHA_SCORES_SOFTMAX,
};

void mha_attention_args_init(mha_attention_args *args, size_t struct_size) {
    mha_init_struct(args, struct_size, &default_args, sizeof default_args);
}

/* Of bf16, of the operand that has most. */
static int most_parts(const mha_attention_args *args) {
    return (int)mha_max(mha_bf16_parts(args->q.dtype),
                        mha_max(mha_bf16_parts(args->k.dtype), mha_bf16_parts(args->v.dtype)));
}

mha_status mha_plan_read(mha_plan *plan, const mha_context *context, const mha_attention_args *args,
                         mha_message message) {
    if (context == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "context is NULL, expected a context");
    plan->kernels = context->choice.kernels;
    plan->exp = context->exp;
    plan->args = default_args;
    TRY(mha_read_struct(&plan->args, sizeof plan->args, args, "mha_attention_args", message));
    TRY(check_dtypes(&plan->args, message));
    TRY(check_sizes(&plan->args, message));
    TRY(read_cache(plan, message));
    plan->isa = context->choice.isa;
    plan->parts = mha_multiplied_parts(context, most_parts(&plan->args));
    plan->bf16 = plan->parts == 0   ? NULL
                 : plan->parts == 1 ? &context->choice.bf16->tile
                                    : &context->choice.bf16->split;
    return check_options(plan, message);
}

/* The layer: Q, K, V projections, attention, output projection.
 *
 *     q  [batch, q_len, q_dim]    --Wq-->  Q [batch, q_len, q_heads, head_dim]      --+
 *     kv [batch, kv_len, kv_dim]  --Wk-->  K [batch, kv_len, kv_heads, head_dim]    --+-> heads --Wo--> out
 *                                 --Wv-->  V [batch, kv_len, kv_heads, v_head_dim]  --+
 *
 * Q, K, V and the heads' outputs lie in the workspace, Q and heads in q's dtype, K and V in kv's.  Concatenation is a
 * layout: heads write side by side, [batch, q_len, q_heads, v_head_dim], and the output projection reads that as
 * rows. */
#include "executor.h"
#include "layer.h"
#include "operands.h"
#include "plan.h"
#include "projection.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct layer_call {
    mha_layer_args args;
    mha_plan plan;                          /* of the attention */
    mha_projection projection[MHA_WEIGHTS]; /* Q, K, V, output */
    char *workers;                          /* scratch of the projections and workspace of the attention, in turn */
    size_t scratch_bytes;                   /* of a worker */
    size_t workspace_bytes;
} layer_call;

_Static_assert(sizeof(mha_layer_args) == offsetof(mha_layer_args, cache) + sizeof(const mha_kv_cache *),
               "as mha_attention_args");

static const mha_layer_args default_args = {
    .struct_size = sizeof(mha_layer_args),
    .kv_len = -1,
    .q = {.dtype = MHA_F32},
    .kv = {.dtype = MHA_F32},
    .out = {.dtype = MHA_F32},
    .scale = MHA_SCALE_DEFAULT,
    .window_left = -1,
    .window_right = -1,
    .scores = {.dtype = MHA_F32, .stride = {0, 0, 0, 1}},
    .scores_mode = MHA_SCORES_SOFTMAX,
};

void mha_layer_args_init(mha_layer_args *args, size_t struct_size) {
    mha_init_struct(args, struct_size, &default_args, sizeof default_args);
}

static mha_status check_batch(const mha_layer_args *args, mha_message message) {
    const int64_t most = INT64_C(1) << 40;
    int64_t tokens;
    TRY(mha_check_range("batch", args->batch, 0, most, message));
    TRY(mha_check_range("q_len", args->q_len, 0, most, message));
    TRY(mha_check_range("kv_len", args->kv_len, 0, most, message));
    if (__builtin_mul_overflow(mha_max(1, args->batch), mha_max(args->q_len, args->kv_len), &tokens) || tokens > most)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "batch * max(q_len, kv_len) is %" PRId64 " * %" PRId64 ", expected at most 2^40", args->batch,
                       mha_max(args->q_len, args->kv_len));
    return MHA_OK;
}

static mha_status activation_span(const char *name, const mha_activation *activation, int64_t batch, int64_t tokens,
                                  int64_t width, mha_span *span, mha_message message) {
    *span = (mha_span){.name = name,
                       .pointer = ".data",
                       .data = activation->data,
                       .element_bytes = mha_dtype_bytes(activation->dtype),
                       .extent = {batch, 1, tokens, width},
                       .stride = {activation->stride[0], 0, activation->stride[1], 1}};
    return mha_span_resolve(span, message);
}

static mha_status check_memory(const mha_layer *layer, const layer_call *call, const void *workspace,
                               mha_message message) {
    enum { OUT, SCORES, WORKSPACE, CACHE, OUTPUTS = CACHE + MHA_CACHE_OUTPUTS };
    enum { Q = CACHE + MHA_CACHE_SPANS, KV, MASK, LENS, OFFSETS, WEIGHTS, OPERANDS };
    const mha_layer_args *a = &call->args;
    const mha_attention_args *attention = &call->plan.args;
    mha_span spans[OPERANDS];
    TRY(activation_span("q", &a->q, a->batch, a->q_len, layer->sizes.q_dim, &spans[Q], message));
    TRY(activation_span("kv", &a->kv, a->batch, a->kv_len, layer->sizes.kv_dim, &spans[KV], message));
    TRY(activation_span("out", &a->out, a->batch, a->q_len, layer->sizes.out_dim, &spans[OUT], message));
    TRY(mha_cache_spans(&call->plan, &spans[CACHE], message));
    TRY(mha_scores_span("mask", &a->mask, attention, true, &spans[MASK], message));
    TRY(mha_scores_span("scores", &a->scores, attention, false, &spans[SCORES], message));
    TRY(mha_lengths_span("kv_lens", a->kv_lens, a->batch, &spans[LENS], message));
    TRY(mha_lengths_span("q_offsets", a->q_offsets, a->batch, &spans[OFFSETS], message));
    TRY(mha_bytes_span("workspace", workspace, call->workspace_bytes, &spans[WORKSPACE], message));
    TRY(mha_bytes_span("packed weights", layer->packed, layer->packed_bytes, &spans[WEIGHTS], message));
    return mha_span_check_outputs(spans, OUTPUTS, OPERANDS, message);
}

static mha_attention_args attention_of(const mha_layer *layer, const mha_layer_args *args) {
    mha_attention_args attention;
    mha_attention_args_init(&attention, sizeof attention);
    attention.batch = args->batch;
    attention.q_heads = layer->sizes.q_heads, attention.kv_heads = layer->sizes.kv_heads;
    attention.q_len = args->q_len, attention.kv_len = args->kv_len;
    attention.head_dim = layer->sizes.head_dim, attention.v_head_dim = layer->sizes.v_head_dim;
    attention.q.dtype = attention.out.dtype = args->q.dtype;
    attention.k.dtype = attention.v.dtype = args->kv.dtype;
    attention.scale = args->scale, attention.softcap = args->softcap;
    attention.is_causal = args->is_causal;
    attention.window_left = args->window_left, attention.window_right = args->window_right;
    attention.q_offset = args->q_offset, attention.q_offsets = args->q_offsets, attention.kv_lens = args->kv_lens;
    attention.mask = args->mask;
    attention.scores = args->scores, attention.scores_mode = args->scores_mode;
    attention.reserved = args->reserved;
    attention.cache = args->cache;
    return attention;
}

/* Places a [batch, tokens, heads, dim] tensor behind what is used of the workspace (base NULL: nowhere). */
static mha_status place(mha_tensor *tensor, int64_t batch, int64_t tokens, int64_t heads, int64_t dim, char *base,
                        size_t *used, mha_message message) {
    const int64_t width = heads * dim;
    size_t bytes;
    tensor->data = base == NULL ? NULL : base + *used;
    const size_t row_bytes = (size_t)(width * mha_dtype_bytes(tensor->dtype));
    if (__builtin_mul_overflow((size_t)(mha_max(1, batch) * tokens), row_bytes, &bytes) || bytes > PTRDIFF_MAX / 8)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "batch * tokens is %" PRId64 " at a width of %" PRId64
                       ", expected a workspace that fits in memory",
                       batch * tokens, width);
    tensor->stride[0] = tokens * width, tensor->stride[1] = dim, tensor->stride[2] = width;
    *used += batch == 0 ? 0 : mha_align_up(bytes);
    return MHA_OK;
}

static mha_rows_view rows_of(const mha_tensor *tensor) {
    return (mha_rows_view){tensor->data, tensor->dtype, tensor->stride[0], tensor->stride[2]};
}

static mha_rows_view view(const mha_activation *activation) {
    return (mha_rows_view){activation->data, activation->dtype, activation->stride[0], activation->stride[1]};
}

/* A worker's scratch in the projections. */
static size_t scratch_bytes_of(const mha_layer *layer) {
    size_t floats = 0;
    for (int i = 0; i < MHA_WEIGHTS; i++)
        if (layer->kernels[i]->scratch_floats > floats) floats = layer->kernels[i]->scratch_floats;
    return mha_align_up(floats * sizeof(float));
}

/* Lays out the workspace (base NULL: measures it) and cuts the projections. */
static mha_status lay_out(layer_call *call, const mha_layer *layer, size_t n_workers, char *base, mha_message message) {
    const mha_layer_args *a = &call->args;
    mha_attention_args *t = &call->plan.args;
    mha_tensor *k = call->plan.appends ? &call->plan.new_k : &t->k, *v = call->plan.appends ? &call->plan.new_v : &t->v;
    size_t used = 0, scratch_bytes;
    TRY(place(&t->q, a->batch, a->q_len, t->q_heads, t->head_dim, base, &used, message));
    TRY(place(k, a->batch, a->kv_len, t->kv_heads, t->head_dim, base, &used, message));
    TRY(place(v, a->batch, a->kv_len, t->kv_heads, t->v_head_dim, base, &used, message));
    TRY(place(&t->out, a->batch, a->q_len, t->q_heads, t->v_head_dim, base, &used, message));
    call->workers = base == NULL ? NULL : base + used;

    const mha_rows_view q = view(&a->q), kv = view(&a->kv), out = view(&a->out);
    const mha_rows_view x[] = {q, kv, kv, rows_of(&t->out)}, y[] = {rows_of(&t->q), rows_of(k), rows_of(v), out};
    const int64_t tokens[] = {a->q_len, a->kv_len, a->kv_len, a->q_len};
    for (int i = 0; i < MHA_WEIGHTS; i++)
        call->projection[i] =
            mha_projection_cut(layer->kernels[i], &layer->weight[i], a->batch, tokens[i], x[i], y[i], n_workers);

    TRY(mha_plan_cut(&call->plan, n_workers, message));
    call->scratch_bytes = scratch_bytes_of(layer);
    const bool countable = !__builtin_mul_overflow(call->scratch_bytes, n_workers, &scratch_bytes);
    size_t in_turn = call->plan.workspace_bytes;
    if (countable && scratch_bytes > in_turn) in_turn = scratch_bytes;
    if (!countable || __builtin_add_overflow(used, in_turn + MHA_ALIGN - 1, &call->workspace_bytes) ||
        call->workspace_bytes > PTRDIFF_MAX)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "batch is %" PRId64 " and n_workers %zu, expected few enough for the workspace to fit in memory",
                       a->batch, n_workers);
    return MHA_OK;
}

/* All that does not need the operands' memory. */
static mha_status read_args(layer_call *call, const mha_layer *layer, const mha_layer_args *given,
                            mha_message message) {
    if (layer == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "layer is NULL, expected a layer");
    call->args = default_args;
    TRY(mha_read_struct(&call->args, sizeof call->args, given, "mha_layer_args", message));
    mha_layer_args *args = &call->args;
    if (args->kv_len == -1) { /* self-attention */
        if (args->kv.data != NULL)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "kv.data is %p with a kv_len of -1, expected NULL or a length", args->kv.data);
        if (layer->sizes.kv_dim != layer->sizes.q_dim)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "kv_len is -1, self-attention, expected a kv input: kv_dim is %" PRId64 ", q_dim %" PRId64,
                           layer->sizes.kv_dim, layer->sizes.q_dim);
        args->kv_len = args->q_len;
        args->kv = args->q;
    }
    TRY(mha_check_dtype("q", args->q.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("kv", args->kv.dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype("out", args->out.dtype, MHA_FLOATS, message));
    TRY(check_batch(args, message));
    const mha_attention_args attention = attention_of(layer, args);
    return mha_plan_read(&call->plan, layer->context, &attention, message);
}

static mha_status prepare(layer_call *call, const mha_layer *layer, const mha_layer_args *args,
                          const mha_executor *executor, const void *workspace, size_t workspace_bytes,
                          mha_message message) {
    TRY(read_args(call, layer, args, message));
    TRY(mha_check_executor(executor, message));
    TRY(lay_out(call, layer, mha_n_workers(executor), mha_align_pointer((void *)workspace), message));
    TRY(mha_check_workspace(workspace, workspace_bytes, call->workspace_bytes, message));
    TRY(check_memory(layer, call, workspace, message));
    return mha_succeed(message);
}

static float *scratch_of(const layer_call *call, size_t worker) {
    return (float *)(void *)(call->workers + worker * call->scratch_bytes);
}

static void qkv_task(void *closure, size_t worker, size_t index) {
    const layer_call *call = closure;
    int64_t task = (int64_t)index;
    int which = MHA_WQ;
    while (task >= call->projection[which].tasks) task -= call->projection[which++].tasks;
    mha_projection_task(&call->projection[which], task, scratch_of(call, worker));
}

static void out_task(void *closure, size_t worker, size_t index) {
    const layer_call *call = closure;
    mha_projection_task(&call->projection[MHA_WO], (int64_t)index, scratch_of(call, worker));
}

mha_status mha_layer_forward(const mha_layer *layer, const mha_layer_args *args, const mha_executor *executor,
                             void *workspace, size_t workspace_bytes) {
    layer_call call;
    TRY(prepare(&call, layer, args, executor, workspace, workspace_bytes, (mha_message){0}));
    const int64_t qkv_tasks =
        call.projection[MHA_WQ].tasks + call.projection[MHA_WK].tasks + call.projection[MHA_WV].tasks;
    mha_parallel_for(executor, (size_t)qkv_tasks, qkv_task, &call);
    mha_attention_run(&call.plan, executor, call.workers);
    mha_parallel_for(executor, (size_t)call.projection[MHA_WO].tasks, out_task, &call);
    return MHA_OK;
}

mha_status mha_layer_check(const mha_layer *layer, const mha_layer_args *args, const mha_executor *executor,
                           const void *workspace, size_t workspace_bytes, char *text, size_t text_bytes) {
    layer_call call;
    return prepare(&call, layer, args, executor, workspace, workspace_bytes, (mha_message){text, text_bytes});
}

mha_status mha_layer_workspace_size(const mha_layer *layer, const mha_layer_args *args, size_t n_workers,
                                    size_t *workspace_bytes) {
    layer_call call;
    if (workspace_bytes == NULL) return MHA_INVALID_ARGUMENT;
    TRY(mha_check_n_workers(n_workers, (mha_message){0}));
    TRY(read_args(&call, layer, args, (mha_message){0}));
    TRY(lay_out(&call, layer, n_workers, NULL, (mha_message){0}));
    *workspace_bytes = call.workspace_bytes;
    return MHA_OK;
}

static void describe_projection(const mha_layer *layer, const layer_call *call, int which, char text[64]) {
    const mha_choice *choice = &layer->context->choice;
    const mha_projection *p = &call->projection[which];
    if (choice->bf16 == NULL || p->kernels != &choice->bf16->gemm) snprintf(text, 64, "%s f32", choice->kernels->isa);
    else
        snprintf(text, 64, "%s bf16, weights in %d parts, inputs in %d", choice->isa, p->gemm.w_parts, p->gemm.x_parts);
}

mha_status mha_layer_describe(const mha_layer *layer, const mha_layer_args *args, size_t n_workers, char *text,
                              size_t text_bytes) {
    layer_call call;
    char projections[MHA_WEIGHTS][64], attention[1024];
    const mha_message message = {text, text_bytes};
    TRY(mha_check_n_workers(n_workers, message));
    TRY(read_args(&call, layer, args, message));
    TRY(lay_out(&call, layer, n_workers, NULL, message));
    for (int i = 0; i < MHA_WEIGHTS; i++) describe_projection(layer, &call, i, projections[i]);
    TRY(mha_plan_describe(&call.plan, (mha_message){attention, sizeof attention}));
    return mha_say(message, MHA_OK, "wq: %s\nwk: %s\nwv: %s\nwo: %s\n%s", projections[MHA_WQ], projections[MHA_WK],
                   projections[MHA_WV], projections[MHA_WO], attention);
}

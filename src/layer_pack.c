/* Layers: checking a description, packing its weights, owning or borrowing the result.
 *
 * The packed form is a header and, each aligned to MHA_ALIGN, the packed weight, in its dtype, and the bias, in f32, of
 * Wq, Wk, Wv, Wo. */
#include "arith.h"
#include "layer.h"
#include "operands.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct packed_header {
    char magic[8];             /* "mhalayer" */
    char version[16], isa[32]; /* "amx+avx512": the context's, and of the kernels in f32, if that is another */
    int64_t q_heads, kv_heads, head_dim, v_head_dim, q_dim, kv_dim, out_dim;
    uint64_t has_bias;            /* bit i: weight i */
    uint16_t parts[MHA_WEIGHTS];  /* of bf16, for any number of rows; 0: as they are */
    uint16_t dtypes[MHA_WEIGHTS]; /* mha_dtype */
    uint64_t bytes;
} packed_header;

static const mha_layer_desc default_desc = {
    .struct_size = sizeof(mha_layer_desc),
    .wq = {.dtype = MHA_F32},
    .wk = {.dtype = MHA_F32},
    .wv = {.dtype = MHA_F32},
    .wo = {.dtype = MHA_F32},
    .wqkv = {.dtype = MHA_F32},
};

void mha_layer_desc_init(mha_layer_desc *desc, size_t struct_size) {
    mha_init_struct(desc, struct_size, &default_desc, sizeof default_desc);
}

static void resolve_sizes(mha_layer_desc *desc) {
    if (desc->v_head_dim == 0) desc->v_head_dim = desc->head_dim;
    if (desc->kv_dim == 0) desc->kv_dim = desc->q_dim;
    if (desc->out_dim == 0) desc->out_dim = desc->q_dim;
}

static mha_status check_sizes(const mha_layer_desc *desc, mha_message message) {
    const int64_t most = 1 << 24;
    TRY(mha_check_heads(desc->q_heads, desc->kv_heads, desc->head_dim, desc->v_head_dim, message));
    TRY(mha_check_range("q_dim", desc->q_dim, 1, most, message));
    TRY(mha_check_range("kv_dim", desc->kv_dim, 1, most, message));
    return mha_check_range("out_dim", desc->out_dim, 1, most, message);
}

static const char *const names[MHA_WEIGHTS] = {"wq", "wk", "wv", "wo"};

/* Outputs and inputs of each weight, few enough for all packed bytes to be counted. */
static mha_status weight_sizes(const mha_layer_desc *desc, int64_t out[MHA_WEIGHTS], int64_t in[MHA_WEIGHTS],
                               mha_message message) {
    const int64_t most = INT64_C(1) << 44;
    out[MHA_WQ] = desc->q_heads * desc->head_dim, in[MHA_WQ] = desc->q_dim;
    out[MHA_WK] = desc->kv_heads * desc->head_dim, in[MHA_WK] = desc->kv_dim;
    out[MHA_WV] = desc->kv_heads * desc->v_head_dim, in[MHA_WV] = desc->kv_dim;
    out[MHA_WO] = desc->out_dim, in[MHA_WO] = desc->q_heads * desc->v_head_dim;
    for (int i = 0; i < MHA_WEIGHTS; i++)
        if (out[i] > most / in[i])
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "%s is [%" PRId64 ", %" PRId64 "], expected at most 2^44 elements", names[i], out[i], in[i]);
    return MHA_OK;
}

static mha_status linear_span(const char *name, const mha_linear *linear, int64_t out, int64_t in, mha_span *span,
                              mha_message message) {
    *span = (mha_span){.name = name,
                       .pointer = ".weight",
                       .data = linear->weight,
                       .element_bytes = mha_dtype_bytes(linear->dtype),
                       .extent = {1, 1, out, in},
                       .stride = {0, 0, linear->weight_stride, 1}};
    return mha_span_resolve(span, message);
}

static mha_status check_linear(const char *name, mha_linear *linear, int64_t out, int64_t in, mha_message message) {
    mha_span unused;
    if (linear->weight_stride == 0) linear->weight_stride = in;
    if (linear->bias_dtype == 0) linear->bias_dtype = linear->dtype;
    if (out > 1 && linear->weight_stride < in)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "%s.weight_stride is %" PRId64 ", expected 0 or at least the row length, %" PRId64, name,
                       linear->weight_stride, in);
    TRY(mha_check_dtype(name, linear->dtype, MHA_FLOATS, message));
    TRY(mha_check_dtype(name, linear->bias_dtype, MHA_FLOATS, message));
    return linear_span(name, linear, out, in, &unused, message);
}

static bool is_set(const mha_linear *linear) {
    return linear->weight != NULL || linear->bias != NULL || linear->weight_stride != 0;
}

/* Cuts the stacked Q, K, V into three. */
static mha_status unstack(mha_layer_desc *desc, const int64_t out[MHA_WEIGHTS], mha_message message) {
    if (!is_set(&desc->wqkv)) return MHA_OK;
    if (is_set(&desc->wq) || is_set(&desc->wk) || is_set(&desc->wv))
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "wqkv is set beside wq, wk or wv, expected either the stacked weights or the separate ones");
    if (desc->kv_dim != desc->q_dim)
        return mha_say(message, MHA_INVALID_ARGUMENT, "kv_dim is %" PRId64 " with wqkv, expected q_dim, %" PRId64,
                       desc->kv_dim, desc->q_dim);
    TRY(check_linear("wqkv", &desc->wqkv, out[MHA_WQ] + out[MHA_WK] + out[MHA_WV], desc->q_dim, message));
    mha_linear *parts[] = {&desc->wq, &desc->wk, &desc->wv};
    int64_t row = 0;
    for (int i = 0; i < 3; i++) {
        *parts[i] = desc->wqkv;
        parts[i]->weight = mha_element(desc->wqkv.weight, row * desc->wqkv.weight_stride, desc->wqkv.dtype);
        if (desc->wqkv.bias != NULL) parts[i]->bias = mha_element(desc->wqkv.bias, row, desc->wqkv.bias_dtype);
        row += out[i];
    }
    return MHA_OK;
}

static mha_status read_desc(mha_layer_desc *desc, const mha_context *context, const mha_layer_desc *given,
                            mha_message message) {
    if (context == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "context is NULL, expected a context");
    int64_t out[MHA_WEIGHTS], in[MHA_WEIGHTS];
    *desc = default_desc;
    TRY(mha_read_struct(desc, sizeof *desc, given, "mha_layer_desc", message));
    resolve_sizes(desc);
    TRY(check_sizes(desc, message));
    TRY(weight_sizes(desc, out, in, message));
    TRY(unstack(desc, out, message));
    TRY(check_linear("wq", &desc->wq, out[MHA_WQ], in[MHA_WQ], message));
    TRY(check_linear("wk", &desc->wk, out[MHA_WK], in[MHA_WK], message));
    TRY(check_linear("wv", &desc->wv, out[MHA_WV], in[MHA_WV], message));
    return check_linear("wo", &desc->wo, out[MHA_WO], in[MHA_WO], message);
}

/* The sizes of a layer without its weights. */
static mha_layer_desc sizes_of(const packed_header *header) {
    mha_layer_desc sizes = default_desc;
    sizes.q_heads = header->q_heads, sizes.kv_heads = header->kv_heads;
    sizes.head_dim = header->head_dim, sizes.v_head_dim = header->v_head_dim;
    sizes.q_dim = header->q_dim, sizes.kv_dim = header->kv_dim, sizes.out_dim = header->out_dim;
    return sizes;
}

/* The layer's sizes, and where its parts lie in `packed` (NULL: nowhere); returns the packed bytes. */
static size_t lay_out(mha_layer *layer, const packed_header *header, const mha_context *context, char *packed) {
    int64_t out[MHA_WEIGHTS], in[MHA_WEIGHTS];
    layer->sizes = sizes_of(header);
    weight_sizes(&layer->sizes, out, in, (mha_message){0});
    size_t used = mha_align_up(sizeof *header);
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        const bool has_bias = (header->has_bias >> i & 1) != 0;
        mha_gemm *weight = &layer->weight[i];
        *weight = (mha_gemm){.in = in[i],
                             .out = out[i],
                             .w_dtype = (mha_dtype)header->dtypes[i],
                             .w_parts = header->parts[i],
                             .x_parts = mha_most_parts_at(context->precision)};
        layer->kernels[i] = weight->w_parts > 0 ? &context->choice.bf16->gemm : &context->choice.kernels->gemm;
        if (packed != NULL) weight->packed = packed + used;
        used += mha_align_up(layer->kernels[i]->packed_bytes(out[i], in[i], weight->w_dtype, weight->w_parts));
        if (packed != NULL && has_bias) weight->bias = (const float *)(const void *)(packed + used);
        used += has_bias ? mha_align_up((size_t)out[i] * sizeof(float)) : 0;
    }
    for (int i = 0; i < MHA_WEIGHTS; i++)
        layer->weight[i].level = mha_level_of((double)used); /* they evict each other */
    layer->packed = packed;
    layer->packed_bytes = used;
    return used;
}

/* A build may lack the instruction sets between. */
static void name_isas(const mha_context *context, char *text, size_t bytes) {
    const char *isa = context->choice.isa, *f32 = context->choice.kernels->isa;
    const bool one = strcmp(isa, f32) == 0;
    snprintf(text, bytes, "%s%s%s", isa, one ? "" : "+", one ? "" : f32);
}

static packed_header header_of(const mha_layer_desc *desc, const mha_context *context) {
    const mha_linear *linears[MHA_WEIGHTS] = {&desc->wq, &desc->wk, &desc->wv, &desc->wo};
    packed_header header = {.magic = {'m', 'h', 'a', 'l', 'a', 'y', 'e', 'r'},
                            .q_heads = desc->q_heads,
                            .kv_heads = desc->kv_heads,
                            .head_dim = desc->head_dim,
                            .v_head_dim = desc->v_head_dim,
                            .q_dim = desc->q_dim,
                            .kv_dim = desc->kv_dim,
                            .out_dim = desc->out_dim};
    mha_layer unused;
    snprintf(header.version, sizeof header.version, "%s", mha_version());
    name_isas(context, header.isa, sizeof header.isa);
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        header.has_bias |= (uint64_t)(linears[i]->bias != NULL) << i;
        header.dtypes[i] = (uint16_t)linears[i]->dtype;
        header.parts[i] = (uint16_t)mha_multiplied_parts(context, mha_bf16_parts(linears[i]->dtype));
    }
    header.bytes = lay_out(&unused, &header, context, NULL);
    return header;
}

static void pack_bias(const mha_kernels *kernels, const mha_linear *linear, size_t n, float *packed) {
    if (linear->bias_dtype == MHA_F32) memcpy(packed, linear->bias, n * sizeof(float));
    else kernels->widen(linear->bias, linear->bias_dtype, packed, n);
}

static void pack(const mha_layer_desc *desc, const packed_header *header, const mha_context *context, char *packed) {
    const mha_linear *linears[MHA_WEIGHTS] = {&desc->wq, &desc->wk, &desc->wv, &desc->wo};
    mha_layer layer;
    memset(packed, 0, header->bytes); /* what lies between the parts too: the same layer packs to the same bytes */
    memcpy(packed, header, sizeof *header);
    lay_out(&layer, header, context, packed);
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        const mha_gemm *weight = &layer.weight[i];
        layer.kernels[i]->pack(linears[i]->weight, weight->w_dtype, weight->w_parts, linears[i]->weight_stride,
                               weight->out, weight->in, (void *)weight->packed);
        if (weight->bias != NULL)
            pack_bias(context->choice.kernels, linears[i], (size_t)weight->out, (float *)weight->bias);
    }
}

mha_status mha_layer_packed_size(const mha_context *context, const mha_layer_desc *given, size_t *packed_bytes,
                                 char *text, size_t text_bytes) {
    const mha_message message = {text, text_bytes};
    mha_layer_desc desc;
    if (packed_bytes == NULL)
        return mha_say(message, MHA_INVALID_ARGUMENT, "packed_bytes is NULL, expected a place for it");
    TRY(read_desc(&desc, context, given, message));
    *packed_bytes = (size_t)header_of(&desc, context).bytes;
    return mha_succeed(message);
}

/* Packing writes before it has read all weights: they must not lie where it writes. */
static mha_status check_apart(const mha_layer_desc *desc, const void *packed, size_t bytes, mha_message message) {
    const mha_linear *linears[MHA_WEIGHTS] = {&desc->wq, &desc->wk, &desc->wv, &desc->wo};
    int64_t out[MHA_WEIGHTS], in[MHA_WEIGHTS];
    mha_span spans[1 + 2 * MHA_WEIGHTS];
    TRY(weight_sizes(desc, out, in, message));
    TRY(mha_bytes_span("packed", packed, bytes, &spans[0], message));
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        const size_t bias_bytes = (size_t)(out[i] * mha_dtype_bytes(linears[i]->bias_dtype));
        TRY(linear_span(names[i], linears[i], out[i], in[i], &spans[1 + i], message));
        TRY(mha_bytes_span("bias", linears[i]->bias, bias_bytes, &spans[1 + MHA_WEIGHTS + i], message));
    }
    return mha_span_check_outputs(spans, 1, 1 + 2 * MHA_WEIGHTS, message);
}

static mha_status check_packed(const void *packed, mha_message message) {
    if (packed != NULL && (uintptr_t)packed % MHA_ALIGN == 0) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT, "packed is %p, expected an address aligned to %d bytes", packed,
                   MHA_ALIGN);
}

mha_status mha_layer_pack(const mha_context *context, const mha_layer_desc *given, void *packed, size_t packed_bytes,
                          char *text, size_t text_bytes) {
    const mha_message message = {text, text_bytes};
    mha_layer_desc desc;
    TRY(read_desc(&desc, context, given, message));
    TRY(check_packed(packed, message));
    const packed_header header = header_of(&desc, context);
    if (packed_bytes < header.bytes)
        return mha_say(message, MHA_WORKSPACE_TOO_SMALL, "packed_bytes is %zu, expected at least %" PRIu64,
                       packed_bytes, header.bytes);
    TRY(check_apart(&desc, packed, (size_t)header.bytes, message));
    pack(&desc, &header, context, packed);
    return mha_succeed(message);
}

static mha_status new_layer(const mha_context *context, size_t extra_bytes, mha_layer **layer, mha_message message) {
    const mha_allocator *allocator = &context->allocator;
    const size_t bytes = mha_align_up(sizeof **layer) + extra_bytes;
    *layer = allocator->allocate(allocator->user, bytes);
    if (*layer == NULL) return mha_say(message, MHA_OUT_OF_MEMORY, "allocate returned NULL for %zu bytes", bytes);
    **layer = (mha_layer){.context = context};
    return MHA_OK;
}

mha_status mha_layer_create(const mha_context *context, const mha_layer_desc *given, mha_layer **layer, char *text,
                            size_t text_bytes) {
    const mha_message message = {text, text_bytes};
    mha_layer_desc desc;
    if (layer == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "layer is NULL, expected a place for it");
    *layer = NULL;
    TRY(read_desc(&desc, context, given, message));
    const packed_header header = header_of(&desc, context);
    TRY(new_layer(context, (size_t)header.bytes + MHA_ALIGN, layer, message));
    char *packed = mha_align_pointer(*layer + 1);
    pack(&desc, &header, context, packed);
    lay_out(*layer, &header, context, packed);
    return mha_succeed(message);
}

mha_status mha_layer_borrow(const mha_context *context, const void *packed, size_t packed_bytes, mha_layer **layer,
                            char *text, size_t text_bytes) {
    const mha_message message = {text, text_bytes};
    packed_header header;
    char isa[sizeof header.isa];
    if (layer == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "layer is NULL, expected a place for it");
    *layer = NULL;
    if (context == NULL) return mha_say(message, MHA_INVALID_ARGUMENT, "context is NULL, expected a context");
    TRY(check_packed(packed, message));
    if (packed_bytes < sizeof header)
        return mha_say(message, MHA_INVALID_ARGUMENT, "packed_bytes is %zu, expected at least a header of %zu",
                       packed_bytes, sizeof header);
    memcpy(&header, packed, sizeof header);
    if (memcmp(header.magic, "mhalayer", sizeof header.magic) != 0)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "packed does not begin with \"mhalayer\", expected what "
                       "mha_layer_pack wrote");
    header.version[sizeof header.version - 1] = header.isa[sizeof header.isa - 1] = '\0';
    name_isas(context, isa, sizeof isa);
    if (strcmp(header.version, mha_version()) != 0 || strcmp(header.isa, isa) != 0)
        return mha_say(message, MHA_UNSUPPORTED,
                       "packed was written by version %s for \"%s\", expected version %s and \"%s\"", header.version,
                       header.isa, mha_version(), isa);
    const mha_layer_desc sizes = sizes_of(&header); /* resolved when it was written */
    int64_t out[MHA_WEIGHTS], in[MHA_WEIGHTS];
    TRY(check_sizes(&sizes, message));
    TRY(weight_sizes(&sizes, out, in, message));
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        TRY(mha_check_dtype(names[i], (mha_dtype)header.dtypes[i], MHA_FLOATS, message));
        TRY(mha_check_range("parts in packed's header", header.parts[i], 0, context->choice.bf16 != NULL ? 2 : 0,
                            message));
    }
    mha_layer checked;
    const size_t bytes = lay_out(&checked, &header, context, NULL);
    if (header.bytes != bytes)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "packed has a header that tells %" PRIu64 " bytes, expected %zu by the sizes in it",
                       header.bytes, bytes);
    if (packed_bytes < bytes)
        return mha_say(message, MHA_INVALID_ARGUMENT, "packed_bytes is %zu, expected %zu by the sizes in its header",
                       packed_bytes, bytes);
    for (int i = 0; i < MHA_WEIGHTS; i++) {
        const int parts = mha_multiplied_parts(context, mha_bf16_parts((mha_dtype)header.dtypes[i]));
        if (header.parts[i] != parts)
            return mha_say(message, MHA_UNSUPPORTED,
                           "packed has %s in %d parts of bf16, expected %d as this context's precision has it",
                           names[i], header.parts[i], parts);
    }
    TRY(new_layer(context, 0, layer, message));
    lay_out(*layer, &header, context, (char *)packed);
    return mha_succeed(message);
}

void mha_layer_destroy(mha_layer *layer) {
    if (layer == NULL) return;
    const mha_allocator *allocator = &layer->context->allocator;
    allocator->release(allocator->user, layer);
}

void mha_layer_sizes(const mha_layer *layer, mha_layer_desc *desc) {
    mha_init_struct(desc, desc->struct_size, &layer->sizes, sizeof layer->sizes);
}

#include "span.h"

#include <inttypes.h>

mha_status mha_span_resolve(mha_span *span, mha_message message) {
    int64_t low = 0, high = 0;
    span->empty = false;
    for (int i = 0; i < MHA_SPAN_DIMS; i++)
        if (span->extent[i] == 0) span->empty = true;
    if (span->empty) return MHA_OK;
    if (span->data == NULL)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "%s%s is NULL, expected an array of [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
                       span->name, span->pointer, span->extent[0], span->extent[1], span->extent[2], span->extent[3]);
    if ((uintptr_t)span->data % (uintptr_t)span->element_bytes != 0)
        return mha_say(message, MHA_INVALID_ARGUMENT,
                       "%s%s is %p, expected the alignment of its element, %" PRId64 " bytes", span->name,
                       span->pointer, span->data, span->element_bytes);
    for (int i = 0; i < MHA_SPAN_DIMS; i++) {
        int64_t reach;
        int64_t *side = span->stride[i] < 0 ? &low : &high;
        if (__builtin_mul_overflow(span->extent[i] - 1, span->stride[i], &reach) ||
            __builtin_add_overflow(*side, reach, side))
            goto beyond;
    }
    if (__builtin_add_overflow(high, 1, &high) || __builtin_mul_overflow(low, span->element_bytes, &low) ||
        __builtin_mul_overflow(high, span->element_bytes, &high))
        goto beyond;
    const uintptr_t base = (uintptr_t)span->data, below = (uintptr_t)0 - (uintptr_t)low;
    if (below > base || (uintptr_t)high > UINTPTR_MAX - base) goto beyond;
    span->first = base - below;
    span->end = base + (uintptr_t)high;
    return MHA_OK;
beyond:
    return mha_say(message, MHA_INVALID_ARGUMENT,
                   "%s has strides {%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "} for [%" PRId64 ", %" PRId64
                   ", %" PRId64 ", %" PRId64 "], expected all elements within the address space",
                   span->name, span->stride[0], span->stride[1], span->stride[2], span->stride[3], span->extent[0],
                   span->extent[1], span->extent[2], span->extent[3]);
}

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

/* Dimensions of more than one element, by ascending stride; returns how many. */
static int sort_dims(const mha_span *span, int order[MHA_SPAN_DIMS]) {
    int n = 0;
    for (int i = 0; i < MHA_SPAN_DIMS; i++) {
        if (span->extent[i] < 2) continue;
        int at = n++;
        for (; at > 0 && magnitude(span->stride[order[at - 1]]) > magnitude(span->stride[i]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    return n;
}

static mha_status check_distinct(const mha_span *span, mha_message message) {
    static const char *const dims[MHA_SPAN_DIMS] = {"first", "second", "third", "last"};
    int order[MHA_SPAN_DIMS];
    const int n = sort_dims(span, order);
    int64_t reach = 0; /* of the dimensions inside this one */
    for (int i = 0; i < n; i++) {
        const int dim = order[i];
        const int64_t stride = magnitude(span->stride[dim]);
        if (stride <= reach)
            return mha_say(message, MHA_INVALID_ARGUMENT,
                           "%s has stride %" PRId64 " in its %s dimension of %" PRId64 ", expected at least %" PRId64
                           ", so that no two elements of an output share memory",
                           span->name, span->stride[dim], dims[dim], span->extent[dim], reach + 1);
        reach += stride * (span->extent[dim] - 1);
    }
    return MHA_OK;
}

/* How many elements of each `period` the span occupies, from its first element on; more than the period if that cannot
 * be told. */
static int64_t footprint(const mha_span *span, int64_t period) {
    int64_t reach = 1;
    for (int i = 0; i < MHA_SPAN_DIMS; i++) {
        if (span->extent[i] < 2 || span->stride[i] % period == 0) continue;
        if (span->stride[i] < 0 || span->stride[i] > period) return period + 1;
        int64_t part;
        if (__builtin_mul_overflow(span->stride[i], span->extent[i] - 1, &part) ||
            __builtin_add_overflow(reach, part, &reach))
            return period + 1;
    }
    return reach;
}

/* Rows of one packed buffer, such as out in the place of a Q, K, V, out quadruple: both repeat with the same period and
 * keep to their own part of it.  Only strides of dimensions with more than one element mean anything. */
static bool interleaved(const mha_span *a, const mha_span *b) {
    enum { BATCH = 0, TOKEN = 2 };
    const int dim = a->extent[TOKEN] > 1 || b->extent[TOKEN] > 1 ? TOKEN : BATCH;
    const int64_t period = magnitude((a->extent[dim] > 1 ? a : b)->stride[dim]);
    if (a->extent[dim] < 2 && b->extent[dim] < 2) return false;
    if (a->element_bytes != b->element_bytes || period < 2) return false;
    const int64_t period_bytes = period * a->element_bytes; /* no further than the span reaches */
    const int64_t from_a = (int64_t)((uintptr_t)b->data - (uintptr_t)a->data) % period_bytes;
    const int64_t offset = (from_a + period_bytes) % period_bytes / a->element_bytes;
    return offset >= footprint(a, period) && footprint(b, period) <= period - offset;
}

static mha_status check_apart(const mha_span *output, const mha_span *other, mha_message message) {
    if (other->empty || output->end <= other->first || other->end <= output->first) return MHA_OK;
    if (interleaved(output, other)) return MHA_OK;
    return mha_say(message, MHA_INVALID_ARGUMENT,
                   "%s lies at %p and intersects %s at %p, expected an output apart from every other operand",
                   output->name, output->data, other->name, other->data);
}

mha_status mha_span_check_outputs(const mha_span *spans, int n_outputs, int n, mha_message message) {
    for (int i = 0; i < n_outputs; i++) {
        if (spans[i].empty) continue;
        TRY(check_distinct(&spans[i], message));
        for (int j = i + 1; j < n; j++) TRY(check_apart(&spans[i], &spans[j], message));
    }
    return MHA_OK;
}

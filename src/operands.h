/* Spans of the operands that attention and layer share; check.c.  All are optional: without data a span is empty. */
#ifndef MHA_OPERANDS_H
#define MHA_OPERANDS_H

#include "plan.h"
#include "span.h"

/* A mask, or the scores output. */
mha_status mha_scores_span(const char *name, const mha_score_tensor *tensor, const mha_attention_args *args, bool mask,
                           mha_span *span, mha_message message);

/* kv_lens or q_offsets. */
mha_status mha_lengths_span(const char *name, const int64_t *lengths, int64_t batch, mha_span *span,
                            mha_message message);

/* The cache's, the outputs first. */
enum {
    MHA_CACHE_K,
    MHA_CACHE_V,
    MHA_CACHE_OUTPUTS,
    MHA_PAST_K = MHA_CACHE_OUTPUTS,
    MHA_PAST_V,
    MHA_PAST_LENS,
    MHA_CACHE_SPANS
};

mha_status mha_cache_spans(const mha_plan *plan, mha_span spans[MHA_CACHE_SPANS], mha_message message);

/* The workspace, or a layer's packed weights. */
mha_status mha_bytes_span(const char *name, const void *memory, size_t bytes, mha_span *span, mha_message message);

#endif

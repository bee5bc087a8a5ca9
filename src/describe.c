/* What a call would need, and what it would do, in words. */
#include "mask.h"

#include <stdio.h>

mha_status mha_attention_workspace_size(const mha_context *context, const mha_attention_args *args, size_t n_workers,
                                        size_t *workspace_bytes) {
    mha_plan plan;
    if (workspace_bytes == NULL) return MHA_INVALID_ARGUMENT;
    TRY(mha_plan_read(&plan, context, args, (mha_message){0}));
    TRY(mha_plan_cut(&plan, n_workers, (mha_message){0}));
    *workspace_bytes = plan.workspace_bytes;
    return MHA_OK;
}

static bool is_bf16(const mha_plan *plan) { return plan->bf16 != NULL && plan->path == plan->bf16; }

static const char *multiplied(const mha_plan *plan) {
    if (!is_bf16(plan)) return "f32";
    return plan->parts == 1 ? "bf16" : "bf16 in 2 parts";
}

static const char *path_name(const mha_plan *plan) {
    if (plan->path == &plan->kernels->decode[0] || plan->path == &plan->kernels->decode[1]) return "decode";
    return plan->path == &plan->kernels->in_place ? "in-place" : "tile";
}

/* The operands in half precision, which are converted to f32 row by row or from it. */
static void list_conversions(const mha_attention_args *args, char text[64]) {
    const struct {
        const char *name;
        mha_dtype dtype;
    } operands[] = {{"q", args->q.dtype},
                    {"k", args->k.dtype},
                    {"v", args->v.dtype},
                    {"out", args->out.dtype},
                    {"mask", args->mask.data != NULL ? args->mask.dtype : MHA_F32},
                    {"scores", args->scores.data != NULL ? args->scores.dtype : MHA_F32}};
    int length = snprintf(text, 64, "conversions:");
    for (size_t i = 0; i < sizeof operands / sizeof operands[0]; i++)
        if (mha_is_half(operands[i].dtype))
            length += snprintf(text + length, 64 - (size_t)length, " %s", operands[i].name);
    if (text[length - 1] == ':') snprintf(text + length, 64 - (size_t)length, " none");
}

static const char *mask_cost(const mha_plan *plan) {
    const mha_score_tensor *mask = &plan->args.mask;
    if (mask->data == NULL) return "none";
    if (mask->dtype != MHA_BOOL) return "additive, read score by score";
    return mha_mask_is_shared(plan) ? "boolean, read once a tile" : "boolean, read score by score";
}

mha_status mha_plan_describe(const mha_plan *plan, mha_message message) {
    const mha_score_tensor *scores = &plan->args.scores;
    char conversions[64];
    list_conversions(&plan->args, conversions);
    return mha_say(message, MHA_OK,
                   "kernels: %s %s, %s path, exp %s\n"
                   "tiles: %d rows, blocks of %d keys\n"
                   "%s\n"
                   "softcap: %s\n"
                   "mask: %s\n"
                   "scores: %s\n"
                   "chunks: %lld of up to %lld rows a KV head\n"
                   "splits: at most %lld of the keys\n"
                   "tasks: %lld\n"
                   "workspace: %zu bytes, %zu a worker\n",
                   is_bf16(plan) ? plan->isa : plan->kernels->isa, multiplied(plan), path_name(plan),
                   plan->exp == 0 ? "sleef" : "fused", plan->path->max_rows, plan->path->block_keys, conversions,
                   plan->args.softcap == 0 ? "none" : "a pass over the scores, tanh by SLEEF", mask_cost(plan),
                   scores->data == NULL ? "none" : "every block computed and copied, no splits",
                   (long long)plan->chunks, (long long)plan->chunk_rows, (long long)plan->splits,
                   (long long)plan->tasks, plan->workspace_bytes, plan->worker_bytes);
}

mha_status mha_attention_describe(const mha_context *context, const mha_attention_args *args, size_t n_workers,
                                  char *text, size_t text_bytes) {
    mha_plan plan;
    const mha_message message = {text, text_bytes};
    TRY(mha_plan_read(&plan, context, args, message));
    TRY(mha_plan_cut(&plan, n_workers, message));
    return mha_plan_describe(&plan, message);
}

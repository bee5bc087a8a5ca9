#include "half.h"
#include "problem.h"
#include "rng.h"
#include "test.h"

#include <stdlib.h>

void outputs_free(outputs *o) {
    free(o->out);
    free(o->lse);
    free(o->scores);
    *o = (outputs){0};
}

/* Copies n elements from index `at` on, as floats, and puts the memory back to what it was before the call. */
static void take(guard *memory, void *data, mha_dtype dtype, int64_t at, int64_t n, float **to) {
    const size_t bytes = element_bytes(dtype);
    for (int64_t i = at; i < at + n; i++) {
        *(*to)++ = (float)element_value(data, dtype, i);
        guard_forgive(memory, (char *)data + i * (int64_t)bytes, bytes);
    }
}

outputs outputs_take(problem *p) {
    const mha_attention_args *a = &p->args;
    const int64_t rows = a->batch * a->q_heads * a->q_len;
    const int64_t v_dim = a->v_head_dim != 0 ? a->v_head_dim : a->head_dim;
    const int64_t kv_len = a->cache != NULL ? p->spec.kv_len : a->kv_len;
    guard *out_memory = &p->memory[p->spec.layout == PACKED_OUT ? Q : OUT];
    outputs o = {.n_out = rows * v_dim,
                 .n_lse = a->lse.data != NULL ? rows : 0,
                 .n_scores = a->scores.data != NULL ? rows * kv_len : 0};
    float *out = o.out = malloc((size_t)o.n_out * sizeof(float) + 1);
    float *lse = o.lse = malloc((size_t)o.n_lse * sizeof(float) + 1);
    float *scores = o.scores = malloc((size_t)o.n_scores * sizeof(float) + 1);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t i = row % a->q_len, h = row / a->q_len % a->q_heads, b = row / a->q_len / a->q_heads;
#define AT(tensor) (b * (tensor).stride[0] + h * (tensor).stride[1] + i * (tensor).stride[2])
        take(out_memory, a->out.data, a->out.dtype, AT(a->out), v_dim, &out);
        if (o.n_lse > 0) take(&p->memory[LSE], a->lse.data, MHA_F32, AT(a->lse), 1, &lse);
        if (o.n_scores > 0) take(&p->memory[SCORES], a->scores.data, a->scores.dtype, AT(a->scores), kv_len, &scores);
#undef AT
    }
    return o;
}

static void check_untouched(const problem *p, const guard *workspace, const char *isa, const char *what) {
    static const char *const names[N_OPERANDS] = {"q", "k", "v", "mask", "out", "lse", "scores"};
    ptrdiff_t offset = 0;
    for (int i = 0; i < N_OPERANDS; i++)
        if (guard_changed(&p->memory[i], &offset))
            fail_msg("isa %s wrote to the memory of %s at byte %td, which is no output element; %s", isa, names[i],
                     offset, what);
    for (const char *byte = workspace->usable; byte < workspace->data; byte++)
        if (*byte != (char)0xff) fail_msg("isa %s wrote before the workspace; %s", isa, what);
    for (const char *byte = workspace->data + workspace->bytes; byte < workspace->usable + workspace->usable_bytes;
         byte++)
        if (*byte != (char)0xff) fail_msg("isa %s wrote after the workspace; %s", isa, what);
}

outputs problem_run(problem *p, const mha_context *context, const mha_executor *executor) {
    const char *isa = mha_context_isa(context);
    char what[512], message[512] = "";
    spec_text(&p->spec, what, sizeof what);
    size_t bytes = 0;
    rng r = {p->spec.seed};
    mha_status status =
        mha_attention_workspace_size(context, &p->args, executor != NULL ? executor->n_workers : 1, &bytes);
    if (status != MHA_OK) fail_msg("isa %s: workspace_size: %s; %s", isa, mha_status_string(status), what);
    guard workspace = guard_make(bytes, p->side, p->side == GUARD_START ? (size_t)rng_between(&r, 1, 63) : 0);
    status = mha_attention(context, &p->args, executor, workspace.data, bytes);
    if (status != MHA_OK) {
        mha_attention_check(context, &p->args, executor, workspace.data, bytes, message, sizeof message);
        fail_msg("isa %s: %s: %s; %s", isa, mha_status_string(status), message, what);
    }
    outputs o = outputs_take(p);
    check_untouched(p, &workspace, isa, what);
    guard_free(&workspace);
    return o;
}

/* The cases that ONNX has for its operator Attention, mapped onto mha_attention_args as docs/numerics.md says, and
 * compared with the tolerances of ONNX's own runner.  MHA_ONNX_CASES names the file, which scripts/onnx_cases
 * writes. */
#include "guard.h"
#include "half.h"
#include "isas.h"
#include "onnx_cases.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CASES = 93, MOST_BATCH = 8, SKIPPED = 77 }; /* of ONNX 1.23.2; of Meson */

static onnx_cases all;

/* The last three are there in some cases only. */
static const char *const OUTPUTS[] = {"Y", "present_key", "present_value", "qk_matmul_output"};

static bool is_output(const onnx_tensor *tensor) {
    for (size_t i = 0; i < COUNT(OUTPUTS); i++)
        if (strcmp(tensor->name, OUTPUTS[i]) == 0) return true;
    return false;
}

/* One case as a call of the library. */
typedef struct onnx_call {
    const onnx_case *onnx;
    guard memory[ONNX_MOST_TENSORS]; /* of the case's tensors */
    mha_attention_args args;
    mha_kv_cache cache;
    int64_t q_offsets[MOST_BATCH], kv_lens[MOST_BATCH];
} onnx_call;

/* ---- mapping ---------------------------------------------------------------------------------------------------- */

static mha_dtype dtype_of(const onnx_tensor *tensor) {
    switch (tensor->type) {
    case ONNX_FLOAT: return MHA_F32;
    case ONNX_FLOAT16: return MHA_F16;
    case ONNX_BFLOAT16: return MHA_BF16;
    case ONNX_BOOL: return MHA_BOOL;
    default: return (mha_dtype)0;
    }
}

static int64_t attribute(const onnx_call *c, const char *name, int64_t absent) {
    return (int64_t)onnx_case_attribute(c->onnx, name, (double)absent);
}

/* Where a tensor of the case lies: inputs have their values, outputs NaN. */
static void *data_of(onnx_call *c, const onnx_tensor *tensor) { return c->memory[tensor - c->onnx->tensors].data; }

static void place(onnx_call *c, guard_side side) {
    for (int64_t i = 0; i < c->onnx->n_tensors; i++) {
        const onnx_tensor *tensor = &c->onnx->tensors[i];
        c->memory[i] = guard_make(tensor->bytes, side, 0);
        if (!is_output(tensor)) memcpy(c->memory[i].data, tensor->data, tensor->bytes);
    }
}

/* [batch, heads, tokens, dim], or [batch, tokens, heads * dim] by strides; sizes are returned through pointers. */
static mha_tensor operand(onnx_call *c, const char *name, int64_t n_heads, int64_t *heads, int64_t *tokens,
                          int64_t *dim) {
    const onnx_tensor *t = onnx_case_tensor(c->onnx, name);
    mha_tensor operand = {.data = data_of(c, t), .dtype = dtype_of(t)};
    const bool flat = t->rank == 3;
    *heads = flat ? n_heads : t->shape[1];
    *tokens = flat ? t->shape[1] : t->shape[2];
    *dim = flat ? t->shape[2] / n_heads : t->shape[3];
    operand.stride[0] = *heads * *tokens * *dim;
    operand.stride[1] = flat ? *dim : *tokens * *dim;
    operand.stride[2] = flat ? *heads * *dim : *dim;
    return operand;
}

static void set_operands(onnx_call *c) {
    mha_attention_args *a = &c->args;
    const int64_t q_heads = attribute(c, "q_num_heads", 0), kv_heads = attribute(c, "kv_num_heads", 0);
    a->batch = onnx_case_tensor(c->onnx, "Q")->shape[0];
    a->q = operand(c, "Q", q_heads, &a->q_heads, &a->q_len, &a->head_dim);
    a->k = operand(c, "K", kv_heads, &a->kv_heads, &a->kv_len, &a->head_dim);
    a->v = operand(c, "V", kv_heads, &a->kv_heads, &a->kv_len, &a->v_head_dim);
    a->out = operand(c, "Y", q_heads, &a->q_heads, &a->q_len, &a->v_head_dim);
}

static void set_cache(onnx_call *c) {
    if (onnx_case_tensor(c->onnx, "past_key") == NULL) return;
    mha_kv_cache *cache = &c->cache;
    int64_t heads, total, dim;
    mha_kv_cache_init(cache, sizeof *cache);
    cache->k = operand(c, "present_key", 0, &heads, &total, &dim);
    cache->v = operand(c, "present_value", 0, &heads, &total, &dim);
    cache->past_k = operand(c, "past_key", 0, &heads, &cache->past_len, &dim);
    cache->past_v = operand(c, "past_value", 0, &heads, &cache->past_len, &dim);
    c->args.cache = cache;
    c->args.q_offset = cache->past_len;
}

/* Right-aligned, as NumPy broadcasts; keys beyond a short mask are cut off by kv_lens. */
static void set_mask(onnx_call *c, const onnx_tensor *mask) {
    int64_t step = 1;
    c->args.mask.data = data_of(c, mask);
    c->args.mask.dtype = dtype_of(mask);
    for (int64_t axis = mask->rank - 1; axis >= 0; axis--) {
        const bool broadcast = mask->shape[axis] == 1 && axis < mask->rank - 1;
        c->args.mask.stride[ONNX_RANK - mask->rank + axis] = broadcast ? 0 : step;
        step *= mask->shape[axis];
    }
}

static void set_lengths(onnx_call *c, const onnx_tensor *nonpad, const onnx_tensor *mask) {
    mha_attention_args *a = &c->args;
    const int64_t total = a->kv_len + c->cache.past_len;
    const int64_t width = mask != NULL ? mask->shape[mask->rank - 1] : total;
    assert_true(a->batch <= MOST_BATCH);
    for (int64_t b = 0; b < a->batch; b++) {
        const int64_t len = nonpad != NULL ? ((const int64_t *)nonpad->data)[b] : total;
        c->kv_lens[b] = len < width ? len : width;
        c->q_offsets[b] = len - a->q_len;
    }
    if (nonpad != NULL || width < total) a->kv_lens = c->kv_lens;
    if (nonpad != NULL) a->q_offsets = c->q_offsets;
}

static void set_scores(onnx_call *c) {
    const onnx_tensor *scores = onnx_case_tensor(c->onnx, "qk_matmul_output");
    if (scores == NULL) return;
    c->args.scores.data = data_of(c, scores);
    c->args.scores.dtype = dtype_of(scores);
    c->args.scores_mode = (mha_scores_mode)attribute(c, "qk_matmul_output_mode", MHA_SCORES_RAW);
    for (int64_t step = 1, axis = ONNX_RANK - 1; axis >= 0; step *= scores->shape[axis], axis--)
        c->args.scores.stride[axis] = step;
}

/* softmax_precision is not read: softmax is f32 always. */
static void set_up(onnx_call *c, const onnx_case *onnx, guard_side side) {
    mha_attention_args *a = &c->args;
    memset(c, 0, sizeof *c);
    c->onnx = onnx;
    place(c, side);
    mha_attention_args_init(a, sizeof *a);
    a->scale = (float)onnx_case_attribute(onnx, "scale", MHA_SCALE_DEFAULT);
    a->softcap = (float)onnx_case_attribute(onnx, "softcap", 0);
    a->is_causal = attribute(c, "is_causal", 0) != 0;
    a->window_left = attribute(c, "left_window_size", -1);
    a->window_right = attribute(c, "right_window_size", -1);
    set_operands(c);
    set_cache(c);
    const onnx_tensor *mask = onnx_case_tensor(onnx, "attn_mask");
    if (mask != NULL) set_mask(c, mask);
    set_lengths(c, onnx_case_tensor(onnx, "nonpad_kv_seqlen"), mask);
    set_scores(c);
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */

/* As numpy.testing.assert_allclose.  ONNX's runner grants bfloat16 two of its ULPs; what is only copied is held to be
 * the same. */
static bool is_close(const onnx_case *onnx, const onnx_tensor *output, double got, double wanted) {
    const bool is_copy = strncmp(output->name, "present_", strlen("present_")) == 0;
    const double rtol = output->type == ONNX_BFLOAT16 ? fmax(onnx->rtol, 0x1p-6) : onnx->rtol;
    if (isnan(wanted)) return isnan(got);
    if (is_copy || isinf(wanted)) return got == wanted;
    return fabs(got - wanted) <= onnx->atol + rtol * fabs(wanted); /* false for NaN */
}

static bool output_is_right(onnx_call *c, const char *isa, const char *name) {
    const onnx_tensor *wanted = onnx_case_tensor(c->onnx, name);
    if (wanted == NULL) return true;
    const mha_dtype dtype = dtype_of(wanted);
    const int64_t n = (int64_t)(wanted->bytes / element_bytes(dtype));
    for (int64_t i = 0; i < n; i++) {
        const double x = element_value(data_of(c, wanted), dtype, i), y = element_value(wanted->data, dtype, i);
        if (is_close(c->onnx, wanted, x, y)) continue;
        print_error("isa %s: %s: %s[%lld] is %.9g, wanted %.9g\n", isa, c->onnx->name, name, (long long)i, x, y);
        return false;
    }
    return true;
}

static bool runs(onnx_call *c, const mha_context *context, const char *isa) {
    char message[256] = "";
    size_t bytes = 0;
    mha_status status = mha_attention_workspace_size(context, &c->args, 1, &bytes);
    void *workspace = malloc(bytes + 1);
    if (status == MHA_OK) status = mha_attention(context, &c->args, NULL, workspace, bytes);
    if (status != MHA_OK) {
        mha_attention_check(context, &c->args, NULL, workspace, bytes, message, sizeof message);
        print_error("isa %s: %s: %s: %s\n", isa, c->onnx->name, mha_status_string(status), message);
    }
    free(workspace);
    return status == MHA_OK;
}

static bool case_passes(const onnx_case *onnx, const mha_context *context, const char *isa, guard_side side) {
    static onnx_call c;
    set_up(&c, onnx, side);
    bool passes = runs(&c, context, isa);
    for (size_t i = 0; passes && i < COUNT(OUTPUTS); i++) passes = output_is_right(&c, isa, OUTPUTS[i]);
    for (int64_t i = 0; i < onnx->n_tensors; i++) guard_free(&c.memory[i]);
    return passes;
}

static void onnx_node_cases(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    int failed = 0;
    for (int64_t i = 0; i < all.n; i++)
        failed += !case_passes(&all.cases[i], context, isa, GUARD_END) ||
                  !case_passes(&all.cases[i], context, isa, GUARD_START);
    mha_context_destroy(context);
    if (failed > 0) fail_msg("isa %s: %d of %lld cases fail", isa, failed, (long long)all.n);
    assert_int_equal(all.n, N_CASES);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(onnx_node_cases)};
    const char *path = getenv("MHA_ONNX_CASES");
    if (path == NULL) return SKIPPED;
    all = onnx_cases_read(path);
    const int failed = isa_tests_run(tests, COUNT(tests));
    onnx_cases_free(&all);
    return failed;
}

/* The KV cache of a call: the past, unless it is there already, and the new tokens behind it. */
#include "executor.h"
#include "plan.h"

#include <string.h>

enum {
    ALONE_BYTES = 1 << 16, /* so little is written sooner than workers are woken */
    BETWEEN = 256          /* elements that go from one half precision to the other by way of f32 at a time */
};

static void convert(const mha_kernels *kernels, const char *from, mha_dtype from_dtype, char *to, mha_dtype to_dtype,
                    int64_t n) {
    float between[BETWEEN];
    if (from_dtype == to_dtype) {
        memcpy(to, from, (size_t)(n * mha_dtype_bytes(to_dtype)));
    } else if (to_dtype == MHA_F32) {
        kernels->widen(from, from_dtype, (float *)(void *)to, (size_t)n);
    } else if (from_dtype == MHA_F32) {
        kernels->narrow((const float *)(const void *)from, to_dtype, to, (size_t)n);
    } else {
        for (int64_t i = 0; i < n; i += BETWEEN) {
            const size_t part = (size_t)mha_min(BETWEEN, n - i);
            kernels->widen(from + 2 * i, from_dtype, between, part);
            kernels->narrow(between, to_dtype, to + 2 * i, part);
        }
    }
}

/* Tokens [0, n) of a head become tokens [first, first + n). */
static void copy_tokens(const mha_plan *plan, const mha_tensor *from, const mha_tensor *to, int64_t batch, int64_t head,
                        int64_t first, int64_t n, int64_t dim) {
    for (int64_t t = 0; t < n; t++)
        convert(plan->kernels, mha_row_of(from, batch, head, t), from->dtype, mha_row_of(to, batch, head, first + t),
                to->dtype, dim);
}

static void append_task(void *closure, size_t worker, size_t index) {
    (void)worker;
    const mha_plan *plan = closure;
    const mha_attention_args *args = &plan->args;
    const mha_kv_cache *cache = &plan->cache;
    const int64_t b = (int64_t)index / args->kv_heads, h = (int64_t)index % args->kv_heads;
    const int64_t past = mha_plan_past_len(plan, b);
    if (cache->past_k.data != NULL) {
        copy_tokens(plan, &cache->past_k, &args->k, b, h, 0, past, args->head_dim);
        copy_tokens(plan, &cache->past_v, &args->v, b, h, 0, past, args->v_head_dim);
    }
    copy_tokens(plan, &plan->new_k, &args->k, b, h, past, plan->new_len, args->head_dim);
    copy_tokens(plan, &plan->new_v, &args->v, b, h, past, plan->new_len, args->v_head_dim);
}

void mha_cache_append(const mha_plan *plan, const mha_executor *executor) {
    const mha_attention_args *args = &plan->args;
    const int64_t tokens = plan->cache.past_k.data != NULL ? args->kv_len : plan->new_len;
    const int64_t heads = args->batch * args->kv_heads, dim = args->head_dim + args->v_head_dim;
    const bool alone = (double)heads * (double)tokens * (double)dim * sizeof(float) <= ALONE_BYTES;
    mha_parallel_for(alone ? NULL : executor, (size_t)heads, append_task, (void *)(uintptr_t)plan);
}

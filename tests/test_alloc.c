/* A call allocates nothing and needs at most 16 KiB of stack; contexts and layers use the caller's allocator alone.
 * Linked with --wrap for every function below. */
#define _GNU_SOURCE
#include "executor.h"
#include "isas.h"
#include "layer_problem.h"
#include "problem.h"
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static atomic_int allocations;

#define COUNTED(type, name, parameters, arguments)                                                                     \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters {                                                                                    \
        atomic_fetch_add(&allocations, 1);                                                                             \
        return __real_##name arguments;                                                                                \
    }

COUNTED(void *, malloc, (size_t bytes), (bytes))
COUNTED(void *, calloc, (size_t n, size_t bytes), (n, bytes))
COUNTED(void *, realloc, (void *memory, size_t bytes), (memory, bytes))
COUNTED(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
COUNTED(int, posix_memalign, (void **memory, size_t alignment, size_t bytes), (memory, alignment, bytes))
COUNTED(void *, mmap, (void *at, size_t bytes, int protection, int flags, int file, off_t offset),
        (at, bytes, protection, flags, file, offset))

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory) {
    atomic_fetch_add(&allocations, 1);
    __real_free(memory);
}

typedef struct call {
    const mha_context *context;
    const mha_attention_args *attention; /* or */
    const mha_layer *layer;
    const mha_layer_args *layer_args;
    mha_executor executor;
    void *workspace;
    size_t bytes;
    mha_status status;
} call;

static void run(call *c) {
    c->status = c->layer != NULL ? mha_layer_forward(c->layer, c->layer_args, &c->executor, c->workspace, c->bytes)
                                 : mha_attention(c->context, c->attention, &c->executor, c->workspace, c->bytes);
}

/* ---- stack: how much of a painted one a thread has used ---- */

enum { STACK_BYTES = 256 << 10, STACK_LIMIT = 16 << 10, PAINT = 0xa5 };

static void *run_thread(void *argument) {
    if (argument != NULL) run(argument);
    return NULL;
}

static size_t stack_use(call *c) {
    pthread_attr_t attributes;
    pthread_t thread;
    unsigned char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(stack != MAP_FAILED);
    memset(stack, PAINT, STACK_BYTES);
    assert_int_equal(0, pthread_attr_init(&attributes));
    assert_int_equal(0, pthread_attr_setstack(&attributes, stack, STACK_BYTES));
    assert_int_equal(0, pthread_create(&thread, &attributes, run_thread, c));
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    size_t untouched = 0;
    while (untouched < STACK_BYTES && stack[untouched] == PAINT) untouched++;
    munmap(stack, STACK_BYTES);
    return STACK_BYTES - untouched;
}

static bool sanitized(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
    return __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
    return false;
#endif
}

/* Runs it once before it counts: the first call through the dynamic linker binds symbols. */
static void check_call(call *c, const char *isa, const char *what) {
    c->workspace = malloc(c->bytes);
    run(c);
    assert_int_equal(MHA_OK, c->status);
    const int before = allocations;
    run(c);
    const int after = allocations;
    if (after != before) fail_msg("isa %s: %d calls of malloc, free or their like; %s", isa, after - before, what);
    const size_t idle = stack_use(NULL), busy = stack_use(c);
    if (!sanitized() && busy - idle > STACK_LIMIT)
        fail_msg("isa %s: %zu bytes of stack, allowed are %d; %s", isa, busy - idle, STACK_LIMIT, what);
    free(c->workspace);
}

static void attention(const char *isa) {
    static const spec specs[] = {
        {.what = "prefill",
         .batch = 2,
         .q_heads = 4,
         .kv_heads = 2,
         .q_len = 100,
         .kv_len = 300,
         .head_dim = 64,
         .lse = true},
        {.what = "decode",
         .batch = 2,
         .q_heads = 8,
         .kv_heads = 2,
         .q_len = 1,
         .kv_len = 2000,
         .head_dim = 64,
         .lse = true},
        {.what = "bias",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 70,
         .kv_len = 200,
         .head_dim = 33,
         .mask = MASK_MINUS_INF,
         .scores = SOFTMAX},
        {.what = "bool",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 7,
         .kv_len = 200,
         .head_dim = 300,
         .mask = MASK_BOOL,
         .poison = NAN_V},
        {.what = "half",
         .batch = 1,
         .q_heads = 2,
         .kv_heads = 1,
         .q_len = 70,
         .kv_len = 200,
         .head_dim = 33,
         .layout = GAPPED,
         .softcap = 20,
         .mask = MASK_MINUS_INF,
         .scores = SOFTMAX,
         .dtypes =
             {[Q] = MHA_F16, [K] = MHA_BF16, [V] = MHA_F16, [MASK] = MHA_BF16, [OUT] = MHA_F16, [SCORES] = MHA_F16}},
    };
    static const mha_exp exps[] = {MHA_EXP_SLEEF, MHA_EXP_FUSED};
    for (size_t i = 0; i < COUNT(specs); i++)
        for (size_t e = 0; e < COUNT(exps); e++) {
            mha_context *context = isa_context(isa, exps[e]);
            problem p;
            problem_make(&p, &specs[i], GUARD_END);
            call c = {.context = context, .attention = &p.args, .executor = executor_backwards(2)};
            assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &p.args, 2, &c.bytes));
            check_call(&c, isa, specs[i].what);
            problem_free(&p);
            mha_context_destroy(context);
        }
}

static void layer(const char *isa) {
    static const layer_spec spec = {.what = "layer",
                                    .q_heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 16,
                                    .q_dim = 64,
                                    .biases = BIAS_ALL,
                                    .batch = 2,
                                    .q_len = 50,
                                    .kv_len = -1};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    layer_problem p;
    mha_layer *created;
    layer_problem_make(&p, &spec, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &created, NULL, 0));
    call c = {.layer = created, .layer_args = &p.args, .executor = executor_backwards(2)};
    assert_int_equal(MHA_OK, mha_layer_workspace_size(created, &p.args, 2, &c.bytes));
    check_call(&c, isa, spec.what);
    mha_layer_destroy(created);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* ---- the caller's allocator ---- */

typedef struct pool {
    int live, requests, fail_at; /* fail_at: the request that gets NULL; 0: none */
} pool;

static void *pool_allocate(void *user, size_t bytes) {
    pool *p = user;
    if (++p->requests == p->fail_at) return NULL;
    p->live++;
    return __real_malloc(bytes);
}

static void pool_release(void *user, void *memory) {
    ((pool *)user)->live--;
    __real_free(memory);
}

static mha_status create_both(const char *isa, pool *memory, const mha_layer_desc *desc, mha_context **context,
                              mha_layer **created) {
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = isa;
    options.allocator = (mha_allocator){pool_allocate, pool_release, memory};
    *created = NULL;
    const mha_status status = mha_context_create(&options, context, NULL, 0);
    return status != MHA_OK ? status : mha_layer_create(*context, desc, created, NULL, 0);
}

static void own_allocator(const char *isa) {
    static const layer_spec spec = {
        .what = "pool", .q_heads = 2, .kv_heads = 2, .head_dim = 8, .q_dim = 16, .batch = 1, .q_len = 2, .kv_len = -1};
    layer_problem p;
    layer_problem_make(&p, &spec, GUARD_END);
    int requests = 1;
    for (int fail_at = 0; fail_at <= requests; fail_at++) {
        pool memory = {.fail_at = fail_at};
        mha_context *context = NULL;
        mha_layer *created = NULL;
        const int before = allocations;
        const mha_status status = create_both(isa, &memory, &p.desc, &context, &created);
        if (fail_at == 0) requests = memory.requests;
        assert_int_equal(fail_at == 0 ? MHA_OK : MHA_OUT_OF_MEMORY, status);
        assert_true((created != NULL) == (fail_at == 0));
        mha_layer_destroy(created);
        mha_context_destroy(context);
        assert_int_equal(before, allocations);
        assert_int_equal(0, memory.live);
    }
    assert_in_range(requests, 2, 100);
    layer_problem_free(&p);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(attention), ISA_TEST(layer), ISA_TEST(own_allocator)};
    return isa_tests_run(tests, COUNT(tests));
}

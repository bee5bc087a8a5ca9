/* Real threads, for the thread sanitizer too: those of one call, and many calls at once on one context. */
#define _POSIX_C_SOURCE 200809L /* pthread_barrier_t */
#include "check.h"
#include "executor.h"
#include "isas.h"
#include "layer_problem.h"
#include "test.h"

#include <pthread.h>
#include <string.h>

enum { CALLERS = 4, CALLS = 5 };

static bool same_floats(const float *a, const float *b, int64_t n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

typedef struct caller {
    const mha_context *context;
    problem p;
    pthread_t thread;
    mha_executor executor;
    outputs wanted;
    int n_failed, n_wrong;
    size_t workspace_bytes;
    char *workspace;
} caller;

/* Each round of calls starts when all threads are there, so that calls overlap. */
static pthread_barrier_t round_start;

/* Without cmocka, which is for one thread. */
static void *call(void *argument) {
    caller *c = argument;
    for (int i = 0; i < CALLS; i++) {
        pthread_barrier_wait(&round_start);
        if (mha_attention(c->context, &c->p.args, &c->executor, c->workspace, c->workspace_bytes) != MHA_OK)
            c->n_failed++;
        outputs got = outputs_take(&c->p);
        if (!same_floats(got.out, c->wanted.out, got.n_out) || !same_floats(got.scores, c->wanted.scores, got.n_scores))
            c->n_wrong++;
        outputs_free(&got);
    }
    return NULL;
}

static const spec specs[CALLERS] = {
    {.what = "prefill", .batch = 2, .q_heads = 2, .kv_heads = 1, .q_len = 60, .kv_len = 90, .head_dim = 24},
    {.what = "decode", .batch = 1, .q_heads = 4, .kv_heads = 2, .q_len = 1, .kv_len = 1300, .head_dim = 16},
    {.what = "causal",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 90,
     .kv_len = 90,
     .head_dim = 9,
     .causal = true},
    {.what = "bias",
     .batch = 1,
     .q_heads = 2,
     .kv_heads = 2,
     .q_len = 20,
     .kv_len = 150,
     .head_dim = 9,
     .mask = MASK_BIAS,
     .scores = BIASED},
};

static void caller_prepare(caller *c, const mha_context *context, size_t i) {
    *c = (caller){.context = context, .executor = executor_make(1 + i % 3)};
    problem_make(&c->p, &specs[i], GUARD_END);
    assert_int_equal(MHA_OK,
                     mha_attention_workspace_size(context, &c->p.args, c->executor.n_workers, &c->workspace_bytes));
    c->workspace = test_malloc(c->workspace_bytes);
    c->wanted = problem_run(&c->p, context, NULL);
}

static void concurrent_calls(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    caller *callers = test_malloc(CALLERS * sizeof *callers);
    for (size_t i = 0; i < CALLERS; i++) caller_prepare(&callers[i], context, i);
    assert_int_equal(0, pthread_barrier_init(&round_start, NULL, CALLERS));
    for (size_t i = 0; i < CALLERS; i++)
        assert_int_equal(0, pthread_create(&callers[i].thread, NULL, call, &callers[i]));
    for (size_t i = 0; i < CALLERS; i++) pthread_join(callers[i].thread, NULL);
    for (size_t i = 0; i < CALLERS; i++) {
        caller *c = &callers[i];
        if (c->n_failed + c->n_wrong > 0)
            fail_msg("isa %s: of %d calls beside others, %d failed and %d gave other results than alone; %s", isa,
                     CALLS, c->n_failed, c->n_wrong, c->p.spec.what);
        outputs_free(&c->wanted);
        test_free(c->workspace);
        problem_free(&c->p);
    }
    pthread_barrier_destroy(&round_start);
    test_free(callers);
    mha_context_destroy(context);
}

static const size_t counts[] = {1, 2, 3, 8};

static void attention_on_threads(const char *isa) {
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < CALLERS; i++) {
        problem p;
        problem_make(&p, &specs[i], GUARD_END);
        outputs wanted = problem_run(&p, context, NULL);
        for (size_t n = 0; n < COUNT(counts); n++) {
            const mha_executor executor = executor_make(counts[n]);
            outputs got = problem_run(&p, context, &executor);
            check_same_outputs(isa, &p, &got, &wanted);
            outputs_free(&got);
        }
        outputs_free(&wanted);
        problem_free(&p);
    }
    mha_context_destroy(context);
}

static void layer_on_threads(const char *isa) {
    static const layer_spec spec = {.what = "layer",
                                    .q_heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 16,
                                    .q_dim = 64,
                                    .biases = BIAS_ALL,
                                    .batch = 2,
                                    .q_len = 110,
                                    .kv_len = -1};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    mha_layer *layer;
    layer_problem p;
    layer_problem_make(&p, &spec, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
    layer_outputs wanted = layer_run(&p, layer, NULL, isa);
    for (size_t n = 0; n < COUNT(counts); n++) {
        const mha_executor executor = executor_make(counts[n]);
        layer_outputs got = layer_run(&p, layer, &executor, isa);
        check_same_bits(isa, spec.what, "out", got.out, wanted.out, wanted.n_out);
        layer_outputs_free(&got);
    }
    layer_outputs_free(&wanted);
    mha_layer_destroy(layer);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

/* ---- one layer, many threads ---- */

typedef struct layer_caller {
    const mha_layer *layer;
    layer_problem p;
    pthread_t thread;
    layer_outputs wanted;
    int n_failed, n_wrong;
    size_t workspace_bytes;
    char *workspace;
} layer_caller;

static void *call_layer(void *argument) {
    layer_caller *c = argument;
    for (int i = 0; i < CALLS; i++) {
        pthread_barrier_wait(&round_start);
        if (mha_layer_forward(c->layer, &c->p.args, NULL, c->workspace, c->workspace_bytes) != MHA_OK) c->n_failed++;
        layer_outputs got = layer_outputs_take(&c->p);
        if (!same_floats(got.out, c->wanted.out, got.n_out)) c->n_wrong++;
        layer_outputs_free(&got);
    }
    return NULL;
}

static void concurrent_layer_calls(const char *isa) {
    static const layer_spec spec = {.what = "layer",
                                    .q_heads = 2,
                                    .kv_heads = 2,
                                    .head_dim = 16,
                                    .q_dim = 40,
                                    .batch = 1,
                                    .q_len = 33,
                                    .kv_len = -1};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    mha_layer *layer = NULL;
    layer_caller *callers = test_calloc(CALLERS, sizeof *callers);
    for (size_t i = 0; i < CALLERS; i++) {
        layer_caller *c = &callers[i];
        layer_problem_make(&c->p, &spec, GUARD_END);
        if (i == 0) assert_int_equal(MHA_OK, mha_layer_create(context, &c->p.desc, &layer, NULL, 0));
        c->layer = layer;
        assert_int_equal(MHA_OK, mha_layer_workspace_size(layer, &c->p.args, 1, &c->workspace_bytes));
        c->workspace = test_malloc(c->workspace_bytes);
        c->wanted = layer_run(&c->p, layer, NULL, isa);
    }
    assert_int_equal(0, pthread_barrier_init(&round_start, NULL, CALLERS));
    for (size_t i = 0; i < CALLERS; i++)
        assert_int_equal(0, pthread_create(&callers[i].thread, NULL, call_layer, &callers[i]));
    for (size_t i = 0; i < CALLERS; i++) pthread_join(callers[i].thread, NULL);
    for (size_t i = 0; i < CALLERS; i++) {
        layer_caller *c = &callers[i];
        if (c->n_failed + c->n_wrong > 0)
            fail_msg("isa %s: of %d forward passes beside others, %d failed and %d gave other results than alone", isa,
                     CALLS, c->n_failed, c->n_wrong);
        layer_outputs_free(&c->wanted);
        test_free(c->workspace);
        layer_problem_free(&c->p);
    }
    pthread_barrier_destroy(&round_start);
    test_free(callers);
    mha_layer_destroy(layer);
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(concurrent_layer_calls), ISA_TEST(attention_on_threads),
                                     ISA_TEST(layer_on_threads), ISA_TEST(concurrent_calls)};
    return isa_tests_run(tests, COUNT(tests));
}

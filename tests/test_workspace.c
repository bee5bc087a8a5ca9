/* Workers share nothing they write.  Threads would show it only now and then; here tasks run one by one, each on the
 * next worker, and what each changed in the workspace is compared. */
#include "isas.h"
#include "layer_problem.h"
#include "problem.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

enum { WORKERS = 3, NOBODY = 255 };

typedef struct watch {
    unsigned char *workspace, *before, *owner; /* owner: the worker that changed a byte in this parallel_for */
    size_t bytes, tasks;
    ptrdiff_t shared; /* a byte that two workers changed; -1: none */
} watch;

static void note_changes(watch *w, unsigned char worker) {
    for (size_t i = 0; i < w->bytes; i++) {
        if (w->workspace[i] == w->before[i]) continue;
        if (w->owner[i] != NOBODY && w->owner[i] != worker) w->shared = (ptrdiff_t)i;
        w->owner[i] = worker;
        w->before[i] = w->workspace[i];
    }
}

static void parallel_for(void *user, size_t n_tasks, mha_task *task, void *closure) {
    watch *w = user;
    memset(w->owner, NOBODY, w->bytes);
    for (size_t i = 0; i < n_tasks; i++) {
        task(closure, i % WORKERS, i);
        note_changes(w, i % WORKERS);
    }
    w->tasks += n_tasks;
}

static watch watch_make(size_t bytes) {
    watch w = {.bytes = bytes, .shared = -1};
    w.workspace = test_malloc(bytes), w.before = test_malloc(bytes), w.owner = test_malloc(bytes);
    memset(w.workspace, 0xff, bytes);
    memset(w.before, 0xff, bytes);
    return w;
}

static void watch_end(watch *w, const char *isa, const char *what) {
    if (w->shared >= 0)
        fail_msg("isa %s, %s: two workers write byte %td of a workspace of %zu", isa, what, w->shared, w->bytes);
    assert_true(w->tasks > WORKERS); /* or nothing was watched */
    test_free(w->workspace);
    test_free(w->before);
    test_free(w->owner);
}

static void attention(const char *isa) {
    static const spec specs[] = {
        {.what = "prefill",
         .batch = 2,
         .q_heads = 2,
         .kv_heads = 2,
         .q_len = 70,
         .kv_len = 140,
         .head_dim = 20,
         .mask = MASK_BIAS},
        {.what = "splits", .batch = 1, .q_heads = 4, .kv_heads = 2, .q_len = 9, .kv_len = 1300, .head_dim = 12},
        {.what = "decode", .batch = 2, .q_heads = 4, .kv_heads = 2, .q_len = 1, .kv_len = 1300, .head_dim = 12},
    };
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    for (size_t i = 0; i < COUNT(specs); i++) {
        problem p;
        size_t bytes;
        problem_make(&p, &specs[i], GUARD_END);
        assert_int_equal(MHA_OK, mha_attention_workspace_size(context, &p.args, WORKERS, &bytes));
        watch w = watch_make(bytes);
        const mha_executor executor = {.n_workers = WORKERS, .parallel_for = parallel_for, .user = &w};
        assert_int_equal(MHA_OK, mha_attention(context, &p.args, &executor, w.workspace, bytes));
        watch_end(&w, isa, specs[i].what);
        problem_free(&p);
    }
    mha_context_destroy(context);
}

static void layer(const char *isa) {
    static const layer_spec spec = {.what = "layer",
                                    .q_heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 16,
                                    .q_dim = 64,
                                    .batch = 2,
                                    .q_len = 110,
                                    .kv_len = 130};
    mha_context *context = isa_context(isa, MHA_EXP_AUTO);
    mha_layer *layer;
    layer_problem p;
    size_t bytes;
    layer_problem_make(&p, &spec, GUARD_END);
    assert_int_equal(MHA_OK, mha_layer_create(context, &p.desc, &layer, NULL, 0));
    assert_int_equal(MHA_OK, mha_layer_workspace_size(layer, &p.args, WORKERS, &bytes));
    watch w = watch_make(bytes);
    const mha_executor executor = {.n_workers = WORKERS, .parallel_for = parallel_for, .user = &w};
    assert_int_equal(MHA_OK, mha_layer_forward(layer, &p.args, &executor, w.workspace, bytes));
    watch_end(&w, isa, spec.what);
    mha_layer_destroy(layer);
    layer_problem_free(&p);
    mha_context_destroy(context);
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(attention), ISA_TEST(layer)};
    return isa_tests_run(tests, COUNT(tests));
}

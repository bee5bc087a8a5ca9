#include "isas.h"
#include "kernel.h"
#include "rng.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ISAS = 16, MAX_TESTS = 32, QUICK_FIRST = 6 };
static const int64_t QUICK_MOST_WORK = 1000 * 1000;

typedef struct isa_run {
    const isa_test *test;
    mha_isa isa;
    char name[96];
    bool done; /* neither skipped nor failed */
} isa_run;

/* Of the running test: cases it had, and took. */
static struct {
    rng chance;
    size_t offered, taken;
} sample;

static void run_or_skip(void **state) {
    isa_run *run = *state;
    if (!run->isa.supported) skip();
    sample.chance.state = 2017;
    sample.offered = sample.taken = 0;
    run->test->run(run->isa.name);
    if (sample.offered > 0 && sample.taken == 0) fail_msg("none of the %zu cases was taken", sample.offered);
    run->done = true;
}

static bool exercised(const isa_run *runs, size_t n_tests) {
    for (size_t i = 0; i < n_tests; i++)
        if (runs[i].done) return true;
    return false;
}

/* Instruction sets that completed a test, or those that did not. */
static void print_isas(const isa_run *runs, size_t n_isas, size_t n_tests, bool wanted, const char *title) {
    printf("%s:", title);
    bool any = false;
    for (size_t i = 0; i < n_isas; i++) {
        if (exercised(&runs[i * n_tests], n_tests) != wanted) continue;
        printf(" %s", runs[i * n_tests].isa.name);
        any = true;
    }
    printf("%s", any ? "" : " none");
}

/* Of those in the list only the one that MHA_TEST_ISA names, if it names any. */
static size_t keep_asked(mha_isa *isas, size_t n) {
    const char *asked = getenv("MHA_TEST_ISA");
    if (asked == NULL) return n;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(isas[i].name, asked) != 0) continue;
        isas[0] = isas[i];
        return 1;
    }
    fprintf(stderr, "MHA_TEST_ISA: no instruction set %s\n", asked);
    return 0;
}

int isa_tests_run(const isa_test *tests, size_t n) {
    static mha_isa isas[MAX_ISAS];
    static isa_run runs[MAX_ISAS * MAX_TESTS];
    static struct CMUnitTest units[MAX_ISAS * MAX_TESTS]; /* cmocka ignores the empty rest */
    const size_t n_isas = keep_asked(isas, mha_isa_list(isas, MAX_ISAS));
    if (n_isas == 0 || n_isas > MAX_ISAS || n > MAX_TESTS) return 1;
    size_t n_units = 0;
    for (size_t i = 0; i < n_isas * n; i++) {
        isa_run *run = &runs[i];
        run->test = &tests[i % n];
        run->isa = isas[i / n];
        if (run->test->f32 && isa_has_bf16(run->isa.name)) continue;
        snprintf(run->name, sizeof run->name, "%s/%s", run->isa.name, run->test->name);
        units[n_units++] = (struct CMUnitTest){.name = run->name, .test_func = run_or_skip, .initial_state = run};
    }
    if (n_units == 0)
        return 77; /* no test is for the one that was asked for: Meson then counts the program as skipped */
    const int failed = cmocka_run_group_tests_name("instruction sets", units, NULL, NULL);
    print_isas(runs, n_isas, n, true, "# isas exercised");
    print_isas(runs, n_isas, n, false, "; skipped");
    printf("\n");
    return failed;
}

bool isa_has_bf16(const char *isa) {
#define MHA_BF16_ROW(name, features, pays)                                                                             \
    if (strcmp(isa, #name) == 0) return true;
#include "kernels.inc"
    return false;
}

const char *isa_of_f32(const char *isa) {
    static mha_isa isas[MAX_ISAS];
    const char *f32 = NULL;
    const size_t n = mha_isa_list(isas, MAX_ISAS);
    for (size_t i = 0; i < n; i++) {
        if (isas[i].supported && !isa_has_bf16(isas[i].name)) f32 = isas[i].name;
        if (strcmp(isas[i].name, isa) == 0) return f32;
    }
    return f32;
}

bool isa_splits(const char *isa) {
#define MHA_BF16_ROW(name, features, pays)                                                                             \
    if (strcmp(isa, #name) == 0) return mha_kernels_bf16_##name.split.max_rows > 0;
#include "kernels.inc"
    return false;
}

int isa_bf16_parts(const char *isa, mha_precision precision, mha_dtype q, mha_dtype k, mha_dtype v, int64_t q_len) {
    const mha_dtype dtypes[] = {q, k, v};
    bool f16 = false, f32 = false;
    for (size_t i = 0; i < COUNT(dtypes); i++) f16 |= dtypes[i] == MHA_F16, f32 |= dtypes[i] == MHA_F32;
    if (!isa_has_bf16(isa) || q_len <= 4) return 0;
    if (precision == MHA_PRECISION_MEDIUM || (!f16 && !f32)) return 1;
    return isa_splits(isa) && (!f32 || precision == MHA_PRECISION_HIGH) ? 2 : 0;
}

mha_context *isa_context(const char *isa, mha_exp exp) { return isa_context_of(isa, exp, MHA_PRECISION_HIGHEST); }

mha_context *isa_context_of(const char *isa, mha_exp exp, mha_precision precision) {
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = isa;
    options.exp = exp;
    options.precision = precision;
    mha_context *context = NULL;
    char message[256] = "";
    if (mha_context_create(&options, &context, message, sizeof message) != MHA_OK)
        fail_msg("no context for isa %s: %s", isa, message);
    if (strcmp(mha_context_isa(context), isa) != 0) fail_msg("asked for isa %s, got %s", isa, mha_context_isa(context));
    return context;
}

const char *exp_name(mha_exp exp) { return exp == MHA_EXP_SLEEF ? "sleef" : exp == MHA_EXP_FUSED ? "fused" : "auto"; }

bool test_quick(void) {
    const char *quick = getenv("MHA_TEST_QUICK");
    return quick != NULL && strcmp(quick, "1") == 0;
}

bool test_takes(int64_t work) {
    sample.offered++;
    if (test_quick()) {
        if (work > QUICK_MOST_WORK) return false;
        if (sample.taken >= QUICK_FIRST && !rng_chance(&sample.chance, 0.25)) return false;
    }
    sample.taken++;
    return true;
}

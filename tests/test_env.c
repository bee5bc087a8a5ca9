#define _DEFAULT_SOURCE
/* Which kernels a context gets: MHA_ISA, the option, and names that are unknown or that this CPU lacks; options that
 * make no context. */
#include "mha/mha.h"
#include "mistake.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ISAS = 16 };

typedef struct list {
    mha_isa isa[MAX_ISAS];
    size_t n;
} list;

static list isas(void) {
    list l;
    l.n = mha_isa_list(l.isa, MAX_ISAS);
    assert_in_range(l.n, 1, MAX_ISAS);
    return l;
}

/* Creates a context with this MHA_ISA (NULL: none) and option; returns its instruction set or NULL. */
static const char *choose(const char *environment, const char *option, mha_status status, char message[256]) {
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = option;
    if (environment != NULL) setenv("MHA_ISA", environment, 1);
    else unsetenv("MHA_ISA");
    mha_context *context = (mha_context *)(uintptr_t)1;
    strcpy(message, "untouched");
    assert_int_equal(status, mha_context_create(&options, &context, message, 256));
    unsetenv("MHA_ISA");
    if (status != MHA_OK) {
        assert_null(context);
        return NULL;
    }
    const char *isa = mha_context_isa(context);
    assert_string_equal("", message);
    mha_context_destroy(context);
    return isa;
}

/* AVX512-BF16 only on AMD. */
static bool pays(const char *isa) {
    char features[512];
    mha_cpu_features(features, sizeof features);
    return strcmp(isa, "avx512bf16") != 0 || strstr(features, "amd") != NULL;
}

static const char *best(const list *l) {
    const char *name = "scalar";
    for (size_t i = 0; i < l->n; i++)
        if (l->isa[i].supported && pays(l->isa[i].name)) name = l->isa[i].name;
    return name;
}

static void scalar_is_first_and_always_supported(void **state) {
    (void)state;
    const list l = isas();
    assert_string_equal("scalar", l.isa[0].name);
    assert_true(l.isa[0].supported);
    mha_isa one[2] = {{"unset", false}, {"unset", false}};
    assert_int_equal(l.n, mha_isa_list(one, 1));
    assert_string_equal("unset", one[1].name);
    assert_int_equal(l.n, mha_isa_list(NULL, 0));
}

static void default_is_the_best(void **state) {
    (void)state;
    char message[256];
    const list l = isas();
    assert_string_equal(best(&l), choose(NULL, NULL, MHA_OK, message));
    assert_string_equal(best(&l), choose("", NULL, MHA_OK, message));
    mha_context *context;
    assert_int_equal(MHA_OK, mha_context_create(NULL, &context, NULL, 0));
    assert_string_equal(best(&l), mha_context_isa(context));
    mha_context_destroy(context);
}

static void each_name_is_obeyed(void **state) {
    (void)state;
    char message[256];
    const list l = isas();
    for (size_t i = 0; i < l.n; i++) {
        const char *name = l.isa[i].name;
        if (l.isa[i].supported) {
            assert_string_equal(name, choose(name, NULL, MHA_OK, message));
            assert_string_equal(name, choose(NULL, name, MHA_OK, message));
            assert_string_equal(name, choose("scalar", name, MHA_OK, message));
            continue;
        }
        choose(name, NULL, MHA_UNSUPPORTED, message);
        assert_non_null(strstr(message, name));
        assert_non_null(strstr(message, "MHA_ISA"));
        choose(NULL, name, MHA_UNSUPPORTED, message);
        assert_non_null(strstr(message, name));
    }
}

static void unknown_names_are_errors(void **state) {
    (void)state;
    static const char *const names[] = {"avx9000", "AVX2", "scalar ", "avx", " "};
    char message[256];
    for (size_t i = 0; i < COUNT(names); i++) {
        choose(names[i], NULL, MHA_INVALID_ARGUMENT, message);
        assert_non_null(strstr(message, names[i]));
        assert_non_null(strstr(message, "MHA_ISA"));
        assert_non_null(strstr(message, "scalar"));
        choose(NULL, names[i], MHA_INVALID_ARGUMENT, message);
        assert_non_null(strstr(message, names[i]));
    }
    choose("avx9000", "scalar", MHA_OK, message); /* the option comes first */
}

static void *some_allocate(void *user, size_t bytes) {
    (void)user;
    return malloc(bytes);
}

static void some_release(void *user, void *memory) {
    (void)user;
    free(memory);
}

static void bad_options(void **state) {
    (void)state;
    mha_context *context = NULL;
    mha_context_options options;
    char message[256];
#define BAD(field, bits, ...) MISTAKE(mha_context_options, field, bits, MHA_INVALID_ARGUMENT, __VA_ARGS__)
    const mistake mistakes[] = {
        BAD(exp, 3, "exp", "3", "expected"),
        BAD(exp, -1, "exp", "expected"),
        BAD(precision, 3, "precision", "3", "expected"),
        BAD(precision, -1, "precision", "expected"),
        BAD(allocator.allocate, (intptr_t)some_allocate, "allocator", "expected", "both"),
        BAD(allocator.release, (intptr_t)some_release, "allocator", "expected", "both"),
        BAD(struct_size, 7, "struct_size", "7", "expected"),
        BAD(struct_size, 1 << 20, "struct_size", "1048576", "expected"),
    };
#undef BAD
    for (size_t i = 0; i < COUNT(mistakes); i++) {
        mha_context_options_init(&options, sizeof options);
        mistake_make(&mistakes[i], &options);
        context = (mha_context *)(uintptr_t)1;
        mistake_check(&mistakes[i], mha_context_create(&options, &context, message, sizeof message), message);
        assert_null(context);
    }
    assert_int_equal(MHA_INVALID_ARGUMENT, mha_context_create(NULL, NULL, message, sizeof message));
    assert_non_null(strstr(message, "context"));
}

static void cpu_features_fit_the_isas(void **state) {
    (void)state;
    char text[256], part[4] = "xyz";
    const size_t length = mha_cpu_features(text, sizeof text);
    assert_int_equal(strlen(text), length);
    assert_int_equal(length, mha_cpu_features(part, sizeof part));
    assert_memory_equal(text, part, length < 3 ? length : 3);
    assert_int_equal(0, part[3 < length ? 3 : length]);
    assert_int_equal(length, mha_cpu_features(NULL, 0));
    const list l = isas();
    printf("# cpu features: %s; best isa: %s\n", text, best(&l));
    for (size_t i = 1; i < l.n; i++)
        if (l.isa[i].supported && strcmp(l.isa[i].name, "avx512") != 0) assert_non_null(strstr(text, l.isa[i].name));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalar_is_first_and_always_supported),
        cmocka_unit_test(default_is_the_best),
        cmocka_unit_test(each_name_is_obeyed),
        cmocka_unit_test(unknown_names_are_errors),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(cpu_features_fit_the_isas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

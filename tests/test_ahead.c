/* Rows that are fetched ahead: each once, in order, spread evenly over the steps. */
#include "ahead.h"
#include "test.h"

typedef struct fetch_case {
    const char *what;
    int64_t rows[3], steps; /* of the matrices, the last first */
    int64_t per_step;
} fetch_case;

static const fetch_case cases[] = {
    {"nothing", {0, 0, 0}, 5, 0},      {"one row", {1, 0, 0}, 5, 1}, {"no steps", {7, 5, 0}, 0, 12},
    {"one step", {7, 0, 5}, 1, 12},    {"evenly", {6, 6, 6}, 9, 2},  {"rounded up", {10, 1, 8}, 6, 4},
    {"more steps", {2, 3, 4}, 100, 1},
};

/* Groups of 3 rows 1,000 bytes apart, each group 70,000 after the one before; the first is the second of its group. */
static mha_ahead_rows matrix(uintptr_t start, int64_t rows) {
    return (mha_ahead_rows){.row = start + 1000,
                            .left = rows,
                            .bytes = 200,
                            .stride = 70000,
                            .group = 3,
                            .group_stride = 1000,
                            .in_group = 1};
}

static uintptr_t row_after(uintptr_t start, int64_t fetched) {
    return start + (uintptr_t)((fetched + 1) / 3 * 70000 + (fetched + 1) % 3 * 1000);
}

static void spread_evenly(void **state) {
    (void)state;
    for (const fetch_case *c = cases; c < cases + COUNT(cases); c++) {
        mha_ahead ahead = {.n = 0};
        int64_t total = 0;
        for (size_t i = 0; i < COUNT(c->rows); i++) mha_ahead_add(&ahead, matrix(0, c->rows[i])), total += c->rows[i];
        mha_ahead_pace(&ahead, c->steps);
        if (ahead.per_step != c->per_step)
            fail_msg("%s: %d rows a step, wanted %d", c->what, (int)ahead.per_step, (int)c->per_step);
        for (int64_t step = 1; total > 0; step++) {
            mha_ahead_step(&ahead);
            total = total < c->per_step ? 0 : total - c->per_step;
            int64_t left = 0;
            for (int32_t i = 0; i < ahead.n; i++) left += ahead.matrices[i].left;
            if (left != total)
                fail_msg("%s: %d rows left after step %d, wanted %d", c->what, (int)left, (int)step, (int)total);
        }
        mha_ahead_step(&ahead); /* more than there is */
        assert_int_equal(0, ahead.n);
    }
}

static void in_order(void **state) {
    (void)state;
    enum { ROWS = 20, START = 1 << 20 };
    mha_ahead ahead = {.n = 0};
    mha_ahead_add(&ahead, matrix(0, 1));
    mha_ahead_add(&ahead, matrix(START, ROWS));
    mha_ahead_pace(&ahead, ROWS + 1);
    for (int64_t fetched = 0; fetched < ROWS; fetched++) {
        assert_int_equal(2, ahead.n);
        if (ahead.matrices[1].row != row_after(START, fetched))
            fail_msg("row %d at %d, wanted %d", (int)fetched, (int)ahead.matrices[1].row,
                     (int)row_after(START, fetched));
        mha_ahead_step(&ahead);
    }
    assert_int_equal(1, ahead.n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(spread_evenly), cmocka_unit_test(in_order)};
    return cmocka_run_group_tests_name("fetching ahead", tests, NULL, NULL);
}

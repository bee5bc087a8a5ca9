/* Y = X W^T + b of kernel.h: every tail, dtypes, strides with gaps, guard pages; bits that depend on no other row. */
#include "bound.h"
#include "check.h"
#include "half.h"
#include "isas.h"
#include "kernels.h"
#include "matrix.h"
#include "test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct gemm_case {
    int64_t rows, out, in;
    bool bias;
    int64_t gap; /* beyond each row of x, w and y */
    guard_side side;
    mha_dtype x, w, y;
    int x_parts, w_parts; /* of bf16 that are multiplied; 0: f32 is */
} gemm_case;

typedef struct product {
    gemm_case c;
    guard x, w, bias, y, packed, scratch;
    naive_array wanted;
} product;

/* Memory that the driver hands to kernels is aligned; what is no multiple of the alignment cannot end at the page. */
static guard aligned(size_t bytes, guard_side side) {
    return guard_make(bytes, bytes % MHA_ALIGN == 0 ? side : GUARD_START, 0);
}

enum { MOST_PARTS = 3 };

/* [rows][in] for each part of bf16; or, of no parts, as it is. */
static void take_parts(double *parts[MOST_PARTS], int n, const guard *matrix, const gemm_case *c, int64_t rows,
                       mha_dtype dtype) {
    const int64_t elements = rows * c->in;
    for (int part = 0; part < MOST_PARTS; part++) parts[part] = calloc((size_t)elements, sizeof(double));
    for (int64_t i = 0; i < elements; i++) {
        double rest = element_value(matrix->data, dtype, i / c->in * (c->in + c->gap) + i % c->in);
        for (int part = 0; part < n; part++) {
            parts[part][i] = half_value(half_nearest(rest, MHA_BF16), MHA_BF16);
            rest -= parts[part][i];
        }
        if (n == 0) parts[0][i] = rest;
        else if (n == mha_bf16_parts(dtype) && rest != 0)
            fail_msg("%d parts of dtype %d leave %g", n, (int)dtype, rest);
    }
}

/* Products of so small parts that they do not count are left out. */
static double product_of(double *const x[MOST_PARTS], double *const w[MOST_PARTS], const gemm_case *c, int64_t i,
                         int64_t o) {
    const int most = c->x_parts > c->w_parts ? c->x_parts : c->w_parts;
    double product = most == 0 ? x[0][i] * w[0][o] : 0;
    for (int part = 0; part < most; part++)
        for (int other = 0; part + other < most; other++) product += x[part][i] * w[other][o];
    return product;
}

static void multiply(product *p) {
    const gemm_case *c = &p->c;
    const float *b = (float *)(void *)p->bias.data;
    const int64_t products = c->in * (c->x_parts > 1 ? c->x_parts : 1) * (c->w_parts > 1 ? c->w_parts : 1);
    double *x[MOST_PARTS], *w[MOST_PARTS];
    take_parts(x, c->x_parts, &p->x, c, c->rows, c->x);
    take_parts(w, c->w_parts, &p->w, c, c->out, c->w);
    p->wanted = naive_array_make(c->rows * c->out, true);
    p->wanted.dtype = c->y;
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t o = 0; o < c->out; o++) {
            double sum = c->bias ? b[o] : 0, condition = fabs(sum);
            for (int64_t k = 0; k < c->in; k++) {
                const double term = product_of(x, w, c, i * c->in + k, o * c->in + k);
                sum += term;
                condition += fabs(term);
            }
            p->wanted.x[i * c->out + o] = sum;
            for (int kind = 0; kind < BOUND_KINDS; kind++)
                p->wanted.bound[kind][i * c->out + o] = bound_linear(kind, c->w_parts > 0, products, condition);
        }
    for (int part = 0; part < MOST_PARTS; part++) free(x[part]), free(w[part]);
}

static product product_make(const mha_gemm_kernels *kernels, gemm_case c) {
    product p = {.c = c};
    rng r = {(uint64_t)(c.rows * 1000003 + c.out * 1009 + c.in)};
    p.x = matrix_make(c.rows, c.in, c.gap, c.x, 1, c.side, &r);
    p.w = matrix_make(c.out, c.in, c.gap, c.w, 1, c.side, &r);
    p.bias = matrix_make(1, c.out, 0, MHA_F32, 1, c.side, &r);
    p.y = guard_make((size_t)((c.rows - 1) * (c.out + c.gap) + c.out) * element_bytes(c.y), c.side, 0);
    p.packed = aligned(kernels->packed_bytes(c.out, c.in, c.w, c.w_parts), c.side);
    p.scratch = aligned(kernels->scratch_floats * sizeof(float), c.side);
    guard_remember(&p.y);
    multiply(&p);
    return p;
}

static void product_free(product *p) {
    guard *guards[] = {&p->x, &p->w, &p->bias, &p->y, &p->packed, &p->scratch};
    for (size_t i = 0; i < COUNT(guards); i++) guard_free(guards[i]);
    naive_array_free(&p->wanted);
}

/* Runs rows [row0, row1) by all outputs, `panels` panels at a time. */
static void run(const mha_gemm_kernels *kernels, product *p, int64_t row0, int64_t row1, int64_t panels) {
    const gemm_case *c = &p->c;
    const int64_t step = panels * kernels->panel;
    const mha_gemm gemm = {.x = p->x.data,
                           .x_dtype = c->x,
                           .x_parts = c->x_parts,
                           .w_parts = c->w_parts,
                           .x_stride = c->in + c->gap,
                           .packed = p->packed.data,
                           .w_dtype = c->w,
                           .bias = c->bias ? (float *)(void *)p->bias.data : NULL,
                           .y = p->y.data,
                           .y_dtype = c->y,
                           .y_stride = c->out + c->gap,
                           .in = c->in,
                           .out = c->out,
                           .level = (mha_level)(c->out % 3)};
    for (int64_t out = 0; out < c->out; out += step)
        kernels->multiply(&gemm, row0, row1, out, out + step < c->out ? out + step : c->out,
                          (float *)(void *)p->scratch.data);
}

static float *take(product *p) {
    const gemm_case *c = &p->c;
    return matrix_take(&p->y, c->y, 1, c->rows, c->out, 0, c->out + c->gap);
}

static void describe(const gemm_case *c, char text[128]) {
    static const char *const dtypes[] = {"", "f32", "f16", "bf16"};
    snprintf(text, 128, "%s = %s * %s, rows %d out %d in %d bias %d gap %d side %d parts %d, %d", dtypes[c->y],
             dtypes[c->x], dtypes[c->w], (int)c->rows, (int)c->out, (int)c->in, c->bias, (int)c->gap, c->side,
             c->x_parts, c->w_parts);
}

static void check_dtypes(const char *isa, gemm_case c) {
    const mha_gemm_kernels *kernels = gemm_kernels_of(isa);
    char what[128];
    ptrdiff_t offset;
    describe(&c, what);
    product p = product_make(kernels, c);
    kernels->pack(p.w.data, c.w, c.w_parts, c.in + c.gap, c.out, c.in, p.packed.data);
    run(kernels, &p, 0, c.rows, 1000);
    float *whole = take(&p);
    check_values(isa, what, "y", whole, &p.wanted);
    if (guard_changed(&p.y, &offset)) fail_msg("isa %s: wrote beside y at byte %td; %s", isa, offset, what);

    /* Row by row and panel by panel: the same bits. */
    for (int64_t row = 0; row < c.rows; row++) run(kernels, &p, row, row + 1, 1);
    float *pieces = take(&p);
    check_same_bits(isa, what, "y in pieces", pieces, whole, c.rows * c.out);
    for (int64_t row = 0; row < c.rows; row += 7) run(kernels, &p, row, row + 7 < c.rows ? row + 7 : c.rows, 2);
    float *sevens = take(&p);
    check_same_bits(isa, what, "y by sevens", sevens, whole, c.rows * c.out);
    free(whole);
    free(pieces);
    free(sevens);
    product_free(&p);
}

/* In f32, and with the next of the other 26 triples of dtypes.  Where bf16 is multiplied X is taken whole, but for one
 * in four, of which the first part is; W in one part or two. */
static void check_product(const char *isa, gemm_case c) {
    static const mha_dtype dtypes[] = {MHA_F32, MHA_F16, MHA_BF16};
    static unsigned next;
    const bool bf16 = isa_has_bf16(isa);
    c.x = c.w = c.y = MHA_F32;
    if (bf16) c.x_parts = 3, c.w_parts = 1;
    check_dtypes(isa, c);
    next = next % 26 + 1;
    c.x = dtypes[next % 3], c.w = dtypes[next / 3 % 3], c.y = dtypes[next / 9];
    if (bf16) c.x_parts = next % 4 != 0 ? mha_bf16_parts(c.x) : 1;
    if (bf16) c.w_parts = isa_splits(isa) && next % 5 < 2 ? 2 : 1;
    check_dtypes(isa, c);
}

static void rows(const char *isa) {
    for (int64_t n = 1; n <= gemm_kernels_of(isa)->max_rows; n += n > 256 ? 37 : test_quick() ? 5 : 1)
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){n, 50, 21, n % 2 == 0, n % 3, (guard_side)side, 0, 0, 0, 0, 0});
}

static void outputs_(const char *isa) {
    for (int64_t n = 1; n <= 130; n += test_quick() ? 7 : 1)
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){n % 11 + 1, n, 18, n % 2 == 1, n % 4, (guard_side)side, 0, 0, 0, 0, 0});
}

static void inputs(const char *isa) {
    static const int16_t more[] = {63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 513, 768, 1025};
    for (int64_t i = 0; i < 40 + (int64_t)COUNT(more); i++) {
        const int64_t in = i < 40 ? i + 1 : more[i - 40];
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){9, 35, in, true, i % 2, (guard_side)side, 0, 0, 0, 0, 0});
    }
}

/* More inputs than are packed of so many rows at a time. */
static void many_inputs(const char *isa) {
    static const gemm_case cases[] = {{65, 35, 701, true, 1, GUARD_END, 0, 0, 0, 0, 0},
                                      {200, 70, 1101, true, 0, GUARD_END, 0, 0, 0, 0, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) check_product(isa, cases[i]);
    const gemm_case one_part = {35, 20, 11000, true, 0, GUARD_END, MHA_BF16, MHA_BF16, MHA_F32, 1, 1};
    if (isa_has_bf16(isa)) check_dtypes(isa, one_part);
}

/* More panels than a group has; narrow last ones. */
static void groups(const char *isa) {
    static const int16_t outs[] = {384, 385, 433, 800};
    for (int64_t n = 1; n <= 9; n += n < 5 ? 1 : 4)
        for (size_t i = 0; i < COUNT(outs); i++)
            for (int side = 0; side < (test_quick() ? 1 : GUARD_SIDES); side++)
                check_product(
                    isa, (gemm_case){n, outs[i], i % 2 == 0 ? 130 : 257, true, n % 2, (guard_side)side, 0, 0, 0, 0, 0});
    const int64_t most = gemm_kernels_of(isa)->max_rows;
    const gemm_case many_rows[] = {{most, 433, 130, true, 1, GUARD_END, 0, 0, 0, 0, 0},
                                   {most, 560, 385, true, 0, GUARD_START, 0, 0, 0, 0, 0},
                                   {most, 35, 701, true, 0, GUARD_END, 0, 0, 0, 0, 0},
                                   {100, 800, 130, true, 0, GUARD_END, 0, 0, 0, 0, 0},
                                   {65, 800, 257, false, 1, GUARD_END, 0, 0, 0, 0, 0}};
    for (size_t i = 0; i < (test_quick() ? 1 : COUNT(many_rows)); i++) check_product(isa, many_rows[i]);
}

/* One element of X that is not finite, or rounds to infinity in bf16, among rows of ones.  Its row of Y is that
 * element, but for the others; the largest f32 may overflow, but is not NaN. */
static void not_finite(const char *isa) {
    static const float values[] = {INFINITY, -INFINITY, NAN, FLT_MAX, -FLT_MAX, 0x1.fep127f};
    const mha_gemm_kernels *kernels = gemm_kernels_of(isa);
    for (int64_t n = 1; n <= 9; n += 4)
        for (size_t i = 0; i < COUNT(values); i++) {
            gemm_case c = {n, 35, 21, false, 0, GUARD_END, MHA_F32, MHA_BF16, MHA_F32, 0, 0};
            if (isa_has_bf16(isa)) c.x_parts = mha_bf16_parts(c.x), c.w_parts = 1;
            product p = product_make(kernels, c);
            for (int64_t k = 0; k < c.rows * c.in; k++) element_set(p.x.data, c.x, k, 1);
            for (int64_t k = 0; k < c.out * c.in; k++) element_set(p.w.data, c.w, k, 1);
            ((float *)(void *)p.x.data)[(c.rows - 1) * c.in + 20] = values[i];
            kernels->pack(p.w.data, c.w, c.w_parts, c.in, c.out, c.in, p.packed.data);
            run(kernels, &p, 0, c.rows, 1000);
            float *y = take(&p);
            for (int64_t k = 0; k < c.rows * c.out; k++) {
                const float x = k / c.out == c.rows - 1 ? values[i] : 21;
                const bool close = isfinite(x) && fabsf(y[k] / x - 1) < 1e-6f; /* Arm's BFMMLA rounds to odd */
                const bool overflows =
                    c.w_parts > 0 && isfinite(x) && fabsf(x) == FLT_MAX && y[k] == copysignf(INFINITY, x);
                if (!overflows && !close && y[k] != x && !(isnan(y[k]) && isnan(x)))
                    fail_msg("isa %s: %g becomes %g in row %d of %d", isa, (double)x, (double)y[k], (int)(k / c.out),
                             (int)n);
            }
            free(y);
            product_free(&p);
        }
}

int main(void) {
    static const isa_test tests[] = {ISA_TEST(rows),   {"outputs", outputs_, false},
                                     ISA_TEST(inputs), ISA_TEST(many_inputs),
                                     ISA_TEST(groups), ISA_TEST(not_finite)};
    return isa_tests_run(tests, COUNT(tests));
}

/* Y = X W^T + b of kernel.h: every tail, dtypes, strides with gaps, guard pages; and bits that depend on no other row. */
#include "bound.h"
#include "check.h"
#include "half.h"
#include "isas.h"
#include "kernels.h"
#include "matrix.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct gemm_case {
    int64_t rows, out, in;
    bool bias;
    int64_t gap; /* beyond each row of x, w and y */
    guard_side side;
    mha_dtype x, w, y;
    bool bf16; /* is multiplied: w is rounded, of x are so many parts */
    int parts;
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

/* [rows][in] as it is multiplied: where that is bf16, the sum of so many parts. */
static double *multiplied(const guard *matrix, const gemm_case *c, int64_t rows, mha_dtype dtype, int parts) {
    double *values = malloc((size_t)(rows * c->in) * sizeof *values);
    for (int64_t i = 0; i < rows * c->in; i++) {
        const double x = element_value(matrix->data, dtype, i / c->in * (c->in + c->gap) + i % c->in);
        double sum = 0;
        for (int part = 0; part < parts; part++) sum += half_value(half_nearest(x - sum, MHA_BF16), MHA_BF16);
        if (c->bf16 && parts == mha_bf16_parts(dtype) && sum != x)
            fail_msg("%d parts of dtype %d sum to %.9g, wanted %.9g", parts, (int)dtype, sum, x);
        values[i] = c->bf16 ? sum : x;
    }
    return values;
}

static void multiply(product *p) {
    const gemm_case *c = &p->c;
    const float *b = (float *)(void *)p->bias.data;
    double *x = multiplied(&p->x, c, c->rows, c->x, c->parts), *w = multiplied(&p->w, c, c->out, c->w, 1);
    p->wanted = naive_array_make(c->rows * c->out, true);
    p->wanted.dtype = c->y;
    for (int64_t i = 0; i < c->rows; i++)
        for (int64_t o = 0; o < c->out; o++) {
            double sum = c->bias ? b[o] : 0, condition = fabs(sum);
            for (int64_t k = 0; k < c->in; k++) {
                const double term = x[i * c->in + k] * w[o * c->in + k];
                sum += term;
                condition += fabs(term);
            }
            p->wanted.x[i * c->out + o] = sum;
            for (int kind = 0; kind < BOUND_KINDS; kind++)
                p->wanted.bound[kind][i * c->out + o] = bound_linear(kind, c->bf16, c->in * c->parts, condition);
        }
    free(x);
    free(w);
}

static product product_make(const mha_gemm_kernels *kernels, gemm_case c) {
    product p = {.c = c};
    rng r = {(uint64_t)(c.rows * 1000003 + c.out * 1009 + c.in)};
    p.x = matrix_make(c.rows, c.in, c.gap, c.x, 1, c.side, &r);
    p.w = matrix_make(c.out, c.in, c.gap, c.w, 1, c.side, &r);
    p.bias = matrix_make(1, c.out, 0, MHA_F32, 1, c.side, &r);
    p.y = guard_make((size_t)((c.rows - 1) * (c.out + c.gap) + c.out) * element_bytes(c.y), c.side, 0);
    p.packed = aligned(kernels->packed_bytes(c.out, c.in, c.w), c.side);
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
                           .x_parts = c->parts,
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
    snprintf(text, 128, "%s = %s * %s, rows %d out %d in %d bias %d gap %d side %d parts %d", dtypes[c->y],
             dtypes[c->x], dtypes[c->w], (int)c->rows, (int)c->out, (int)c->in, c->bias, (int)c->gap, c->side,
             c->parts);
}

static void check_dtypes(const char *isa, gemm_case c) {
    const mha_gemm_kernels *kernels = gemm_kernels_of(isa);
    char what[128];
    ptrdiff_t offset;
    describe(&c, what);
    product p = product_make(kernels, c);
    kernels->pack(p.w.data, c.w, c.in + c.gap, c.out, c.in, p.packed.data);
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

/* In f32, and with the next of the other 26 triples of dtypes.  Where bf16 is multiplied X is taken whole, but for one in
 * four, of which the first part is. */
static void check_product(const char *isa, gemm_case c) {
    static const mha_dtype dtypes[] = {MHA_F32, MHA_F16, MHA_BF16};
    static unsigned next;
    c.bf16 = isa_has_bf16(isa);
    c.x = c.w = c.y = MHA_F32;
    c.parts = c.bf16 ? mha_bf16_parts(c.x) : 1;
    check_dtypes(isa, c);
    next = next % 26 + 1;
    c.x = dtypes[next % 3], c.w = dtypes[next / 3 % 3], c.y = dtypes[next / 9];
    c.parts = c.bf16 && next % 4 != 0 ? mha_bf16_parts(c.x) : 1;
    check_dtypes(isa, c);
}

static void rows(const char *isa) {
    for (int64_t n = 1; n <= MHA_GEMM_ROWS; n += test_quick() ? 5 : 1)
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){n, 50, 21, n % 2 == 0, n % 3, (guard_side)side, 0, 0, 0, false, 1});
}

static void outputs_(const char *isa) {
    for (int64_t n = 1; n <= 130; n += test_quick() ? 7 : 1)
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){n % 11 + 1, n, 18, n % 2 == 1, n % 4, (guard_side)side, 0, 0, 0, false, 1});
}

static void inputs(const char *isa) {
    static const int16_t more[] = {63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 513, 768, 1025};
    for (int64_t i = 0; i < 40 + (int64_t)COUNT(more); i++) {
        const int64_t in = i < 40 ? i + 1 : more[i - 40];
        for (int side = 0; side < GUARD_SIDES; side++)
            check_product(isa, (gemm_case){9, 35, in, true, i % 2, (guard_side)side, 0, 0, 0, false, 1});
    }
}

/* More panels than a group has; narrow last ones. */
static void groups(const char *isa) {
    static const int16_t outs[] = {384, 385, 433, 800};
    for (int64_t n = 1; n <= 9; n += n < 5 ? 1 : 4)
        for (size_t i = 0; i < COUNT(outs); i++)
            for (int side = 0; side < (test_quick() ? 1 : GUARD_SIDES); side++)
                check_product(isa, (gemm_case){n, outs[i], i % 2 == 0 ? 130 : 257, true, n % 2, (guard_side)side, 0, 0,
                                               0, false, 1});
    static const gemm_case many_rows[] = {{MHA_GEMM_ROWS, 433, 130, true, 1, GUARD_END, 0, 0, 0, false, 1},
                                          {MHA_GEMM_ROWS, 800, 257, true, 0, GUARD_START, 0, 0, 0, false, 1},
                                          {100, 800, 130, true, 0, GUARD_END, 0, 0, 0, false, 1},
                                          {65, 800, 257, false, 1, GUARD_END, 0, 0, 0, false, 1}};
    for (size_t i = 0; i < (test_quick() ? 1 : COUNT(many_rows)); i++) check_product(isa, many_rows[i]);
}

/* An infinite input: what rounding leaves of it is nothing, and its row of outputs is infinite. */
static void infinite_inputs(const char *isa) {
    static const int64_t row_counts[] = {2, 9};
    const mha_gemm_kernels *kernels = gemm_kernels_of(isa);
    for (size_t i = 0; i < COUNT(row_counts); i++)
        for (mha_dtype x = MHA_F32; x <= MHA_BF16; x++) {
            const gemm_case c = {row_counts[i],
                                 35,
                                 21,
                                 true,
                                 0,
                                 GUARD_END,
                                 x,
                                 MHA_BF16,
                                 MHA_F32,
                                 isa_has_bf16(isa),
                                 isa_has_bf16(isa) ? mha_bf16_parts(x) : 1};
            char what[128];
            product p = product_make(kernels, c);
            describe(&c, what);
            element_set(p.x.data, x, c.in + 4, INFINITY);
            kernels->pack(p.w.data, c.w, c.in, c.out, c.in, p.packed.data);
            run(kernels, &p, 0, c.rows, 1000);
            float *y = take(&p);
            for (int64_t o = 0; o < c.out; o++) {
                const double wanted = element_value(p.w.data, c.w, o * c.in + 4) * INFINITY, got = y[c.out + o];
                if (got != wanted) fail_msg("isa %s: y[1][%d] is %g, wanted %g; %s", isa, (int)o, got, wanted, what);
            }
            free(y);
            product_free(&p);
        }
}

int main(void) {
    static const isa_test tests[] = {
        ISA_TEST(rows), {"outputs", outputs_, false}, ISA_TEST(inputs), ISA_TEST(groups), ISA_TEST(infinite_inputs)};
    return isa_tests_run(tests, COUNT(tests));
}

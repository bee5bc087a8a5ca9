#include "check.h"
#include "isas.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENOUGH_FOR_RMS = 64 };

static bool within(float got, double wanted, double bound) {
    if (isnan(wanted)) return isnan(got);
    if (isinf(wanted)) return (double)got == wanted;
    return isfinite(bound) && fabs((double)got - wanted) <= bound;
}

void check_values(const char *who, const char *what, const char *operand, const float *got, const naive_array *wanted) {
    double squares = 0, allowed = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < wanted->n; i++) {
        const double worst = naive_allowed(wanted, BOUND_WORST, i), typical = naive_allowed(wanted, BOUND_TYPICAL, i);
        if (!within(got[i], wanted->x[i], worst))
            fail_msg("%s: %s[%lld] is %.9g, wanted %.12g, off by %.3g of an allowed %.3g; %s", who, operand,
                     (long long)i, (double)got[i], wanted->x[i], fabs((double)got[i] - wanted->x[i]), worst, what);
        if (!isfinite(wanted->x[i]) || isinf(typical)) continue;
        const double error = (double)got[i] - wanted->x[i];
        squares += error * error;
        allowed += typical * typical;
        n++;
    }
    if (n >= ENOUGH_FOR_RMS && !(isfinite(allowed) && squares <= allowed))
        fail_msg("%s: %s has a root mean square error of %.3g, allowed are %.3g; %s", who, operand,
                 sqrt(squares / (double)n), sqrt(allowed / (double)n), what);
}

void check_outputs(const char *who, const problem *p, const outputs *got, const naive_result *wanted) {
    char what[512];
    spec_text(&p->spec, what, sizeof what);
    check_values(who, what, "out", got->out, &wanted->out);
    if (got->n_lse > 0) check_values(who, what, "lse", got->lse, &wanted->lse);
    if (got->n_scores > 0) check_values(who, what, "scores", got->scores, &wanted->scores);
}

void check_same_bits(const char *who, const char *what, const char *operand, const float *got, const float *wanted,
                     int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&got[i], &wanted[i], sizeof(float)) != 0 && !(isnan(got[i]) && isnan(wanted[i])))
            fail_msg("%s: %s[%lld] is %a, wanted the same bits as %a; %s", who, operand, (long long)i, (double)got[i],
                     (double)wanted[i], what);
}

void check_same_outputs(const char *who, const problem *p, const outputs *got, const outputs *wanted) {
    char what[512];
    spec_text(&p->spec, what, sizeof what);
    check_same_bits(who, what, "out", got->out, wanted->out, wanted->n_out);
    check_same_bits(who, what, "lse", got->lse, wanted->lse, wanted->n_lse);
    check_same_bits(who, what, "scores", got->scores, wanted->scores, wanted->n_scores);
}

void check_problem(const char *who, problem *p, const mha_context *context, int parts) {
    naive_result wanted = naive_attention(&p->args, parts);
    outputs got = problem_run(p, context, NULL);
    check_outputs(who, p, &got, &wanted);
    outputs_free(&got);
    naive_result_free(&wanted);
}

static double *in_double(const float *x, int64_t n) {
    double *copy = calloc((size_t)n + 1, sizeof *copy);
    for (int64_t i = 0; i < n; i++) copy[i] = x[i];
    return copy;
}

/* The scalar kernels' results in the place of the naive ones, with the same bounds. */
static void check_against_scalar(const char *who, problem *p, const outputs *got, const naive_result *bounds,
                                 mha_exp exp) {
    mha_context *context = isa_context("scalar", exp);
    outputs scalar = problem_run(p, context, NULL);
    naive_result wanted = *bounds;
    wanted.out.roundings = wanted.scores.roundings = 2;
    wanted.out.x = in_double(scalar.out, scalar.n_out);
    wanted.lse.x = in_double(scalar.lse, scalar.n_lse);
    wanted.scores.x = in_double(scalar.scores, scalar.n_scores);
    char beside[128];
    snprintf(beside, sizeof beside, "%s beside scalar", who);
    check_outputs(beside, p, got, &wanted);
    double *values[] = {wanted.out.x, wanted.lse.x, wanted.scores.x};
    for (size_t i = 0; i < COUNT(values); i++) free(values[i]);
    outputs_free(&scalar);
    mha_context_destroy(context);
}

static void check_exp(const char *isa, problem *sides, const naive_result *wanted, mha_exp exp) {
    char who[64];
    outputs got[GUARD_SIDES];
    mha_context *context = isa_context(isa, exp);
    for (int side = 0; side < GUARD_SIDES; side++) {
        snprintf(who, sizeof who, "isa %s exp %s side %d", isa, exp_name(exp), side);
        got[side] = problem_run(&sides[side], context, NULL);
        if (side == 0) check_outputs(who, &sides[side], &got[side], wanted);
        else check_same_outputs(who, &sides[side], &got[side], &got[0]);
    }
    if (strcmp(isa, "scalar") != 0) check_against_scalar(who, &sides[0], &got[0], wanted, exp);
    for (int side = 0; side < GUARD_SIDES; side++) outputs_free(&got[side]);
    mha_context_destroy(context);
}

spec spec_for(const char *isa, const spec *s) {
    spec own = *s;
    const int operands[] = {Q, K, V};
    for (size_t i = 0; i < COUNT(operands) && isa_has_bf16(isa); i++)
        if (own.dtypes[operands[i]] == 0) own.dtypes[operands[i]] = MHA_BF16;
    return own;
}

void check_case(const char *isa, const spec *given) {
    problem sides[GUARD_SIDES];
    const spec s = spec_for(isa, given);
    for (int side = 0; side < GUARD_SIDES; side++) problem_make(&sides[side], &s, (guard_side)side);
    const mha_attention_args *args = &sides[0].args;
    const int parts =
        isa_bf16_parts(isa, MHA_PRECISION_HIGHEST, args->q.dtype, args->k.dtype, args->v.dtype, args->q_len);
    naive_result wanted = naive_attention(args, parts);
    check_exp(isa, sides, &wanted, MHA_EXP_SLEEF);
    check_exp(isa, sides, &wanted, MHA_EXP_FUSED);
    naive_result_free(&wanted);
    for (int side = 0; side < GUARD_SIDES; side++) problem_free(&sides[side]);
}

static int64_t work_of(const spec *s) {
    return s->batch * s->q_heads * s->q_len * s->kv_len * (s->head_dim + s->v_head_dim);
}

void check_cases(const char *isa, const spec *cases, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (test_takes(work_of(&cases[i]))) check_case(isa, &cases[i]);
}

/* Elements of any dtype as vectors of f32 and back, V_LANES at a time.  A dtype is a constant wherever time matters:
 * V_WITH_DTYPE compiles a call for each. */
#ifndef MHA_SIMD_ELEMENTS_H
#define MHA_SIMD_ELEMENTS_H

/* The call, in which T is the dtype. */
#define V_WITH_DTYPE(dtype, call)                                                                                      \
    switch (dtype) {                                                                                                   \
    case MHA_F16: {                                                                                                    \
        const mha_dtype T = MHA_F16;                                                                                   \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    case MHA_BF16: {                                                                                                   \
        const mha_dtype T = MHA_BF16;                                                                                  \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    default: {                                                                                                         \
        const mha_dtype T = MHA_F32;                                                                                   \
        call;                                                                                                          \
        break;                                                                                                         \
    }                                                                                                                  \
    }

V_INLINE vf load_half(const void *p, mha_dtype dtype) { return dtype == MHA_BF16 ? v_load_bf16(p) : v_load_f16(p); }

V_INLINE void store_half(void *p, vf x, mha_dtype dtype) {
    if (dtype == MHA_BF16) v_store_bf16(p, x);
    else v_store_f16(p, x);
}

V_INLINE vf load_elements(const void *p, mha_dtype dtype) { return dtype == MHA_F32 ? v_load(p) : load_half(p, dtype); }

/* The first min(n, V_LANES), 0 < n; the rest reads as 0, memory is not touched. */
V_INLINE vf load_elements_n(const void *p, int64_t n, mha_dtype dtype) {
    if (n >= V_LANES) return load_elements(p, dtype);
    if (dtype == MHA_F32) return v_load_n(p, n);
    uint16_t rest[V_LANES] = {0};
    memcpy(rest, p, (size_t)n * sizeof *rest);
    return load_half(rest, dtype);
}

V_INLINE void store_elements(void *p, vf x, mha_dtype dtype) {
    if (dtype == MHA_F32) v_store(p, x);
    else store_half(p, x, dtype);
}

V_INLINE void store_elements_n(void *p, vf x, int64_t n, mha_dtype dtype) {
    if (n >= V_LANES) {
        store_elements(p, x, dtype);
    } else if (dtype == MHA_F32) {
        v_store_n(p, x, n);
    } else {
        uint16_t rest[V_LANES];
        store_half(rest, x, dtype);
        memcpy(p, rest, (size_t)n * sizeof *rest);
    }
}

V_INLINE void widen(const uint16_t *half, mha_dtype dtype, float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += V_LANES) v_store_n(x + i, load_elements_n(half + i, n - i, dtype), n - i);
}

V_INLINE void narrow(const float *x, mha_dtype dtype, uint16_t *half, int64_t n) {
    for (int64_t i = 0; i < n; i += V_LANES) store_elements_n(half + i, v_load_n(x + i, n - i), n - i, dtype);
}

/* What FMA tiles multiply: a unit of a lane is an element, or UNIT of them that are summed. */
#ifdef UNIT
#define K_TYPE bf16
#else
#define UNIT   1
#define K_TYPE f32
V_INLINE vf v_dot(vf a, vf b, vf c) { return v_fma(a, b, c); }
V_INLINE vf va_dot(va a, int i, vf b, vf c) { return va_fma(a, i, b, c); }
V_INLINE vf v_set_pairs(float x) { return v_set1(x); }
V_INLINE vf v_load_pairs(const uint16_t *p) { return v_load_bf16(p); }
V_INLINE vf v_pair(vf even, vf odd) { return v_add(even, odd); }
#endif

/* A term of FMA tiles takes so many units.  If more than one, those of a lane lie side by side: */
#ifndef TERM
#define TERM 1
V_INLINE void v_interleave(vf units[TERM]) { (void)units; }
#endif

/* Unit u of a lane among [units][stride], whose first lane's vector begins at 0. */
V_INLINE int64_t unit_at(int64_t u, int64_t lane, int64_t stride) {
    const int64_t at = lane * TERM + u % TERM;
    return (u / TERM * TERM + at / V_LANES) * stride + at % V_LANES;
}

/* Products take so many keys at a time, and so many units of head_dim: */
#define KEY_STEP (UNIT * TERM)
#ifndef HEAD_STEP
#define HEAD_STEP TERM
#endif

/* Units of two bf16 as floats. */
static const float ONES = 0x1.007fp0f, ONE_EVEN = 0x3f80p-149f, ONE_ODD = 1;

/* x as products take it: rounded, where they multiply bf16. */
V_INLINE vf as_multiplied(vf x) { return UNIT == 1 ? x : v_dot(v_pair(x, v_zero()), v_set_pairs(ONE_EVEN), v_zero()); }

/* The unit with zeros for those of its elements that are NaN or infinite. */
V_INLINE float finite_unit(const float *unit) {
    const uint32_t exponent = 0x7f800000;
    uint32_t bits;
    float finite;
    memcpy(&bits, unit, sizeof bits);
    if ((bits & exponent) == exponent) bits &= UNIT == 1 ? 0 : 0xffff;
    if (UNIT > 1 && (bits << 16 & exponent) == exponent) bits &= 0xffff0000;
    memcpy(&finite, &bits, sizeof finite);
    return finite;
}

V_INLINE int64_t units_of(int64_t elements) { return (elements + UNIT - 1) / UNIT; }

/* In whole terms, and in whole steps. */
V_INLINE int64_t term_units(int64_t elements) { return round_up(units_of(elements), TERM); }
V_INLINE int64_t step_units(int64_t elements) { return round_up(units_of(elements), HEAD_STEP); }

/* V_LANES units, each element times the factor, of which 0 < n elements are there. */
V_INLINE vf load_units(const void *p, int64_t n, mha_dtype dtype, float factor) {
    if (UNIT == 1) return v_mul(load_elements_n(p, n, dtype), v_set1(factor));
    const bool as_it_is = dtype == MHA_BF16 && factor == 1;
    if (as_it_is && n >= UNIT * V_LANES) return v_load_pairs(p);
    uint16_t units[UNIT * V_LANES] = {0};
    if (as_it_is) memcpy(units, p, (size_t)n * sizeof *units);
    for (int i = 0; !as_it_is && i < UNIT * V_LANES && i < n; i += V_LANES)
        v_store_bf16(units + i, v_mul(load_elements_n(mha_element(p, i, dtype), n - i, dtype), v_set1(factor)));
    return v_load_pairs(units);
}

/* What rounding to bf16 takes of x; nothing, if that is not finite: x is not, or rounds to infinity. */
V_INLINE vf rest_of(vf x) {
    const vf rest = v_sub(x, as_multiplied(x)), zero = v_sub(rest, rest); /* or NaN */
    return v_blend(v_mask(v_equal(zero, zero)), v_zero(), rest);
}

/* Part 0 of x is x; the next one, what rounding that to bf16 leaves.  An f16 is the sum of two that are rounded, an f32
 * of three. */
V_INLINE vf part_of(vf x, int part) {
    for (int i = 0; i < part; i++) x = rest_of(x);
    return x;
}

/* As load_units, of a part. */
V_INLINE vf load_part(const void *p, int64_t n, mha_dtype dtype, int part, float factor) {
    if (part == 0) return load_units(p, n, dtype, factor);
    uint16_t units[UNIT * V_LANES] = {0};
    for (int i = 0; i < UNIT * V_LANES && i < n; i += V_LANES) {
        const vf x = v_mul(load_elements_n(mha_element(p, i, dtype), n - i, dtype), v_set1(factor));
        v_store_bf16(units + i, part_of(x, part));
    }
    return v_load_pairs(units);
}

#endif

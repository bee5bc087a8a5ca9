#include "half.h"

#include <math.h>

typedef struct half_format {
    int fraction_bits, least_exponent; /* of normal numbers */
    int exponent_bits;
} half_format;

static half_format format_of(mha_dtype dtype) {
    return dtype == MHA_F16 ? (half_format){10, -14, 5} : (half_format){7, -126, 8};
}

double half_value(uint16_t bits, mha_dtype dtype) {
    const half_format f = format_of(dtype);
    const int exponent = bits >> f.fraction_bits & ((1 << f.exponent_bits) - 1);
    const int fraction = bits & ((1 << f.fraction_bits) - 1);
    double x;
    if (exponent == (1 << f.exponent_bits) - 1) x = fraction != 0 ? NAN : INFINITY;
    else if (exponent == 0) x = ldexp(fraction, f.least_exponent - f.fraction_bits);
    else x = ldexp(fraction + (1 << f.fraction_bits), f.least_exponent - f.fraction_bits + exponent - 1);
    return (bits & 0x8000) != 0 ? -x : x;
}

uint16_t half_nearest(double x, mha_dtype dtype) {
    const half_format f = format_of(dtype);
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const uint16_t infinity = (uint16_t)(((1 << f.exponent_bits) - 1) << f.fraction_bits);
    if (isnan(x)) return (uint16_t)(sign | infinity | 1 << (f.fraction_bits - 1));
    if (x == 0) return sign;
    if (isinf(x)) return sign | infinity;
    int exponent; /* of the last place */
    frexp(x, &exponent);
    exponent = (exponent - 1 > f.least_exponent ? exponent - 1 : f.least_exponent) - f.fraction_bits;
    const double places = nearbyint(ldexp(fabs(x), -exponent)); /* up to 2^(fraction_bits + 1), which carries */
    const uint32_t bits =
        ((uint32_t)(exponent + f.fraction_bits - f.least_exponent) << f.fraction_bits) + (uint32_t)places;
    return bits >= infinity ? sign | infinity : (uint16_t)(sign | bits);
}

double element_value(const void *array, mha_dtype dtype, int64_t i) {
    return is_half(dtype) ? half_value(((const uint16_t *)array)[i], dtype) : (double)((const float *)array)[i];
}

void element_set(void *array, mha_dtype dtype, int64_t i, double x) {
    if (is_half(dtype)) ((uint16_t *)array)[i] = half_nearest(x, dtype);
    else ((float *)array)[i] = (float)x;
}

double half_rounding(double x, mha_dtype dtype) {
    if (!is_half(dtype)) return 0;
    const half_format f = format_of(dtype);
    return ldexp(fabs(x), -f.fraction_bits - 1) + ldexp(1, f.least_exponent - f.fraction_bits - 1);
}

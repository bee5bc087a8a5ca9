/* Deterministic random numbers: SplitMix64 (Steele, Lea and Flood, 2014).  A seed gives the same test anywhere. */
#ifndef TESTS_RNG_H
#define TESTS_RNG_H

#include <stdint.h>

typedef struct rng {
    uint64_t state;
} rng;

static inline uint64_t rng_next(rng *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* An integer in [low, high]. */
static inline int64_t rng_between(rng *r, int64_t low, int64_t high) {
    return low + (int64_t)(rng_next(r) % (uint64_t)(high - low + 1));
}

/* Uniform in [0, 1). */
static inline double rng_unit(rng *r) { return (double)(rng_next(r) >> 11) * 0x1p-53; }

/* Mean 0, variance 1, bell-shaped, |x| < 3.5: the sum of four uniform numbers. */
static inline float rng_normal(rng *r) {
    const double sum = rng_unit(r) + rng_unit(r) + rng_unit(r) + rng_unit(r);
    return (float)((sum - 2) * 1.7320508075688772);
}

static inline int rng_chance(rng *r, double probability) { return rng_unit(r) < probability; }

#endif

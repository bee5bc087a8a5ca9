/* The tile path of src/simd in pairs of bf16. */
#include "vec.h"
#include "simd/bf16.h"

/* The templates of src/simd in AVX2. */
#include "vec.h"
#include "simd/kernels.h"

/* The templates of src/simd in AVX-512. */
#include "vec.h"
#include "simd/kernels.h"

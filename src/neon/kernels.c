/* The templates of src/simd in NEON. */
#include "vec.h"
#include "simd/kernels.h"

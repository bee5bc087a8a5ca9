/* What scripts/onnx_cases wrote: the cases that ONNX has for its operator Attention. */
#ifndef TESTS_ONNX_CASES_H
#define TESTS_ONNX_CASES_H

#include <stddef.h>
#include <stdint.h>

enum { ONNX_RANK = 4, ONNX_MOST_ATTRIBUTES = 16, ONNX_MOST_TENSORS = 16 };

/* As ONNX's TensorProto.DataType numbers them. */
typedef enum onnx_type {
    ONNX_FLOAT = 1,
    ONNX_INT64 = 7,
    ONNX_BOOL = 9,
    ONNX_FLOAT16 = 10,
    ONNX_BFLOAT16 = 16
} onnx_type;

typedef struct onnx_attribute {
    const char *name;
    double value;
} onnx_attribute;

typedef struct onnx_tensor {
    const char *name;
    onnx_type type;
    int64_t rank, shape[ONNX_RANK];
    const void *data; /* dense, row-major, aligned to 8 */
    size_t bytes;
} onnx_tensor;

typedef struct onnx_case {
    const char *name;
    double rtol, atol; /* |got - wanted| <= atol + rtol |wanted| */
    int64_t n_attributes, n_tensors;
    onnx_attribute attributes[ONNX_MOST_ATTRIBUTES];
    onnx_tensor tensors[ONNX_MOST_TENSORS];
} onnx_case;

typedef struct onnx_cases {
    int64_t n;
    onnx_case *cases;
    char *file; /* its bytes; names and data point into it */
} onnx_cases;

/* Reads a file, or aborts with a message. */
onnx_cases onnx_cases_read(const char *path);
void onnx_cases_free(onnx_cases *cases);

double onnx_case_attribute(const onnx_case *c, const char *name, double absent);

/* An input or output; NULL if the case has none of this name. */
const onnx_tensor *onnx_case_tensor(const onnx_case *c, const char *name);

#endif

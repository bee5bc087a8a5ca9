// Arrays as the C API describes them.
#include "arrays.h"

namespace mha_python {

Shape permute(const Shape &shape, Layout layout) {
    return {shape[0], shape[layout.head], shape[layout.token], shape[3]};
}

mha_tensor tensor(const Array &array, Layout layout) {
    array.expect_contiguous_rows();
    return {array.data(), array.dtype(), {array.stride(0), array.stride(layout.head), array.stride(layout.token)}};
}

mha_activation activation(const Array &array) {
    array.expect_contiguous_rows();
    return {array.data(), array.dtype(), {array.stride(0), array.stride(1)}};
}

mha_row_tensor rows(const Array &array) {
    return {static_cast<float *>(array.data()), {array.stride(0), array.stride(1), array.stride(2)}};
}

mha_score_tensor scores(const Array &array) {
    return {array.data(), array.dtype(), {array.stride(0), array.stride(1), array.stride(2), array.stride(3)}};
}

mha_score_tensor broadcast_mask(const Array &array, const Shape &shape) {
    Shape expected = shape;
    const size_t rank = array.rank();
    mha_score_tensor mask = {array.data(), array.dtype(), {0, 0, 0, 0}};
    for (size_t i = 0; i < rank && i < 4; i++) { // from the last axis backwards
        const size_t axis = 3 - i, own = rank - 1 - i;
        if (array.shape(own) == 1) expected[axis] = 1;
        else mask.stride[axis] = array.stride(own);
    }
    if (rank < 4) expected.erase(expected.begin(), expected.end() - static_cast<ptrdiff_t>(rank));
    array.expect(expected, "a mask that broadcasts to [batch, q_heads, q_len, kv_len]");
    return mask;
}

} // namespace mha_python

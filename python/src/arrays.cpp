#include "arrays.h"

#include <algorithm>
#include <new>

namespace mha_python {

namespace {

using Code = nb::dlpack::dtype_code;

constexpr const char *DTYPES[] = {"float32", "bool or float32", "int64", "uint8"}; // of each Array::Elements

bool is(nb::dlpack::dtype dtype, Code code, int bits) {
    return dtype.code == static_cast<uint8_t>(code) && dtype.bits == bits && dtype.lanes == 1;
}

std::string text(nb::dlpack::dtype dtype) {
    const std::string bits = std::to_string(dtype.bits);
    switch (static_cast<Code>(dtype.code)) {
    case Code::Int: return "int" + bits;
    case Code::UInt: return "uint" + bits;
    case Code::Float: return "float" + bits;
    case Code::Bfloat: return "bfloat" + bits;
    case Code::Complex: return "complex" + bits;
    case Code::Bool: return "bool";
    default: return "of " + bits + " bits";
    }
}

std::string text(const Shape &shape) {
    std::string result = "(";
    for (size_t i = 0; i < shape.size(); i++) {
        if (i > 0) result += ", ";
        result += shape[i] == ANY ? "*" : std::to_string(shape[i]);
    }
    return result + (shape.size() == 1 ? ",)" : ")");
}

std::string type_of(nb::handle object) { return nb::type_name(object.type()).c_str(); }

[[noreturn]] void type_error(const std::string &sentence) { throw nb::type_error(sentence.c_str()); }
[[noreturn]] void value_error(const std::string &sentence) { throw nb::value_error(sentence.c_str()); }

} // namespace

Array::Array(const char *name, nb::handle object, Access access, Elements elements) : name_(name), elements_(elements) {
    if (!nb::try_cast(object, array_, false)) refuse(object);
    nb::ndarray<nb::device::cpu> writable;
    if (access == WRITE && !nb::try_cast(object, writable, false))
        value_error(std::string(name) + " is read-only, expected a writable array");
    data_ = const_cast<void *>(array_.data());
}

// NumPy has arrays that DLPack cannot express.
void Array::refuse(nb::handle object) const {
    if (!nb::isinstance(object, nb::module_::import_("numpy").attr("ndarray")))
        type_error(std::string(name_) + " is of type " + type_of(object) + ", expected an array in CPU memory");
    const auto bytes = nb::cast<int64_t>(object.attr("itemsize"));
    for (const nb::handle stride : nb::object(object.attr("strides")))
        if (bytes > 0 && nb::cast<int64_t>(stride) % bytes != 0)
            value_error(std::string(name_) + " has a stride of " + nb::str(stride).c_str() +
                        " bytes, expected a multiple of its element's " + std::to_string(bytes));
    const nb::object dtype = object.attr("dtype");
    refuse_dtype(nb::str(dtype).c_str());
}

void Array::refuse_dtype(const std::string &dtype) const {
    type_error(std::string(name_) + " has dtype " + dtype + ", expected " + DTYPES[elements_]);
}

int64_t Array::stride(size_t axis) const {
    if (array_.size() > 0) return array_.stride_ptr()[axis];
    int64_t stride = 1;
    for (size_t inner = axis + 1; inner < rank(); inner++) stride *= std::max(shape(inner), int64_t{1});
    return stride;
}

// Which floating-point types there are is left to the library.
mha_dtype Array::dtype() const {
    const nb::dlpack::dtype dtype = array_.dtype();
    if (is(dtype, Code::Float, 32)) return MHA_F32;
    if (is(dtype, Code::Float, 16)) return MHA_F16;
    if (is(dtype, Code::Bfloat, 16)) return MHA_BF16;
    if (is(dtype, Code::Bool, 8) && elements_ == BOOLS_OR_FLOATS) return MHA_BOOL;
    refuse_dtype(text(dtype));
}

void Array::expect(const Shape &expected, const char *axes) const {
    const Shape actual(array_.shape_ptr(), array_.shape_ptr() + rank());
    const auto fits = [](int64_t a, int64_t e) { return e == ANY || a == e; };
    if (std::equal(actual.begin(), actual.end(), expected.begin(), expected.end(), fits)) return;
    value_error(std::string(name_) + " has shape " + text(actual) + ", expected " + text(expected) + " as " + axes);
}

void Array::expect_rank(size_t rank, const char *axes) const { expect(Shape(rank, ANY), axes); }

void Array::expect_contiguous_rows() const {
    const size_t last = rank() - 1;
    if (shape(last) > 1 && stride(last) != 1)
        value_error(std::string(name_) + " has stride " + std::to_string(stride(last)) +
                    " in its last dimension, expected 1: that dimension must be contiguous");
}

void Array::expect_matrix(const char *axes) const {
    expect_rank(2, axes);
    if (shape(0) == 0 || shape(1) == 0)
        value_error(std::string(name_) + " has shape " + text(Shape{shape(0), shape(1)}) +
                    ", expected at least one element in each dimension");
    expect_contiguous_rows();
    if (shape(0) > 1 && stride(0) < shape(1))
        value_error(std::string(name_) + " has stride " + std::to_string(stride(0)) +
                    " in its first dimension, expected at least " + std::to_string(shape(1)));
}

const int64_t *Array::integers(int64_t size) const {
    expect({size}, "[batch]");
    if (!is(array_.dtype(), Code::Int, 64)) refuse_dtype(text(array_.dtype()));
    expect_contiguous_rows();
    return static_cast<const int64_t *>(data_);
}

const float *Array::floats(int64_t size) const {
    expect({size}, "[out]");
    if (!is(array_.dtype(), Code::Float, 32)) refuse_dtype(text(array_.dtype()));
    expect_contiguous_rows();
    return static_cast<const float *>(data_);
}

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

nb::object empty(const Shape &shape) {
    nb::list extents;
    for (const int64_t extent : shape) extents.append(extent);
    return nb::module_::import_("numpy").attr("empty")(extents, "float32");
}

void raise_status(mha_status status, const char *sentence) {
    if (status == MHA_OUT_OF_MEMORY) throw std::bad_alloc();
    if (status == MHA_UNSUPPORTED) type_error(sentence);
    value_error(sentence);
}

} // namespace mha_python

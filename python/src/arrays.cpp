#include "arrays.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace mha_python {

namespace {

using Code = nb::dlpack::dtype_code;

// Of each Array::Elements.
constexpr const char *DTYPES[] = {"float32, float16 or bfloat16", "bool, float32, float16 or bfloat16", "int64",
                                  "uint8"};

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

// None that is valid, if the object has no buffer.
nb::object view_of_buffer(nb::handle object) {
    const auto view = nb::steal(PyMemoryView_FromObject(object.ptr()));
    if (!view.is_valid()) PyErr_Clear();
    return view;
}

// Of ml_dtypes.  There is one such dtype: once it has been seen by its name, it is known by its address.
nb::handle bfloat16_dtype;

bool is_known_bfloat16(nb::handle numpy_array) {
    return bfloat16_dtype.is_valid() && numpy_array.attr("dtype").is(bfloat16_dtype);
}

bool is_bfloat16(nb::handle numpy_array) {
    nb::object dtype = numpy_array.attr("dtype");
    if (std::strcmp(nb::str(dtype).c_str(), "bfloat16") != 0) return false;
    if (!bfloat16_dtype.is_valid()) bfloat16_dtype = dtype.release();
    return true;
}

nb::object view_as_uint16(nb::handle numpy_array) {
    static const nb::handle uint16 = nb::object(nb::handle(numpy("dtype"))("uint16")).release();
    return view_of_buffer(numpy_array.attr("view")(uint16));
}

// Of struct's formats; lanes = 0 if it is none that NumPy's numbers and DLPack have in common.
nb::dlpack::dtype dtype_of(const Py_buffer &buffer) {
    const char *format = buffer.format;
    if (*format == '=' || *format == '<') format++; // NumPy's for misaligned arrays
    const auto of_code = [&](Code code) {
        return nb::dlpack::dtype{static_cast<uint8_t>(code), static_cast<uint8_t>(8 * buffer.itemsize), 1};
    };
    if (format[0] == '\0' || format[1] != '\0') return {};
    if (std::strchr("efd", *format)) return of_code(Code::Float);
    if (std::strchr("bhilq", *format)) return of_code(Code::Int);
    if (std::strchr("BHILQ", *format)) return of_code(Code::UInt);
    return *format == '?' ? of_code(Code::Bool) : nb::dlpack::dtype{};
}

} // namespace

nb::handle numpy(const char *name) { return nb::object(nb::module_::import_("numpy").attr(name)).release(); }

bool is_numpy(nb::handle object) {
    static const nb::handle type = numpy("ndarray");
    return PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject *>(type.ptr()));
}

// NumPy's arrays by the buffer protocol and what offers DLPack's C exchange API by that, which takes a fraction of the
// time; everything else by DLPack's Python protocol, or as a buffer, as nanobind does.
Array::Array(const char *name, nb::handle object, Access access, Elements elements) : name_(name), elements_(elements) {
    if (is_numpy(object)) read_numpy(object, access);
    else if (const DLPackExchangeAPI *api = exchange_api(object)) read_exchange(object, *api);
    else read_dlpack(object, access);
}

// The buffer protocol has no bfloat16: ml_dtypes' arrays are viewed as integers.
void Array::read_numpy(nb::handle object, Access access) {
    bool bfloat16 = is_known_bfloat16(object);
    if (!bfloat16) {
        owner_ = view_of_buffer(object);
        bfloat16 = !owner_.is_valid() && is_bfloat16(object);
    }
    if (bfloat16) owner_ = view_as_uint16(object);
    if (!owner_.is_valid()) refuse_numpy(object);
    const Py_buffer &buffer = *PyMemoryView_GET_BUFFER(owner_.ptr());
    dtype_ = bfloat16 ? nb::dlpack::dtype{static_cast<uint8_t>(Code::Bfloat), 16, 1} : dtype_of(buffer);
    if (dtype_.lanes == 0) refuse_numpy(object);
    if (access == WRITE && buffer.readonly) refuse_read_only();
    expect_at_most_max_rank(static_cast<size_t>(buffer.ndim));
    data_ = buffer.buf;
    rank_ = static_cast<size_t>(buffer.ndim);
    for (size_t i = 0; i < rank_; i++) {
        if (buffer.strides[i] % buffer.itemsize != 0) refuse_numpy(object);
        shape_[i] = buffer.shape[i];
        stride_[i] = buffer.strides[i] / buffer.itemsize;
    }
}

void Array::read_exchange(nb::handle object, const DLPackExchangeAPI &api) {
    nb::dlpack::dltensor tensor;
    if (api.dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) {
        PyErr_Clear();
        refuse_type(object);
    }
    if (tensor.device.device_type != nb::device::cpu::value) refuse_type(object);
    owner_ = nb::borrow(object);
    adopt(tensor);
}

void Array::read_dlpack(nb::handle object, Access access) {
    if (!nb::try_cast(object, foreign_, false)) refuse_type(object);
    nb::ndarray<nb::device::cpu> writable;
    if (access == WRITE && !nb::try_cast(object, writable, false)) refuse_read_only();
    adopt({const_cast<void *>(foreign_.data()),
           {},
           static_cast<int32_t>(foreign_.ndim()),
           foreign_.dtype(),
           const_cast<int64_t *>(foreign_.shape_ptr()),
           const_cast<int64_t *>(foreign_.stride_ptr()),
           0});
}

void Array::adopt(const nb::dlpack::dltensor &tensor) {
    rank_ = static_cast<size_t>(tensor.ndim);
    expect_at_most_max_rank(rank_);
    data_ = static_cast<char *>(tensor.data) + tensor.byte_offset;
    dtype_ = tensor.dtype;
    std::copy_n(tensor.shape, rank_, shape_.begin());
    std::copy_n(tensor.strides, rank_, stride_.begin());
}

void Array::expect_at_most_max_rank(size_t rank) const {
    if (rank > MAX_RANK)
        value_error(std::string(name_) + " has " + std::to_string(rank) + " dimensions, expected at most " +
                    std::to_string(MAX_RANK));
}

void Array::refuse_read_only() const { value_error(std::string(name_) + " is read-only, expected a writable array"); }

void Array::refuse_type(nb::handle object) const {
    type_error(std::string(name_) + " is of type " + type_of(object) + ", expected an array in CPU memory");
}

// NumPy has arrays of dtypes and strides that are not expected here.
void Array::refuse_numpy(nb::handle object) const {
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

size_t Array::bytes() const {
    int64_t bytes = dtype_.bits / 8;
    for (size_t axis = 0; axis < rank_; axis++) bytes *= shape_[axis];
    return static_cast<size_t>(bytes);
}

int64_t Array::stride(size_t axis) const {
    if (bytes() > 0) return stride_[axis];
    int64_t stride = 1;
    for (size_t inner = axis + 1; inner < rank(); inner++) stride *= std::max(shape(inner), int64_t{1});
    return stride;
}

// Which floating-point types there are is left to the library.
mha_dtype Array::dtype() const {
    if (is(dtype_, Code::Float, 32)) return MHA_F32;
    if (is(dtype_, Code::Float, 16)) return MHA_F16;
    if (is(dtype_, Code::Bfloat, 16)) return MHA_BF16;
    if (is(dtype_, Code::Bool, 8) && elements_ == BOOLS_OR_FLOATS) return MHA_BOOL;
    refuse_dtype(text(dtype_));
}

void Array::expect(const Shape &expected, const char *axes) const {
    const Shape actual(shape_.begin(), shape_.begin() + static_cast<ptrdiff_t>(rank_));
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
    if (!is(dtype_, Code::Int, 64)) refuse_dtype(text(dtype_));
    expect_contiguous_rows();
    return static_cast<const int64_t *>(data_);
}

const void *Array::vector(int64_t size) const {
    expect({size}, "[out]");
    expect_contiguous_rows();
    return data_;
}

void raise_status(mha_status status, const char *sentence) {
    if (status == MHA_OUT_OF_MEMORY) throw std::bad_alloc();
    if (status == MHA_UNSUPPORTED) type_error(sentence);
    value_error(sentence);
}

} // namespace mha_python

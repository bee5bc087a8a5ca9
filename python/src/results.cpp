#include "results.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace mha_python {

namespace {

nb::dlpack::dtype dlpack_dtype(mha_dtype dtype) {
    using Code = nb::dlpack::dtype_code;
    const Code code = dtype == MHA_BF16 ? Code::Bfloat : Code::Float;
    return {static_cast<uint8_t>(code), static_cast<uint8_t>(dtype == MHA_F32 ? 32 : 16), 1};
}

// NumPy has no bf16 of its own: then `like` is an array of it.
nb::object numpy_array(const Shape &shape, mha_dtype dtype, nb::handle like) {
    static const nb::handle empty = numpy("empty");
    static const nb::handle float32 = numpy("dtype")("float32").release();
    static const nb::handle float16 = numpy("dtype")("float16").release();
    const auto extents = nb::steal<nb::tuple>(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
    for (size_t i = 0; i < shape.size(); i++)
        PyTuple_SET_ITEM(extents.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLongLong(shape[i]));
    if (dtype == MHA_BF16) return empty(extents, nb::object(like.attr("dtype")));
    return empty(extents, dtype == MHA_F32 ? float32 : float16);
}

void set_error(void *, const char *, const char *message) { PyErr_SetString(PyExc_MemoryError, message); }

nb::object exchange_array(const DLPackExchangeAPI &api, Shape shape, mha_dtype dtype, Result::Memory memory) {
    if (memory == Result::SWAPPED) std::swap(shape[1], shape[2]);
    nb::dlpack::dltensor prototype;
    prototype.device.device_type = nb::device::cpu::value;
    prototype.ndim = static_cast<int32_t>(shape.size());
    prototype.dtype = dlpack_dtype(dtype);
    prototype.shape = shape.data();
    DLManagedTensorVersioned *tensor = nullptr;
    void *object = nullptr;
    if (api.managed_tensor_allocator(&prototype, &tensor, nullptr, set_error) != 0) throw nb::python_error();
    if (memory == Result::SWAPPED) {
        std::swap(tensor->dl_tensor.shape[1], tensor->dl_tensor.shape[2]);
        std::swap(tensor->dl_tensor.strides[1], tensor->dl_tensor.strides[2]);
    }
    if (api.managed_tensor_to_py_object_no_sync(tensor, &object) != 0) throw nb::python_error();
    return nb::steal(static_cast<PyObject *>(object));
}

// The function from_dlpack of an array's library; none, if it has no such.
nb::object from_dlpack(nb::handle model) {
    if (nb::hasattr(model, "__array_namespace__"))
        return nb::getattr(model.attr("__array_namespace__")(), "from_dlpack", nb::none());
    const auto module = std::string(nb::str(nb::object(model.type().attr("__module__"))).c_str());
    return nb::getattr(nb::module_::import_(module.substr(0, module.find('.')).c_str()), "from_dlpack", nb::none());
}

nb::object dlpack_array(const Shape &shape, mha_dtype dtype) {
    size_t bytes = dlpack_dtype(dtype).bits / 8;
    for (const int64_t extent : shape) bytes *= static_cast<size_t>(extent);
    void *const memory = std::malloc(std::max(bytes, size_t{1}));
    if (memory == nullptr) throw std::bad_alloc();
    const nb::capsule owner(memory, [](void *p) noexcept { std::free(p); });
    const std::vector<size_t> extents(shape.begin(), shape.end());
    return nb::cast(
        nb::ndarray<nb::array_api>(memory, extents.size(), extents.data(), owner, nullptr, dlpack_dtype(dtype)));
}

} // namespace

Result::Result(const char *name, nb::handle given) : object_(nb::borrow(given)), array_(name, given, Array::WRITE) {}

Result::Result(const char *name, nb::handle model, const Shape &shape, mha_dtype dtype, Memory memory) {
    if (is_numpy(model)) object_ = numpy_array(shape, dtype, model);
    else if (const DLPackExchangeAPI *api = exchange_api(model)) object_ = exchange_array(*api, shape, dtype, memory);
    else if (convert_ = from_dlpack(model); convert_.is_none()) object_ = numpy_array(shape, dtype, model);
    else object_ = dlpack_array(shape, dtype);
    array_ = Array(name, object_, Array::WRITE);
}

nb::object Result::object() const {
    return !convert_.is_valid() || convert_.is_none() ? object_ : nb::object(convert_(object_));
}

} // namespace mha_python

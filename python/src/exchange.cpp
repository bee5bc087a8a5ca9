#include "exchange.h"

namespace mha_python {

namespace nb = nanobind;

const DLPackExchangeAPI *exchange_api(nb::handle object) {
    static PyObject *const name = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
    const auto capsule = nb::steal(PyObject_GetAttr(reinterpret_cast<PyObject *>(Py_TYPE(object.ptr())), name));
    const void *api = capsule.is_valid() ? PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api") : nullptr;
    if (api == nullptr) PyErr_Clear();
    const auto *newest = static_cast<const DLPackExchangeAPI *>(api);
    while (newest != nullptr && newest->version.major != 1) newest = newest->prev_api;
    return newest != nullptr && newest->dltensor_from_py_object_no_sync != nullptr ? newest : nullptr;
}

} // namespace mha_python

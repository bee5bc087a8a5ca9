// DLPack's C exchange API (DLPack 1.3, `__dlpack_c_exchange_api__`): what a type of arrays offers to C, without a call
// of Python.  The names are those of DLPack's own dlpack.h.
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>

namespace mha_python {

struct DLManagedTensorVersioned { // owned by whoever holds it
    struct {
        uint32_t major, minor;
    } version;
    void *manager_ctx;
    void (*deleter)(DLManagedTensorVersioned *self);
    uint64_t flags;
    nanobind::dlpack::dltensor dl_tensor;
};

struct DLPackExchangeAPI {
    struct {
        uint32_t major, minor;
    } version;
    const DLPackExchangeAPI *prev_api; // of an older major version
    int (*managed_tensor_allocator)(nanobind::dlpack::dltensor *prototype, DLManagedTensorVersioned **out,
                                    void *context,
                                    void (*set_error)(void *context, const char *kind, const char *message));
    int (*managed_tensor_from_py_object_no_sync)(void *object, DLManagedTensorVersioned **out);
    int (*managed_tensor_to_py_object_no_sync)(DLManagedTensorVersioned *tensor, void **out);
    int (*dltensor_from_py_object_no_sync)(void *object, nanobind::dlpack::dltensor *out); // may be NULL
};

// NULL, if the object's type offers none that is understood.
const DLPackExchangeAPI *exchange_api(nanobind::handle object);

} // namespace mha_python

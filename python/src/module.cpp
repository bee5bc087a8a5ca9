#include "context.h"

NB_MODULE(_mha, module) {
    nb::set_leak_warnings(false); // module globals may still hold a context when the interpreter ends
    mha_python::bind_context(module);
    mha_python::bind_attention(module);
    mha_python::bind_layer(module);
}

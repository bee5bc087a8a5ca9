#include "context.h"
#include "threads.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>

namespace mha_python {

namespace {

mha_exp exp_option(const std::string &name) {
    if (name == "auto") return MHA_EXP_AUTO;
    if (name == "sleef") return MHA_EXP_SLEEF;
    if (name == "fused") return MHA_EXP_FUSED;
    throw nb::value_error(("exp is '" + name + "', expected 'auto', 'sleef' or 'fused'").c_str());
}

mha_precision precision_option(const std::string &name) {
    if (name == "highest") return MHA_PRECISION_HIGHEST;
    if (name == "high") return MHA_PRECISION_HIGH;
    if (name == "medium") return MHA_PRECISION_MEDIUM;
    throw nb::value_error(("precision is '" + name + "', expected 'highest', 'high' or 'medium'").c_str());
}

std::vector<std::pair<std::string, bool>> isas() {
    std::vector<mha_isa> list(mha_isa_list(nullptr, 0));
    mha_isa_list(list.data(), list.size());
    std::vector<std::pair<std::string, bool>> result;
    for (const mha_isa &isa : list) result.emplace_back(isa.name, isa.supported);
    return result;
}

std::string cpu_features() {
    std::string text(mha_cpu_features(nullptr, 0), '\0');
    mha_cpu_features(text.data(), text.size() + 1);
    return text;
}

// The C API takes -inf for "the default", which here is None.
float scale_option(std::optional<double> scale) {
    if (!scale) return MHA_SCALE_DEFAULT;
    const auto value = static_cast<float>(*scale);
    if (value == -INFINITY) throw nb::value_error("scale is -inf, expected a finite float32");
    return value;
}

Array optional_array(const char *name, nb::handle object, Array::Elements elements) {
    return object.is_none() ? Array() : Array(name, object, Array::READ, elements);
}

} // namespace

Context::Context(std::optional<std::string> isa, const std::string &exp, const std::string &precision) {
    mha_context_options options;
    mha_context_options_init(&options, sizeof options);
    options.isa = isa ? isa->c_str() : nullptr;
    options.exp = exp_option(exp);
    options.precision = precision_option(precision);
    char sentence[512];
    mha_context *context;
    const mha_status status = mha_context_create(&options, &context, sentence, sizeof sentence);
    if (status == MHA_OUT_OF_MEMORY) throw std::bad_alloc();
    if (status != MHA_OK) throw nb::value_error(sentence);
    handle.reset(context, mha_context_destroy);
}

Options::Options(nb::handle mask, bool is_causal, int64_t q_offset, nb::handle q_offsets, int64_t window_left,
                 int64_t window_right, std::optional<double> scale, double softcap, nb::handle kv_lens)
    : mask(optional_array("mask", mask, Array::BOOLS_OR_FLOATS)),
      q_offsets(optional_array("q_offset", q_offsets, Array::INTEGERS)),
      kv_lens(optional_array("kv_lens", kv_lens, Array::INTEGERS)), is_causal(is_causal), q_offset(q_offset),
      window_left(window_left), window_right(window_right), scale(scale_option(scale)),
      softcap(static_cast<float>(softcap)) {}

void bind_context(nb::module_ &module) {
    nb::class_<Context>(module, "Context")
        .def(nb::init<std::optional<std::string>, const std::string &, const std::string &>(), nb::arg("isa").none(),
             nb::arg("exp"), nb::arg("precision"))
        .def_prop_ro("isa", [](const Context &context) { return mha_context_isa(context.handle.get()); });
    nb::class_<Options>(module, "Options")
        .def(nb::init<nb::handle, bool, int64_t, nb::handle, int64_t, int64_t, std::optional<double>, double,
                      nb::handle>(),
             nb::arg("mask").none(), nb::arg("causal"), nb::arg("q_offset"), nb::arg("q_offsets").none(),
             nb::arg("window_left"), nb::arg("window_right"), nb::arg("scale").none(), nb::arg("softcap"),
             nb::arg("kv_lens").none());
    module.def("version", &mha_version);
    module.def("share_openmp", &share_openmp);
    module.def("isas", &isas);
    module.def("cpu_features", &cpu_features);
}

} // namespace mha_python

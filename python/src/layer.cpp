#include "context.h"
#include "results.h"
#include "run.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace mha_python {

namespace {

// The arrays that a mha_linear points to.
struct Linear {
    Array weight, bias;

    Linear(const char *weight_name, nb::handle weight_object, const char *bias_name, nb::handle bias_object) {
        if (!weight_object.is_none()) weight = Array(weight_name, weight_object, Array::READ);
        if (!bias_object.is_none()) bias = Array(bias_name, bias_object, Array::READ);
        if (weight.given()) weight.expect_matrix("[out, in]");
    }

    int64_t out() const { return weight.shape(0); }
    int64_t in() const { return weight.shape(1); }

    mha_linear describe() const {
        mha_linear linear = {};
        linear.weight = weight.data();
        linear.dtype = weight.dtype();
        linear.weight_stride = weight.stride(0);
        if (bias.given()) linear.bias = bias.vector(out()), linear.bias_dtype = bias.dtype();
        return linear;
    }
};

struct Weights {
    Linear wq, wk, wv, wo, wqkv;
    int64_t q_heads, kv_heads; // at least 1

    mha_layer_desc describe() const;
};

// Sizes follow from the shapes; heads that do not share are left to the library, which says so.
int64_t per_head(int64_t width, int64_t heads) { return std::max(width / heads, int64_t{1}); }

void describe_separate(const Weights &w, mha_layer_desc &desc) {
    desc.head_dim = per_head(w.wq.out(), w.q_heads);
    desc.q_dim = w.wq.in();
    desc.kv_dim = w.wk.in();
    w.wq.weight.expect({desc.head_dim * w.q_heads, ANY}, "[q_heads * head_dim, q_dim]");
    w.wk.weight.expect({desc.head_dim * w.kv_heads, ANY}, "[kv_heads * head_dim, kv_dim]");
    w.wv.weight.expect({desc.v_head_dim * w.kv_heads, desc.kv_dim}, "[kv_heads * v_head_dim, kv_dim]");
    desc.wq = w.wq.describe();
    desc.wk = w.wk.describe();
    desc.wv = w.wv.describe();
}

void describe_stacked(const Weights &w, mha_layer_desc &desc) {
    const int64_t values = desc.v_head_dim * w.kv_heads, key_heads = w.q_heads + w.kv_heads;
    desc.head_dim = per_head(w.wqkv.out() - values, key_heads);
    desc.q_dim = desc.kv_dim = w.wqkv.in();
    w.wqkv.weight.expect({desc.head_dim * key_heads + values, ANY},
                         "[(q_heads + kv_heads) * head_dim + kv_heads * v_head_dim, q_dim]");
    desc.wqkv = w.wqkv.describe();
}

mha_layer_desc Weights::describe() const {
    mha_layer_desc desc;
    mha_layer_desc_init(&desc, sizeof desc);
    desc.q_heads = q_heads;
    desc.kv_heads = kv_heads;
    desc.v_head_dim = per_head(wo.in(), q_heads);
    desc.out_dim = wo.out();
    wo.weight.expect({ANY, desc.v_head_dim * q_heads}, "[out_dim, q_heads * v_head_dim]");
    desc.wo = wo.describe();
    (wqkv.weight.given() ? describe_stacked : describe_separate)(*this, desc);
    return desc;
}

nb::object pack(const Context &context, const Weights &weights) {
    const mha_layer_desc desc = weights.describe();
    size_t bytes = 0;
    char sentence[512] = "";
    mha_status status = mha_layer_packed_size(context.handle.get(), &desc, &bytes, sentence, sizeof sentence);
    if (status != MHA_OK) raise_status(status, sentence);
    constexpr size_t alignment = 64; // as mha_layer_pack asks
    void *const memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw std::bad_alloc();
    const nb::capsule owner(memory, [](void *p) noexcept { std::free(p); });
    {
        const WithoutGil without_gil;
        status = mha_layer_pack(context.handle.get(), &desc, memory, bytes, sentence, sizeof sentence);
    }
    if (status != MHA_OK) raise_status(status, sentence);
    return nb::cast(nb::ndarray<nb::numpy, const uint8_t>(memory, {bytes}, owner));
}

struct Layer {
    std::shared_ptr<mha_context> context;
    Array packed; // borrowed by `handle`
    std::shared_ptr<mha_layer> handle;
    mha_layer_desc sizes;

    Layer(const Context &context, nb::handle packed);
};

Layer::Layer(const Context &context, nb::handle buffer)
    : context(context.handle), packed("packed", buffer, Array::READ, Array::BYTES) {
    packed.expect_rank(1, "bytes");
    packed.expect_contiguous_rows();
    char sentence[512] = "";
    mha_layer *layer = nullptr;
    const mha_status status =
        mha_layer_borrow(this->context.get(), packed.data(), packed.bytes(), &layer, sentence, sizeof sentence);
    if (status != MHA_OK) raise_status(status, sentence);
    handle.reset(layer, mha_layer_destroy);
    mha_layer_desc_init(&sizes, sizeof sizes);
    mha_layer_sizes(layer, &sizes);
}

constexpr Operation<mha_layer, mha_layer_args> FORWARD = {mha_layer_workspace_size, mha_layer_forward, mha_layer_check};

nb::object forward(const Layer &layer, nb::handle q_object, nb::handle kv_object, const Options &options,
                   bool return_weights, nb::handle out_given, size_t threads) {
    const Array q("q", q_object, Array::READ);
    q.expect({ANY, ANY, layer.sizes.q_dim}, "[batch, q_len, q_dim]");
    const Shape out_shape = {q.shape(0), q.shape(1), layer.sizes.out_dim};
    const Result out = out_given.is_none() ? Result("out", q_object, out_shape, q.dtype()) : Result("out", out_given);
    out.array().expect(out_shape, "[batch, q_len, out_dim]");
    Array kv;
    mha_layer_args args;
    mha_layer_args_init(&args, sizeof args);
    args.batch = q.shape(0);
    args.q_len = q.shape(1);
    args.q = activation(q);
    args.out = activation(out.array());
    if (!kv_object.is_none()) {
        kv = Array("kv", kv_object, Array::READ);
        kv.expect({args.batch, ANY, layer.sizes.kv_dim}, "[batch, kv_len, kv_dim]");
        args.kv_len = kv.shape(1);
        args.kv = activation(kv);
    }
    const Shape scores_shape = {args.batch, layer.sizes.q_heads, args.q_len, kv.given() ? args.kv_len : args.q_len};
    options.apply(args, scores_shape);
    Result weights;
    if (return_weights) {
        weights = Result("weights", q_object, scores_shape, MHA_F32);
        args.scores = scores(weights.array());
        args.scores_mode = MHA_SCORES_SOFTMAX;
    }
    run(FORWARD, layer.handle.get(), args, threads);
    return return_weights ? nb::object(nb::make_tuple(out.object(), weights.object())) : out.object();
}

} // namespace

void bind_layer(nb::module_ &module) {
    module.def(
        "pack",
        [](const Context &context, nb::handle wq, nb::handle wk, nb::handle wv, nb::handle wo, nb::handle wqkv,
           nb::handle bq, nb::handle bk, nb::handle bv, nb::handle bo, nb::handle bqkv, int64_t q_heads,
           int64_t kv_heads) {
            return pack(context, {{"wq", wq, "bq", bq},
                                  {"wk", wk, "bk", bk},
                                  {"wv", wv, "bv", bv},
                                  {"wo", wo, "bo", bo},
                                  {"wqkv", wqkv, "bqkv", bqkv},
                                  q_heads,
                                  kv_heads});
        },
        nb::arg("context"), nb::arg("wq").none(), nb::arg("wk").none(), nb::arg("wv").none(), nb::arg("wo").none(),
        nb::arg("wqkv").none(), nb::arg("bq").none(), nb::arg("bk").none(), nb::arg("bv").none(), nb::arg("bo").none(),
        nb::arg("bqkv").none(), nb::arg("q_heads"), nb::arg("kv_heads"));
    nb::class_<Layer>(module, "Layer")
        .def(nb::init<const Context &, nb::handle>(), nb::arg("context"), nb::arg("packed").none())
        .def("forward", &forward, nb::arg("q").none(), nb::arg("kv").none(), nb::arg("options"),
             nb::arg("return_weights"), nb::arg("out").none(), nb::arg("threads"))
        .def_prop_ro("sizes", [](const Layer &layer) {
            const mha_layer_desc &s = layer.sizes;
            return nb::make_tuple(s.q_heads, s.kv_heads, s.head_dim, s.v_head_dim, s.q_dim, s.kv_dim, s.out_dim);
        });
}

} // namespace mha_python

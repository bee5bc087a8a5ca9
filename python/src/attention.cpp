#include "context.h"
#include "results.h"
#include "run.h"

#include <nanobind/stl/optional.h>

namespace mha_python {

namespace {

// The arrays of a call: they keep the memory that mha_attention_args points to.
struct Operands {
    Array q, k, v;
    Result out;
    Shape q_shape, scores_shape; // in the order of the C API

    Operands(nb::handle q, nb::handle k, nb::handle v, nb::handle out, Layout layout);
};

Operands::Operands(nb::handle q_object, nb::handle k_object, nb::handle v_object, nb::handle out_given, Layout layout)
    : q("q", q_object, Array::READ), k("k", k_object, Array::READ), v("v", v_object, Array::READ) {
    const bool bhtd = layout.head == BHTD.head;
    const char *const q_axes = bhtd ? "[batch, q_heads, q_len, head_dim]" : "[batch, q_len, q_heads, head_dim]";
    const char *const k_axes = bhtd ? "[batch, kv_heads, kv_len, head_dim]" : "[batch, kv_len, kv_heads, head_dim]";
    const char *const v_axes = bhtd ? "[batch, kv_heads, kv_len, v_head_dim]" : "[batch, kv_len, kv_heads, v_head_dim]";
    q.expect_rank(4, q_axes);
    k.expect({q.shape(0), ANY, ANY, q.shape(3)}, k_axes);
    v.expect({k.shape(0), k.shape(1), k.shape(2), ANY}, v_axes);
    if (v.shape(3) == 0) throw nb::value_error("v has a last dimension of 0, expected at least 1");
    const Shape out_shape = {q.shape(0), q.shape(1), q.shape(2), v.shape(3)};
    // [batch, tokens, heads, dim] in memory, if possible: the next thing done is to join the heads of a token.
    const Result::Memory memory = bhtd ? Result::SWAPPED : Result::ROW_MAJOR;
    out = out_given.is_none() ? Result("out", q_object, out_shape, q.dtype(), memory) : Result("out", out_given);
    out.array().expect(out_shape, bhtd ? "[batch, q_heads, q_len, v_head_dim]" : "[batch, q_len, q_heads, v_head_dim]");
    q_shape = permute({q.shape(0), q.shape(1), q.shape(2), q.shape(3)}, layout);
    scores_shape = {q_shape[0], q_shape[1], q_shape[2], k.shape(layout.token)};
}

constexpr Operation<mha_context, mha_attention_args> ATTENTION = {mha_attention_workspace_size, mha_attention,
                                                                  mha_attention_check};

nb::object attention(const Context &context, nb::handle q_object, nb::handle k, nb::handle v, const Options &options,
                     bool return_lse, std::optional<int> scores_mode, bool bthd, nb::handle out, size_t threads) {
    const Layout layout = bthd ? BTHD : BHTD;
    const Operands operands(q_object, k, v, out, layout);
    mha_attention_args args;
    mha_attention_args_init(&args, sizeof args);
    args.batch = operands.q_shape[0];
    args.q_heads = operands.q_shape[1];
    args.q_len = operands.q_shape[2];
    args.head_dim = operands.q_shape[3];
    args.kv_heads = operands.k.shape(layout.head);
    args.kv_len = operands.k.shape(layout.token);
    args.v_head_dim = operands.v.shape(3);
    args.q = tensor(operands.q, layout);
    args.k = tensor(operands.k, layout);
    args.v = tensor(operands.v, layout);
    args.out = tensor(operands.out.array(), layout);
    options.apply(args, operands.scores_shape);

    Result lse, weights;
    if (return_lse) {
        lse = Result("lse", q_object, {args.batch, args.q_heads, args.q_len}, MHA_F32);
        args.lse = rows(lse.array());
    }
    if (scores_mode) {
        weights = Result("weights", q_object, operands.scores_shape, MHA_F32);
        args.scores = scores(weights.array());
        args.scores_mode = static_cast<mha_scores_mode>(*scores_mode);
    }
    run(ATTENTION, context.handle.get(), args, threads);
    if (!return_lse && !scores_mode) return operands.out.object();
    nb::list results;
    results.append(operands.out.object());
    if (return_lse) results.append(lse.object());
    if (scores_mode) results.append(weights.object());
    return nb::tuple(results);
}

} // namespace

void bind_attention(nb::module_ &module) {
    module.def("attention", &attention, nb::arg("context"), nb::arg("q").none(), nb::arg("k").none(),
               nb::arg("v").none(), nb::arg("options"), nb::arg("return_lse"), nb::arg("scores_mode").none(),
               nb::arg("bthd"), nb::arg("out").none(), nb::arg("threads"));
}

} // namespace mha_python

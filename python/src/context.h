// The kernels a call uses, and what a call attends to.
#pragma once

#include "arrays.h"

#include <memory>
#include <optional>

namespace mha_python {

struct Context {
    std::shared_ptr<mha_context> handle; // shared with the layers, which must not outlive it

    Context(std::optional<std::string> isa, const std::string &exp, const std::string &precision);
};

// What mha_attention_args and mha_layer_args have in common.
struct Options {
    Array mask, q_offsets, kv_lens;
    bool is_causal;
    int64_t q_offset, window_left, window_right;
    float scale, softcap;

    Options(nb::handle mask, bool is_causal, int64_t q_offset, nb::handle q_offsets, int64_t window_left,
            int64_t window_right, std::optional<double> scale, double softcap, nb::handle kv_lens);

    // scores: [batch, q_heads, q_len, kv_len]
    template <class Args> void apply(Args &args, const Shape &scores) const {
        args.is_causal = is_causal;
        args.q_offset = q_offset;
        args.window_left = window_left;
        args.window_right = window_right;
        args.scale = scale;
        args.softcap = softcap;
        if (q_offsets.given()) args.q_offsets = q_offsets.integers(scores[0]);
        if (kv_lens.given()) args.kv_lens = kv_lens.integers(scores[0]);
        if (mask.given()) args.mask = broadcast_mask(mask, scores);
    }
};

void bind_context(nb::module_ &module);
void bind_attention(nb::module_ &module);
void bind_layer(nb::module_ &module);

} // namespace mha_python

"""libmha and its peers, each in its fastest form: a case becomes a list of calls, one for each copy of the arrays, that
return the output as [batch, heads, tokens, dim], [rows, width] or [batch, tokens, width]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from comparison.cases import DTYPES, Arrays, Attention, Case, Layer, Linear, empty
from comparison.instruments import Instruments

Calls = list[Callable[[], np.ndarray]]


class Unable(Exception):
    """This peer has no such operation; says why."""


def expect_f32(case: Case) -> None:
    if case.dtype != "f32":
        raise Unable("f32 alone is compared")


class Libmha:
    name, package = "libmha", "mha"

    def __init__(self, threads: int, instruments: Instruments) -> None:
        import mha

        self.mha, self.threads, self.instruments = mha, threads, instruments

    def attention(self, case: Attention, arrays: list[Arrays]) -> Calls:
        context = self.mha.Context(precision=case.precision)

        def call_of(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Callable[[], np.ndarray]:
            out = case.tensor(case.q_heads, case.q_len)
            options = {"causal": case.causal, "out": out, "threads": self.threads, "context": context}
            return lambda: self.mha.attention(q, k, v, **options)

        return [call_of(*tensors) for tensors in arrays]

    def linear(self, case: Linear, arrays: list[Arrays]) -> Calls:
        """In C and on one thread: the package has no projection by itself."""

        def call_of(x: np.ndarray, weights: np.ndarray) -> Callable[[], np.ndarray]:
            y = empty((case.rows, case.outputs), case.dtype)
            run = self.instruments.product(case, x, weights, y)

            def call() -> np.ndarray:
                run(1)
                return y

            return call

        return [call_of(*tensors) for tensors in arrays]

    def layer(self, case: Layer, arrays: list[Arrays]) -> Calls:
        x, wqkv, bqkv, wo, bo = arrays[0]
        layer = self.mha.Layer(wqkv=wqkv, bqkv=bqkv, wo=wo, bo=bo, q_heads=case.heads)
        out = empty(x.shape, case.dtype)
        return [lambda: layer(x, out=out, threads=self.threads)]


class PyTorch:
    name, package = "PyTorch", "torch"

    def __init__(self, threads: int) -> None:
        import torch

        self.torch = torch
        torch.set_grad_enabled(False)
        torch.set_num_threads(threads)

    def tensor(self, array: np.ndarray):
        """The same memory; NumPy's bfloat16 is not PyTorch's."""
        if array.dtype != DTYPES["bf16"]:
            return self.torch.from_numpy(array)
        return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16)

    def array(self, tensor) -> np.ndarray:
        if tensor.dtype != self.torch.bfloat16:
            return tensor.numpy()
        return tensor.view(self.torch.uint16).numpy().view(DTYPES["bf16"])

    def attention(self, case: Attention, arrays: list[Arrays]) -> Calls:
        function = self.torch.nn.functional.scaled_dot_product_attention
        options = {"is_causal": case.causal, "enable_gqa": case.q_heads != case.kv_heads}

        def call_of(*tensors: np.ndarray) -> Callable[[], np.ndarray]:
            q, k, v = map(self.tensor, tensors)
            return lambda: self.array(function(q, k, v, **options))

        return [call_of(*tensors) for tensors in arrays]

    def linear(self, case: Linear, arrays: list[Arrays]) -> Calls:
        def call_of(*tensors: np.ndarray) -> Callable[[], np.ndarray]:
            x, weights = map(self.tensor, tensors)
            return lambda: self.array(self.torch.nn.functional.linear(x, weights))

        return [call_of(*tensors) for tensors in arrays]

    def layer(self, case: Layer, arrays: list[Arrays]) -> Calls:
        functional = self.torch.nn.functional
        x, wqkv, bqkv, wo, bo = map(self.tensor, arrays[0])
        shape = (case.batch, case.tokens, 3, case.heads, case.width // case.heads)

        def call() -> np.ndarray:
            q, k, v = functional.linear(x, wqkv, bqkv).view(shape).permute(2, 0, 3, 1, 4)
            heads = functional.scaled_dot_product_attention(q, k, v)
            return self.array(functional.linear(heads.transpose(1, 2).flatten(2), wo, bo))

        return [call]


class PyTorchOtherwise(PyTorch):
    """nn.MultiheadAttention, whose eval mode has a fast path of its own; and, because enable_gqa reads K and V for each
    query head, decode with the heads that share them as rows of one head."""

    name = "PyTorch otherwise"

    def attention(self, case: Attention, arrays: list[Arrays]) -> Calls:
        if not case.decode or case.q_heads == case.kv_heads:
            raise Unable("for layers and for decode with shared KV heads")
        function = self.torch.nn.functional.scaled_dot_product_attention
        rows, heads = (case.batch, case.kv_heads, -1, case.head_dim), (case.batch, case.q_heads, 1, case.head_dim)

        def call_of(*tensors: np.ndarray) -> Callable[[], np.ndarray]:
            q, k, v = map(self.tensor, tensors)
            return lambda: self.array(function(q.view(rows), k, v).view(heads))

        return [call_of(*tensors) for tensors in arrays]

    def linear(self, case: Linear, arrays: list[Arrays]) -> Calls:
        raise Unable("for layers and for decode with shared KV heads")

    def layer(self, case: Layer, arrays: list[Arrays]) -> Calls:
        x, wqkv, bqkv, wo, bo = map(self.tensor, arrays[0])
        module = self.torch.nn.MultiheadAttention(case.width, case.heads, batch_first=True, dtype=x.dtype).eval()
        weights = {"in_proj_weight": wqkv, "in_proj_bias": bqkv, "out_proj.weight": wo, "out_proj.bias": bo}
        module.load_state_dict(weights)
        return [lambda: self.array(module(x, x, x, need_weights=False)[0])]


class OnnxRuntime:
    name, package = "ONNX Runtime", "onnxruntime"

    def __init__(self, threads: int) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.threads = onnx, onnxruntime, threads

    def session(self, nodes: list, inputs: dict, constants: dict, outputs: list[str]):
        helper, types = self.onnx.helper, {"float32": 1, "int32": 6}
        graph = helper.make_graph(
            nodes,
            "case",
            [helper.make_tensor_value_info(n, types[a.dtype.name], a.shape) for n, a in inputs.items()],
            [helper.make_tensor_value_info(name, 1, None) for name in outputs],
            [self.onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        options = self.ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return self.ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def call_of(self, session, inputs: dict, out: np.ndarray, bound: dict | None = None) -> Callable:
        """`bound`: further outputs, each in the place of an input or, if None, of its own.  No array is copied."""
        binding = session.io_binding()
        values = {name: self.ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("out", self.ort.OrtValue.ortvalue_from_numpy(out))
        for output, place in (bound or {}).items():
            if place:
                binding.bind_ortvalue_output(output, values[place])
            else:
                binding.bind_output(output)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return out

        return call

    def attention(self, case: Attention, arrays: list[Arrays]) -> Calls:
        expect_f32(case)
        if case.q_heads != case.kv_heads:
            return self.grouped(case, arrays)
        node = self.onnx.helper.make_node(
            "MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft",
            num_heads=case.q_heads, unidirectional=int(case.causal),
        )  # fmt: skip

        def inputs(tensors: tuple) -> dict:
            return dict(zip("qkv", map(self.flat, tensors)))

        session = self.session([node], inputs(arrays[0]), {}, ["out"])
        out = empty((case.batch, case.q_len, case.q_heads * case.head_dim))
        return [self.heads(case, self.call_of(session, inputs(t), out)) for t in arrays]

    def flat(self, tensor: np.ndarray) -> np.ndarray:
        """[batch, heads, tokens, dim] as [batch, tokens, heads * dim]."""
        batch, heads, tokens, dim = tensor.shape
        flat = empty((batch, tokens, heads * dim))
        flat.reshape(batch, tokens, heads, dim)[...] = tensor.transpose(0, 2, 1, 3)
        return flat

    def grouped(self, case: Attention, arrays: list[Arrays]) -> Calls:
        """All queries with their keys, or the last one after a past, which is kept in place."""
        last = case.q_len == 1
        if not last and not (case.causal and case.q_len == case.kv_len):
            raise Unable("GroupQueryAttention is causal")
        past = ["past_k", "past_v"] if last else ["", ""]
        node = self.onnx.helper.make_node(
            "GroupQueryAttention", ["q", "k", "v", *past, "lens", "total"], ["out", "new_k", "new_v"],
            domain="com.microsoft", num_heads=case.q_heads, kv_num_heads=case.kv_heads,
        )  # fmt: skip

        def inputs(tensors: tuple) -> dict:
            flat = dict(zip("qkv", (self.flat(t[:, :, -case.q_len :]) for t in tensors)))
            lens = {"lens": np.full(case.batch, case.kv_len - 1, np.int32), "total": np.array([case.kv_len], np.int32)}
            return flat | lens | (dict(zip(past, tensors[1:])) if last else {})

        session = self.session([node], inputs(arrays[0]), {}, ["out", "new_k", "new_v"])
        out = empty((case.batch, case.q_len, case.q_heads * case.head_dim))
        bound = {"new_k": "past_k", "new_v": "past_v"} if last else {"new_k": None, "new_v": None}
        return [self.heads(case, self.call_of(session, inputs(t), out, bound)) for t in arrays]

    def heads(self, case: Attention, call: Callable) -> Callable[[], np.ndarray]:
        shape = (case.batch, case.q_len, case.q_heads, case.head_dim)
        return lambda: call().reshape(shape).transpose(0, 2, 1, 3)

    def linear(self, case: Linear, arrays: list[Arrays]) -> Calls:
        expect_f32(case)
        node = self.onnx.helper.make_node("Gemm", ["x", "weights"], ["out"], transB=1)

        def call_of(x: np.ndarray, weights: np.ndarray) -> Callable[[], np.ndarray]:
            session = self.session([node], {"x": x}, {"weights": weights}, ["out"])
            return self.call_of(session, {"x": x}, empty((case.rows, case.outputs)))

        return [call_of(*tensors) for tensors in arrays]

    def layer(self, case: Layer, arrays: list[Arrays]) -> Calls:
        expect_f32(case)
        x, wqkv, bqkv, wo, bo = arrays[0]
        make = self.onnx.helper.make_node
        nodes = [
            make("Attention", ["x", "wqkv", "bqkv"], ["heads"], domain="com.microsoft", num_heads=case.heads),
            make("MatMul", ["heads", "wo"], ["product"]),
            make("Add", ["product", "bo"], ["out"]),
        ]
        constants = {"wqkv": wqkv.T.copy(), "bqkv": bqkv, "wo": wo.T.copy(), "bo": bo}
        session = self.session(nodes, {"x": x}, constants, ["out"])
        return [self.call_of(session, {"x": x}, empty(x.shape))]


class OpenVino:
    name, package = "OpenVINO", "openvino"

    def __init__(self, threads: int) -> None:
        import openvino

        self.ov, self.threads = openvino, threads

    def attention(self, case: Attention, arrays: list[Arrays]) -> Calls:
        expect_f32(case)
        ops = self.ov.opset13
        if case.q_heads != case.kv_heads:
            raise Unable("its attention does not share KV heads")
        if case.bthd:
            raise Unable("its attention takes [B,H,T,D]")
        parameters = [ops.parameter(t.shape, np.float32) for t in arrays[0]]
        attention = ops.scaled_dot_product_attention(*parameters, causal=case.causal)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1}
        compiled = self.ov.Core().compile_model(self.ov.Model([attention], parameters), "CPU", settings)

        def call_of(tensors: tuple) -> Callable[[], np.ndarray]:
            request = compiled.create_infer_request()
            for i, tensor in enumerate(tensors):
                request.set_input_tensor(i, self.ov.Tensor(tensor, shared_memory=True))

            def call() -> np.ndarray:
                request.infer()
                return request.get_output_tensor(0).data

            return call

        return [call_of(tensors) for tensors in arrays]

    def linear(self, case: Linear, arrays: list[Arrays]) -> Calls:
        raise Unable("attention alone is compared")

    def layer(self, case: Layer, arrays: list[Arrays]) -> Calls:
        raise Unable("attention alone is compared")


PEERS = [PyTorch, PyTorchOtherwise, OnnxRuntime, OpenVino]

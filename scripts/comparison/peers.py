"""libmha and its peers, each in its fastest form: a case and a number of threads become a list of calls, one for each copy
of the arrays, that return the output as [batch, heads, tokens, dim] or [batch, tokens, width]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from comparison.cases import Attention, Layer

Calls = list[Callable[[], np.ndarray]]


class Unable(Exception):
    """This peer has no such operation; says why."""


class Libmha:
    name = "libmha"

    def __init__(self) -> None:
        import mha

        self.mha, self.version = mha, mha.__version__

    def attention(self, case: Attention, arrays: list, threads: int) -> Calls:
        def call_of(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Callable[[], np.ndarray]:
            out = np.empty_like(q)
            return lambda: self.mha.attention(q, k, v, causal=case.causal, out=out, threads=threads)

        return [call_of(*tensors) for tensors in arrays]

    def layer(self, case: Layer, arrays: tuple, threads: int) -> Calls:
        x, wqkv, bqkv, wo, bo = arrays
        layer = self.mha.Layer(wqkv=wqkv, bqkv=bqkv, wo=wo, bo=bo, q_heads=case.heads)
        out = np.empty_like(x)
        return [lambda: layer(x, out=out, threads=threads)]


class PyTorch:
    name = "PyTorch"

    def __init__(self) -> None:
        import torch

        self.torch, self.version = torch, torch.__version__.split("+")[0]
        torch.set_grad_enabled(False)

    def attention(self, case: Attention, arrays: list, threads: int) -> Calls:
        self.torch.set_num_threads(threads)
        function = self.torch.nn.functional.scaled_dot_product_attention
        options = {"is_causal": case.causal, "enable_gqa": case.q_heads != case.kv_heads}

        def call_of(*tensors: np.ndarray) -> Callable[[], np.ndarray]:
            q, k, v = map(self.torch.from_numpy, tensors)

            def call() -> np.ndarray:
                self.torch.set_num_threads(threads)
                return function(q, k, v, **options).numpy()

            return call

        return [call_of(*tensors) for tensors in arrays]

    def layer(self, case: Layer, arrays: tuple, threads: int) -> Calls:
        functional = self.torch.nn.functional
        x, wqkv, bqkv, wo, bo = map(self.torch.from_numpy, arrays)
        shape = (case.batch, case.tokens, 3, case.heads, case.width // case.heads)

        def call() -> np.ndarray:
            self.torch.set_num_threads(threads)
            q, k, v = functional.linear(x, wqkv, bqkv).view(shape).permute(2, 0, 3, 1, 4)
            heads = functional.scaled_dot_product_attention(q, k, v)
            return functional.linear(heads.transpose(1, 2).flatten(2), wo, bo).numpy()

        return [call]


class PyTorchModule(PyTorch):
    """nn.MultiheadAttention, whose eval mode has a fast path of its own."""

    name = "nn.MultiheadAttention"

    def attention(self, case: Attention, arrays: list, threads: int) -> Calls:
        raise Unable("a layer")

    def layer(self, case: Layer, arrays: tuple, threads: int) -> Calls:
        x, wqkv, bqkv, wo, bo = map(self.torch.from_numpy, arrays)
        module = self.torch.nn.MultiheadAttention(case.width, case.heads, batch_first=True).eval()
        weights = {"in_proj_weight": wqkv, "in_proj_bias": bqkv, "out_proj.weight": wo, "out_proj.bias": bo}
        module.load_state_dict(weights)

        def call() -> np.ndarray:
            self.torch.set_num_threads(threads)
            return module(x, x, x, need_weights=False)[0].numpy()

        return [call]


class OnnxRuntime:
    name = "ONNX Runtime"

    def __init__(self) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.version = onnx, onnxruntime, onnxruntime.__version__

    def session(self, nodes: list, inputs: dict, constants: dict, outputs: list[str], threads: int):
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
        options.intra_op_num_threads = threads
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        return self.ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def call_of(self, session, inputs: dict, out: np.ndarray, bound: dict = {}, outputs: list = ["out"]) -> Callable:
        """`bound`: outputs in the place of inputs."""
        binding = session.io_binding()
        values = {name: self.ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        result = self.ort.OrtValue.ortvalue_from_numpy(out)
        for output in outputs:
            if output == "out":
                binding.bind_ortvalue_output(output, result)
            elif output in bound:
                binding.bind_ortvalue_output(output, values[bound[output]])
            else:
                binding.bind_output(output)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return result

        return call

    def attention(self, case: Attention, arrays: list, threads: int) -> Calls:
        if case.q_heads != case.kv_heads:
            return self.grouped(case, arrays, threads)
        node = self.onnx.helper.make_node(
            "MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft",
            num_heads=case.q_heads, unidirectional=int(case.causal),
        )  # fmt: skip

        def inputs(tensors: tuple) -> dict:
            return dict(zip("qkv", map(self.flat, tensors)))

        session = self.session([node], inputs(arrays[0]), {}, ["out"], threads)
        out = np.empty((case.batch, case.q_len, case.q_heads * case.head_dim), np.float32)
        return [self.heads(case, self.call_of(session, inputs(t), out)) for t in arrays]

    def flat(self, tensor: np.ndarray) -> np.ndarray:
        """[batch, heads, tokens, dim] as [batch, tokens, heads * dim]."""
        batch, heads, tokens, dim = tensor.shape
        return np.ascontiguousarray(tensor.transpose(0, 2, 1, 3)).reshape(batch, tokens, heads * dim)

    def grouped(self, case: Attention, arrays: list, threads: int) -> Calls:
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

        outputs = ["out", "new_k", "new_v"]
        session = self.session([node], inputs(arrays[0]), {}, outputs, threads)
        out = np.empty((case.batch, case.q_len, case.q_heads * case.head_dim), np.float32)
        bound = {"new_k": "past_k", "new_v": "past_v"} if last else {}
        return [self.heads(case, self.call_of(session, inputs(t), out, bound, outputs)) for t in arrays]

    def heads(self, case: Attention, call: Callable) -> Callable[[], np.ndarray]:
        shape = (case.batch, case.q_len, case.q_heads, case.head_dim)
        return lambda: call().numpy().reshape(shape).transpose(0, 2, 1, 3)

    def layer(self, case: Layer, arrays: tuple, threads: int) -> Calls:
        x, wqkv, bqkv, wo, bo = arrays
        make = self.onnx.helper.make_node
        nodes = [
            make("Attention", ["x", "wqkv", "bqkv"], ["heads"], domain="com.microsoft", num_heads=case.heads),
            make("MatMul", ["heads", "wo"], ["product"]),
            make("Add", ["product", "bo"], ["out"]),
        ]
        constants = {"wqkv": wqkv.T.copy(), "bqkv": bqkv, "wo": wo.T.copy(), "bo": bo}
        session = self.session(nodes, {"x": x}, constants, ["out"], threads)
        call = self.call_of(session, {"x": x}, np.empty_like(x))
        return [lambda: call().numpy()]


class OpenVino:
    name = "OpenVINO"

    def __init__(self) -> None:
        import openvino

        self.ov, self.version = openvino, openvino.__version__.split("-")[0]

    def attention(self, case: Attention, arrays: list, threads: int) -> Calls:
        ops = self.ov.opset13
        if case.q_heads != case.kv_heads:
            raise Unable("its attention does not share KV heads")
        if case.bthd:
            raise Unable("its attention takes [B,H,T,D]")
        parameters = [ops.parameter(t.shape, np.float32) for t in arrays[0]]
        attention = ops.scaled_dot_product_attention(*parameters, causal=case.causal)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
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

    def layer(self, case: Layer, arrays: tuple, threads: int) -> Calls:
        raise Unable("no operation of its own")


PEERS = [Libmha, PyTorch, PyTorchModule, OnnxRuntime, OpenVino]

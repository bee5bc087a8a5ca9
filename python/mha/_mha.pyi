from typing import Any

class Context:
    def __init__(self, isa: str | None, exp: str, precision: str) -> None: ...
    @property
    def isa(self) -> str: ...

class Options:
    def __init__(
        self,
        mask: Any,
        causal: bool,
        q_offset: int,
        q_offsets: Any,
        window_left: int,
        window_right: int,
        scale: float | None,
        softcap: float,
        kv_lens: Any,
    ) -> None: ...

class Layer:
    def __init__(self, context: Context, packed: Any) -> None: ...
    def forward(self, q: Any, kv: Any, options: Options, return_weights: bool, out: Any, threads: int) -> Any: ...
    @property
    def sizes(self) -> tuple[int, int, int, int, int, int, int]: ...

def attention(
    context: Context,
    q: Any,
    k: Any,
    v: Any,
    options: Options,
    return_lse: bool,
    scores_mode: int | None,
    bthd: bool,
    out: Any,
    threads: int,
) -> Any: ...
def pack(
    context: Context,
    wq: Any,
    wk: Any,
    wv: Any,
    wo: Any,
    wqkv: Any,
    bq: Any,
    bk: Any,
    bv: Any,
    bo: Any,
    bqkv: Any,
    q_heads: int,
    kv_heads: int,
) -> Any: ...
def share_openmp() -> bool: ...
def version() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def cpu_features() -> str: ...

"""What the mask function hands to the attention function, against the mask that Transformers makes for "sdpa"."""

from __future__ import annotations

from typing import Any, NamedTuple

import mha.torch
import mha.transformers
import pytest
import torch
from mha.transformers._mask import attention_mask
from transformers import masking_utils as masks

BATCH, HEADS, KV_HEADS, DIM = 3, 4, 2, 24
TOLERANCE = 2e-6  # elements are of order 1


def present(*texts: str) -> torch.Tensor:
    """Which tokens are there, [batch, tokens]."""
    return torch.tensor([[letter == "x" for letter in text] for text in texts])


CAUSAL, FULL = masks.causal_mask_function, masks.bidirectional_mask_function
FRONT = present("xxxxxxxx", "xxxxx...", "x.......")
BACK = present("xxxxxxxx", "...xxxxx", ".......x")
HOLES = present("x.x.x.x.", "........", ".xx.xx..")
PREFIX = masks.or_masks(CAUSAL, lambda batch, head, q, kv: kv < 3)  # as PaliGemma's
PACKED = masks.packed_sequence_mask_function(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]] * BATCH))


class Case(NamedTuple):
    """Arguments of a mask function, and the forms in which the attention function gets it: windows alone, or also ..."""

    forms: str
    function: Any
    q_length: int = 8
    kv_length: int = 8
    q_offset: int | torch.Tensor = 0
    kv_offset: int = 0
    tokens: torch.Tensor | None = None
    use_vmap: bool = False


CASES = {
    "causal": Case("", CAUSAL),
    "everything": Case("", FULL),
    "cross attention": Case("", FULL, 3, 8),
    "decode": Case("", CAUSAL, 1, 8, 7),
    "second chunk": Case("", CAUSAL, 3, 8, 5),
    "sliding": Case("", masks.sliding_window_causal_mask_function(3)),
    "sliding both ways": Case("", masks.sliding_window_bidirectional_mask_function(2)),
    "sliding cache": Case("", masks.sliding_window_causal_mask_function(3), 2, 4, 9, 7),
    "static cache": Case("", CAUSAL, 2, 8, torch.tensor(3)),
    "static cache, tokens known": Case("lengths", CAUSAL, 2, 8, 3, tokens=FRONT[:, :5] | True),
    "no padding": Case("", CAUSAL, tokens=FRONT | True),
    "padding behind": Case("lengths", FULL, tokens=FRONT),
    "padding behind, causal": Case("lengths", CAUSAL, tokens=FRONT),
    "padding before": Case("lengths keys", CAUSAL, tokens=BACK),
    "padding before, sliding cache": Case(
        "lengths keys", masks.sliding_window_causal_mask_function(3), 2, 4, 6, 4, tokens=BACK
    ),
    "padding before, static cache": Case("lengths keys", CAUSAL, 2, 12, 6, tokens=BACK),
    "padding anywhere": Case("lengths keys", FULL, tokens=HOLES),
    "nobody there": Case("lengths", FULL, tokens=HOLES & False),
    "prefix": Case("bits", PREFIX, 4, 8, 4, tokens=BACK, use_vmap=True),
    "packed": Case("bits", masks.and_masks(CAUSAL, PACKED)),
    "in chunks": Case("bits", masks.chunked_causal_mask_function(3, torch.tensor([0, 3, 7])), tokens=BACK),
}


def arguments(case: Case) -> dict[str, Any]:
    return {
        "batch_size": BATCH,
        "q_length": case.q_length,
        "kv_length": case.kv_length,
        "q_offset": case.q_offset,
        "kv_offset": case.kv_offset,
        "mask_function": case.function,
        "attention_mask": case.tokens,
        "use_vmap": case.use_vmap,
    }


def expected_bits(case: Case) -> torch.Tensor:
    return masks.sdpa_mask(**arguments(case), allow_is_causal_skip=False)


@pytest.mark.parametrize("name", CASES)
def test_same_keys(name):
    """Attention by the options is attention by the bits."""
    case = CASES[name]
    mask = attention_mask(**arguments(case))
    generator = torch.Generator().manual_seed(8)
    query = torch.randn(BATCH, HEADS, case.q_length, DIM, generator=generator)
    key, value = torch.randn(2, BATCH, KV_HEADS, case.kv_length, DIM, generator=generator)
    actual = mha.torch.attention(query, key, value, **mask.options)
    expected = mha.torch.attention(query, key, value, mask=expected_bits(case))
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def forms(options: dict[str, Any]) -> str:
    if "causal" not in options:
        return "bits"
    keys = options.get("mask")
    assert keys is None or keys.shape[1:3] == (1, 1)  # one row for all queries, of all heads
    return " ".join(form for form, name in [("lengths", "kv_lens"), ("keys", "mask")] if name in options)


@pytest.mark.parametrize("name", CASES)
def test_cheapest_form(name):
    """Bits are the last resort, and a row of keys is better."""
    case = CASES[name]
    assert forms(attention_mask(**arguments(case)).options) == case.forms


@pytest.mark.parametrize("name", CASES)
def test_bits(name):
    """Who looks at the mask sees what "sdpa" would give, whatever of it."""
    case = CASES[name]
    mask, bits = attention_mask(**arguments(case)), expected_bits(case)
    assert (mask.shape, mask.size(), mask.dim(), mask.dtype, mask.device) == (
        bits.shape,
        bits.size(),
        4,
        torch.bool,
        bits.device,
    )
    assert type(mask.contiguous()) is torch.Tensor and torch.equal(mask.contiguous(), bits)
    assert torch.equal(mask, bits)
    piece = mask[:, :, -1:, 1:] & torch.tensor(True)
    assert torch.equal(piece, bits[:, :, -1:, 1:]) and torch.equal(piece.options["mask"], bits[:, :, -1:, 1:])
    assert torch.equal(torch.where(mask, 1.0, 2.0), torch.where(bits, 1.0, 2.0))
    assert (mask.sum() == bits.sum()).item()


@pytest.mark.parametrize(
    "use",
    [
        lambda mask: torch.zeros(8, 8) + mask,
        lambda mask: mask + torch.zeros(8, 8),
        lambda mask: torch.zeros(3, 1, 8, 8).masked_fill(mask, -1e9),
        lambda mask: torch.zeros(8, 8) + mask[:, :, :8, :8],
        lambda mask: mask.to(torch.bool).to(torch.float32),
    ],
)
def test_numbers_are_refused(use):
    """A model that adds the mask to scores would compute something else."""
    with pytest.raises(ValueError, match="does not go through Transformers' AttentionInterface"):
        use(attention_mask(**arguments(CASES["padding before"])))

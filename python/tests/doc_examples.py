"""The examples in docstrings and on pages of documentation, as tests."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import mha
import numpy as np

DOCS = Path(__file__).parents[2] / "docs"
FRAMEWORKS = {"onnx", "torch", "transformers"}  # modules of mha, and pages, that need more than NumPy


def modules(*, frameworks: bool) -> list[str]:
    """The modules of the package that need frameworks, or the others."""
    package = Path(mha.__file__).parent
    files = [file.relative_to(package).with_suffix("") for file in sorted(package.rglob("*.py"))]
    wanted = [file.parts for file in files if (file.parts[0].strip("_").partition("_")[0] in FRAMEWORKS) == frameworks]
    return [".".join(("mha", *parts)).removesuffix(".__init__") for parts in wanted]


def pages(*, frameworks: bool) -> list[Path]:
    """As `modules`, the pages that have examples."""
    return [
        page
        for page in sorted(DOCS.glob("*.md"))
        if (page.stem in FRAMEWORKS) == frameworks and ">>> " in page.read_text()
    ]


def of_module(name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder().find(importlib.import_module(name), name)
    return [example for example in found if example.examples]


def of_page(page: Path) -> doctest.DocTest:
    """All of a page is one example; a fence ends what is expected, as an empty line would."""
    text = "\n".join("" if line.lstrip().startswith("```") else line for line in page.read_text().splitlines())
    return doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)


def arrays() -> dict[str, object]:
    """What examples need not define: queries, keys and values, and the weights of a layer."""
    rng = np.random.default_rng(0)
    names = {name: (1, 12, 32, 64) for name in ("q", "k", "v")} | {"x": (1, 32, 768)}
    names |= {name: (768, 768) for name in ("wq", "wk", "wv", "wo")}
    drawn = {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}
    return {"mha": mha, "np": np} | drawn


def run(example: doctest.DocTest, **more: object) -> None:
    """Fail where an example prints something else than it says."""
    example.globs.clear()
    example.globs.update(arrays(), **more)
    printed: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=printed.append)
    assert failed == 0, "".join(printed)

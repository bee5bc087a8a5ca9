"""The examples in docstrings and on pages of documentation that need PyTorch, Transformers or ONNX."""

from __future__ import annotations

import importlib

import doc_examples
import pytest
import torch

MODULES = doc_examples.modules(frameworks=True)
DOCSTRINGS = [example for name in MODULES for example in doc_examples.of_module(name)]


def run(example, directory, monkeypatch):
    monkeypatch.chdir(directory)
    for name in MODULES:
        importlib.import_module(name)  # so that examples can say mha.onnx
    doc_examples.run(example, torch=torch)


@pytest.mark.parametrize("example", DOCSTRINGS, ids=lambda example: example.name)
def test_docstrings(example, tmp_path, monkeypatch):
    run(example, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", doc_examples.pages(frameworks=True), ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch):
    run(doc_examples.of_page(page), tmp_path, monkeypatch)

"""Tests that need a framework: `scripts/test --all` runs them, in an environment that has all of them."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDS = {"torch": "torch", "transformers": "transformers", "onnx": "onnx"}  # test_<name>*.py

collect_ignore_glob = [f"test_{name}*.py" for name, package in _NEEDS.items() if find_spec(package) is None]

"""What the package says about itself and the machine."""

from __future__ import annotations

from importlib.metadata import version

import mha


def test_version():
    assert mha.__version__ == mha.cpu_info()["version"] == version("mha")


def test_cpu_info():
    info = mha.cpu_info()
    assert info["isas"]["scalar"] and info["isas"][info["isa"]]
    assert info["isa"] in ("scalar", *info["features"]) or info["isa"].startswith("avx512")


def test_context():
    context = mha.Context(isa="scalar", exp="sleef", precision="medium")
    assert context.isa == "scalar"
    assert repr(context) == "mha.Context(isa='scalar', exp='sleef', precision='medium')"
    default = mha.Context()
    assert default.isa == mha.cpu_info()["isa"] and repr(default).endswith("exp='auto', precision='highest')")

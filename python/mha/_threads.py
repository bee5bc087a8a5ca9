"""How many threads a call uses."""

from __future__ import annotations

import os

from mha._options import integer


def _available() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _checked(threads: int) -> int:
    return integer("threads", threads, 1, 4096)


_default = _available()


def get_num_threads() -> int:
    """Return how many threads a call uses that is not told a number.

    Returns
    -------
    int
        At first the number of CPUs that the process may run on.
    """
    return _default


def set_num_threads(threads: int) -> None:
    """Set how many threads a call uses that is not told a number.

    Parameters
    ----------
    threads : int
        1 or more, the calling thread among them.

    Raises
    ------
    ValueError
        If `threads` is not in 1 to 4096.
    """
    global _default
    _default = _checked(threads)


def resolve(threads: int | None) -> int:
    """The number of threads of one call."""
    return _default if threads is None else _checked(threads)

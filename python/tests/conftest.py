"""What the tests share."""

from __future__ import annotations

import mha
import numpy as np
import pytest

# Every element of these tests is of order 1; docs/numerics.md has the bound, which tests of the C library hold to.
TOLERANCE = 4e-6

ISAS = [isa for isa, supported in mha.cpu_info()["isas"].items() if supported]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture(params=ISAS)
def context(request):
    """Each instruction set that this machine has."""
    return mha.Context(isa=request.param)


@pytest.fixture
def qkv(rng):
    """Queries, keys and values of two batch items, four heads that share two; sizes that fill no vector."""
    return (
        rng.standard_normal((2, 4, 13, 24), np.float32),
        rng.standard_normal((2, 2, 37, 24), np.float32),
        rng.standard_normal((2, 2, 37, 17), np.float32),
    )


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)

"""Combinations as parameters of a test, and the random numbers of each."""

import itertools
import zlib

import numpy as np
import pytest

from tensors import float_tensor


def product(**choices):
    """pytest's mark for every combination: one parameter `case`, a dict with these keys."""
    cases = [dict(zip(choices, values)) for values in itertools.product(*choices.values())]
    return pytest.mark.parametrize("case", cases, ids=lambda case: "-".join(map(str, case.values())).replace(" ", ""))


def generator(case):
    return np.random.default_rng(zlib.crc32(str(case).encode()))


def make_upstream(random, reduction, element_shape, dtype):
    """Not 1; one for each element of NONE, zeros among them, the first of them."""
    if reduction != "none":
        return float_tensor(random.normal(), dtype)
    upstream = np.asarray(random.normal(size=element_shape))
    upstream.flat[::4] *= upstream.size == 1
    return float_tensor(upstream, dtype)

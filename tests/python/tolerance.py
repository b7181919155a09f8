"""How far an answer may be from the truth, and the comparison that every test of the family makes."""

import numpy as np

from tensors import to_array, type_name

# By the answer's type, relative to the largest entry of the true answer. Below float32, rows are computed in float32.
TOLERANCE = {"float32": 1e-6, "float64": 1e-12, "float16": 1e-6, "bfloat16": 1e-6}
DIGITS = {"float32": 24, "float64": 53, "float16": 11, "bfloat16": 8}  # of the significand, the hidden one included
SMALLEST = {"float32": 2.0**-149, "float64": 2.0**-1074, "float16": 2.0**-24, "bfloat16": 2.0**-133}
ULPS = 4  # allowed whatever the largest entry is


def loss_type(logits_type):
    """Of the loss, and of every output but the gradients."""
    return "float64" if logits_type == "float64" else "float32"


def ulp(values, name):
    """The unit in the last place of each value, in the type of that name."""
    _, exponents = np.frexp(np.where(np.isfinite(values), values, 0))
    return np.maximum(np.ldexp(1.0, exponents - DIGITS[name]), SMALLEST[name])


def assert_close(tensor, want, name, scale=None):
    """A tensor of the answer has the type `name`, and the shape and the values of the array `want`.

    `scale`: what the tolerance is relative to, where the true answer's terms are larger than their sum.
    """
    want = np.asarray(want, np.float64)
    assert type_name(tensor) == name and tuple(tensor.shape) == want.shape
    got = to_array(tensor).astype(np.float64)
    assert (np.isnan(got) == np.isnan(want)).all(), (got, want)
    largest = np.max(np.abs(want), initial=0, where=np.isfinite(want)) if scale is None else scale
    with np.errstate(invalid="ignore"):
        error = np.where((got == want) | np.isnan(want), 0, np.abs(got - want))
    allowed = np.maximum(ULPS * ulp(want, name), TOLERANCE[name] * largest)
    wrong = [(*at, got[at], want[at]) for at in map(tuple, np.argwhere(error > allowed))]
    assert not wrong, f"{len(wrong)} of {want.size} are wrong; index, got, wanted: {wrong[:5]}"

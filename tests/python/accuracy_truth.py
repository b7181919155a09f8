"""What the answer to a batch is: semantics.md's formulas in mpmath, with 50 digits, and how far from it is right.

Values are kept as numpy's long double, which has 11 digits of a double's last place to spare.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Optional

import mpmath
import numpy as np

mpmath.mp.dps = 50
Real = np.longdouble

# Digits of the significand and exponent of the smallest number: loss/reference.cc, Tolerance().
FORMATS = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}
UNITS = {"float64": 32}  # of eps; 8 for all others, which are computed in float32


@dataclass(frozen=True)
class Batch:
    """One request. `logits` hold values of `dtype`: numpy has no bfloat16, so those are in a float32 array."""

    logits: np.ndarray
    targets: np.ndarray  # class indices; probabilities of the logits' shape; indices (N, K) with target_probabilities
    dtype: str = "float32"
    loss: str = "cross_entropy"  # or negative_log_likelihood
    reduction: str = "mean"
    class_weights: Optional[np.ndarray] = None
    target_probabilities: Optional[np.ndarray] = None
    upstream_gradient: Optional[np.ndarray] = None
    label_smoothing: float = 0.0
    ignore_index: int = -100
    asks: tuple = ("loss", "logits_gradient")  # fields of EvaluateResponse

    @property
    def loss_dtype(self):
        return "float64" if self.dtype == "float64" else "float32"

    def rows(self):
        """The logits as (elements, classes)."""
        return class_axis_last(self.logits)


@dataclass
class Truth:
    """By name: the values, and the sum of the absolute values of the terms that each is made of."""

    values: dict = field(default_factory=dict)
    magnitudes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """The truth where there is no answer: lossd must fail with INVALID_ARGUMENT, and name this."""

    names: str
    or_nan: bool = False  # a NaN is as right: what PyTorch means to answer


def class_axis_last(array):
    """(C), (N, C) or (N, C, d...) as (elements, C)."""
    return array.reshape(1, -1) if array.ndim == 1 else np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])


def class_axis_back(rows, shape):
    """The inverse of class_axis_last()."""
    if len(shape) < 3:
        return rows.reshape(shape)
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def tolerance(values, magnitudes, dtype, compute_dtype):
    """loss/reference.cc, Tolerance(): 8 eps of the terms (32 in float64), and half an ulp of the output's type."""
    (digits, least), (compute_digits, compute_least) = FORMATS[dtype], FORMATS[compute_dtype]
    computing = UNITS.get(compute_dtype, 8) * magnitudes * Real(2) ** (1 - compute_digits)
    return computing + np.abs(values) * Real(2) ** -digits + 4 * Real(2) ** max(least, compute_least)


def ulp(value, dtype):
    """The distance between the numbers of `dtype` around `value`."""
    digits, least = FORMATS[dtype]
    exponent = np.frexp(np.abs(value))[1] if value else least
    return Real(2) ** max(exponent - digits, least)


def long_double(number):
    high = float(number)
    return Real(high) if not np.isfinite(high) else Real(high) + Real(float(number - high))


def times(mass, value):
    """0 * inf is 0, where the 0 is a mass."""
    return mpmath.mpf(0) if mass == 0 else mass * value


@lru_cache(maxsize=4096)
def softmax(row):
    """p, 1 - p and ln p of each class, never as a difference of near numbers; None where they are not defined."""
    top = max(range(len(row)), key=row.__getitem__) if row else 0
    if not np.isfinite(row[top]) or any(x != x for x in row):
        return None
    terms = [mpmath.mpf(0) if x == -np.inf else mpmath.exp(mpmath.mpf(x) - row[top]) for x in row]
    rest = mpmath.fsum(terms[:top] + terms[top + 1:])  # the sum without the largest term, which is 1
    total, log_total = 1 + rest, mpmath.log1p(rest)
    others = [(total - term) / total for term in terms]
    others[top] = rest / total
    log_p = [mpmath.mpf(x) - row[top] - log_total for x in row]
    return [term / total for term in terms], others, log_p


@lru_cache(maxsize=4096)
def cross_entropy_element(row, smooth, points):
    """Loss and gradient of a row, with their terms' sizes, and ln p. `smooth`: mass by class; `points`: (class, mass).

    A class's own points are no term of its gradient's first product, so that bounds here are at most reference.cc's.
    """
    nan = [Real("nan")] * len(row)
    if (defined := softmax(row)) is None:
        return nan[0], nan[0], nan, nan, nan
    p, others, log_p = defined
    mass, size = [mpmath.mpf(0)] * len(row), [mpmath.mpf(0)] * len(row)
    for c, m in points:
        mass[c] += m
        size[c] += abs(m)
    terms = [times(m, -l) for m, l in zip(smooth, log_p)] + [times(mass[c], -log_p[c]) for c in {c for c, _ in points}]
    terms_size = mpmath.fsum(map(abs, terms)) + mpmath.fsum(
        times(size[c] - abs(mass[c]), abs(log_p[c])) for c in {c for c, _ in points})
    smooth_sum, smooth_size = mpmath.fsum(smooth), mpmath.fsum(map(abs, smooth))
    mass_sum, mass_size = mpmath.fsum(mass), mpmath.fsum(size)
    gradient = [(smooth_sum + mass_sum - mass[j]) * p[j] - smooth[j] - mass[j] * others[j] for j in range(len(row))]
    gradient_size = [(smooth_size + mass_size - size[j]) * p[j] + abs(smooth[j]) + size[j] * others[j]
                     for j in range(len(row))]
    return (long_double(mpmath.fsum(terms)), long_double(terms_size), list(map(long_double, gradient)),
            list(map(long_double, gradient_size)), list(map(long_double, log_p)))


def masses(batch, element, num_classes):
    """The element's target distribution times the class weights, for cross_entropy_element(); None: ignored."""
    weight = [mpmath.mpf(1)] * num_classes
    if batch.class_weights is not None:
        weight = [mpmath.mpf(float(w)) for w in batch.class_weights]
    keep, spread = 1 - mpmath.mpf(batch.label_smoothing), mpmath.mpf(batch.label_smoothing) / num_classes
    if batch.targets.dtype.kind == "f":
        q = class_axis_last(batch.targets)[element]
        return tuple(w * (keep * mpmath.mpf(float(t)) + spread) for w, t in zip(weight, q)), ()
    smooth = tuple(w * spread for w in weight)
    if batch.target_probabilities is not None:
        pairs = zip(batch.targets[element], batch.target_probabilities[element])
    else:
        pairs = [(batch.targets.reshape(-1)[element], 1)]
    points = tuple((int(y), keep * weight[int(y)] * mpmath.mpf(float(q))) for y, q in pairs if y != batch.ignore_index)
    return (smooth, points) if points else None


def evaluate_element(batch, element, row):
    """(loss, its size, gradient, its size, log-probabilities), or None where ignored."""
    if batch.loss == "negative_log_likelihood":
        (y,) = batch.targets.reshape(-1)[[element]]
        gradient = [Real(-int(c == y)) for c in range(len(row))]
        return Real(-row[y]), Real(abs(row[y])), gradient, [abs(g) for g in gradient], gradient
    parts = masses(batch, element, len(row))
    return None if parts is None else cross_entropy_element(row, *parts)


def denominator_of(batch, live):
    """What MEAN divides by, and 1 for the others."""
    if batch.reduction != "mean":
        return Real(1)
    if batch.class_weights is None or batch.targets.dtype.kind == "f" or batch.target_probabilities is not None:
        return Real(len(live))
    return sum((Real(batch.class_weights[batch.targets.reshape(-1)[i]]) for i in live), Real(0))


def evaluate(batch):
    """The Truth of a batch."""
    rows = batch.rows()
    elements = [evaluate_element(batch, i, tuple(map(float, row))) for i, row in enumerate(rows)]
    live = [i for i, element in enumerate(elements) if element is not None]
    denominator = denominator_of(batch, live)
    upstream = Real(1) if batch.upstream_gradient is None else batch.upstream_gradient.astype(Real)
    loss, loss_size = np.zeros((2, len(rows)), Real)
    gradient, gradient_size, log_p = np.zeros((3, *rows.shape), Real)
    for i in live:
        loss[i], loss_size[i], gradient[i], gradient_size[i], log_p[i] = elements[i]
    with np.errstate(invalid="ignore", divide="ignore"):
        g = np.broadcast_to(upstream, len(rows)).reshape(-1, 1) / (denominator or Real(1))
        reduce = (lambda v: v) if batch.reduction == "none" else (lambda v: v.sum() / denominator)
        truth = Truth({"loss": reduce(loss)}, {"loss": np.abs(reduce(loss_size))})
        shape = batch.logits.shape
        truth.values["logits_gradient"] = class_axis_back(g * gradient, shape)
        truth.magnitudes["logits_gradient"] = class_axis_back(np.abs(g) * gradient_size, shape)
        if "targets_gradient" in batch.asks:
            slope = class_axis_back(np.where(g == 0, Real(0), -g * log_p), shape)
            truth.values["targets_gradient"], truth.magnitudes["targets_gradient"] = slope, np.abs(slope)
    return Truth(*({name: part[name] for name in batch.asks} for part in (truth.values, truth.magnitudes)))

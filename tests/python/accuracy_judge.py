"""One row of the table: the truth of a case, its peer's answer, lossd's answer, and who is within the bound."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

import accuracy_truth
from accuracy_cases import Case
from accuracy_lossd import Answer
from accuracy_truth import Real, Refusal, Truth


@dataclass(frozen=True)
class Entry:
    """One number of an answer."""

    name: str  # of the tensor
    index: tuple
    value: Real
    truth: Real
    bound: Real  # how far from the truth it may be
    dtype: str

    @property
    def error(self):
        if self.value == self.truth or (np.isnan(self.value) and np.isnan(self.truth)):
            return Real(0)
        error = np.abs(self.value - self.truth)
        return Real(np.inf) if np.isnan(error) else error

    @property
    def ratio(self):
        return self.error / self.bound if self.error else Real(0)

    @property
    def ulps(self):
        return self.error / accuracy_truth.ulp(self.truth, self.dtype) if np.isfinite(self.truth) else self.error

    @property
    def relative(self):
        with np.errstate(divide="ignore"):
            return self.error / np.abs(self.truth) if self.error else Real(0)


@dataclass(frozen=True)
class Side:
    """An answer, judged. `entry` is the number to show, absent where the answer is not a number."""

    right: bool
    says: str = ""
    entry: Optional[Entry] = None
    worst: Optional[Entry] = None


@dataclass(frozen=True)
class Row:
    case: Case
    truth: str
    peer: Side
    lossd: Side

    @property
    def verdict(self):
        names = {(True, True): "both", (True, False): "lossd", (False, True): "PyTorch", (False, False): "neither"}
        return names[self.lossd.right, self.peer.right]

    @property
    def passed(self):
        return self.lossd.right


def entry_at(answer, truth, compute_dtype, name, index):
    value, dtype, exact = Real(answer.values[name][index]), answer.dtypes[name], truth.values[name][index]
    with np.errstate(invalid="ignore"):
        bound = accuracy_truth.tolerance(exact, truth.magnitudes[name][index], dtype, compute_dtype)
    return Entry(name, index, value, exact, bound, dtype)


def ratios(answer, truth, compute_dtype, name):
    """Error over bound of each number of one tensor."""
    value, exact = np.asarray(answer.values[name]).astype(Real), truth.values[name]
    assert value.shape == exact.shape, f"{name} is of shape {value.shape}, not {exact.shape}"
    with np.errstate(invalid="ignore"):
        bound = accuracy_truth.tolerance(exact, truth.magnitudes[name], answer.dtypes[name], compute_dtype)
        ratio = np.abs(value - exact) / bound
        equal = (value == exact) | (np.isnan(value) & np.isnan(exact))
    return np.where(equal, 0, np.where(np.isnan(ratio), np.inf, ratio))


def worst_entries(answer, truth, compute_dtype):
    """Of each tensor that has numbers, the one furthest outside its bound, or nearest to it."""
    for name in answer.values:
        ratio = ratios(answer, truth, compute_dtype, name)
        if ratio.size:
            index = tuple(map(int, np.unravel_index(np.argmax(ratio), ratio.shape)))
            yield entry_at(answer, truth, compute_dtype, name, index)


def judge_refusal(answer, refusal, is_lossd):
    """A peer is right when it refuses at all; lossd must say why."""
    said = answer.error or answer.words or f"loss {format_number(answer.values['loss'])}"
    named = answer.error.startswith("INVALID_ARGUMENT: ") and refusal.names in answer.error
    meant = refusal.or_nan and bool(np.isnan(answer.values.get("loss", 0)))
    return Side(named if is_lossd else bool(answer.error) or meant, said)


def judge(answer, truth, compute_dtype, shown=None):
    """`shown`: the entry of the other side, to show the same number of this one. Otherwise: the first that is wrong."""
    if not answer.values:
        return Side(False, answer.error or answer.words)
    entries = list(worst_entries(answer, truth, compute_dtype))
    worst = max(entries, key=lambda entry: entry.ratio, default=None)
    if shown is not None:
        entry = entry_at(answer, truth, compute_dtype, shown.name, shown.index)
    else:
        entry = next((entry for entry in entries if entry.ratio > 1), worst)
    return Side(worst is None or bool(worst.ratio <= 1), "", entry, worst)


def judged_refusal(case, peer, lossd):
    return Row(case, "refused", judge_refusal(peer, case.truth, False), judge_refusal(lossd, case.truth, True))


def truth_of(case, batch):
    if case.truth is None:
        return accuracy_truth.evaluate(batch)
    values = {name: np.asarray(value, Real) for name, value in case.truth.items()}
    return Truth(values, {name: np.zeros_like(value) for name, value in values.items()})


def compute_dtype_of(batch):
    return batch.dtype if batch.dtype == "float64" else "float32"


def run(case, server):
    """Asks everybody."""
    batch = case.batch()
    peer, lossd = case.peer(batch), case.ask(server, batch)
    if isinstance(case.truth, Refusal):
        return judged_refusal(case, peer, lossd)
    truth, compute_dtype = truth_of(case, batch), compute_dtype_of(batch)
    peer_side = judge(peer, truth, compute_dtype)
    lossd_side = judge(lossd, truth, compute_dtype, peer_side.entry)
    shown = lossd_side.entry
    return Row(case, "nothing" if shown is None else format_number(shown.truth), peer_side, lossd_side)


# ---- in words --------------------------------------------------------------------------------------------------------


def format_number(value):
    return "NaN" if np.isnan(value) else f"{float(value):.8g}"


def format_place(entry):
    return entry.name + (f"[{', '.join(map(str, entry.index))}]" if entry.index else "")


def format_error(entry):
    """In ulp of its type, and relative."""
    if not np.isfinite(entry.error) or not np.isfinite(entry.relative):
        return "wrong" if entry.error else "exact"
    return f"{float(entry.ulps):.2g} ulp, {float(entry.relative):.1g}" if entry.error else "exact"


def format_bound(entry):
    if entry is None or not np.isfinite(entry.bound) or entry.truth == 0:
        return "exact"
    return f"{float(entry.bound / accuracy_truth.ulp(entry.truth, entry.dtype)):.3g} ulp"



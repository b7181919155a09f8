"""What PyTorch cannot judge, because it is undefined, imprecise or silent there: the rules of docs/numerics.md."""

import mpmath
import numpy as np
import pytest

from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS
from tensors import make_request, to_array

INF, NAN = np.inf, np.nan
DTYPES = ["float32", "float64"]
RELATIVE = {"float32": 1e-6, "float64": 1e-14}


def elements(lossd, logits, targets, **options):
    """The loss and the gradient of each row by itself."""
    return evaluate(lossd, logits, targets, reduction=pb.REDUCTION_NONE, **options)[:2]


def evaluate(lossd, logits, targets, **options):
    response = lossd.evaluate(make_request(logits, targets, **options))
    return to_array(response.loss), to_array(response.logits_gradient), response.summary


def one_hot(targets, num_classes=3, dtype="float32"):
    return np.eye(num_classes, dtype=dtype)[targets]


# ---- rows that are not read ------------------------------------------------------------------------------------------

POISON = [NAN, INF, -INF]


def poisoned(value, dtype):
    """Four rows, of which the second and the last must not be read."""
    logits = np.random.default_rng(1).normal(size=(4, 3)).astype(dtype)
    clean = logits.copy()
    logits[[1, 3]] = value
    return logits, clean


LEAVES_OUT = {
    "ignore_index": lambda keep: dict(targets=np.where(keep, 2, -1), ignore_index=-1),
    "default ignore_index": lambda keep: dict(targets=np.where(keep, 2, -100)),
    "sample weight": lambda keep: dict(targets=np.full(4, 2), sample_weights=keep.astype("float32")),
    "sample weight of probabilities": lambda keep: dict(targets=one_hot(np.full(4, 2)),
                                                        sample_weights=keep.astype("float32")),
}


@pytest.mark.parametrize("how", LEAVES_OUT)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", POISON)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_left_out_harm_nothing(lossd, how, reduction, value, dtype):
    keep = np.array([True, False, True, False])
    logits, clean = poisoned(value, dtype)
    options = dict(LEAVES_OUT[how](keep), reduction=REDUCTIONS[reduction], label_smoothing=0.1)
    loss, gradient, summary = evaluate(lossd, logits, **options)
    want_loss, want_gradient, _ = evaluate(lossd, clean, **options)
    assert loss.tobytes() == want_loss.tobytes() and gradient.tobytes() == want_gradient.tobytes()
    assert np.isfinite(loss).all() and (gradient[[1, 3]] == 0).all()
    assert (summary.ignored_count, summary.nonfinite_count) == (2, 0)


def test_targets_left_out_may_be_anything_too(lossd):
    targets = one_hot([0, 1, 2, 0])
    targets[1] = NAN
    loss, gradient = elements(lossd, np.zeros((4, 3), np.float32), targets, sample_weights=np.array([1.0, 0, 1, 1]))
    assert loss[1] == 0 and np.isfinite(loss).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("reduction, want", [("mean", NAN), ("sum", 0), ("none", np.zeros(4))])
@pytest.mark.parametrize("value", [0, *POISON])
def test_all_left_out(lossd, reduction, want, value):
    loss, gradient, summary = evaluate(lossd, np.full((4, 3), value, np.float32), np.full(4, -100),
                                       reduction=REDUCTIONS[reduction])
    np.testing.assert_array_equal(loss, want)
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))
    assert (summary.weight_sum, summary.ignored_count, summary.nonfinite_count) == (0, 4, 0)


def test_weights_that_sum_to_zero(lossd):
    loss, _, summary = evaluate(lossd, np.zeros((2, 3)), np.array([0, 1]), class_weights=np.array([1.0, -1, 5]))
    assert np.isnan(loss) and summary.weight_sum == 0 and summary.ignored_count == 0


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (4, 3, 0), (2, 3, 0, 7)], ids=str)
@pytest.mark.parametrize("reduction, want", [("mean", NAN), ("sum", 0), ("none", None)])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_zero_elements(lossd, shape, reduction, want, kind):
    element_shape = shape[:1] + shape[2:]
    targets = np.zeros(element_shape, np.int64) if kind == "indices" else np.zeros(shape, np.float32)
    loss, gradient, summary = evaluate(lossd, np.zeros(shape, np.float32), targets, reduction=REDUCTIONS[reduction])
    np.testing.assert_array_equal(loss, np.zeros(element_shape) if want is None else want)
    assert gradient.shape == shape and summary.element_count == 0 and summary.weight_sum == 0


# ---- values that are not finite --------------------------------------------------------------------------------------

# Row, target, loss; the gradient where it is not all NaN.
NOT_FINITE = [
    ([0, NAN, 0], 0, NAN, None),
    ([NAN, 0, 0], 0, NAN, None),
    ([0, INF, 0], 0, NAN, None),
    ([0, INF, 0], 1, NAN, None),
    ([INF, -INF, 0], 2, NAN, None),
    ([-INF] * 3, 1, NAN, None),
    ([0, -INF, 0], 0, np.log(2), [-0.5, 0, 0.5]),
    ([-INF, 0, -INF], 1, 0, [0, 0, 0]),
    ([0, -INF, 0], 1, INF, [0.5, -1, 0.5]),
    ([0, -INF, -INF], 1, INF, [1, -1, 0]),
]


@pytest.mark.parametrize("row, target, want_loss, want_gradient", NOT_FINITE, ids=str)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_not_finite(lossd, row, target, want_loss, want_gradient, kind, dtype):
    """It stays in its row: the rows around it have the bits that they have without it."""
    logits = np.random.default_rng(2).normal(size=(5, 3)).astype(dtype)
    targets = np.array([0, 1, target, 2, 0])
    if kind == "probabilities":
        targets = one_hot(targets)
    around = [0, 1, 3, 4]
    clean_loss, clean_gradient = elements(lossd, logits, targets)
    logits[2] = row
    loss, gradient = elements(lossd, logits, targets)
    np.testing.assert_allclose(loss[2], want_loss, rtol=RELATIVE[dtype])
    np.testing.assert_allclose(gradient[2], [NAN] * 3 if want_gradient is None else want_gradient, rtol=RELATIVE[dtype])
    assert loss[around].tobytes() == clean_loss[around].tobytes()
    assert gradient[around].tobytes() == clean_gradient[around].tobytes()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("value, want", [(NAN, NAN), (INF, NAN), (-INF, INF)])
def test_not_finite_is_counted_and_no_error(lossd, reduction, value, want):
    logits = np.zeros((4, 3), np.float32)
    logits[1, 0] = value
    before = lossd.metric("lossd_nonfinite_total")
    loss, gradient, summary = evaluate(lossd, logits, np.zeros(4, np.int64), reduction=REDUCTIONS[reduction])
    np.testing.assert_array_equal(loss, np.float32(want))
    assert np.isfinite(gradient[[0, 2, 3]]).all()
    assert summary.nonfinite_count == 1 and lossd.metric("lossd_nonfinite_total") == before + 1


@pytest.mark.parametrize("num_classes", [4097, 10000, 50257])
@pytest.mark.parametrize("live", [1, 7])
def test_thousands_of_minus_infinity_first(lossd, num_classes, live):
    logits = np.full((2, num_classes), -INF, np.float32)
    logits[:, -live:] = 3
    loss, gradient = elements(lossd, logits, np.full(2, num_classes - 1))
    np.testing.assert_allclose(loss, np.log(live), rtol=1e-6)
    np.testing.assert_allclose(gradient[:, -1], 1 / live - 1, rtol=1e-6)
    assert (gradient[:, :-live] == 0).all()


@pytest.mark.parametrize("row, target, want", [
    ([0, 0, -INF], [0.5, 0.5, 0], np.log(2)),
    ([-INF, 5, -INF], [0, 1, 0], 0),
    ([0, 0, -INF], [0, 0.5, 0.5], INF),
    ([0, 1, 2], [0, 0, 0], 0),
], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_times_ln_zero_is_zero(lossd, row, target, want, dtype):
    loss, gradient = elements(lossd, np.array([row], dtype), np.array([target], dtype))
    np.testing.assert_allclose(loss, [want], rtol=RELATIVE[dtype])
    assert np.isfinite(gradient).all()


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, offset", [("float32", 1e8), ("float32", -1e8), ("float32", 3e38), ("float64", 1e8),
                                           ("float64", -1e300)])
def test_large_common_offset(lossd, dtype, offset):
    loss, gradient = elements(lossd, np.full((1, 2), offset, dtype), np.array([0]))
    np.testing.assert_allclose(loss, np.log(2), rtol=RELATIVE[dtype])
    np.testing.assert_array_equal(gradient, [[-0.5, 0.5]])


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_confident_rows(lossd, num_classes, dtype):
    """Every gap from 1 to 100 between the target and the others: -ln p_y goes down to 1e-44 with its digits."""
    gaps = np.arange(1, 101)
    logits = np.zeros((len(gaps), num_classes), dtype)
    logits[:, 1] = gaps
    loss, gradient = elements(lossd, logits, np.ones(len(gaps), np.int64))
    with mpmath.workdps(60):
        others = [(num_classes - 1) * mpmath.exp(-int(gap)) for gap in gaps]
        want_loss = [float(mpmath.log(1 + other)) for other in others]
        want_gradient = [float(-other / (1 + other)) for other in others]
    # The smallest numbers of float32 have fewer digits than any tolerance asks for.
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6, atol=tiny)
    np.testing.assert_allclose(gradient[:, 1], want_gradient, rtol=1e-6, atol=tiny)


@pytest.mark.parametrize("gap", [200, 1000, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_gaps(lossd, gap, dtype):
    loss, gradient = elements(lossd, np.array([[gap, 0], [gap, 0]], dtype), np.array([0, 1]))
    np.testing.assert_allclose(loss, np.array([0, gap], dtype), rtol=1e-14, atol=1e-80)
    np.testing.assert_allclose(gradient, [[0, 0], [1, -1]], atol=1e-80)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2, 1]], ids=str)
@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("kind", ["indices", "probabilities", "unnormalised"])
def test_gradient_is_the_derivative(lossd, class_weights, smoothing, kind):
    """Central differences of lossd's own losses."""
    random, step = np.random.default_rng(3), 1e-5
    logits = random.normal(size=(1, 3))
    targets = {"indices": np.array([1]), "probabilities": np.array([[0.2, 0.5, 0.3]]),
               "unnormalised": np.array([[0.7, -0.5, 2.0]])}[kind]
    options = dict(reduction=pb.REDUCTION_SUM, label_smoothing=smoothing,
                   class_weights=None if class_weights is None else np.array(class_weights))
    _, gradient, _ = evaluate(lossd, logits, targets, **options)
    differences = [evaluate(lossd, logits + step * unit, targets, **options)[0]
                   - evaluate(lossd, logits - step * unit, targets, **options)[0] for unit in np.eye(3)]
    np.testing.assert_allclose(gradient[0], np.array(differences) / (2 * step), atol=1e-9)


# ---- the same bits ---------------------------------------------------------------------------------------------------


def large_requests():
    """Each of many blocks of work, and of a size that no thread count divides."""
    random = np.random.default_rng(4)
    outputs = [pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_ELEMENT_LOSS, pb.OUTPUT_PREDICTED_CLASS]
    for shape, axis in [((50021, 10), None), ((37, 20011), None), ((3, 10, 7001), None), ((5, 901, 123), -1)]:
        logits = random.normal(scale=5, size=shape).astype(np.float32)
        axis = 1 if axis is None else axis
        targets = random.integers(shape[axis], size=np.delete(shape, axis))
        yield make_request(logits, targets, class_axis=axis, label_smoothing=0.1, outputs=outputs,
                           class_weights=random.uniform(0, 2, shape[axis]))


def answers(lossd):
    """Everything but how long it took."""
    responses = [lossd.evaluate(request) for request in large_requests()]
    for response in responses:
        response.ClearField("timing")
    return [response.SerializeToString(deterministic=True) for response in responses]


@pytest.fixture(scope="module")
def first_answers(lossd):
    return answers(lossd)


def test_the_same_request_has_the_same_bits(lossd, first_answers):
    assert answers(lossd) == first_answers


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_has_the_same_bits(start_lossd, first_answers, threads):
    assert answers(start_lossd(f"--threads={threads}")) == first_answers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_classes", [3, 10, 123])
def test_a_row_has_the_same_bits_wherever_it_is(lossd, dtype, num_classes):
    random = np.random.default_rng(5)
    logits = random.normal(scale=4, size=(33, num_classes)).astype(dtype)
    targets = random.integers(num_classes, size=33)
    loss, gradient = elements(lossd, logits, targets, label_smoothing=0.1)
    order = random.permutation(33)
    shuffled_loss, shuffled_gradient = elements(lossd, logits[order], targets[order], label_smoothing=0.1)
    assert shuffled_loss.tobytes() == loss[order].tobytes()
    assert shuffled_gradient.tobytes() == gradient[order].tobytes()
    for i in range(0, 33, 8):
        alone_loss, alone_gradient = elements(lossd, logits[i], targets[i], label_smoothing=0.1)
        assert alone_loss.tobytes() == loss[i].tobytes() and alone_gradient.tobytes() == gradient[i].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_classes", [3, 10, 123])
def test_a_layout_has_the_bits_of_the_transposed_one(lossd, dtype, num_classes):
    logits = np.random.default_rng(6).normal(scale=4, size=(5, 7, num_classes)).astype(dtype)
    targets = np.random.default_rng(7).integers(num_classes, size=(5, 7))
    last_loss, last_gradient = elements(lossd, logits, targets, class_axis=-1)
    middle_loss, middle_gradient = elements(lossd, np.moveaxis(logits, -1, 1), targets)
    assert last_loss.tobytes() == middle_loss.tobytes()
    np.testing.assert_array_equal(last_gradient, np.moveaxis(middle_gradient, 1, -1))

"""The family where it is hard: infinities, zeros, confident rows and entries.

The truth is mpmath's, or a limit. Cross-entropy's own edges are in test_semantics.py.
"""

import mpmath
import numpy as np
import pytest
import torch

from cases import product
from lossd.v1 import loss_pb2 as pb
from tensors import FLOATS, float_tensor, make_request, to_array

INF, NAN = np.inf, np.nan
BOTH_GRADIENTS = [pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_TARGETS_GRADIENT]
E = np.e
COARSE = {"float32": 1e-6, "float64": 1e-12, "float16": 1e-3, "bfloat16": 1e-2}


def entries(lossd, x, t, dtype="float64", **options):
    """Loss, logits' and targets' gradient of each entry by itself."""
    response = lossd.evaluate(make_request(float_tensor(x, dtype), float_tensor(t, dtype), reduction=pb.REDUCTION_NONE,
                                           outputs=BOTH_GRADIENTS, **options))
    return to_array(response.loss), to_array(response.logits_gradient), to_array(response.targets_gradient)


# ---- one entry at a time ---------------------------------------------------------------------------------------------

# x, t, loss, gradient by x, gradient by t. The targets' gradient at t = 0 is its limit.
KL = [
    (-2, 0, 0, 0, -INF),
    (0, 0, 0, 0, -INF),
    (-2, 1, 2, -1, 3),
    (0, 1, 0, -1, 1),
    (-3, 0.5, 0.5 * (np.log(0.5) + 3), -0.5, np.log(0.5) + 4),
    (-INF, 0.5, INF, -0.5, INF),
    (-INF, 1, INF, -1, INF),
    (-INF, 0, 0, 0, None),
    (NAN, 0.5, NAN, NAN, NAN),
    (-1, NAN, NAN, NAN, NAN),
]
KL_LOG_TARGET = [
    (-2, -INF, 0, 0, 0),
    (-INF, -INF, 0, 0, 0),
    (-2, 0, 2, -1, 3),
    (-2, -1000, 0, 0, 0),
    (-3, -1, 2 / E, -1 / E, 3 / E),
    (-INF, -1, INF, -1 / E, INF),
    (NAN, -1, NAN, NAN, NAN),
]
BCE = [
    (0, 0, np.log(2), 0.5, 0),
    (0, 1, np.log(2), -0.5, 0),
    (0, 0.5, np.log(2), 0, 0),
    (INF, 1, 0, 0, -INF),
    (-INF, 0, 0, 0, INF),
    (INF, 0, INF, 1, -INF),
    (-INF, 1, INF, -1, INF),
    (INF, 0.5, INF, 0.5, -INF),
    (-INF, 0.5, INF, -0.5, INF),
    (1000, 1, 0, 0, -1000),
    (-1000, 1, 1000, -1, 1000),
    (1000, 0.25, 750, 0.75, -1000),
    (NAN, 0.5, NAN, NAN, NAN),
    (1, NAN, NAN, NAN, NAN),
]
ENTRIES = ([("kl_divergence", {}, *row) for row in KL]
           + [("kl_divergence", dict(log_target=True), *row) for row in KL_LOG_TARGET]
           + [("binary_cross_entropy", {}, *row) for row in BCE])


@pytest.mark.parametrize("loss, options, x, t, want, dx, dt", ENTRIES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_entry(lossd, loss, options, x, t, want, dx, dt, dtype):
    """It stays where it is: the entries around it are as they were."""
    logits, targets = np.array([-1.5, x, -0.5]), np.array([0.25, t, 0.75])
    got = entries(lossd, logits, targets, dtype, loss=loss, **options)
    around = entries(lossd, logits[[0, 2]], targets[[0, 2]], dtype, loss=loss, **options)
    for values, truth, others in zip(got, (want, dx, dt), around):
        if truth is not None:
            np.testing.assert_allclose(values[1].astype(float), truth, rtol=COARSE[dtype])
        assert values[[0, 2]].tobytes() == others.tobytes()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("target", [0, 1])
def test_confident_binary_cross_entropy(lossd, dtype, target):
    """ln(1 + exp(-40)) is 4e-18, and must not be 0; nor its gradient."""
    sign = 2 * target - 1
    gaps = np.array([1, 5, 16, 17, 30, 36, 37, 38, 40, 60, 80, 90])
    x = sign * np.concatenate([gaps, -gaps])
    response = lossd.evaluate(make_request(
        float_tensor(x, dtype), float_tensor(np.full(len(x), target), dtype), loss="binary_cross_entropy",
        reduction=pb.REDUCTION_NONE, gradient_type=pb.DATA_TYPE_FLOAT64))
    with mpmath.workdps(60):
        want = [float(mpmath.log1p(mpmath.exp(-int(sign * v)))) for v in x]
        slope = [float(-sign / (1 + mpmath.exp(int(sign * v)))) for v in x]
    np.testing.assert_allclose(to_array(response.loss), want, rtol=1e-14 if dtype == "float64" else 1e-6, atol=1e-45)
    np.testing.assert_allclose(to_array(response.logits_gradient), slope, rtol=1e-14)


@pytest.mark.parametrize("pos_weight", [0.5, 7.0])
@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 1e-9])
def test_binary_cross_entropy_of_soft_targets(lossd, pos_weight, smoothing):
    x, t = np.meshgrid([-90.0, -40, -3, 0, 3, 40, 90], [0, 1e-10, 0.3, 1 - 2**-40, 1])
    got, dx, _ = entries(lossd, x, t, loss="binary_cross_entropy", label_smoothing=smoothing,
                         class_weights=np.array(pos_weight))

    def truth(v, u):
        v, u, e = mpmath.mpf(float(v)), mpmath.mpf(float(u)), mpmath.mpf(smoothing)
        u, yes, no = u * (1 - e) + e / 2, mpmath.log1p(mpmath.exp(-v)), mpmath.log1p(mpmath.exp(v))
        return (float(pos_weight * u * yes + (1 - u) * no),
                float((1 - u) / (1 + mpmath.exp(-v)) - pos_weight * u / (1 + mpmath.exp(v))))

    with mpmath.workdps(60):
        want = np.array([truth(v, u) for v, u in zip(x.flat, t.flat)])
    np.testing.assert_allclose(got.ravel(), want[:, 0], rtol=32 * np.finfo(float).eps)
    np.testing.assert_allclose(dx.ravel(), want[:, 1], rtol=32 * np.finfo(float).eps, atol=1e-15)


# ---- confident rows --------------------------------------------------------------------------------------------------


@product(gamma=(0.1, 0.25, 0.5, 0.9, 1.0, 1.5, 2.0, 5.0), dtype=("float32", "float64"), num_classes=(2, 10))
def test_focal_of_confident_rows(lossd, case):
    """(1 - p)^gamma (-ln p) and its slope as p goes to 1, where (1 - p)^(gamma - 1) alone has no limit."""
    gamma, dtype, others = case["gamma"], case["dtype"], case["num_classes"] - 1
    gaps = np.concatenate([np.arange(-20, 101), [200, 1000]])
    logits = np.zeros((len(gaps), others + 1), dtype)
    logits[:, 1] = gaps
    response = lossd.evaluate(make_request(logits, np.ones(len(gaps), int), focal_gamma=gamma,
                                           reduction=pb.REDUCTION_NONE))

    def truth(gap):
        odds = others * mpmath.exp(-int(gap))
        p, rest, surprise = 1 / (1 + odds), odds / (1 + odds), mpmath.log1p(odds)
        return rest**gamma * surprise, -rest**gamma * (gamma * p * surprise + rest)  # d rest/dx_y = -p rest

    with mpmath.workdps(60):
        want = np.array([[float(v) for v in truth(gap)] for gap in gaps])
    loss, gradient = to_array(response.loss), to_array(response.logits_gradient)
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()
    rtol, tiny = {"float32": 1e-6, "float64": 1e-12}[dtype], 4 * float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(loss, want[:, 0], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(gradient[:, 1], want[:, 1], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(gradient[:, 0], -want[:, 1] / others, rtol=rtol, atol=tiny)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1, 2])
def test_focal_of_a_certain_row(lossd, gamma):
    """p_y is 1 exactly: there is no other class, or the others are -inf."""
    for row in ([3.0], [-INF, 2.0, -INF]):
        response = lossd.evaluate(make_request(np.array([row]), np.array([row.index(max(row))]), focal_gamma=gamma))
        assert to_array(response.loss) == 0 and (to_array(response.logits_gradient) == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [dict(temperature=0.5), dict(softcap=50.0), dict(poly_epsilon=1.0)], ids=str)
def test_confident_rows_with_modifiers(lossd, options, dtype):
    gaps = np.arange(1, 101)
    logits = np.zeros((len(gaps), 2), dtype)
    logits[:, 1] = gaps
    loss = to_array(lossd.evaluate(make_request(logits, np.ones(len(gaps), int), reduction=pb.REDUCTION_NONE,
                                                **options)).loss)

    def truth(gap):
        x, c = mpmath.mpf(int(gap)) / options.get("temperature", 1), options.get("softcap")
        odds = mpmath.exp(-(c * mpmath.tanh(x / c) if c else x))
        return float(mpmath.log1p(odds) + options.get("poly_epsilon", 0) * odds / (1 + odds))

    with mpmath.workdps(100):
        want = [truth(gap) for gap in gaps]
    np.testing.assert_allclose(loss, want, rtol=1e-6 if dtype == "float32" else 1e-12,
                               atol=4 * float(np.finfo(dtype).smallest_subnormal))


# ---- rows that are not finite, and every output ----------------------------------------------------------------------

# Row, log-sum-exp, predicted class, entropy, probabilities, log-probabilities; the last is the target.
ROWS = [
    ([0, NAN, 1], NAN, -1, NAN, [NAN] * 3, [NAN] * 3),
    ([NAN] * 3, NAN, -1, NAN, [NAN] * 3, [NAN] * 3),
    ([NAN, INF, -INF], NAN, -1, NAN, [NAN] * 3, [NAN] * 3),
    ([-INF] * 3, -INF, 0, NAN, [NAN] * 3, [NAN] * 3),
    ([0, INF, 1], INF, 1, NAN, [NAN] * 3, [NAN] * 3),
    ([0, -INF, 0], np.log(2), 0, np.log(2), [0.5, 0, 0.5], [-np.log(2), -INF, -np.log(2)]),
    ([-INF, -INF, 7], 7, 2, 0, [0, 0, 1], [-INF, -INF, 0]),
    ([0, 0, -INF], np.log(2), 0, np.log(2), [0.5, 0.5, 0], [-np.log(2), -np.log(2), -INF]),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ignored", [False, True])
def test_outputs_of_a_row_that_is_not_finite(lossd, row, dtype, ignored):
    x, log_sum_exp, predicted, entropy, p, log_p = row
    logits = np.array([[1, 2, 3], x, [3, 2, 1]], float)
    response = lossd.evaluate(make_request(
        float_tensor(logits, dtype), np.array([0, -100 if ignored else 2, 0]), reduction=pb.REDUCTION_NONE,
        outputs=[output for output in pb.Output.values() if output not in (0, pb.OUTPUT_TARGETS_GRADIENT)]))
    want = dict(log_sum_exp=log_sum_exp, entropy=entropy, probabilities=p, log_probabilities=log_p,
                predicted_class=predicted, target_log_probability=0 if ignored else log_p[2],
                element_loss=0 if ignored else -log_p[2])
    finite = torch.log_softmax(torch.tensor(logits[[0, 2]]), -1).numpy()
    for name, values in want.items():
        np.testing.assert_allclose(to_array(getattr(response, name))[1], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(to_array(response.log_probabilities)[[0, 2]], finite, rtol=1e-6)
    assert response.summary.nonfinite_count == (not ignored and not np.isfinite(log_p[2]))
    assert ignored or not np.isnan(log_p[2]) or np.isnan(to_array(response.logits_gradient)[1].astype(float)).all()


# ---- former bugs ------------------------------------------------------------------------------------------------------


def test_an_upstream_gradient_of_zero_leaves_no_gradient(lossd):
    response = lossd.evaluate(make_request(
        np.array([-1.0, -1]), np.array([0.0, 0.5]), loss="kl_divergence", reduction=pb.REDUCTION_NONE,
        upstream_gradient=np.array([0.0, 0]), outputs=BOTH_GRADIENTS))
    assert (to_array(response.targets_gradient) == 0).all()


def test_softcap_makes_no_ties(lossd):
    response = lossd.evaluate(make_request(np.array([[100.0, 150, 0]]), np.array([1]), softcap=5.0,
                                           outputs=[pb.OUTPUT_PREDICTED_CLASS]))
    assert to_array(response.predicted_class) == 1 and response.summary.correct_count == 1


@pytest.mark.parametrize("options", [dict(class_weights=np.array(0.0)), dict(label_smoothing=1.0)], ids=["w", "e"])
def test_a_factor_of_zero_leaves_no_targets_gradient(lossd, options):
    _, _, dt = entries(lossd, [-INF, -INF], [0, 1], loss="binary_cross_entropy", **options)
    np.testing.assert_array_equal(dt, [0, 0])

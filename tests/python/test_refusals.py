"""Options that do not go together: INVALID_ARGUMENT, and a message that names both and says what to use instead."""

import grpc
import numpy as np
import pytest

from faults import INVALID, altered, zeros
from lossd.v1 import loss_pb2 as pb
from test_faults import refusal

DENSE = dict(targets=zeros(4, 3))
SPARSE = dict(targets=zeros(4, 2, dtype=np.int64), target_probabilities=zeros(4, 2))
NLL = dict(loss__negative_log_likelihood=pb.NegativeLogLikelihood(ignore_index=-1))
KL = dict(loss__kl_divergence=pb.KlDivergence(log_target=True), **DENSE)
BCE = dict(loss__binary_cross_entropy=pb.BinaryCrossEntropy(label_smoothing=0.5), **DENSE)
OF_LOSS = dict(negative_log_likelihood=NLL, kl_divergence=KL, binary_cross_entropy=BCE)

REFUSED = [  # name, request, words
    ("focal and smoothing", dict(loss__cross_entropy__focal_gamma=2, loss__cross_entropy__label_smoothing=0.1),
     ("focal_gamma = 2", "label_smoothing = 0.1", "set one of them to 0")),
    ("poly and smoothing", dict(loss__cross_entropy__poly_epsilon=-1, loss__cross_entropy__label_smoothing=0.1),
     ("poly_epsilon = -1", "label_smoothing = 0.1", "set one of them to 0")),
    ("sum and normalizer", dict(loss__normalizer=2, loss__reduction=pb.REDUCTION_SUM),
     ("normalizer = 2", "REDUCTION_MEAN", "leave it out")),
    ("none and normalizer", dict(loss__normalizer=2, loss__reduction=pb.REDUCTION_NONE),
     ("normalizer = 2", "REDUCTION_MEAN", "leave it out")),
    ("batch mean and normalizer", dict(loss__normalizer=2, loss__reduction=pb.REDUCTION_BATCH_MEAN, **KL),
     ("normalizer = 2", "REDUCTION_MEAN", "leave it out")),
    ("batch mean and a scalar", dict(KL, logits=zeros(), targets=zeros(), loss__reduction=pb.REDUCTION_BATCH_MEAN),
     ("REDUCTION_BATCH_MEAN", "logits.shape is []", "use REDUCTION_MEAN")),
    ("ignore_index and probabilities", dict(DENSE, loss__cross_entropy__ignore_index=-100),
     ("ignore_index = -100", "probability targets", "sample weight 0")),
    ("sparse and float targets", dict(DENSE, target_probabilities=zeros(4, 3)),
     ("target_probabilities", "float32", "leave target_probabilities out")),
    ("sparse of another shape", dict(SPARSE, target_probabilities=zeros(4, 3)),
     ("target_probabilities.shape = [4, 3]", "[4, 2]")),
    ("sparse without an axis more", dict(target_probabilities=zeros(4)),
     ("targets is int64 of shape [4]", "target_probabilities", "one more axis, K")),
    ("sparse of integers", dict(SPARSE, target_probabilities=zeros(4, 2, dtype=np.int32)),
     ("target_probabilities.data_type is int32", "float type")),
    ("several classes without masses", dict(targets=SPARSE["targets"]),
     ("targets is int64 of shape [4, 2]", "[4]", "send target_probabilities")),
    ("the classes last, and not said", dict(logits=zeros(8, 20, 50), targets=zeros(8, 20, dtype=np.int64)),
     ("targets is int64 of shape [8, 20]", "[8, 50]", "set class_axis to -1")),
    ("class weights and KL", dict(KL, class_weights=zeros(3)),
     ("class_weights", "kl_divergence", "use sample_weights")),
    ("pos_weight of another shape", dict(BCE, class_weights=zeros(4)), ("class_weights.shape = [4]", "[4, 3]")),
    ("pos_weight of more axes", dict(BCE, class_weights=zeros(1, 4, 3)), ("class_weights.shape = [1, 4, 3]", "[4, 3]")),
    ("pos_weight of integers", dict(BCE, class_weights=zeros(3, dtype=np.int8)), ("class_weights.data_type", "int8")),
    ("NLL and probabilities", dict(NLL, **DENSE), ("targets.data_type is float32", "integer type")),
    ("NLL and its axis", dict(loss__negative_log_likelihood=pb.NegativeLogLikelihood(class_axis=2)),
     ("negative_log_likelihood.class_axis = 2", "[-2, 2)")),
    ("KL and indices", dict(KL, targets=zeros(4, 3, dtype=np.int64)), ("targets is int64", "float type")),
    ("KL and another shape", dict(KL, targets=zeros(4)), ("targets is float32 of shape [4]", "[4, 3]")),
    ("BCE and indices", dict(BCE, targets=zeros(4, 3, dtype=np.int64)), ("targets is int64", "float type")),
    ("BCE and sample weights by row", dict(BCE, sample_weights=zeros(4)), ("sample_weights.shape = [4]", "[4, 3]")),
    ("KL and sample weights by row", dict(KL, sample_weights=zeros(4)), ("sample_weights.shape = [4]", "[4, 3]")),
    ("KL and upstream gradient by row", dict(KL, upstream_gradient=zeros(4), loss__reduction=pb.REDUCTION_NONE),
     ("upstream_gradient.shape = [4]", "[4, 3]")),
] + [
    (f"{option} and {kind}", dict(targets, **{f"loss__cross_entropy__{option}": value}),
     (f"{option} = {value}", "probability targets", "send class indices"))
    for option, value in [("focal_gamma", 2), ("focal_gamma", 0.5), ("poly_epsilon", -1)]
    for kind, targets in [("dense", DENSE), ("sparse", SPARSE)]
] + [
    (f"batch mean and {loss}", dict(request, loss__reduction=pb.REDUCTION_BATCH_MEAN),
     ("REDUCTION_BATCH_MEAN", "kl_divergence", loss, "takes REDUCTION_MEAN"))
    for loss, request in [("cross_entropy", {}), ("negative_log_likelihood", NLL), ("binary_cross_entropy", BCE)]
] + [
    (f"target_probabilities and {loss}", dict(request, target_probabilities=zeros(4, 3)),
     ("target_probabilities", loss, "use cross_entropy")) for loss, request in OF_LOSS.items()
] + [
    (f"{output} and {loss}", dict(request, outputs=[pb.Output.Value(output)]), (output, loss, "cross_entropy"))
    for output in ("OUTPUT_LOG_SUM_EXP", "OUTPUT_ENTROPY", "OUTPUT_PROBABILITIES", "OUTPUT_LOG_PROBABILITIES")
    for loss, request in OF_LOSS.items()
] + [
    (f"predicted class and {loss}", dict(OF_LOSS[loss], outputs=[pb.OUTPUT_PREDICTED_CLASS]),
     ("OUTPUT_PREDICTED_CLASS", loss, "leave it out")) for loss in ("kl_divergence", "binary_cross_entropy")
] + [
    (f"targets gradient and {name}", dict(request, outputs=[pb.OUTPUT_TARGETS_GRADIENT]),
     ("OUTPUT_TARGETS_GRADIENT", "class indices", "probability targets"))
    for name, request in [("indices", {}), ("NLL", NLL)]
] + [
    (f"target log-probability and {name}", dict(request, outputs=[pb.OUTPUT_TARGET_LOG_PROBABILITY]),
     ("OUTPUT_TARGET_LOG_PROBABILITY", "class indices", "OUTPUT_LOG_PROBABILITIES"))
    for name, request in [("dense", DENSE), ("sparse", SPARSE), ("KL", KL), ("BCE", BCE)]
] + [
    (f"BCE smoothing {value}", dict(DENSE, loss__binary_cross_entropy=pb.BinaryCrossEntropy(label_smoothing=value)),
     ("binary_cross_entropy.label_smoothing", "[0, 1]")) for value in (-0.1, 1.5, float("nan"))
] + [
    (f"{loss} and normalizer {value}", dict(request, loss__normalizer=value), ("normalizer", "> 0"))
    for loss, request in OF_LOSS.items() for value in (0, -1, float("nan"))
]


@pytest.mark.parametrize("request_of, words", [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(lossd, request_of, words):
    status = refusal(lossd, altered(**request_of).SerializeToString())
    assert status.code() == INVALID, status.details()
    assert [word for word in words if word not in status.details()] == [], status.details()


# What looks as if it did not go together, and does.
ACCEPTED = {
    "focal 0 and smoothing": dict(loss__cross_entropy__focal_gamma=0, loss__cross_entropy__label_smoothing=0.1),
    "ignore_index and sparse": dict(SPARSE, loss__cross_entropy__ignore_index=2),
    "z_loss and probabilities": dict(DENSE, loss__cross_entropy__z_loss=0.1),
    "normalizer and KL": dict(KL, loss__normalizer=3),
    "scalar pos_weight": dict(BCE, class_weights=zeros()),
    "predicted class of NLL": dict(NLL, outputs=[pb.OUTPUT_PREDICTED_CLASS]),
    "target log-probability of NLL": dict(NLL, outputs=[pb.OUTPUT_TARGET_LOG_PROBABILITY]),
    "scalar upstream gradient of none": dict(loss__reduction=pb.REDUCTION_NONE, upstream_gradient=zeros()),
    "scalar KL": dict(KL, logits=zeros(), targets=zeros()),
    "every output of probabilities": dict(DENSE, outputs=[
        output for output in pb.Output.values() if output not in (0, pb.OUTPUT_TARGET_LOG_PROBABILITY)]),
}


@pytest.mark.parametrize("request_of", ACCEPTED.values(), ids=list(ACCEPTED))
def test_accepted(lossd, request_of):
    assert lossd.evaluate(altered(**request_of)).HasField("loss")


def test_the_first_fault_is_the_one_named(lossd):
    """A request that is wrong in two ways gets one status, not a mixture."""
    status = refusal(lossd, altered(**dict(KL, class_weights=zeros(3), logits=zeros(4, 3), loss__normalizer=-1))
                     .SerializeToString())
    assert status.code() == grpc.StatusCode.INVALID_ARGUMENT and "class_weights" not in status.details()

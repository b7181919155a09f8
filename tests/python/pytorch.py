"""PyTorch's losses, asked the way lossd is: any class axis, an upstream gradient, values as numpy arrays."""

import numpy as np
import torch

from lossd.v1 import loss_pb2 as pb
from tensors import to_array

REDUCTIONS = {"mean": pb.REDUCTION_MEAN, "sum": pb.REDUCTION_SUM, "none": pb.REDUCTION_NONE}


def to_torch(values):
    """float64 or int64, so that what PyTorch rounds is far below any tolerance. `values`: an array, or a Tensor."""
    if values is None:
        return None
    array = to_array(values) if isinstance(values, pb.Tensor) else np.asarray(values)
    return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def to_class_axis_1(tensor, class_axis):
    """Where PyTorch wants the classes; it takes a tensor of one axis as one sample."""
    return tensor if tensor.dim() <= 1 else torch.movedim(tensor, class_axis, 1)


def differentiate(loss, upstream_gradient, *leaves):
    """Returns the loss and the gradients of the leaves, as arrays."""
    upstream = torch.tensor(1.0, dtype=torch.float64) if upstream_gradient is None else to_torch(upstream_gradient)
    loss.backward(upstream.expand_as(loss))
    return (loss.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves))


def cross_entropy(logits, targets, *, class_axis, reduction, upstream_gradient=None, weight=None, **options):
    """Returns the loss, the gradient of the logits in the logits' own layout, and the targets' if they are floats."""
    x, t = to_torch(logits).requires_grad_(), to_torch(targets)
    leaves = [x, t.requires_grad_()] if t.is_floating_point() else [x]
    loss = torch.nn.functional.cross_entropy(to_class_axis_1(x, class_axis),
                                             to_class_axis_1(t, class_axis) if t.is_floating_point() else t,
                                             weight=to_torch(weight), reduction=reduction, **options)
    return differentiate(loss, upstream_gradient, *leaves)

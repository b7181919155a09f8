"""Cross-entropy as semantics.md has it, in float64, differentiable by PyTorch, classes on the last axis."""

from typing import NamedTuple, Optional

import numpy as np
import torch

from pytorch import differentiate, to_torch

BITS = 1 / np.log(2)


class Batch(NamedTuple):
    """Tensors of the contract, or arrays. `masses`: target_probabilities, of sparse targets."""

    logits: object
    targets: object
    masses: object = None
    class_weights: object = None
    sample_weights: object = None
    upstream_gradient: object = None

    def tensors(self):
        """What make_request() takes."""
        return dict(logits=self.logits, targets=self.targets, target_probabilities=self.masses,
                    class_weights=self.class_weights, sample_weights=self.sample_weights,
                    upstream_gradient=self.upstream_gradient)


class Answer(NamedTuple):
    loss: np.ndarray
    element_loss: np.ndarray
    weight_sum: float
    ignored_count: int
    logits_gradient: np.ndarray
    targets_gradient: Optional[np.ndarray]


def modified(x, temperature=1.0, softcap=0.0):
    x = x / temperature
    return softcap * torch.tanh(x / softcap) if softcap else x


def spread(targets, masses, live, num_classes):
    """Sparse probabilities as dense ones: duplicates add up, entries that are not live have no part."""
    dense = torch.zeros(*targets.shape[:-1], num_classes, dtype=torch.float64)
    return dense.scatter_add(-1, torch.where(live, targets, 0), torch.where(live, masses, 0))


def index_losses(log_p, y, w, label_smoothing, focal_gamma, poly_epsilon):
    def of_target(values):
        return values.gather(-1, y[..., None])[..., 0]

    surprise = -log_p * w
    rest = -torch.expm1(of_target(log_p))  # 1 - p_y
    loss = (1 - label_smoothing) * of_target(surprise) + label_smoothing * surprise.mean(-1)
    if focal_gamma:
        loss = rest**focal_gamma * loss
    return loss + poly_epsilon * rest


def cross_entropy(batch, *, reduction="mean", normalizer=None, unit=1.0, ignore_index=-100, label_smoothing=0.0,
                  z_loss=0.0, focal_gamma=0.0, poly_epsilon=0.0, **modifiers):
    """What lossd must answer. `modifiers`: temperature and softcap; `unit`: 1, or BITS."""
    x, t, masses = to_torch(batch.logits).requires_grad_(), to_torch(batch.targets), to_torch(batch.masses)
    leaves = [x]
    if masses is not None or t.is_floating_point():
        leaves.append((t if masses is None else masses).requires_grad_())
    capped = modified(x, **modifiers)
    log_p, num_classes = torch.log_softmax(capped, -1), x.shape[-1]
    w = torch.ones(num_classes, dtype=x.dtype) if batch.class_weights is None else to_torch(batch.class_weights)
    s = torch.ones_like(x[..., 0]).detach() if batch.sample_weights is None else to_torch(batch.sample_weights)

    live, share = s != 0, s  # share: what an element adds to MEAN's denominator
    if len(leaves) == 2:
        q = t
        if masses is not None:
            live = live & (t != ignore_index).any(-1)
            q = spread(t, masses, t != ignore_index, num_classes)
        q = (1 - label_smoothing) * q + label_smoothing / num_classes
        loss = -(q * w * log_p).sum(-1)
    else:
        live = live & (t != ignore_index)
        y = torch.where(live, t, 0)
        loss = index_losses(log_p, y, w, label_smoothing, focal_gamma, poly_epsilon)
        share = s * w[y]
    loss = unit * s * torch.where(live, loss + z_loss * torch.logsumexp(capped, -1)**2, 0)
    weight_sum = torch.where(live, share, 0).sum().item()

    total = loss.sum()
    reduced = {"none": loss, "sum": total, "mean": total / (normalizer or weight_sum or np.nan)}[reduction]
    value, *gradients = differentiate(reduced, batch.upstream_gradient, *leaves)
    return Answer(value, loss.detach().numpy(), weight_sum, (~live).sum().item(), gradients[0],
                  gradients[1] if len(gradients) == 2 else None)

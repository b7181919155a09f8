"""What others answer to a Batch: the installed PyTorch in the same type, and the formulas that other libraries used."""

import numpy as np
import torch
from torch.nn import functional

from accuracy_lossd import Answer, chunks, count_differing

TORCH_TYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor):
    """bfloat16 as float32, which holds all of it."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def bfloat16(values):
    """Rounded to bfloat16, in a float32 array."""
    return torch.tensor(np.asarray(values, np.float32)).bfloat16().float().numpy()


def logits_of(batch):
    return torch.tensor(batch.logits).to(TORCH_TYPES[batch.dtype])


def targets_of(batch, as_sent=False):
    targets = torch.tensor(batch.targets)
    if targets.is_floating_point():
        return targets.to(TORCH_TYPES[batch.dtype])
    return targets if as_sent else targets.long()


def weights_of(batch, dtype):
    return None if batch.class_weights is None else torch.tensor(batch.class_weights).to(dtype)


def differentiated(formula):
    """peer(batch): formula(logits, targets, batch) and what autograd makes of it; an exception is an answer too."""

    def peer(batch):
        x, t = logits_of(batch).requires_grad_(), targets_of(batch, as_sent=True)
        try:
            loss = formula(x, t.requires_grad_() if t.is_floating_point() else t, batch)
            upstream = 1.0 if batch.upstream_gradient is None else batch.upstream_gradient
            loss.backward(torch.as_tensor(upstream, dtype=loss.dtype).expand_as(loss))
        except (RuntimeError, IndexError) as error:
            return Answer(error=f"{type(error).__name__}: {error}")
        tensors = {"loss": loss, "logits_gradient": x.grad, "targets_gradient": t.grad}
        tensors = {name: tensors[name] for name in batch.asks}
        return Answer({name: to_numpy(tensor) for name, tensor in tensors.items()},
                      {name: name_of(tensor.dtype) for name, tensor in tensors.items()})

    return peer


def reduced(losses, batch):
    return losses if batch.reduction == "none" else getattr(losses, batch.reduction)()


def gathered(values, targets):
    return values.gather(1, targets.long()[:, None])[:, 0]


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def cross_entropy(x, t, batch):
    if batch.loss == "negative_log_likelihood":
        return functional.nll_loss(x, t, reduction=batch.reduction)
    return functional.cross_entropy(x, t, weight=weights_of(batch, x.dtype), ignore_index=batch.ignore_index,
                                    label_smoothing=batch.label_smoothing, reduction=batch.reduction)


def widened(x, t, batch):
    return cross_entropy(x.float(), t, batch)


def scattered(x, t, batch):
    """Sparse targets written into a dense one: scatter_ keeps one of several masses for the same class."""
    dense = torch.zeros_like(x).scatter_(1, t, torch.tensor(batch.target_probabilities).to(x.dtype))
    return functional.cross_entropy(x, dense, reduction=batch.reduction)


pytorch = differentiated(cross_entropy)
pytorch_after_float = differentiated(widened)
pytorch_scattered = differentiated(scattered)


def pytorch_rearranged(arrangement):
    return lambda batch: count_differing(pytorch, batch, arrangement)


def half_sums(batch):
    """nll_loss on a GPU: the sum of the losses and the count of the elements are float16, as the logits."""
    x, t = logits_of(batch).float(), targets_of(batch)
    losses = functional.nll_loss(x if batch.loss == "negative_log_likelihood" else functional.log_softmax(x, 1), t,
                                 reduction="none").numpy().astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        loss = losses.sum(dtype=np.float16) / np.float64(losses.size).astype(np.float16)
    return Answer({"loss": loss}, {"loss": "float16"})


# ---- formulas of others ----------------------------------------------------------------------------------------------


def shifted_back(x, t, batch):
    """mlx before 4188: lse - x_y."""
    return reduced(torch.logsumexp(x, 1) - gathered(x, t), batch)


def log_of_softmax(x, t, batch):
    return reduced(-gathered(torch.softmax(x, 1).log(), t), batch)


def tiled(x, t, batch, tile=1 << 14):
    """flash-attention: a running maximum and sum over tiles of the row."""
    top, total = torch.full((len(x),), -np.inf), torch.zeros(len(x))
    for part in x.split(tile, 1):
        new_top = torch.maximum(top, part.max(1).values)
        total = total * torch.exp(top - new_top) + torch.exp(part - new_top[:, None]).sum(1)
        top = new_top
    return reduced(total.log() + top - gathered(x, t), batch)


def dot_with_log_softmax(x, t, batch):
    """optax before 898: labels times log_softmax, summed."""
    return reduced(-(t * functional.log_softmax(x, 1)).sum(1), batch)


def zero_tangent_of_labels(batch):
    """optax before 1762: the JVP multiplies the labels' tangent, here 0, with log_softmax(x)."""
    log_p = functional.log_softmax(logits_of(batch), 1)
    tangent = torch.tensor(batch.upstream_gradient).to(log_p.dtype) * -log_p
    return Answer({"targets_gradient": to_numpy(tangent)}, {"targets_gradient": name_of(tangent.dtype)})


def read_modify_write(batch):
    """Liger 1268: softmax(x_y) is rounded to the logits' type before 1 is subtracted."""
    gradient = torch.softmax(logits_of(batch).float(), 1).to(TORCH_TYPES[batch.dtype])
    rows = torch.arange(len(gradient))
    gradient[rows, targets_of(batch)] -= 1
    return Answer({"logits_gradient": to_numpy(gradient)}, {"logits_gradient": batch.dtype})


def first_upstream(batch):
    """Liger before 680 and 1298: every row's gradient is multiplied with the first row's g."""
    x, t = logits_of(batch).requires_grad_(), targets_of(batch)
    loss = functional.cross_entropy(x, t, reduction="none", ignore_index=batch.ignore_index)
    loss.backward(torch.full_like(loss, float(batch.upstream_gradient[0])))
    return Answer({"loss": to_numpy(loss), "logits_gradient": to_numpy(x.grad)},
                  {"loss": batch.dtype, "logits_gradient": batch.dtype})


def gradient_over_logits(batch):
    """Liger 272: the first loss leaves its gradient where the logits were; a second one is asked of the same tensor."""
    x, t = logits_of(batch).requires_grad_(), targets_of(batch)
    functional.cross_entropy(x, t, reduction=batch.reduction).backward()
    loss = functional.cross_entropy(x.grad, t, reduction=batch.reduction)
    return Answer({"loss": to_numpy(loss)}, {"loss": batch.dtype})


def micro_batches(sizes, scale=None, count=None):
    """Micro-batch means, added and multiplied with `scale`; or their sums over a fixed `count`."""

    def formula(x, t, batch):
        reduction = "mean" if count is None else "sum"
        losses = [functional.cross_entropy(a, b, ignore_index=batch.ignore_index, reduction=reduction)
                  for a, b in zip(x.split(sizes), t.split(sizes))]
        return sum(losses) * scale if count is None else sum(losses) / count

    return differentiated(formula)


def int32_offset(shape):
    """Where a kernel with 32-bit indices looks for the last row."""

    offset = (shape[0] - 1) * shape[1]
    wrapped = (offset + (1 << 31)) % (1 << 32) - (1 << 31)
    return lambda _: Answer(words=f"last row at offset {wrapped}")

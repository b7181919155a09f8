"""Between numpy and the Tensor of the contract, and requests made of arrays."""

import numpy as np
import torch

from lossd.v1 import loss_pb2 as pb

DATA_TYPES = {
    np.dtype(name): pb.DataType.Value("DATA_TYPE_" + name.upper())
    for name in "float32 float64 float16 int8 int16 int32 int64 uint8 uint16 uint32 bool".split()
}
DTYPES = {data_type: dtype for dtype, data_type in DATA_TYPES.items()}
FLOATS = ("float32", "float64", "float16", "bfloat16")

TENSORS = ("class_weights", "sample_weights", "upstream_gradient", "target_probabilities")


def to_tensor(values):
    """Of an array, in its own type; a Tensor stays what it is."""
    if isinstance(values, pb.Tensor):
        return values
    array = np.asarray(values)
    little_endian = array.astype(array.dtype.newbyteorder("<"))
    return pb.Tensor(data_type=DATA_TYPES[array.dtype], shape=array.shape, raw=little_endian.tobytes())


def float_tensor(values, name):
    """Rounds to the float type of that name; numpy has no bfloat16, PyTorch has."""
    rounded = torch.from_numpy(np.asarray(values, np.float64)).to(getattr(torch, name))
    if name != "bfloat16":
        return to_tensor(rounded.numpy())
    bits = rounded.view(torch.int16).numpy().astype("<i2")
    return pb.Tensor(data_type=pb.DATA_TYPE_BFLOAT16, shape=bits.shape, raw=bits.tobytes())


def to_array(tensor):
    """In the tensor's type; bfloat16 as float32, which holds every value of it."""
    shape = tuple(tensor.shape)
    if tensor.data_type == pb.DATA_TYPE_BFLOAT16:
        return (np.frombuffer(tensor.raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    dtype = DTYPES[tensor.data_type]
    return np.frombuffer(tensor.raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def type_name(tensor):
    return pb.DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_").lower()


def make_request(logits, targets, *, loss="cross_entropy", reduction=pb.REDUCTION_MEAN, normalizer=None,
                 unit=pb.INFORMATION_UNIT_NATS, gradient_type=pb.DATA_TYPE_UNSPECIFIED,
                 outputs=(pb.OUTPUT_LOGITS_GRADIENT,), job="", step=None, **options):
    """An EvaluateRequest of arrays or Tensors. `options`: the optional tensors by name, and the fields of `loss`."""
    request = pb.EvaluateRequest(job=job, step=step, outputs=outputs, gradient_type=gradient_type,
                                 logits=to_tensor(logits), targets=to_tensor(targets))
    for name in TENSORS:
        if (values := options.pop(name, None)) is not None:
            getattr(request, name).CopyFrom(to_tensor(values))
    make_loss = type(getattr(request.loss, loss))
    request.loss.CopyFrom(pb.LossSpec(reduction=reduction, normalizer=normalizer, unit=unit,
                                      **{loss: make_loss(**options)}))
    return request

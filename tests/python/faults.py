"""faults.md, cases 1 to 17 and 30, as a table: what is sent, and what must be said about it.

A fault is a well-formed request (logits of shape [4, 3], int64 targets of shape [4]) with a few fields replaced, or
bytes that no well-behaved client would produce. `words` are parts of the message: the field and both numbers.
"""

from typing import NamedTuple, Union

import grpc
import numpy as np
from google.protobuf.message import Message

from lossd.v1 import loss_pb2 as pb
from tensors import make_request, to_tensor

INT64_MIN, INT64_MAX = -2**63, 2**63 - 1
INF, NAN = float("inf"), float("nan")
MAX_MESSAGE_BYTES = 65536  # of the server that the faults are sent to

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Fault(NamedTuple):
    name: str  # starts with the case's number
    change: Union[dict, bytes]  # fields of the request, or the whole of it
    words: tuple
    code: grpc.StatusCode = INVALID

    def serialize(self):
        return self.change if isinstance(self.change, bytes) else altered(**self.change).SerializeToString()


def well_formed():
    logits = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    return make_request(logits, np.array([0, 1, 2, 1]))


def altered(**changes):
    """A well-formed request with fields replaced: logits__shape=[1] is logits.shape; None takes a field away."""
    request = well_formed()
    for path, value in changes.items():
        *parents, name = path.split("__")
        message = request
        for parent in parents:
            message = getattr(message, parent)
        message.ClearField(name)
        if isinstance(value, Message):
            getattr(message, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        elif value is not None:
            setattr(message, name, value)
    return request


def zeros(*shape, dtype=np.float32):
    return to_tensor(np.zeros(shape, dtype))


def typed(contents, values, data_type=pb.DATA_TYPE_UNSPECIFIED):
    """What people type: targets of [4] or logits of [4, 3]."""
    tensor = pb.Tensor(data_type=data_type, shape=[4] if len(values) == 4 else [4, 3])
    getattr(tensor, contents).values.extend(values)
    return tensor


def field(number, contents):
    """A length-delimited field, as bytes."""
    return varint(number << 3 | 2) + varint(len(contents)) + contents


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def with_logits(*parts):
    """A well-formed request with the logits written by hand."""
    return altered(logits=None).SerializeToString() + field(15, b"".join(parts))


def with_option(number, value=b"\x01"):
    """A well-formed request with a field in LossSpec, or in its cross_entropy, that nobody knows."""
    return well_formed().SerializeToString() + field(3, varint(number << 3) + value)


SIZES = [
    Fault("1 count of logits", dict(logits__shape=[2**32, 2**32]), ("logits.shape", "4294967296", str(INT64_MAX))),
    Fault("1 count of targets", dict(targets__shape=[2**32] * 2), ("targets.shape", "4294967296", str(INT64_MAX))),
    Fault("1 count of weights", dict(class_weights=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2**40] * 16)),
          ("class_weights.shape", "1099511627776", str(INT64_MAX))),
    Fault("2 bytes of logits", dict(logits__shape=[2**61, 1]), ("logits.shape", str(2**61), str(INT64_MAX))),
    Fault("2 bytes of targets", dict(targets__shape=[2**60]), ("targets.shape", str(2**60), str(INT64_MAX))),
    Fault("2 bytes that fit, and are not there",
          dict(logits__shape=[2**40, 1], targets__shape=[2**40], targets__data_type=pb.DATA_TYPE_INT8),
          ("logits", "48 bytes", str(2**42))),
    Fault("2 bytes that fit int64, and nothing else",
          dict(logits__shape=[2**60, 1], targets__shape=[2**60], targets__data_type=pb.DATA_TYPE_INT8,
               loss__reduction=pb.REDUCTION_NONE, outputs=[pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_ELEMENT_LOSS]),
          ("logits.shape", str(2**62), str(2**46))),
    Fault("2 a float16 row that overflows in float64",
          dict(logits__shape=[1, 2**61], logits__data_type=pb.DATA_TYPE_FLOAT16, targets__shape=[1],
               loss__cross_entropy__temperature=2.0), ("logits.shape", str(2**62), str(2**46))),
    Fault("3 negative", dict(logits__shape=[-4, 3]), ("logits.shape[0]", "-4", ">= 0")),
    Fault("3 two negatives", dict(logits__shape=[-4, -3]), ("logits.shape[0]", "-4", ">= 0")),
    Fault("3 INT64_MIN", dict(logits__shape=[4, INT64_MIN]), ("logits.shape[1]", str(INT64_MIN), ">= 0")),
    Fault("3 negative targets", dict(targets__shape=[-1]), ("targets.shape[0]", "-1", ">= 0")),
    Fault("4 negative behind zero", dict(logits__shape=[0, -1]), ("logits.shape[1]", "-1", ">= 0")),
    Fault("4 overflow behind zero", dict(logits__shape=[0, 2**32, 2**32]), ("logits.shape", "4294967296")),
    Fault("5 rank 0", dict(logits__shape=[]), ("logits.shape", "[]", "class axis")),
    Fault("5 rank 17", dict(logits__shape=[1] * 17), ("logits.shape", "17", "16")),
    Fault("5 rank 17 of targets", dict(targets__shape=[1] * 17), ("targets.shape", "17", "16")),
    Fault("5 shape as long as a message may be", with_logits(field(2, b"\x01" * (MAX_MESSAGE_BYTES - 200))),
          ("logits.shape", str(MAX_MESSAGE_BYTES - 200), "16")),
]

CONTENTS = [
    Fault("6 one byte short", dict(logits__raw=bytes(47)), ("logits", "47 bytes", "48")),
    Fault("6 one byte long", dict(logits__raw=bytes(49)), ("logits", "49 bytes", "48")),
    Fault("6 one element short", dict(logits__raw=bytes(44)), ("logits", "44 bytes", "48")),
    Fault("6 nothing", dict(logits__raw=None), ("logits", "0 bytes", "48")),
    Fault("6 targets short", dict(targets__raw=bytes(31)), ("targets", "31 bytes", "32")),
    Fault("6 class weights long", dict(class_weights=zeros(3), class_weights__raw=bytes(13)),
          ("class_weights", "13 bytes", "12")),
    Fault("6 sample weights short", dict(sample_weights=zeros(4), sample_weights__raw=bytes(15)),
          ("sample_weights", "15 bytes", "16")),
    Fault("6 upstream gradient short", dict(upstream_gradient=zeros(), upstream_gradient__raw=b""),
          ("upstream_gradient", "0 bytes", "4")),
    Fault("6 elements for no elements", dict(logits__shape=[0, 3], targets=zeros(0, dtype=np.int64)),
          ("logits", "48 bytes", "needs 0")),
    Fault("6 too few typed values", dict(targets=pb.Tensor(shape=[4], ints=pb.Tensor.Ints(values=[1, 2]))),
          ("targets", "16 bytes", "32")),
    Fault("7 no type", dict(logits__data_type=pb.DATA_TYPE_UNSPECIFIED), ("logits.data_type",)),
    Fault("7 no type of targets", dict(targets__data_type=pb.DATA_TYPE_UNSPECIFIED), ("targets.data_type",)),
    Fault("7 unknown type", dict(logits__data_type=99), ("logits.data_type", "99")),
    Fault("7 unknown negative type", dict(targets__data_type=-1), ("targets.data_type", "-1")),
    Fault("7 unknown gradient type", dict(gradient_type=99), ("gradient_type", "99")),
    Fault("7 integer logits", dict(logits__data_type=pb.DATA_TYPE_INT32), ("logits.data_type", "int32")),
    Fault("7 boolean targets", dict(targets=zeros(4, dtype=bool)), ("targets.data_type", "bool")),
    Fault("7 integer gradient", dict(gradient_type=pb.DATA_TYPE_INT32), ("gradient_type", "int32")),
    Fault("7 integer weights", dict(class_weights=zeros(3, dtype=np.int64)), ("class_weights.data_type", "int64")),
    Fault("8 targets short", dict(targets=zeros(3, dtype=np.int64)), ("targets", "[3]", "[4]")),
    Fault("8 targets with an axis more", dict(targets=zeros(4, 1, dtype=np.int64)), ("targets", "[4, 1]", "[4]")),
    Fault("8 probabilities", dict(targets=zeros(4, 2)), ("targets", "[4, 2]", "[4, 3]")),
    Fault("8 indices as floats", dict(targets=zeros(4)), ("targets", "[4]", "[4, 3]")),
    Fault("8 class weights", dict(class_weights=zeros(4)), ("class_weights.shape", "[4]", "[3]")),
    Fault("8 class weights in two axes", dict(class_weights=zeros(1, 3)), ("class_weights.shape", "[1, 3]", "[3]")),
    Fault("8 sample weights", dict(sample_weights=zeros(3)), ("sample_weights.shape", "[3]", "[4]")),
    Fault("8 one sample weight", dict(sample_weights=zeros()), ("sample_weights.shape", "[]", "[4]")),
    Fault("8 upstream gradient of a mean", dict(upstream_gradient=zeros(4)), ("upstream_gradient.shape", "[4]", "[]")),
    Fault("8 upstream gradient of elements", dict(upstream_gradient=zeros(3), loss__reduction=pb.REDUCTION_NONE),
          ("upstream_gradient.shape", "[3]", "[4]")),
    Fault("8 no logits", dict(logits=None), ("logits", "missing")),
    Fault("8 no targets", dict(targets=None), ("targets", "missing")),
    Fault("8 nothing at all", b"", ("logits", "missing")),
]

TARGETS = [
    Fault(f"9 target {target} of {np.dtype(dtype)}", dict(targets=to_tensor(np.array([0, 1, target, 2], dtype))),
          ("targets[2]", str(target), "[0, 3)"))
    for target, dtype in [(-1, np.int64), (-1, np.int8), (3, np.int64), (3, np.uint8), (INT64_MIN, np.int64),
                          (INT64_MAX, np.int64), (2**32 + 1, np.int64), (-2**32, np.int64), (2**32 - 1, np.uint32),
                          (2**31 - 1, np.int32), (-128, np.int8), (65535, np.uint16)]
]


def option_faults():
    bad_values = {
        "cross_entropy__label_smoothing": ((-0.5, 1.5, NAN, INF), ("label_smoothing", "[0, 1]")),
        "cross_entropy__temperature": ((0, -1, 1e-31, NAN, INF), ("temperature", "at least 1e-30")),
        "cross_entropy__z_loss": ((-1, NAN, INF), ("z_loss", ">= 0")),
        "cross_entropy__softcap": ((-1, NAN, INF), ("softcap", ">= 0")),
        "cross_entropy__focal_gamma": ((-1, NAN, INF), ("focal_gamma", ">= 0")),
        "cross_entropy__poly_epsilon": ((NAN, INF), ("poly_epsilon", "finite")),
        "cross_entropy__class_axis": ((2, -3, 2**31 - 1, -2**31), ("class_axis", "[-2, 2)")),
        "normalizer": ((0, -1, NAN, INF), ("normalizer", "> 0")),
    }
    return [Fault(f"10 {name} {value}", {f"loss__{name}": value}, (*words, str(value)))
            for name, (values, words) in bad_values.items() for value in values]


OPTIONS = option_faults() + [
    Fault("10 normalizer of a sum", dict(loss__normalizer=2, loss__reduction=pb.REDUCTION_SUM), ("normalizer", "2")),
    Fault("10 normalizer of none", dict(loss__normalizer=2, loss__reduction=pb.REDUCTION_NONE), ("normalizer", "2")),
    Fault("10 batch mean", dict(loss__reduction=pb.REDUCTION_BATCH_MEAN), ("REDUCTION_BATCH_MEAN", "cross_entropy")),
    Fault("10 ignore_index of probabilities", dict(targets=zeros(4, 3), loss__cross_entropy__ignore_index=7),
          ("ignore_index", "7", "sample weight 0")),
    Fault("10 targets gradient of indices", dict(outputs=[pb.OUTPUT_TARGETS_GRADIENT]), ("OUTPUT_TARGETS_GRADIENT",)),
    Fault("12 no classes", dict(logits=zeros(4, 0)), ("logits.shape", "[4, 0]", "at least 1")),
    Fault("12 neither rows nor classes", dict(logits=zeros(0, 0), targets=zeros(0, dtype=np.int64)),
          ("logits.shape", "[0, 0]", "at least 1")),
]

TYPED = [
    Fault("14 ints as floats", dict(targets=typed("ints", [0, 1, 2, 0], pb.DATA_TYPE_FLOAT32)), ("targets", "float32")),
    Fault("14 floats as ints", dict(logits=typed("floats", [1.5] * 12, pb.DATA_TYPE_INT32)), ("logits", "int32")),
    Fault("14 doubles as booleans", dict(logits=typed("doubles", [1] * 12, pb.DATA_TYPE_BOOL)), ("logits", "bool")),
    Fault("14 float32 overflow", dict(logits=typed("doubles", [1e300] * 12, pb.DATA_TYPE_FLOAT32)),
          ("logits", "element 0", "1e+300", "float32")),
    Fault("14 float16 overflow", dict(logits=typed("floats", [1] * 11 + [65536], pb.DATA_TYPE_FLOAT16)),
          ("logits", "element 11", "65536", "float16")),
] + [
    Fault(f"14 {value} as {name}", dict(targets=typed("ints", [0, 1, value, 2], pb.DataType.Value(
        f"DATA_TYPE_{name.upper()}"))), ("targets", "element 2", str(value), name))
    for name, value in [("int8", 128), ("int8", -129), ("uint8", -1), ("uint8", 256), ("int16", 2**15),
                        ("uint16", 2**16), ("int32", 2**31), ("uint32", -1), ("uint32", 2**32), ("bool", 2)]
]

JOBS = [
    Fault(f"15 job {job[:12]!r}", dict(job=job), ("job", *words)) for job, *words in [
        ("x" * 10240, "10240", "128"), ("x" * 129, "129", "128"), ("a\nlossd_job_loss 1", "[1]", "10"),
        ('a"} 1', "[1]", "34"), ("a\\", "[1]", "92"), ("a b", "[1]", "32"), ("a\0", "[1]", "0"), ("é", "[0]", "195"),
        ("{job}", "[0]", "123")]
] + [
    Fault("15 job that is not UTF-8", altered(job="ab").SerializeToString().replace(b"ab", b"\xff\xfe"),
          ("job", "UTF-8")),
    Fault("15 job cut in a character", altered(job="abc").SerializeToString().replace(b"abc", b"ab\xc3"),
          ("job", "UTF-8")),
]

UNKNOWN = [
    Fault("16 unknown loss", with_option(40), ("loss", "40"), UNIMPLEMENTED),
    Fault("16 unknown option", well_formed().SerializeToString() + field(3, field(1, varint(41 << 3) + b"\x01")),
          ("loss.cross_entropy", "41"), UNIMPLEMENTED),
    Fault("16 unknown output", dict(outputs=[pb.OUTPUT_LOGITS_GRADIENT, 99]), ("outputs", "99"), UNIMPLEMENTED),
    Fault("16 unknown reduction", dict(loss__reduction=9), ("loss.reduction", "9"), UNIMPLEMENTED),
    Fault("16 unknown unit", dict(loss__unit=9), ("loss.unit", "9"), UNIMPLEMENTED),
    Fault("16 unknown reduction -1", dict(loss__reduction=-1), ("loss.reduction", "-1"), UNIMPLEMENTED),
    Fault("16 unknown output -1", dict(outputs=[-1]), ("outputs", "-1"), UNIMPLEMENTED),
    Fault("16 unspecified output", dict(outputs=[pb.OUTPUT_UNSPECIFIED]), ("outputs[0]", "OUTPUT_UNSPECIFIED")),
]

# Rows of one class: 5 bytes a row in, 20 out, and at most 896 for all else: 128, and 192 for each of four tensors.
ROWS = 8000
TOO_LARGE = [
    Fault("17 answer larger than a message may be",
          dict(logits=zeros(ROWS, 1), targets=zeros(ROWS, dtype=np.uint8), loss__reduction=pb.REDUCTION_NONE,
               outputs=[pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_ELEMENT_LOSS, pb.OUTPUT_PREDICTED_CLASS]),
          ("outputs", str(20 * ROWS + 896), str(MAX_MESSAGE_BYTES)), EXHAUSTED),
    Fault("30 one byte over", bytes(MAX_MESSAGE_BYTES + 1), (str(MAX_MESSAGE_BYTES + 1), str(MAX_MESSAGE_BYTES)),
          EXHAUSTED),
]

FAULTS = SIZES + CONTENTS + TARGETS + OPTIONS + TYPED + JOBS + UNKNOWN + TOO_LARGE

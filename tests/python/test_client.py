"""What a stranger needs: stubs made from the contract, or nothing but reflection; and the standard health service."""

import grpc
import health_pb2
import health_pb2_grpc
import numpy as np
import pytest
import reflection_pb2
import reflection_pb2_grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from lossd.v1 import loss_pb2 as pb
from tensors import FLOATS, make_request, to_array

SERVICE = "lossd.v1.LossService"
LN_3 = np.log(3)


def assert_ln_3(response):
    """Of the batch that every test here sends: two rows of three equal logits."""
    np.testing.assert_allclose(to_array(response.loss), LN_3, rtol=1e-6)
    gradient = to_array(response.logits_gradient)
    np.testing.assert_allclose(gradient, [[-1 / 3, 1 / 6, 1 / 6], [1 / 6, 1 / 6, -1 / 3]], atol=1e-6)


# ---- stubs -----------------------------------------------------------------------------------------------------------


def test_evaluate(lossd):
    response = lossd.evaluate(make_request(np.zeros((2, 3), np.float32), np.array([0, 2])))
    assert_ln_3(response)
    assert response.loss.data_type == pb.DATA_TYPE_FLOAT32 and not response.loss.shape
    assert response.summary.element_count == 2 and response.summary.weight_sum == 2
    assert response.timing.compute_seconds > 0


TYPED_LOGITS = {
    "floats": pb.Tensor(shape=[2, 3], floats=pb.Tensor.Floats(values=[7] * 6)),
    "doubles": pb.Tensor(shape=[2, 3], doubles=pb.Tensor.Doubles(values=[7] * 6)),
    "doubles as float32": pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2, 3],
                                    doubles=pb.Tensor.Doubles(values=[7] * 6)),
    "floats as float64": pb.Tensor(data_type=pb.DATA_TYPE_FLOAT64, shape=[2, 3],
                                   floats=pb.Tensor.Floats(values=[7] * 6)),
}
WANTED_TYPE = {"floats": pb.DATA_TYPE_FLOAT32, "doubles": pb.DATA_TYPE_FLOAT64,
               "doubles as float32": pb.DATA_TYPE_FLOAT32, "floats as float64": pb.DATA_TYPE_FLOAT64}


@pytest.mark.parametrize("name", TYPED_LOGITS)
@pytest.mark.parametrize("target_type", ["UNSPECIFIED", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"])
def test_typed_contents(lossd, name, target_type):
    response = lossd.evaluate(pb.EvaluateRequest(
        outputs=[pb.OUTPUT_LOGITS_GRADIENT], logits=TYPED_LOGITS[name],
        targets=pb.Tensor(data_type=f"DATA_TYPE_{target_type}", shape=[2], ints=pb.Tensor.Ints(values=[0, 2]))))
    assert_ln_3(response)
    assert response.loss.data_type == response.logits_gradient.data_type == WANTED_TYPE[name]


def test_typed_probabilities_weights_and_upstream_gradient(lossd):
    def typed(shape, *values):
        return pb.Tensor(shape=shape, floats=pb.Tensor.Floats(values=values))

    response = lossd.evaluate(pb.EvaluateRequest(
        outputs=[pb.OUTPUT_LOGITS_GRADIENT], loss=pb.LossSpec(reduction=pb.REDUCTION_NONE),
        logits=typed([2, 3], *[0] * 6), targets=typed([2, 3], 1, 0, 0, 0, 0, 1), class_weights=typed([3], 1, 1, 1),
        sample_weights=typed([2], 1, 1), upstream_gradient=typed([2], 0.5, 0.5)))
    np.testing.assert_allclose(to_array(response.loss), [LN_3, LN_3], rtol=1e-6)
    np.testing.assert_allclose(to_array(response.logits_gradient)[0], [-1 / 3, 1 / 6, 1 / 6], atol=1e-6)


def test_json(lossd):
    request = json_format.Parse("""{
        "job": "typed/by:hand", "step": "3", "outputs": ["OUTPUT_LOGITS_GRADIENT"],
        "loss": {"crossEntropy": {"labelSmoothing": 0, "ignoreIndex": "-1"}, "reduction": "REDUCTION_MEAN"},
        "logits": {"shape": ["2", "3"], "floats": {"values": [1, 1, 1, 2, 2, 2]}},
        "targets": {"shape": ["2"], "ints": {"values": ["0", "2"]}}
    }""", pb.EvaluateRequest())
    response = lossd.evaluate(request)
    assert_ln_3(response)
    assert json_format.Parse(json_format.MessageToJson(response), pb.EvaluateResponse()) == response
    assert lossd.metric('lossd_job_step{job="typed/by:hand"}') == 3


def test_server_info(lossd):
    info = lossd.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=60)
    assert info.version and info.simd_target and info.compute_threads >= 1
    assert 1024 <= info.max_message_bytes <= info.memory_budget_bytes
    assert sorted(info.losses) == sorted(f.name for f in pb.LossSpec.DESCRIPTOR.oneofs_by_name["loss"].fields)
    assert sorted(info.data_types) == sorted(pb.DataType.Value(f"DATA_TYPE_{name.upper()}") for name in FLOATS)
    assert sorted(info.outputs) == sorted(set(pb.Output.values()) - {pb.OUTPUT_UNSPECIFIED})
    build = f'lossd_build_info{{simd="{info.simd_target}",version="{info.version}"}}'
    assert lossd.metric(build) == 1


def test_every_output_of_the_server_info_is_answered(lossd):
    fields = {pb.Output.Value("OUTPUT_" + f.name.upper()): f.name for f in pb.EvaluateResponse.DESCRIPTOR.fields
              if "OUTPUT_" + f.name.upper() in pb.Output.keys()}
    info = lossd.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=60)
    for output in info.outputs:
        of_probabilities = output == pb.OUTPUT_TARGETS_GRADIENT
        targets = np.full((2, 3), 1 / 3) if of_probabilities else np.array([0, 2])
        response = lossd.evaluate(make_request(np.zeros((2, 3), np.float32), targets, outputs=[output]))
        assert [name for name in fields.values() if response.HasField(name)] == [fields[output]]


def test_stream(lossd):
    """Answers in order, each that of a unary call, with its own sequence; a bad batch has its error."""
    request = make_request(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 0]))
    messages = [pb.EvaluateStreamRequest(sequence=7, request=request), pb.EvaluateStreamRequest(sequence=-1),
                pb.EvaluateStreamRequest(sequence=7, request=request)]
    answers = list(lossd.stub.EvaluateStream(iter(messages), timeout=60))
    assert [answer.sequence for answer in answers] == [7, -1, 7]
    want = lossd.evaluate(request)
    for answer in (answers[0], answers[2]):
        assert answer.response.loss == want.loss and answer.response.logits_gradient == want.logits_gradient
    assert answers[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "logits: missing" in answers[1].error.message


# ---- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health(lossd, service):
    stub = health_pb2_grpc.HealthStub(lossd.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service(lossd):
    stub = health_pb2_grpc.HealthStub(lossd.channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="lossd.v1.NoSuchService"), timeout=60)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_who_is_not_admitted_may_not_send_much(lossd):
    """Nobody counts what these hold, and watchers stay for as long as they like."""
    name = "x" * 100_000
    health = health_pb2_grpc.HealthStub(lossd.channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(lossd.channel)
    asked = health_pb2.HealthCheckRequest(service=name)
    for ask in (lambda: health.Check(asked, timeout=60),
                lambda: next(health.Watch(asked, timeout=60)),
                lambda: next(reflection.ServerReflectionInfo(
                    iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)]), timeout=60))):
        with pytest.raises(grpc.RpcError) as refused:
            ask()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 65536 are read" in refused.value.details()


# ---- reflection ------------------------------------------------------------------------------------------------------


def reflect(lossd, **question):
    stub = reflection_pb2_grpc.ServerReflectionStub(lossd.channel)
    questions = iter([reflection_pb2.ServerReflectionRequest(**question)])
    (answer,) = stub.ServerReflectionInfo(questions, timeout=60)
    return answer


@pytest.fixture
def reflected(lossd):
    """A descriptor pool that holds what the server says about itself, and nothing else."""
    pool = descriptor_pool.DescriptorPool()
    answer = reflect(lossd, file_containing_symbol=SERVICE)
    for serialized in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    return pool


def test_reflection_lists_the_services(lossd):
    services = {s.name for s in reflect(lossd, list_services="").list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= services


def test_reflection_describes_the_service(reflected):
    ours, theirs = pb.DESCRIPTOR.services_by_name["LossService"], reflected.FindServiceByName(SERVICE)
    assert [(m.name, m.input_type.full_name, m.output_type.full_name) for m in theirs.methods] == [
        (m.name, m.input_type.full_name, m.output_type.full_name) for m in ours.methods]
    for name in ("EvaluateRequest", "EvaluateResponse", "Tensor", "LossSpec", "CrossEntropy", "Summary"):
        fields = reflected.FindMessageTypeByName(f"lossd.v1.{name}").fields
        assert [(f.name, f.number, f.type, f.label) for f in fields] == [
            (f.name, f.number, f.type, f.label) for f in pb.DESCRIPTOR.message_types_by_name[name].fields]


def test_reflection_is_enough_for_a_call(lossd, reflected):
    (method,) = [m for m in reflected.FindServiceByName(SERVICE).methods if m.name == "Evaluate"]
    make = message_factory.MessageFactory(reflected).GetPrototype
    call = lossd.channel.unary_unary(f"/{SERVICE}/{method.name}",
                                     request_serializer=make(method.input_type).SerializeToString,
                                     response_deserializer=make(method.output_type).FromString)
    request = json_format.ParseDict({
        "logits": {"shape": [1, 2], "doubles": {"values": [5, 5]}}, "targets": {"shape": [1], "ints": {"values": [0]}},
    }, make(method.input_type)())
    loss = np.frombuffer(call(request, timeout=60).loss.raw, "<f8")
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-15)

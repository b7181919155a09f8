#include "server/reflection_call.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpc/reflection/v1alpha/reflection.pb.h"
#include "server/wire.h"

namespace lossd {
namespace {

using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1alpha::ServerReflectionRequest;
using grpc::reflection::v1alpha::ServerReflectionResponse;

constexpr const char* kServices[] = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
                                     "lossd.v1.LossService"};

void Refuse(grpc::StatusCode code, const std::string& message, ServerReflectionResponse& answer) {
  answer.mutable_error_response()->set_error_code(code);
  answer.mutable_error_response()->set_error_message(message);
}

// The file and all that it imports, each once.
void AddFile(const FileDescriptor& file, std::set<const FileDescriptor*>& seen, ServerReflectionResponse& answer) {
  if (!seen.insert(&file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  answer.mutable_file_descriptor_response()->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) AddFile(*file.dependency(i), seen, answer);
}

void AnswerFile(const FileDescriptor* file, const std::string& what, ServerReflectionResponse& answer) {
  if (file == nullptr) return Refuse(grpc::StatusCode::NOT_FOUND, absl::StrCat("there is no ", what), answer);
  std::set<const FileDescriptor*> seen;
  AddFile(*file, seen, answer);
}

void AnswerExtension(const DescriptorPool& pool, const std::string& type, int number,
                     ServerReflectionResponse& answer) {
  const auto* message = pool.FindMessageTypeByName(type);
  const FieldDescriptor* field = message == nullptr ? nullptr : pool.FindExtensionByNumber(message, number);
  AnswerFile(field == nullptr ? nullptr : field->file(), absl::StrCat("extension ", number, " of ", type), answer);
}

void AnswerExtensionNumbers(const DescriptorPool& pool, const std::string& type, ServerReflectionResponse& answer) {
  const auto* message = pool.FindMessageTypeByName(type);
  if (message == nullptr) return Refuse(grpc::StatusCode::NOT_FOUND, absl::StrCat("there is no type ", type), answer);
  std::vector<const FieldDescriptor*> extensions;
  pool.FindAllExtensions(message, &extensions);
  answer.mutable_all_extension_numbers_response()->set_base_type_name(type);
  for (const FieldDescriptor* extension : extensions) {
    answer.mutable_all_extension_numbers_response()->add_extension_number(extension->number());
  }
}

ServerReflectionResponse AnswerTo(const ServerReflectionRequest& request) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  ServerReflectionResponse answer;
  answer.set_valid_host(request.host());
  *answer.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kListServices:
      for (const char* name : kServices) answer.mutable_list_services_response()->add_service()->set_name(name);
      break;
    case ServerReflectionRequest::kFileByFilename:
      AnswerFile(pool.FindFileByName(request.file_by_filename()), "file " + request.file_by_filename(), answer);
      break;
    case ServerReflectionRequest::kFileContainingSymbol:
      AnswerFile(pool.FindFileContainingSymbol(request.file_containing_symbol()),
                 "symbol " + request.file_containing_symbol(), answer);
      break;
    case ServerReflectionRequest::kFileContainingExtension:
      AnswerExtension(pool, request.file_containing_extension().containing_type(),
                      request.file_containing_extension().extension_number(), answer);
      break;
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      AnswerExtensionNumbers(pool, request.all_extension_numbers_of_type(), answer);
      break;
    default:
      Refuse(grpc::StatusCode::INVALID_ARGUMENT, "the request asks for nothing", answer);
  }
  return answer;
}

}  // namespace

void ReflectionCall::OnRead(std::optional<grpc::ByteBuffer> message) {
  if (!message) return rpc_.Finish(absl::OkStatus());
  ServerReflectionRequest request;
  if (absl::Status status = ParseSmall(*message, request); !status.ok()) return rpc_.Finish(status);
  rpc_.Write(SerializeSmall(AnswerTo(request)));
}

void ReflectionCall::OnWrite(bool ok) {
  if (!ok) return rpc_.Finish(absl::CancelledError("the client left"));
  rpc_.Read();
}

}  // namespace lossd

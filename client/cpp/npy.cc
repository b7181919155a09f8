#include "client/cpp/npy.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/cpp/npy_header.h"

namespace lossd {
namespace {

constexpr absl::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kVersionEnd = 8;  // magic, major, minor; then the length of the header
constexpr size_t kAlignment = 64;  // of the data, from the start of the file
constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 32;

absl::Status Truncated() { return absl::DataLossError("ends within its header"); }

// The parts of a file: where the header is, and where the data begins.
struct Layout {
  size_t header_begin = 0;
  size_t data_begin = 0;
};

absl::StatusOr<Layout> FindHeader(absl::string_view contents) {
  if (contents.substr(0, kMagic.size()) != kMagic) return absl::DataLossError("is not a .npy file");
  if (contents.size() < kVersionEnd) return Truncated();
  const int version = static_cast<unsigned char>(contents[6]);
  if (version < 1 || version > 3) return absl::UnimplementedError(absl::StrCat("has the .npy version ", version));
  const size_t num_length_bytes = version == 1 ? 2 : 4;
  const size_t header_begin = kVersionEnd + num_length_bytes;
  if (contents.size() < header_begin) return Truncated();
  size_t length = 0;
  for (size_t i = 0; i < num_length_bytes; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(contents[kVersionEnd + i])) << (8 * i);
  }
  if (length > contents.size() - header_begin) return Truncated();
  return Layout{header_begin, header_begin + length};
}

absl::Status CheckSize(const TensorType& type, size_t num_bytes) {
  const int64_t num_elements = NumElements(type.shape);
  const int64_t element_bytes = SizeOf(type.data_type);
  const int64_t have = static_cast<int64_t>(num_bytes);
  if (num_elements >= 0 && have % element_bytes == 0 && have / element_bytes == num_elements) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("has ", num_bytes, " bytes of data, which is not ", Name(type.data_type),
                                          " of shape ", ToString(type.shape)));
}

absl::StatusOr<Tensor> Parse(absl::string_view contents) {
  absl::StatusOr<Layout> layout = FindHeader(contents);
  if (!layout.ok()) return layout.status();
  const absl::string_view header = contents.substr(layout->header_begin, layout->data_begin - layout->header_begin);
  absl::StatusOr<TensorType> type = ParseNpyHeader(header);
  if (!type.ok()) return type.status();
  const absl::string_view data = contents.substr(layout->data_begin);
  absl::Status status = CheckSize(*type, data.size());
  if (!status.ok()) return status;
  return Tensor(*type, data);
}

absl::Status FileError(const std::string& path, int error) { return absl::ErrnoToStatus(error, path); }

}  // namespace

absl::StatusOr<Tensor> ParseNpy(absl::string_view contents, const std::string& name) {
  absl::StatusOr<Tensor> tensor = Parse(contents);
  if (tensor.ok()) return tensor;
  return absl::Status(tensor.status().code(), absl::StrCat(name, " ", tensor.status().message()));
}

absl::StatusOr<Tensor> ReadNpy(const std::string& path) {
  std::error_code error;
  const uintmax_t num_bytes = std::filesystem::file_size(path, error);
  if (error) return FileError(path, error.value());
  std::ifstream file(path, std::ios::binary);
  if (!file) return FileError(path, errno);
  if (num_bytes > kMaxFileBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " has ", num_bytes, " bytes, over the limit of ", kMaxFileBytes));
  }
  std::string contents(static_cast<size_t>(num_bytes), '\0');
  file.read(contents.data(), static_cast<std::streamsize>(contents.size()));
  contents.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return ParseNpy(contents, path);
}

absl::Status WriteNpy(const std::string& path, const TensorView& tensor) {
  std::string header = NpyHeader(tensor.type);
  const size_t unpadded = kVersionEnd + 2 + header.size() + 1;
  header.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  header += '\n';
  const int64_t num_bytes = NumElements(tensor.type.shape) * SizeOf(tensor.type.data_type);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(kMagic.data(), static_cast<std::streamsize>(kMagic.size()));
  const char version_and_length[] = {1, 0, static_cast<char>(header.size() & 0xff),
                                     static_cast<char>(header.size() >> 8)};
  file.write(version_and_length, sizeof(version_and_length));
  file << header;
  file.write(static_cast<const char*>(tensor.data), static_cast<std::streamsize>(num_bytes));
  file.close();
  return file ? absl::OkStatus() : FileError(path, errno);
}

}  // namespace lossd

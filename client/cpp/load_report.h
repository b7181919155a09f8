// What `lossctl bench` prints.
#ifndef LOSSD_CLIENT_CPP_LOAD_REPORT_H_
#define LOSSD_CLIENT_CPP_LOAD_REPORT_H_

#include <cstdint>
#include <string>

#include "client/cpp/load_generator.h"

namespace lossd {

// The request of a load: what its numbers are multiplied by.
struct LoadSize {
  int64_t request_bytes = 0;
  int64_t rows = 0;  // loss values of a call; 0 where they are not known
};

// One line for a terminal while it runs.
std::string ProgressText(const LoadSize& size, const LoadResult& result);

// The result, aligned, for people. Rates are of answers; a gigabyte is 10^9 bytes.
std::string LoadText(const LoadOptions& options, const LoadSize& size, const LoadResult& result);

// The same as one JSON object.
std::string LoadJson(const LoadOptions& options, const LoadSize& size, const LoadResult& result);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOAD_REPORT_H_

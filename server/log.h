// What lossd says on standard error: one line an event, as text or as JSON.
#ifndef LOSSD_SERVER_LOG_H_
#define LOSSD_SERVER_LOG_H_

#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "server/config.h"

namespace lossd {

// Call once, before anything is logged. REQUIRES: level is one of Config::log_level's.
void StartLog(LogFormat format, const std::string& level);

// Thread-safe. Control characters in `message` are escaped: an event is always one line.
void LogDebug(absl::FunctionRef<std::string()> message);  // called only where it is told
void LogInfo(std::string_view message);
void LogWarning(std::string_view message);
void LogError(std::string_view message);

// `text` as the inside of a JSON string: quotes, backslashes, control characters and invalid UTF-8 escaped.
std::string EscapeJson(std::string_view text);

}  // namespace lossd

#endif  // LOSSD_SERVER_LOG_H_

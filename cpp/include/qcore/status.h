// Result of a call into the core: a code, and a message that names the argument, what was expected
// and what came. Nothing in the core throws across its public functions.
#pragma once

#include <string>
#include <utility>

#include "qcore/export.h"

namespace QCORE_API qcore {

enum class StatusCode { ok, invalid_argument, unsupported, out_of_memory, device_error };

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status invalid(std::string message) {
    return {StatusCode::invalid_argument, std::move(message)};
  }
  static Status unsupported(std::string message) {
    return {StatusCode::unsupported, std::move(message)};
  }

  bool ok() const { return code_ == StatusCode::ok; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::ok;
  std::string message_;
};

}  // namespace QCORE_API qcore

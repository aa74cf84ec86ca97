// How a call ended.
#pragma once

#include "lockstep/core/errors.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

namespace lockstep {

/// How a call ended. What matters to a caller that may try again is whether the call can have taken effect:
///
///   code             outcome_unknown   meaning
///   none             -                 the result is there
///   remote_failure   false             the handler failed, with remote_code and text
///   unknown_method   false             not begun: the peer does not serve it
///   overloaded       false             not begun: too many calls here, or too many handlers busy there
///   closed           false             not begun: this side is closing, or the peer said goodbye, or nothing was sent
///   closed           true              the connection ended (or the peer cancelled the handler) before an answer came
///   timed_out        false             nothing was sent: the connection was blocked all the time
///   timed_out        true              sent, and no answer came in time; the handler was asked to stop
///   frame_too_large  false             nothing was sent
class rpc_status {
 public:
  rpc_status() {}
  explicit rpc_status(std::error_code with, bool unknown = false) : code_(with), outcome_unknown_(unknown) {}
  rpc_status(std::error_code with, std::uint32_t remote_code, std::string text)
      : code_(with), remote_code_(remote_code), text_(std::move(text)) {}

  [[nodiscard]] bool ok() const noexcept { return !code_; }
  [[nodiscard]] const std::error_code& code() const noexcept { return code_; }
  /// False means that the call certainly has not taken effect, unless code() is remote_failure.
  [[nodiscard]] bool outcome_unknown() const noexcept { return outcome_unknown_; }
  /// The handler's own number, when code() is remote_failure.
  [[nodiscard]] std::uint32_t remote_code() const noexcept { return remote_code_; }
  /// The handler's own words, when code() is remote_failure.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  /// For people. Says "outcome unknown" exactly when outcome_unknown().
  [[nodiscard]] std::string message() const {
    if (ok()) return "ok";
    std::string words = text_.empty() ? code_.message() : text_;
    if (outcome_unknown_) words += ", outcome unknown";
    return words;
  }

  /// @throws system_error unless ok().
  void throw_if_failed() const {
    if (!ok()) throw std::system_error(code_, message());
  }

 private:
  std::error_code code_;
  std::uint32_t remote_code_ = 0;
  bool outcome_unknown_ = false;
  std::string text_;
};

/// Thrown by a handler: its caller gets errc::remote_failure with this code and text.
class rpc_error : public std::runtime_error {
 public:
  rpc_error(std::uint32_t code, const std::string& text) : std::runtime_error(text), code_(code) {}
  [[nodiscard]] std::uint32_t code() const noexcept { return code_; }

 private:
  std::uint32_t code_;
};

}  // namespace lockstep

// The exit codes that all example programs share, and the exception that carries one to main().
//
// A script can act on the number alone: 3 may be retried at once, 4 must not be retried blindly (the write may have
// happened), 1 is an answer and not a failure.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace lockstep::examples {

enum class exit_code : int {
  ok = 0,
  negative = 1,
  usage = 2,
  unreachable = 3,
  outcome_unknown = 4,
  address_in_use = 5,
  data_dir_locked = 6,
  corruption = 7,
  failure = 70,
  interrupted = 130,
};

struct exit_code_info {
  exit_code code;
  std::string_view meaning;
};

inline constexpr std::array<exit_code_info, 10> exit_code_table{{
    {exit_code::ok, "success"},
    {exit_code::negative, "the answer is no: key not found, directories differ, unhealthy"},
    {exit_code::usage, "wrong arguments"},
    {exit_code::unreachable, "cannot connect, or there is no leader"},
    {exit_code::outcome_unknown, "timed out: the request may or may not have been carried out"},
    {exit_code::address_in_use, "an address to listen on is in use"},
    {exit_code::data_dir_locked, "the data directory is locked by another process"},
    {exit_code::corruption, "stored data is corrupt; the damaged files are left as they are"},
    {exit_code::failure, "any other failure, named on standard error"},
    {exit_code::interrupted, "stopped at once by a second SIGINT or SIGTERM"},
}};

/// The table as the last section of a `--help`.
std::string exit_code_help();

/// Ends the program with `code` when thrown below run_main(); `what()` is printed unless it is empty.
class exit_error : public std::runtime_error {
 public:
  exit_error(exit_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] exit_code code() const noexcept { return code_; }

 private:
  exit_code code_;
};

/// What a CLI11 exit code (0, or 100 to 127) means here: ok or usage.
constexpr exit_code from_cli11(int cli11_code) noexcept { return cli11_code == 0 ? exit_code::ok : exit_code::usage; }

/// The code for an error of the system, of Asio or of the library that nothing closer to it has explained.
/// A bare time-out counts as outcome_unknown, which promises less than unreachable.
exit_code from_error(const std::error_code& error) noexcept;

/// `error`'s message as it reads after a colon: "address already in use".
std::string describe(const std::error_code& error);

/// "cannot listen on 127.0.0.1:7878: address already in use", with from_error()'s code. Throw it.
exit_error cannot_listen(std::string_view address, const std::error_code& error);

/// "cannot connect to 127.0.0.1:7878: connection refused". Always unreachable, whatever the reason.
exit_error cannot_connect(std::string_view address, const std::error_code& error);

/// "data directory /tmp/leader is locked by pid 812"; `holder` 0 when it is not known.
exit_error data_dir_locked(std::string_view directory, long holder);

/// A usage error found after the command line was parsed.
exit_error usage_error(const std::string& message);

}  // namespace lockstep::examples

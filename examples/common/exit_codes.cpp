#include "common/exit_codes.hpp"

#include <fmt/format.h>
#include <asio/error.hpp>
#include <lockstep/core/errors.hpp>

namespace lockstep::examples {
namespace {

// Asio 1.22's own system category does not compare equal to the std::errc of the same number.
std::error_code comparable(const std::error_code& error) noexcept {
  return error.category() == asio::error::get_system_category() ? std::error_code(error.value(), std::system_category())
                                                                : error;
}

bool means_unreachable(const std::error_code& error) noexcept {
  using std::errc;
  return error == errc::connection_refused || error == errc::host_unreachable || error == errc::network_unreachable ||
         error == errc::network_down || error == errc::address_not_available ||
         error.category() == asio::error::get_netdb_category() ||
         error.category() == asio::error::get_addrinfo_category() || error == lockstep::errc::not_lockstep ||
         error == lockstep::errc::wrong_version || error == lockstep::errc::wrong_cluster ||
         error == lockstep::errc::wrong_node;
}

bool means_outcome_unknown(const std::error_code& error) noexcept {
  return error == std::errc::timed_out || error == lockstep::errc::timed_out || error == lockstep::errc::idle_timeout;
}

}  // namespace

std::string exit_code_help() {
  std::string text = "Exit codes:\n";
  for (const auto& [code, meaning] : exit_code_table) {
    text += fmt::format("  {:<4}{}\n", static_cast<int>(code), meaning);
  }
  return text;
}

exit_code from_error(const std::error_code& original) noexcept {
  const std::error_code error = comparable(original);
  if (!error) return exit_code::ok;
  if (error == std::errc::address_in_use) return exit_code::address_in_use;
  if (error == lockstep::errc::log_locked) return exit_code::data_dir_locked;
  if (error == lockstep::errc::corrupt) return exit_code::corruption;
  if (means_unreachable(error)) return exit_code::unreachable;
  if (means_outcome_unknown(error)) return exit_code::outcome_unknown;
  return exit_code::failure;
}

std::string describe(const std::error_code& error) {
  std::string text = error.message();
  // "Address already in use" continues a sentence here; "DNS …" or "I/O error" keep their capitals.
  const bool capitalised = text.size() > 1 && text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a' && text[1] <= 'z';
  if (capitalised) text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

exit_error cannot_listen(std::string_view address, const std::error_code& error) {
  // An address that this machine does not have is a wrong argument, not an unreachable peer.
  const exit_code code = comparable(error) == std::errc::address_not_available ? exit_code::usage : from_error(error);
  return {code, fmt::format("cannot listen on {}: {}", address, describe(error))};
}

exit_error cannot_connect(std::string_view address, const std::error_code& error) {
  return {exit_code::unreachable, fmt::format("cannot connect to {}: {}", address, describe(error))};
}

exit_error data_dir_locked(std::string_view directory, long holder) {
  const std::string by = holder > 0 ? fmt::format("pid {}", holder) : "another process";
  return {exit_code::data_dir_locked, fmt::format("data directory {} is locked by {}", directory, by)};
}

exit_error usage_error(const std::string& message) { return {exit_code::usage, message}; }

}  // namespace lockstep::examples

// What the commands of lockstep-log share: finding a log, and showing positions, records and verdicts.
#pragma once

#include <string>
#include <string_view>

#include <asio/io_context.hpp>
#include <lockstep/env/real.hpp>
#include <lockstep/log/verify.hpp>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "common/output.hpp"

namespace lockstep::examples {

/// The environment of a program that only reads files.
struct file_reader {
  asio::io_context io;
  real::env env{io.get_executor()};
};

/// @throws exit_error{usage} when `path` is no directory or holds nothing that a log leaves, with a hint to a directory
///         below it that does.
void require_log_directory(const std::string& path);

/// "epoch 3, index 17, chain 9f86d081884c7d65"
std::string text_of(const position& at);
/// {"epoch": 3, "index": 17, "chain": "9f86d081884c7d65"}; the chain as text, because JSON's numbers are too short.
nlohmann::ordered_json json_of(const position& at);

/// "data", "epoch", or the number.
std::string text_of(record_kind kind);

/// "index epoch kind length chain payload", without a newline. `preview_bytes` 0: all of it.
std::string text_of(const record& shown, payload_style style, std::uint64_t preview_bytes);
/// The payload is a string, {"hex": …} when it is not UTF-8 or the style is hex, absent when the style is none.
nlohmann::ordered_json json_of(const record& shown, payload_style style);

/// Which rule made a log corrupt, as in log/recovery.hpp: "C1".
std::string_view name_of(corruption rule);
std::string_view words_of(corruption rule);

/// Add the verdict on a log and its reasons; `report` is not empty of other rows.
void add_verdict(report& to, const verified_log& log);

/// "D is corrupt: record 7: checksum mismatch", with its exit code. Throw it.
exit_error corrupt_log(const std::string& directory, const recovery_report& found);

}  // namespace lockstep::examples

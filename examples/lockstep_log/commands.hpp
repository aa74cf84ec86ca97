// The commands of lockstep-log, each with what its command line says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <lockstep/core/ids.hpp>

#include "common/exit_codes.hpp"
#include "common/output.hpp"

namespace lockstep::examples {

struct verify_arguments {
  std::string directory;
  bool quick = false;
  index_t known_durable = 0;
  std::size_t threads = 1;
  output_format output = output_format::text;
};

/// 0 for a clean log or one with a torn tail, corruption otherwise.
exit_code run_verify(const verify_arguments& arguments);

enum class payload_style { none, text, hex };

struct dump_arguments {
  std::string directory;
  std::optional<index_t> from;
  std::optional<index_t> to;
  std::optional<std::uint64_t> limit;
  payload_style payload = payload_style::text;
  std::uint64_t preview_bytes = 64;  ///< 0: all
  output_format output = output_format::text;
};

/// Negative when a range was asked for and no record lies in it.
exit_code run_dump(const dump_arguments& arguments);

struct diff_arguments {
  std::string first;
  std::string second;
  bool verify = false;
  output_format output = output_format::text;
};

/// 0 when the logs end with the same position, negative when not, corruption when one is corrupt.
exit_code run_diff(const diff_arguments& arguments);

struct segments_arguments {
  std::string directory;
  output_format output = output_format::text;
};

exit_code run_segments(const segments_arguments& arguments);

// All parse functions throw std::invalid_argument with a message that quotes `text`.

/// A record's number, from 1 on.
index_t parse_index(std::string_view text);
std::uint64_t parse_count(std::string_view text);
/// 1 to 256.
std::size_t parse_threads(std::string_view text);
payload_style parse_payload_style(std::string_view text);

/// Files are mapped, and what can't be read of them arrives as SIGBUS: make it end the program with a message instead
/// of a core dump.
void explain_unreadable_mappings();

}  // namespace lockstep::examples

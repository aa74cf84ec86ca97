// Results on standard output: text or JSON, binary made visible, write errors noticed.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace lockstep::examples {

enum class output_format { text, json };

/// @throws std::invalid_argument naming `text` when it is neither "text" nor "json".
output_format parse_output_format(std::string_view text);

/// Append to standard output's buffer.
/// @throws exit_error{ok} without a message when the reader has gone away (EPIPE): `| head -1` is no failure;
///         std::system_error for any other failure, as a full disk.
void write_out(std::string_view text);

/// Hand what was written to the reader. run_main() does it at the end; a command that goes on printing (watch) does it
/// after each result. @throws as write_out().
void flush_out();

/// `bytes` as one line that is safe on a terminal: printable UTF-8 stays as it is, a backslash becomes `\\`, and every
/// other byte (control and format characters, invalid UTF-8) becomes `\xNN`.
std::string escape(std::string_view bytes);

/// The bytes that escape() shows as `text`. @throws std::invalid_argument on any other use of a backslash.
std::string unescape(std::string_view text);

/// `bytes` exactly when `raw`, else escaped. Programs decide by a --raw flag alone, never by whether a terminal
/// listens: what a script sees is what was tried by hand.
inline std::string shown(std::string_view bytes, bool raw) { return raw ? std::string(bytes) : escape(bytes); }

/// `bytes` for JSON: a string when it is valid UTF-8, else {"hex": "00ff…"}.
nlohmann::ordered_json json_bytes(std::string_view bytes);

/// A short list of named values, shown as an aligned `Label: value` table or as one JSON object.
class report {
 public:
  using json = nlohmann::ordered_json;

  /// The JSON key is the label in snake_case ("Last Synced Segment" becomes last_synced_segment). The table shows
  /// `value`: a string without quotes and escaped, null as "-", anything else as JSON writes it.
  report& add(std::string label, json value);

  /// The table shows `text` instead (a size with its unit, a position, a time).
  report& add(std::string label, json value, std::string text);

  [[nodiscard]] std::string text() const;  ///< lines, each with its newline
  [[nodiscard]] json object() const;

  /// write_out() of the chosen format; JSON is indented.
  void print(output_format format) const;

 private:
  struct row {
    std::string label;
    json value;
    std::string text;
  };
  std::vector<row> rows_;
};

}  // namespace lockstep::examples

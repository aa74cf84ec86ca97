#include "show.hpp"

#include <algorithm>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

namespace lockstep::examples {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

bool belongs_to_a_log(const std::string& name) {
  return log_files::parse_segment_name(name) != 0 || name == log_files::watermark || name == log_files::reset_intent ||
         name == log_files::lock;
}

bool holds_a_log(const fs::path& directory) {
  std::error_code ec;
  for (fs::directory_iterator it(directory, ec), end; !ec && it != end; it.increment(ec)) {
    if (belongs_to_a_log(it->path().filename().string())) return true;
  }
  return false;
}

std::string hex(bytes_view bytes) {
  std::string text;
  for (const std::byte each : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(each));
  return text;
}

/// The longest beginning of at most `most` bytes that does not end inside a UTF-8 sequence; 0: all.
bytes_view beginning(bytes_view bytes, std::uint64_t most) {
  if (most == 0 || bytes.size() <= most) return bytes;
  const auto continues = [&](std::size_t i) { return (static_cast<unsigned>(bytes[i]) & 0xc0U) == 0x80; };
  std::size_t size = most;
  while (size > 0 && most - size < 3 && continues(size)) --size;
  return bytes.first(continues(size) ? most : size);
}

std::uint64_t parse_number(std::string_view text, std::uint64_t least, std::uint64_t most, std::string_view expected) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
    throw std::invalid_argument(fmt::format("'{}': expected {}", text, expected));
  }
  return value;
}

}  // namespace

void require_log_directory(const std::string& path) {
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (!fs::exists(status)) throw usage_error(fmt::format("there is no directory {}", path));
  if (!fs::is_directory(status)) throw usage_error(fmt::format("{} is not a directory", path));
  for (const fs::directory_entry& each : fs::directory_iterator(path)) {
    if (belongs_to_a_log(each.path().filename().string())) return;
  }
  std::string message = fmt::format("{} is not a log directory: it holds no segment", path);
  for (const fs::directory_entry& each : fs::directory_iterator(path)) {
    if (each.is_directory(ec) && holds_a_log(each.path())) message += fmt::format("; {} does", each.path().string());
  }
  throw usage_error(message);
}

std::string text_of(const position& at) {
  return fmt::format("epoch {}, index {}, chain {:016x}", at.epoch, at.index, at.chain);
}

json json_of(const position& at) {
  return {{"epoch", at.epoch}, {"index", at.index}, {"chain", fmt::format("{:016x}", at.chain)}};
}

std::string text_of(record_kind kind) {
  switch (kind) {
    case data_record: return "data";
    case epoch_record: return "epoch";
    default: return std::to_string(kind);
  }
}

std::string text_of(const record& shown, payload_style style, std::uint64_t preview_bytes) {
  std::string line = fmt::format("{:>8} {:>4} {:<5} {:>7} {:016x}", shown.index, shown.epoch, text_of(shown.kind),
                                 shown.payload.size(), shown.chain);
  if (style == payload_style::none) return line;
  const bytes_view preview = beginning(shown.payload, preview_bytes);
  line += ' ';
  line += style == payload_style::hex ? hex(preview) : escape(as_text(preview));
  if (preview.size() < shown.payload.size()) line += "...";
  return line;
}

json json_of(const record& shown, payload_style style) {
  json object{{"index", shown.index},
              {"epoch", shown.epoch},
              {"kind", shown.kind},
              {"length", shown.payload.size()},
              {"chain", fmt::format("{:016x}", shown.chain)}};
  if (style == payload_style::text) object["payload"] = json_bytes(as_text(shown.payload));
  if (style == payload_style::hex) object["payload"] = {{"hex", hex(shown.payload)}};
  return object;
}

std::string_view name_of(corruption rule) {
  switch (rule) {
    case corruption::none: return "none";
    case corruption::sealed_segment: return "C1";
    case corruption::watermark: return "C2";
    case corruption::known_durable: return "C3";
    case corruption::in_flight_limit: return "C4";
    case corruption::structure: return "structure";
  }
  return "";
}

std::string_view words_of(corruption rule) {
  switch (rule) {
    case corruption::none: return "";
    case corruption::sealed_segment: return "the record lies in a sealed segment, which was synced whole";
    case corruption::watermark: return "the watermark says that the record was synced here";
    case corruption::known_durable: return "the record is known durable from elsewhere";
    case corruption::in_flight_limit: return "more bytes stand behind the record than can have been in flight";
    case corruption::structure: return "segment files are missing, renamed or have a bad header";
  }
  return "";
}

void add_verdict(report& to, const verified_log& log) {
  const recovery_report& found = log.report;
  if (log.directory.reset_intent) {
    to.add("Verdict", "clean", "clean");
    to.add("Reset To", json_of(*log.directory.reset_intent),
           fmt::format("{}: a reset is under way or was cut short, and opening the log finishes it",
                       text_of(*log.directory.reset_intent)));
    return;
  }
  switch (found.verdict) {
    case log_verdict::clean:
      to.add("Verdict", "clean", log.being_written ? "clean, and being written" : "clean");
      return;
    case log_verdict::torn_tail:
      to.add("Verdict", "torn_tail",
             fmt::format("torn tail: opening the log cuts off from index {}", *found.truncated_from));
      to.add("Truncated From", *found.truncated_from);
      break;
    case log_verdict::corrupt:
      to.add("Verdict", "corrupt",
             found.first_bad == found.last_bad
                 ? fmt::format("CORRUPT: record {}", found.first_bad)
                 : fmt::format("CORRUPT: records {} to {}", found.first_bad, found.last_bad));
      to.add("Rule", name_of(found.rule), fmt::format("{}: {}", name_of(found.rule), words_of(found.rule)));
      to.add("First Bad", found.first_bad);
      to.add("Last Bad", found.last_bad);
      break;
  }
  to.add("File", found.file);
  to.add("Offset", found.offset);
  to.add("Reason", found.reason);
}

exit_error corrupt_log(const std::string& directory, const recovery_report& found) {
  return {exit_code::corruption, fmt::format("{} is corrupt: {}", directory, found.reason)};
}

index_t parse_index(std::string_view text) { return parse_number(text, 1, ~index_t{0} - 1, "an index, from 1 on"); }

std::uint64_t parse_count(std::string_view text) {
  return parse_number(text, 1, ~std::uint64_t{0}, "a number from 1 on");
}

std::size_t parse_threads(std::string_view text) { return parse_number(text, 1, 256, "a number from 1 to 256"); }

payload_style parse_payload_style(std::string_view text) {
  if (text == "none") return payload_style::none;
  if (text == "text") return payload_style::text;
  if (text == "hex") return payload_style::hex;
  throw std::invalid_argument(fmt::format("'{}': expected none, text or hex", text));
}

void explain_unreadable_mappings() {
  struct sigaction action {};
  action.sa_handler = [](int) {
    constexpr std::string_view message =
        "lockstep-log: error: cannot read a file of the log: the disk failed, or the file was cut short meanwhile\n";
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
    ::_exit(static_cast<int>(exit_code::failure));
  };
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace lockstep::examples

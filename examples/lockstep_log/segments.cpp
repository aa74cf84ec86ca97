#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "commands.hpp"
#include "show.hpp"

namespace lockstep::examples {
namespace {

using json = nlohmann::ordered_json;

std::string utc(std::uint64_t ns_since_1970) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(ns_since_1970 / 1'000'000'000)));
}

/// What a segment's header and its successor's say. The last segment's end is known only by reading it.
struct segment_facts {
  std::optional<index_t> last;
  std::optional<std::uint64_t> bytes;
  bool sealed = false;
  bool recycled = false;
};

segment_facts facts_of(const log_directory& found, std::size_t i, std::size_t first_unsealed) {
  segment_facts facts;
  facts.sealed = i < first_unsealed;
  facts.recycled = found.segments[i].header->has(log_format::recycled);
  if (const auto& scan = found.segments[i].scan) {
    facts.last = scan->last.index;
    facts.bytes = scan->good_bytes;
  } else if (i + 1 < found.segments.size() && found.segments[i + 1].header) {
    facts.last = found.segments[i + 1].header->base.index;
    facts.bytes = found.segments[i + 1].header->predecessor_bytes;
  }
  return facts;
}

template <class T>
std::string text_or_dash(const std::optional<T>& value) {
  return value ? std::to_string(*value) : "-";
}

template <class T>
json json_or_null(const std::optional<T>& value) {
  return value ? json(*value) : json(nullptr);
}

}  // namespace

exit_code run_segments(const segments_arguments& arguments) {
  require_log_directory(arguments.directory);
  file_reader files;
  verify_options options;
  options.depth = verify_depth::tail;
  const verified_log log = verify_log(files.env, arguments.directory, options);
  const log_directory& found = log.directory;
  const std::size_t first_unsealed = found.segments.size() - count_unsealed(found.segments, found.watermark);
  const bool as_json = arguments.output == output_format::json;
  if (!as_json) {
    write_out(fmt::format("{:<24} {:>10} {:>10} {:>12} {:>12} {:<20} {:<16} {}\n", "FILE", "FIRST", "LAST", "BYTES",
                          "ON DISK", "CREATED", "BASE CHAIN", "STATE"));
  }
  for (std::size_t i = 0; i < found.segments.size(); ++i) {
    const segment_image& segment = found.segments[i];
    if (!segment.header) {
      write_out(as_json ? json{{"file", segment.file}, {"state", "unreadable"}}.dump() + "\n"
                        : fmt::format("{:<24} unreadable header\n", segment.file));
      continue;
    }
    const segment_facts facts = facts_of(found, i, first_unsealed);
    const std::string_view state = facts.sealed ? "sealed" : "open";
    const std::string created = utc(segment.header->created_ns);
    if (as_json) {
      const json line{{"file", segment.file},
                      {"first", segment.header->first_index()},
                      {"last", json_or_null(facts.last)},
                      {"bytes", json_or_null(facts.bytes)},
                      {"on_disk", segment.file_bytes},
                      {"created", created},
                      {"base", json_of(segment.header->base)},
                      {"state", state},
                      {"recycled", facts.recycled}};
      write_out(line.dump() + "\n");
    } else {
      write_out(fmt::format("{:<24} {:>10} {:>10} {:>12} {:>12} {:<20} {:016x} {}{}\n", segment.file,
                            segment.header->first_index(), text_or_dash(facts.last), text_or_dash(facts.bytes),
                            segment.file_bytes, created, segment.header->base.chain, state,
                            facts.recycled ? ", recycled file" : ""));
    }
  }
  if (!as_json) {
    for (const std::string& name : found.recycled) write_out(fmt::format("{:<24} kept for reuse\n", name));
    for (const std::string& name : found.leftovers) write_out(fmt::format("{:<24} left over\n", name));
  }
  if (log.report.verdict == log_verdict::corrupt) throw corrupt_log(arguments.directory, log.report);
  return exit_code::ok;
}

}  // namespace lockstep::examples

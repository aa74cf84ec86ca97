// trace: what happened in a simulated run, for a person's eyes: as text, as JSON lines, and as a picture.
//
//   std::ofstream file("run.svg");
//   sim::write_svg_trace(file, result.timeline, result.nodes);
//
// All of them take the timeline of a world whose keep_timeline was set.
#pragma once

#include "lockstep/sim/detail/trace_words.hpp"
#include "lockstep/sim/world.hpp"

#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::sim {

struct text_trace_options {
  text_trace_options() {}

  std::size_t most_lines = 60;  ///< the last ones
};

/// A line each: virtual time, node, what happened; in columns, in the order of time.
void write_text_trace(std::ostream& to, std::span<const timeline_entry> timeline, const text_trace_options& = {});

/// An object a line: {"at_ns":1500,"node":"a","kind":"message","text":"44 bytes","to":"b","until_ns":2700}; a message
/// alone has `to` and `until_ns`, when it was delivered. What is not UTF-8 in a text becomes U+FFFD.
void write_json_trace(std::ostream& to, std::span<const timeline_entry> timeline);

struct svg_trace_options {
  svg_trace_options() {}

  std::string title;
  std::size_t most_messages = 400;  ///< the last ones, and what happened since the first of them
  std::size_t most_notes = 200;     ///< the last ones
};

/// A sequence diagram: a column a node, virtual time downwards, compressed where nothing happens; messages are arrows
/// from when they were sent to when they were delivered.
void write_svg_trace(std::ostream& to, std::span<const timeline_entry> timeline, std::span<const std::string> nodes,
                     const svg_trace_options& options = {});

// ----------------------------------------------------------------------------------------------------------------------

inline void write_text_trace(std::ostream& to, std::span<const timeline_entry> timeline,
                             const text_trace_options& options) {
  std::vector<const timeline_entry*> sorted = detail::in_order_of_time(timeline);
  const timeline_entry* before = nullptr;
  std::erase_if(sorted,
                [&](const timeline_entry* each) { return detail::says_the_same(*each, std::exchange(before, each)); });
  if (sorted.size() > options.most_lines) {
    const std::size_t left_out = sorted.size() - options.most_lines;
    to << "(" << left_out << " earlier lines are left out)\n";
    sorted.erase(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(left_out));
  }
  std::size_t times = 0, names = 0;
  for (const timeline_entry* const each : sorted) {
    times = std::max(times, detail::trace_time(each->at).size());
    names = std::max(names, each->node.size());
  }
  for (const timeline_entry* const each : sorted) {
    const std::string time = detail::trace_time(each->at);
    to << std::string(times - time.size(), ' ') << time << "  " << each->node
       << std::string(names - each->node.size() + 2, ' ') << detail::trace_sentence(*each) << "\n";
  }
}

inline void write_json_trace(std::ostream& to, std::span<const timeline_entry> timeline) {
  using detail::json_escaped;
  for (const timeline_entry* const each : detail::in_order_of_time(timeline)) {
    to << "{\"at_ns\":" << each->at.count() << ",\"node\":\"" << json_escaped(each->node) << "\",\"kind\":\""
       << json_escaped(each->kind) << "\",\"text\":\"" << json_escaped(each->text) << "\"";
    if (each->kind == "message") {
      to << ",\"to\":\"" << json_escaped(each->to) << "\",\"until_ns\":" << each->until.count();
    }
    to << "}\n";
  }
}

}  // namespace lockstep::sim

#include "lockstep/sim/detail/svg_trace.hpp"

// The timeline as a picture. See sim/trace.hpp.
#pragma once

#include "lockstep/sim/trace.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

namespace lockstep::sim {
namespace detail {

/// Where the time of a run lies on paper: by its length where much happens, shortened where nothing does.
class paper_time {
 public:
  static constexpr double row = 15;        // of a line of text
  static constexpr double longest = 28;    // of a stretch without an event
  static constexpr double shortest = 2.5;  // between two instants
  static constexpr double head_height = 20, heads_every = 1200;

  /// `messages_take`: what a usual one takes; its arrow becomes about a row high.
  paper_time(double top, duration messages_take)
      : top_(top), pixels_a_ns_(row / static_cast<double>(std::max<std::int64_t>(messages_take.count(), 1000))) {}

  /// Something happens at `at`, `rows` lines of text are written to it.
  void add(duration at, std::size_t rows = 0) { instants_[at].rows += rows; }

  struct shortened {
    double y;  // its middle
    duration length;
    duration end;
  };

  /// When all is added. @return the stretches that were shortened.
  std::vector<shortened> lay_out() {
    std::vector<shortened> cuts;
    heads_.push_back(top_ - row - head_height);
    double y = top_;
    const instant* last = nullptr;
    duration last_at{0};
    for (auto& [at, here] : instants_) {
      if (last) {
        y += static_cast<double>(last->rows) * row;
        const double natural = static_cast<double>((at - last_at).count()) * pixels_a_ns_;
        const double drawn = std::clamp(natural, shortest, longest);
        if (natural > 2 * longest) cuts.push_back({y + drawn / 2, at - last_at, at});
        y += drawn;
        if (y - heads_.back() > heads_every) {
          heads_.push_back(y);
          y += head_height + row;
        }
      }
      here.y = y;
      last = &here;
      last_at = at;
    }
    bottom_ = y + (last ? static_cast<double>(last->rows) : 0) * row + row;
    return cuts;
  }

  [[nodiscard]] double y(duration at) const {
    const auto found = instants_.lower_bound(at);
    return found == instants_.end() ? bottom_ : found->second.y;
  }
  [[nodiscard]] double bottom() const noexcept { return bottom_; }
  /// Where there is room for the nodes' names: at the top, and again now and then.
  [[nodiscard]] const std::vector<double>& heads() const noexcept { return heads_; }
  /// Whether text begins at this instant.
  [[nodiscard]] bool has_text(duration at) const {
    const auto found = instants_.find(at);
    return found != instants_.end() && found->second.rows != 0;
  }

 private:
  struct instant {
    std::size_t rows = 0;
    double y = 0;
  };
  double top_;
  double pixels_a_ns_;
  double bottom_ = 0;
  std::vector<double> heads_;
  std::map<duration, instant> instants_;
};

/// Draws one timeline.
class svg_trace {
 public:
  svg_trace(std::ostream& to, std::span<const timeline_entry> timeline, std::span<const std::string> nodes,
            const svg_trace_options& options)
      : to_(to),
        options_(options),
        nodes_(nodes),
        all_(in_order_of_time(timeline)),
        time_(top_of(options), usual_flight()) {
    choose();
    for (const timeline_entry* const each : messages_) {
      time_.add(each->at);
      time_.add(each->until);
    }
    for (const timeline_entry* const each : notes_) time_.add(each->at, 1);
    cuts_ = time_.lay_out();
  }

  void write() {
    const double width = width_of_all();
    const double height = time_.bottom() + 30;
    to_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" << number(width) << "\" height=\"" << number(height)
        << "\" viewBox=\"0 0 " << number(width) << " " << number(height)
        << "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\">\n"
           "<defs><pattern id=\"hatched\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">"
           "<rect width=\"6\" height=\"6\" fill=\"#fff\"/><path d=\"M0,6 L6,0\" stroke=\"#667\" stroke-width=\"1.2\"/>"
           "</pattern></defs>\n"
           "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
    write_head();
    for (const auto& cut : cuts_) write_cut(cut, width);
    for (std::size_t i = 0; i < nodes_.size(); ++i) write_life(i);
    for (const timeline_entry* const each : messages_) write_arrow(*each);
    for (const double y : time_.heads()) write_names(y);
    write_notes();
    to_ << "</svg>\n";
  }

 private:
  static constexpr double left = 110, column = 210;
  static constexpr const char* small_grey = "fill=\"#333\" font-size=\"10\"";

  static double top_of(const svg_trace_options& options) { return options.title.empty() ? 66 : 86; }

  [[nodiscard]] duration usual_flight() const {
    std::vector<duration> flights;
    for (const timeline_entry* const each : all_) {
      if (each->kind == "message") flights.push_back(each->until - each->at);
    }
    if (flights.empty()) return std::chrono::milliseconds(10);
    const auto middle = flights.begin() + static_cast<std::ptrdiff_t>(flights.size() / 2);
    std::nth_element(flights.begin(), middle, flights.end());
    return *middle;
  }

  void choose() {
    const timeline_entry* before = nullptr;
    for (const timeline_entry* const each : all_) {
      if (each->kind == "message") {
        messages_.push_back(each);
      } else {
        if (!says_the_same(*each, before)) notes_.push_back(each);
        before = each;
      }
    }
    left_out_messages_ = drop_first(messages_, options_.most_messages);
    left_out_notes_ = drop_first(notes_, options_.most_notes);
    if (left_out_messages_ != 0) {
      const auto kept = std::find_if(notes_.begin(), notes_.end(),
                                     [&](const timeline_entry* each) { return each->at >= messages_.front()->at; });
      left_out_notes_ += static_cast<std::size_t>(kept - notes_.begin());
      notes_.erase(notes_.begin(), kept);
    }
    if (left_out_notes_ != 0 && !notes_.empty()) {
      const duration from = left_out_messages_ != 0 ? messages_.front()->at : notes_.front()->at;
      const auto kept = std::find_if(messages_.begin(), messages_.end(),
                                     [&](const timeline_entry* each) { return each->at >= from; });
      left_out_messages_ += static_cast<std::size_t>(kept - messages_.begin());
      messages_.erase(messages_.begin(), kept);
    }
  }

  static std::size_t drop_first(std::vector<const timeline_entry*>& from, std::size_t most) {
    const std::size_t dropped = from.size() - std::min(from.size(), most);
    from.erase(from.begin(), from.begin() + static_cast<std::ptrdiff_t>(dropped));
    return dropped;
  }

  void write_head() {
    double y = 20;
    if (!options_.title.empty()) {
      text(12, y, options_.title, "font-size=\"14\" font-weight=\"bold\"");
      y += 18;
    }
    if (left_out_messages_ != 0 || left_out_notes_ != 0) {
      text(12, y,
           "Left out before this: " + std::to_string(left_out_messages_) + " messages and " +
               std::to_string(left_out_notes_) + " other events.",
           "fill=\"#a00\"");
    }
  }

  void write_names(double y) {
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      to_ << "<rect x=\"" << number(x(i) - 55) << "\" y=\"" << number(y) << "\" width=\"110\" height=\""
          << number(paper_time::head_height) << "\" rx=\"4\" "
          << "fill=\"#e8eef7\" stroke=\"#46a\"/>\n";
      text(x(i), y + 14, nodes_[i], "text-anchor=\"middle\" font-weight=\"bold\"");
    }
  }

  void write_cut(const paper_time::shortened& cut, double width) {
    to_ << "<line x1=\"" << number(left - 20) << "\" x2=\"" << number(width - 20) << "\" y1=\"" << number(cut.y)
        << "\" y2=\"" << number(cut.y) << "\" stroke=\"#bbb\" stroke-dasharray=\"2 5\"/>\n";
    text(12, cut.y + 4, "… " + short_time(cut.length) + " …", "fill=\"#999\" font-style=\"italic\"");
    const double end = time_.y(cut.end) + 4;
    if (!time_.has_text(cut.end) && end - cut.y > 12) text(12, end, trace_time(cut.end), small_grey);
  }

  // A node's line: drawn while its program runs, hatched while it is paused, with a stripe while a fault lasts.
  void write_life(std::size_t node) {
    std::optional<double> up, paused;
    std::map<std::string, double> faults;  // that last, by their numbers
    const double end = time_.bottom();
    for (const timeline_entry* const each : all_) {
      if (each->node != nodes_[node]) continue;
      const double at = time_.y(each->at);
      if (each->kind == "fault") {
        write_fault(node, *each, at, faults);
      } else if (each->kind == "node") {
        if (each->text.starts_with("starts")) {
          if (!up) up = at;
          if (drawn(*each)) dot(node, at, "#2a7");
        } else if (each->text == "is paused") {
          paused = at;
        } else if (each->text == "goes on") {
          if (paused) write_pause(node, *std::exchange(paused, std::nullopt), at);
        } else if (each->text == "crashes" || each->text == "loses power" || each->text == "its program ends") {
          if (up) write_line(node, *std::exchange(up, std::nullopt), at);
          if (drawn(*each)) each->text == "its program ends" ? dot(node, at, "#555") : cross(node, at);
        }
      }
    }
    if (up) write_line(node, *up, end);
    if (paused) write_pause(node, *paused, end);
  }

  // A stripe from a fault's begin to its end.
  void write_fault(std::size_t node, const timeline_entry& fault, double at, std::map<std::string, double>& lasting) {
    const std::size_t bracket = fault.text.rfind(" (");
    if (bracket == std::string::npos) return;
    const std::string number_of = fault.text.substr(bracket);
    if (!fault.text.starts_with("mended")) {
      lasting[number_of] = at;
      return;
    }
    const auto began = lasting.find(number_of);
    if (began == lasting.end() || !drawn(fault)) return;
    const double by = 5 + 4 * static_cast<double>(lasting.size() % 4);
    to_ << "<rect x=\"" << number(x(node) - by - 3) << "\" y=\"" << number(began->second) << "\" width=\"3\" height=\""
        << number(std::max(at - began->second, 2.0)) << "\" fill=\"#e80\" fill-opacity=\"0.7\"/>\n";
    lasting.erase(began);
  }

  void write_line(std::size_t node, double from, double to) {
    to_ << "<line x1=\"" << number(x(node)) << "\" x2=\"" << number(x(node)) << "\" y1=\"" << number(from) << "\" y2=\""
        << number(to) << "\" stroke=\"#46a\" stroke-width=\"2\"/>\n";
  }
  void write_pause(std::size_t node, double from, double to) {
    to_ << "<rect x=\"" << number(x(node) - 5) << "\" y=\"" << number(from) << "\" width=\"10\" height=\""
        << number(std::max(to - from, 3.0)) << "\" fill=\"url(#hatched)\" stroke=\"#667\"/>\n";
  }
  void dot(std::size_t node, double y, const char* colour) {
    to_ << "<circle cx=\"" << number(x(node)) << "\" cy=\"" << number(y) << "\" r=\"3.5\" fill=\"" << colour
        << "\"/>\n";
  }
  void cross(std::size_t node, double y) {
    to_ << "<path class=\"crash\" d=\"M" << number(x(node) - 6) << "," << number(y - 6) << " l12,12 m0,-12 l-12,12\" "
        << "stroke=\"#c00\" stroke-width=\"2.5\" fill=\"none\"/>\n";
  }

  void write_arrow(const timeline_entry& message) {
    const std::optional<std::size_t> from = node(message.node), to = node(message.to);
    if (!from || !to) return;
    const double y1 = time_.y(message.at), y2 = time_.y(message.until);
    if (from == to) {
      to_ << "<path d=\"M" << number(x(*from)) << "," << number(y1) << " h14 V" << number(y2)
          << " h-12\" fill=\"none\" "
          << "stroke=\"#888\"/>\n";
      return;
    }
    const double x1 = x(*from), x2 = x(*to);
    const double length = std::hypot(x2 - x1, y2 - y1);
    const double along_x = (x2 - x1) / length, along_y = (y2 - y1) / length;
    const double tip_x = x2 - along_x * 2, tip_y = y2 - along_y * 2;
    const auto wing = [&](double side) {
      return number(tip_x - 8 * along_x + side * 3 * along_y) + "," + number(tip_y - 8 * along_y - side * 3 * along_x);
    };
    to_ << "<path d=\"M" << number(x1) << "," << number(y1) << " L" << number(tip_x) << "," << number(tip_y)
        << "\" stroke=\"#555\" fill=\"none\"/><path d=\"M" << number(tip_x) << "," << number(tip_y) << " L" << wing(1)
        << " L" << wing(-1) << " Z\" fill=\"#555\"/>\n";
    // Beside the line of who sends it, if nothing else stands there.
    const bool rightwards = x2 > x1;
    const double label_x = x1 + (rightwards ? 1 : -1) * column * 0.55, label_y = y1 + along_y * column * 0.55 - 2;
    if (!take_place(label_x, label_y)) return;
    ground(label_x - 24, label_y - 8, 48, 10, "#fff");
    text(label_x, label_y, message.text, "text-anchor=\"middle\" font-size=\"9\" fill=\"#777\"");
  }

  // Whether a message's text finds room.
  bool take_place(double label_x, double label_y) {
    std::vector<double>& taken = labels_[static_cast<long>(label_x / (column / 2))];
    const bool free = std::none_of(taken.begin(), taken.end(), [&](double y) { return std::abs(y - label_y) < 11; });
    if (free) taken.push_back(label_y);
    return free;
  }

  void write_notes() {
    std::map<duration, std::size_t> rows;
    double last_time = -100;
    for (const timeline_entry* const each : notes_) {
      const double y = time_.y(each->at) + static_cast<double>(rows[each->at]++) * paper_time::row + 4;
      if (y - last_time >= 12 && rows[each->at] == 1) {
        text(12, y, trace_time(each->at), small_grey);
        last_time = y;
      }
      boxed(text_begin(*each), y, trace_sentence(*each), *each);
    }
  }

  void boxed(double at_x, double y, const std::string& sentence, const timeline_entry& note) {
    const bool failed = note.kind == "failure", fault = note.kind == "fault";
    const bool mended = fault && note.text.starts_with("mended");
    const bool partition = fault && (note.text.starts_with("cut off") || note.text.starts_with("does not reach") ||
                                     note.text.starts_with("split"));
    const char* const fill = failed ? "#fdd" : mended ? "#e4f6e4" : partition ? "#ffe2b0" : fault ? "#fff2cc" : "#fff";
    const char* const colour = failed ? "#900" : fault ? "#630" : "#333";
    ground(at_x - 2, y - 10, width_of(note), 13, fill);
    text(at_x, y, sentence, std::string("fill=\"") + colour + "\"" + (failed ? " font-weight=\"bold\"" : ""));
  }

  // What text stands on, so that it can be read across lines.
  void ground(double at_x, double y, double width, double height, const char* fill) {
    to_ << "<rect x=\"" << number(at_x) << "\" y=\"" << number(y) << "\" width=\"" << number(width) << "\" height=\""
        << number(height) << "\" rx=\"2\" fill=\"" << fill << "\" fill-opacity=\"0.85\"/>\n";
  }

  [[nodiscard]] double width_of_all() const {
    double width = left + column * static_cast<double>(std::max<std::size_t>(nodes_.size(), 1)) + 60;
    for (const timeline_entry* const each : notes_) width = std::max(width, text_begin(*each) + width_of(*each) + 20);
    return std::min(width, 4000.0);
  }
  [[nodiscard]] static double width_of(const timeline_entry& note) {
    return static_cast<double>(trace_sentence(note).size()) * (note.kind == "failure" ? 6.8 : 5.8) + 6;
  }
  [[nodiscard]] double text_begin(const timeline_entry& note) const {
    const std::optional<std::size_t> of = node(note.node);
    return of ? x(*of) + 10 : left;
  }

  [[nodiscard]] bool drawn(const timeline_entry& event) const {
    const bool messages_begin = left_out_messages_ == 0 || (!messages_.empty() && event.at >= messages_.front()->at);
    const bool notes_begin = left_out_notes_ == 0 || (!notes_.empty() && event.at >= notes_.front()->at);
    return messages_begin && notes_begin;
  }

  [[nodiscard]] std::optional<std::size_t> node(std::string_view name) const {
    const auto found = std::find(nodes_.begin(), nodes_.end(), name);
    if (found == nodes_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - nodes_.begin());
  }
  [[nodiscard]] static double x(std::size_t node) { return left + column * (static_cast<double>(node) + 0.3); }

  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", value);
    return text;
  }
  static std::string short_time(duration length) {
    char text[32];
    const double ms = std::chrono::duration<double, std::milli>(length).count();
    std::snprintf(text, sizeof text, ms < 1000 ? "%.0f ms" : "%.2f s", ms < 1000 ? ms : ms / 1000);
    return text;
  }
  void text(double at_x, double y, const std::string& what, const std::string& attributes) {
    to_ << "<text x=\"" << number(at_x) << "\" y=\"" << number(y) << "\" " << attributes << ">" << xml_escaped(what)
        << "</text>\n";
  }

  std::ostream& to_;
  const svg_trace_options& options_;
  const std::span<const std::string> nodes_;
  const std::vector<const timeline_entry*> all_;
  std::vector<const timeline_entry*> messages_;
  std::vector<const timeline_entry*> notes_;
  std::size_t left_out_messages_ = 0;
  std::size_t left_out_notes_ = 0;
  paper_time time_;
  std::vector<paper_time::shortened> cuts_;
  std::map<long, std::vector<double>> labels_;  // heights of the texts of messages, by half columns
};

}  // namespace detail

inline void write_svg_trace(std::ostream& to, std::span<const timeline_entry> timeline,
                            std::span<const std::string> nodes, const svg_trace_options& options) {
  detail::svg_trace(to, timeline, nodes, options).write();
}

}  // namespace lockstep::sim

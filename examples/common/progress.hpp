// A progress bar for work that takes a while: a long catch-up, a restore.
//
//   catching up  42% [########............] 1.2 GiB / 3.0 GiB  120.0 MiB/s  ETA 0:15
//
// On a terminal it stays on the last line of standard error, is redrawn at most ten times a second, lets log lines pass
// above it and erases itself at the end. Elsewhere nothing is drawn; the same facts go to a log callback now and then.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/terminal.hpp"

namespace lockstep::examples {

enum class progress_unit { bytes, records };

/// One moment of the work, as shown.
struct progress_view {
  std::uint64_t done = 0;
  std::uint64_t total = 0;                   ///< 0: not known yet; no percentage and no bar then
  double per_second = 0;                     ///< 0: not known yet
  std::optional<std::chrono::seconds> left;  ///< nothing: not known yet
};

/// At most `width` columns; the bar gives way first. `label` is ASCII.
std::string format_progress_bar(std::string_view label, progress_unit unit, const progress_view& view,
                                std::size_t width);

/// "catching up: 42%, 1.2 GiB of 3.0 GiB, 120.0 MiB/s, 0:15 left"
std::string format_progress_log(std::string_view label, progress_unit unit, const progress_view& view);

/// Speed as an average that forgets what is older than some five seconds, and the time left at that speed.
class progress_meter {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  /// `done` of `total` were there already at `start` (a resumed restore) and do not count as speed.
  progress_meter(std::uint64_t done, std::uint64_t total, time_point start);

  /// `total` may grow while a leader goes on writing. `now` never goes back.
  void update(std::uint64_t done, std::uint64_t total, time_point now);
  [[nodiscard]] progress_view view() const;

 private:
  std::uint64_t done_;
  std::uint64_t total_;
  double per_second_ = 0;
  std::uint64_t sampled_done_;
  time_point sampled_at_;
};

struct progress_options {
  std::string label;
  progress_unit unit = progress_unit::records;
  std::uint64_t done = 0;                            ///< already there at the start
  std::uint64_t total = 0;                           ///< 0: not known yet
  std::function<void(const std::string& line)> log;  ///< called off a terminal only; may be empty
  std::chrono::steady_clock::duration log_every = std::chrono::seconds(10);
};

/// Draws from construction until finish() or destruction. Not thread-safe itself; log lines of any thread may pass.
class progress {
 public:
  using clock = std::chrono::steady_clock;

  explicit progress(progress_options options, status_line& out = status_line::standard_error(),
                    clock::time_point now = clock::now());
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  ~progress() { finish(); }

  /// Cheap enough to call for every record.
  void update(std::uint64_t done, clock::time_point now = clock::now()) { update(done, total_, now); }
  void update(std::uint64_t done, std::uint64_t total, clock::time_point now = clock::now());

  /// Erase the bar; later updates do nothing.
  void finish();

 private:
  void draw();

  progress_options options_;
  status_line& out_;
  progress_meter meter_;
  std::uint64_t total_;
  clock::time_point shown_at_;
  bool finished_ = false;
};

}  // namespace lockstep::examples

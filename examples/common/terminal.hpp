// Standard error as one shared place: whole lines scroll, and at most one status line (a progress bar) stays below
// them.
//
// The log sink and the progress bar both write through status_line, so that neither tears the other. Thread-safe.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace lockstep::examples {

/// Whether `fd` is a terminal that can move its cursor (TERM is neither unset nor "dumb").
bool is_terminal(int fd);

/// Whether colour may be written to `fd`: a terminal, and NO_COLOR (no-color.org) unset or empty.
bool wants_colour(int fd);

class status_line {
 public:
  /// Writes to `fd`, which must stay open; a status is kept only when `interactive`.
  status_line(int fd, bool interactive) : fd_(fd), interactive_(interactive) {}
  status_line(const status_line&) = delete;
  status_line& operator=(const status_line&) = delete;

  /// The one for standard error.
  static status_line& standard_error();

  [[nodiscard]] bool interactive() const noexcept { return interactive_; }

  /// Columns of the terminal now, 80 when unknown.
  [[nodiscard]] std::size_t width() const;

  /// Write `text` (whole lines, each with its newline) above the status. Write errors are ignored: there is no better
  /// place to report them.
  void write_lines(std::string_view text);

  /// Replace the status; `text` must fit the width and has no newline. Does nothing unless interactive.
  void show(std::string_view text);

  /// Erase the status.
  void clear();

  /// From now on a line editor has the terminal: `hide` takes its line off the screen before lines are written, and
  /// `show` puts it back. Empty ones end that. Lines are written on the editor's thread only meanwhile.
  void set_editor(std::function<void()> hide, std::function<void()> show);

 private:
  void write(std::string_view bytes) const;

  const int fd_;
  const bool interactive_;
  std::mutex mutex_;
  std::string status_;  // what stands on the terminal's last line now; guarded by mutex_
  std::function<void()> hide_editor_;
  std::function<void()> show_editor_;
};

}  // namespace lockstep::examples

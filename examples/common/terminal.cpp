#include "common/terminal.hpp"

#include <cerrno>
#include <cstdlib>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

namespace lockstep::examples {
namespace {
constexpr std::string_view erase_line = "\r\x1b[K";
}

bool is_terminal(int fd) {
  const char* const term = std::getenv("TERM");
  return term != nullptr && std::string_view(term) != "dumb" && ::isatty(fd) == 1;
}

bool wants_colour(int fd) {
  const char* const no_color = std::getenv("NO_COLOR");
  return (no_color == nullptr || *no_color == '\0') && is_terminal(fd);
}

status_line& status_line::standard_error() {
  // Never destroyed: loggers may still write during static destruction.
  static status_line& instance = *new status_line(STDERR_FILENO, is_terminal(STDERR_FILENO));
  return instance;
}

std::size_t status_line::width() const {
  winsize size{};
  if (::ioctl(fd_, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

void status_line::write_lines(std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (hide_editor_) {
    hide_editor_();
    write(text);
    return show_editor_();
  }
  if (status_.empty()) return write(text);
  write(std::string(erase_line).append(text).append(status_));
}

void status_line::show(std::string_view text) {
  if (!interactive_) return;
  const std::lock_guard lock(mutex_);
  if (text == status_) return;
  status_ = text;
  write(std::string(erase_line).append(status_));
}

void status_line::clear() {
  const std::lock_guard lock(mutex_);
  if (status_.empty()) return;
  status_.clear();
  write(erase_line);
}

void status_line::set_editor(std::function<void()> hide, std::function<void()> show) {
  const std::lock_guard lock(mutex_);
  hide_editor_ = std::move(hide);
  show_editor_ = std::move(show);
}

void status_line::write(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace lockstep::examples

#include "common/line_input.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <editline/readline.h>

#include <fmt/format.h>

#include "common/output.hpp"
#include "common/terminal.hpp"

namespace lockstep::examples {

// --- readable ---------------------------------------------------------------------------------------------------

readable::readable(const asio::any_io_executor& executor, int fd) : requests_{}, news_(executor) {
  if (::pipe2(requests_, O_CLOEXEC) != 0) throw std::system_error(errno, std::system_category(), "pipe");
  thread_ = std::thread([this, fd] { watch(fd); });
}

readable::~readable() {
  ::close(requests_[1]);
  thread_.join();
  ::close(requests_[0]);
}

void readable::watch(int fd) {
  char request = 0;
  while (::read(requests_[0], &request, 1) == 1) {
    std::array<pollfd, 2> both{{{fd, POLLIN, 0}, {requests_[0], POLLIN, 0}}};
    while (::poll(both.data(), both.size(), -1) < 0 && errno == EINTR) {
    }
    if (both[1].revents != 0) return;
    asio::post(news_.get_executor(), [this] {
      asked_ = false;
      news_.notify_all();
    });
  }
}

awaitable<void> readable::wait() {
  if (!std::exchange(asked_, true)) {
    const char request = 1;
    if (::write(requests_[1], &request, 1) != 1) throw std::system_error(errno, std::system_category(), "pipe");
  }
  if (const std::error_code ended = co_await news_.wait()) throw std::system_error(ended);
}

// --- line_input -------------------------------------------------------------------------------------------------

namespace {

line_input* editing = nullptr;

std::size_t columns() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

/// Of UTF-8, as if every character had one column.
std::size_t width_of(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xc0U) == 0x80 ? 0 : 1;
  return width;
}

}  // namespace

line_input::line_input(const asio::any_io_executor& executor, std::string prompt)
    : prompt_(std::move(prompt)),
      interactive_(is_terminal(STDIN_FILENO) && is_terminal(STDOUT_FILENO)),
      input_(executor, STDIN_FILENO) {
  if (!interactive_) return;
  editing = this;
  rl_initialize();
  using_history();
  rl_callback_handler_install(prompt_.c_str(), &line_input::take_line);
  shown_ = true;
  status_line::standard_error().set_editor([this] { hide(); }, [this] { show(); });
}

line_input::~line_input() {
  if (!interactive_) return;
  status_line::standard_error().set_editor({}, {});
  hide();
  rl_callback_handler_remove();
  std::fflush(stdout);
  editing = nullptr;
}

awaitable<std::optional<std::string>> line_input::next() {
  while (lines_.empty() && !ended_) {
    co_await input_.wait();
    if (interactive_) {
      rl_callback_read_char();
    } else {
      read_some();
    }
  }
  std::optional<std::string> line;
  if (!lines_.empty()) {
    line = std::move(lines_.front());
    lines_.pop_front();
  }
  co_return line;
}

void line_input::read_some() {
  std::array<char, 4096> bytes;
  const ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count > 0) {
    unfinished_.append(bytes.data(), static_cast<std::size_t>(count));
    for (std::size_t end; (end = unfinished_.find('\n')) != std::string::npos; unfinished_.erase(0, end + 1)) {
      lines_.push_back(unfinished_.substr(0, end));
    }
    return;
  }
  ended_ = true;
  if (!unfinished_.empty()) lines_.push_back(std::exchange(unfinished_, {}));
}

void line_input::take_line(char* line) {
  line_input& self = *editing;
  if (line == nullptr) {
    self.ended_ = true;
    return;
  }
  self.lines_.emplace_back(line);
  if (*line != '\0') add_history(line);
  std::free(line);
  rl_callback_handler_install(self.prompt_.c_str(), &line_input::take_line);
}

void line_input::print(std::string_view text) {
  if (interactive_) hide();
  write_out(text);
  flush_out();
  if (interactive_) show();
}

// From the editor's cursor up to the begin of its first row, and all below erased.
void line_input::hide() {
  if (!std::exchange(shown_, false)) return;
  const std::string_view before(rl_line_buffer ? rl_line_buffer : "", static_cast<std::size_t>(rl_point));
  const std::size_t rows = (width_of(prompt_) + width_of(before)) / columns();
  std::fputs("\r", stdout);
  if (rows != 0) std::fputs(fmt::format("\x1b[{}A", rows).c_str(), stdout);
  std::fputs("\x1b[J", stdout);
  std::fflush(stdout);
}

void line_input::show() {
  if (ended_) return;
  rl_forced_update_display();
  std::fflush(stdout);
  shown_ = true;
}

}  // namespace lockstep::examples

// Lines that somebody types, or that a pipe or a file brings, on standard input.
//
//   line_input input(env.get_executor(), "raft 1> ");
//   while (const std::optional<std::string> line = co_await input.next()) input.print(answer_to(*line) + "\n");
//
// On a terminal the line is edited (libedit: history with the arrow keys, Ctrl+A, Ctrl+R and so on), and whatever is
// printed or logged meanwhile appears above it.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include <lockstep/core/wait_list.hpp>

namespace lockstep::examples {

/// Tells when a file descriptor can be read without blocking. By a thread of its own, since it may be anything: epoll
/// does not take files, and making a terminal non-blocking would do that to everybody who shares it.
class readable {
 public:
  readable(const asio::any_io_executor& executor, int fd);
  readable(const readable&) = delete;
  ~readable();

  /// Cancellation: throws operation_aborted.
  awaitable<void> wait();

 private:
  void watch(int fd);

  int requests_[2];  // a byte asks for one wait; its end ends the thread
  bool asked_ = false;
  wait_list news_;
  std::thread thread_;
};

/// One at a time in a process. Thread safety: none; on the executor, and so whatever is logged meanwhile.
class line_input {
 public:
  /// @param prompt  shown on a terminal only.
  line_input(const asio::any_io_executor& executor, std::string prompt);
  line_input(const line_input&) = delete;
  ~line_input();

  /// Whether somebody edits lines here: standard input and output are a terminal.
  [[nodiscard]] bool interactive() const noexcept { return interactive_; }

  /// The next line, without its end; nothing at the end of the input. The last line may lack its newline.
  awaitable<std::optional<std::string>> next();

  /// Writes to standard output at once, above the line that is edited. @throws as flush_out().
  void print(std::string_view text);

 private:
  void read_some();
  void hide();
  void show();
  static void take_line(char* line);

  const std::string prompt_;
  const bool interactive_;
  readable input_;
  std::string unfinished_;
  std::deque<std::string> lines_;
  bool ended_ = false;
  bool shown_ = false;  // the editor's line is on the screen
};

}  // namespace lockstep::examples

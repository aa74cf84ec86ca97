// Real programs under test: start them, wait for what they print, signal them, collect how they ended.
//
//   temp_dir dir;
//   process leader({binary("cityhall"), "leader", "--port", "0", "--data-dir", dir / "leader"});
//   const ready_line ready = leader.wait_ready();
//   leader.err().wait_for("listening");
//   EXPECT_EQ(run({binary("cityhall"), "client", "--addr", ready.at("clients"), "put", "k", "v"}).code, 0);
//   leader.signal(SIGTERM);
//   EXPECT_EQ(leader.wait_exit(), 0);
//
// Every wait has a deadline and wakes on a condition, never by polling; when it fails it throws std::runtime_error with
// the command and all its output so far. Only processes started here are ever signalled, by their pid, which stays
// reserved (unreaped) until the process object is gone. Linux only; a process dies with the thread that started it
// (PR_SET_PDEATHSIG), so start it on the test's main thread.
#pragma once

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace lockstep::e2e {

using namespace std::chrono_literals;

/// Generous, so that a loaded machine or a sanitizer does not fail a test; a passing test never waits for it.
inline constexpr std::chrono::milliseconds default_deadline = 30s;

[[noreturn]] inline void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// A directory of its own under TMPDIR (or /tmp), removed with everything in it at the end.
class temp_dir {
 public:
  temp_dir() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-e2e-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("mkdtemp " + name);
    path_ = name;
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;
  ~temp_dir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

  /// A path inside, as an argument for a program.
  friend std::string operator/(const temp_dir& dir, std::string_view name) { return (dir.path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// A file descriptor, closed at the end.
class unique_fd {
 public:
  explicit unique_fd(int fd = -1) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~unique_fd() { reset(); }
  [[nodiscard]] int get() const noexcept { return fd_; }
  void reset() noexcept {
    if (const int fd = std::exchange(fd_, -1); fd >= 0) ::close(fd);
  }

 private:
  int fd_;
};

/// What arrives on one stream of a process, read by a thread of its own until the end of the stream. Thread-safe.
class captured_stream {
 public:
  struct line {
    std::size_t number = 0;           ///< counts from 0; wait for a later one with `from = number + 1`
    std::string text;                 ///< without its newline
    std::vector<std::string> groups;  ///< the expression's captures, [0] is the whole match
  };

  explicit captured_stream(unique_fd fd) : fd_(std::move(fd)), reader_([this] { read_all(); }) {}
  captured_stream(const captured_stream&) = delete;
  captured_stream& operator=(const captured_stream&) = delete;
  ~captured_stream() { reader_.join(); }

  /// Wait until a whole line, from number `from` on, contains a match of `pattern` (ECMAScript).
  /// @return nothing when the deadline passed or the stream ended first.
  std::optional<line> try_wait_for(const std::string& pattern, std::size_t from = 0,
                                   std::chrono::milliseconds deadline = default_deadline) const {
    const std::regex expression(pattern);
    const auto until = std::chrono::steady_clock::now() + deadline;
    std::unique_lock lock(mutex_);
    for (std::size_t next = from;; ++next) {
      if (!changed_.wait_until(lock, until, [&] { return next < lines_.size() || ended_; })) return std::nullopt;
      if (next >= lines_.size()) return std::nullopt;
      const std::string text = lines_[next];
      std::smatch match;
      if (std::regex_search(text, match, expression)) return line{next, text, {match.begin(), match.end()}};
    }
  }

  /// As try_wait_for(). @throws std::runtime_error with everything that arrived instead.
  line wait_for(const std::string& pattern, std::size_t from = 0,
                std::chrono::milliseconds deadline = default_deadline) const {
    if (auto found = try_wait_for(pattern, from, deadline)) return *std::move(found);
    throw std::runtime_error("no line matches /" + pattern + "/ from line " + std::to_string(from) + " on in:\n" +
                             text());
  }

  /// Wait until `part` has arrived, also in a line that has not ended.
  /// @throws std::runtime_error with everything that arrived instead.
  void wait_for_text(const std::string& part, std::chrono::milliseconds deadline = default_deadline) const {
    std::unique_lock lock(mutex_);
    const auto there = [&] { return text_.find(part) != std::string::npos; };
    if (changed_.wait_for(lock, deadline, [&] { return there() || ended_; }) && there()) return;
    throw std::runtime_error("no '" + part + "' in:\n" + text_);
  }

  /// How many whole lines there are: `from` for what comes next.
  [[nodiscard]] std::size_t line_count() const {
    const std::lock_guard lock(mutex_);
    return lines_.size();
  }

  /// Every byte so far.
  [[nodiscard]] std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }

  /// Wait for the end of the stream. @return false when the deadline passed first.
  bool wait_end(std::chrono::milliseconds deadline = default_deadline) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, deadline, [&] { return ended_; });
  }

 private:
  void read_all() {
    std::vector<char> chunk(64 * 1024);
    for (;;) {
      const ssize_t n = ::read(fd_.get(), chunk.data(), chunk.size());
      if (n < 0 && errno == EINTR) continue;
      const std::lock_guard lock(mutex_);
      if (n > 0) {
        add({chunk.data(), static_cast<std::size_t>(n)});
      } else {
        if (line_start_ < text_.size()) lines_.push_back(text_.substr(line_start_));
        ended_ = true;
      }
      changed_.notify_all();
      if (n <= 0) return;
    }
  }

  void add(std::string_view bytes) {
    text_ += bytes;
    for (std::size_t end; (end = text_.find('\n', line_start_)) != std::string::npos; line_start_ = end + 1) {
      lines_.push_back(text_.substr(line_start_, end - line_start_));
    }
  }

  const unique_fd fd_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::string text_;                // guarded by mutex_, as all below
  std::size_t line_start_ = 0;      // where the last, unfinished line begins in text_
  std::vector<std::string> lines_;  // a last line without newline is added when the stream ends
  bool ended_ = false;
  std::thread reader_;
};

/// `ready: clients=127.0.0.1:7878 replication=127.0.0.1:7879 pid=812`
class ready_line {
 public:
  /// @throws std::runtime_error when `line` is not of this form.
  explicit ready_line(const std::string& line) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word != "ready:") throw std::runtime_error("not a ready line: " + line);
    while (words >> word) {
      const std::size_t equals = word.find('=');
      if (equals == std::string::npos) throw std::runtime_error("no NAME=VALUE: " + word + " in " + line);
      values_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }

  /// The address under `name`, as the program's own flags accept it. @throws std::out_of_range naming it.
  [[nodiscard]] const std::string& at(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) throw std::out_of_range("the ready line has no " + name);
    return found->second;
  }

  [[nodiscard]] std::uint16_t port(const std::string& name) const {
    const std::string& address = at(name);
    return static_cast<std::uint16_t>(std::stoul(address.substr(address.rfind(':') + 1)));
  }

  [[nodiscard]] pid_t pid() const { return std::stoi(at("pid")); }

 private:
  std::map<std::string, std::string> values_;
};

struct start_options {
  start_options() = default;
  std::map<std::string, std::string> env;  ///< added to this process's environment
  std::string cwd;                         ///< empty: this process's
  bool write_stdin = false;                ///< true: write() feeds it; false: it reads /dev/null
};

/// One running program, in a process group of its own. Destroying it kills the group and waits for its end.
/// Use it on one thread; out() and err() may be used on any.
class process {
 public:
  /// @throws std::system_error when it cannot be started, naming the program.
  explicit process(std::vector<std::string> argv, const start_options& options = {}) : argv_(std::move(argv)) {
    auto [out_read, out_write] = make_pipe();
    auto [err_read, err_write] = make_pipe();
    auto [failure_read, failure_write] = make_pipe();
    unique_fd child_stdin(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (options.write_stdin) {
      // A socket, because writing to it can be told not to raise SIGPIPE here.
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw_errno("socketpair");
      stdin_ = unique_fd(ends[0]);
      child_stdin = unique_fd(ends[1]);
    }

    // After fork only async-signal-safe calls are allowed in the child: everything is prepared here.
    std::vector<char*> argv_pointers = pointers(argv_);
    std::vector<std::string> environment = merged_environment(options.env);
    std::vector<char*> environment_pointers = pointers(environment);
    const pid_t parent = ::getpid();

    pid_ = ::fork();
    if (pid_ < 0) throw_errno("fork");
    if (pid_ == 0) {
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != parent) ::_exit(127);  // it died before the line above
      reset_signals();
      const bool redirected =
          ::dup2(child_stdin.get(), 0) >= 0 && ::dup2(out_write.get(), 1) >= 0 && ::dup2(err_write.get(), 2) >= 0;
      if (redirected && (options.cwd.empty() || ::chdir(options.cwd.c_str()) == 0)) {
        ::execvpe(argv_pointers[0], argv_pointers.data(), environment_pointers.data());
      }
      const int error = errno;
      [[maybe_unused]] const ssize_t reported = ::write(failure_write.get(), &error, sizeof error);
      ::_exit(127);
    }
    ::setpgid(pid_, pid_);  // also here, so that it holds whichever side runs first
    out_write.reset();
    err_write.reset();
    failure_write.reset();

    int error = 0;
    ssize_t got;
    while ((got = ::read(failure_read.get(), &error, sizeof error)) < 0 && errno == EINTR) {
    }
    if (got > 0) {
      ::waitpid(pid_, nullptr, 0);
      throw std::system_error(error, std::generic_category(), "cannot start " + argv_[0]);
    }
    out_.emplace(std::move(out_read));
    err_.emplace(std::move(err_read));
    watcher_ = std::thread([this] { watch(); });
  }

  process(const process&) = delete;
  process& operator=(const process&) = delete;

  ~process() {
    kill_group();
    watcher_.join();
    ::waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] pid_t pid() const noexcept { return pid_; }
  [[nodiscard]] const captured_stream& out() const { return *out_; }
  [[nodiscard]] const captured_stream& err() const { return *err_; }

  /// Wait for the `ready:` line on standard output. @throws std::runtime_error with both streams when it does not come.
  ready_line wait_ready(std::chrono::milliseconds deadline = default_deadline) const {
    if (const auto found = out_->try_wait_for("^ready: ", 0, deadline)) return ready_line(found->text);
    err_->wait_end(1s);  // a program that gave up says why just before it ends
    throw std::runtime_error("no ready line from " + describe());
  }

  /// Does nothing once it has ended.
  void signal(int number) const { ::kill(pid_, number); }

  /// SIGKILL, then wait for its end.
  void kill() {
    signal(SIGKILL);
    wait_exit();
  }

  [[nodiscard]] bool running() const {
    const std::lock_guard lock(mutex_);
    return !exit_code_;
  }

  /// Wait for its end, kill what it left running in its group, and collect the rest of its output.
  /// @return the exit code, or 128 + the signal that ended it.
  /// @throws std::runtime_error with both streams when the deadline passed; it goes on running then.
  int wait_exit(std::chrono::milliseconds deadline = default_deadline) const {
    {
      std::unique_lock lock(mutex_);
      if (!exited_.wait_for(lock, deadline, [this] { return exit_code_.has_value(); })) {
        lock.unlock();
        throw std::runtime_error("still running after " + std::to_string(deadline.count()) + " ms: " + describe());
      }
    }
    kill_group();
    out_->wait_end();
    err_->wait_end();
    return *exit_code_;  // never changes again
  }

  /// Feed its standard input (start_options::write_stdin). @return false when it no longer reads.
  bool write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(stdin_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  /// End of its standard input.
  void close_stdin() { stdin_.reset(); }

  /// SIGKILL it and what it started, so that its pipes reach their end. The group is its own: it cannot belong to
  /// anybody else before it is reaped.
  void kill_group() const { ::kill(-pid_, SIGKILL); }

  /// The command and both streams, for the message of a failed test.
  [[nodiscard]] std::string describe() const {
    std::string text;
    for (const std::string& argument : argv_) text += argument + " ";
    text += "(pid " + std::to_string(pid_) + ")";
    return text + "\n--- stdout ---\n" + out_->text() + "\n--- stderr ---\n" + err_->text() + "\n---";
  }

 private:
  static std::pair<unique_fd, unique_fd> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe2");
    return {unique_fd(ends[0]), unique_fd(ends[1])};
  }

  static std::vector<char*> pointers(std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (std::string& s : strings) result.push_back(s.data());
    result.push_back(nullptr);
    return result;
  }

  static std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
    std::vector<std::string> result;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text(*entry);
      if (!added.contains(std::string(text.substr(0, text.find('='))))) result.emplace_back(text);
    }
    for (const auto& [name, value] : added) result.push_back(name + "=" + value);
    return result;
  }

  static void reset_signals() noexcept {
    std::signal(SIGPIPE, SIG_DFL);
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }

  void watch() {
    siginfo_t info{};
    while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
    const std::lock_guard lock(mutex_);
    exit_code_ = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
    exited_.notify_all();
  }

  std::vector<std::string> argv_;
  pid_t pid_ = -1;
  unique_fd stdin_;
  std::optional<captured_stream> out_;  // set by the constructor
  std::optional<captured_stream> err_;
  mutable std::mutex mutex_;
  mutable std::condition_variable exited_;
  std::optional<int> exit_code_;  // guarded by mutex_
  std::thread watcher_;
};

struct run_result {
  int code = 0;     ///< the exit code, or 128 + the signal that ended it
  std::string out;  ///< every byte
  std::string err;
};

/// Run `argv` to its end with `input` on standard input.
/// @throws std::runtime_error with its output when it takes longer than the deadline; it is killed then.
inline run_result run(std::vector<std::string> argv, std::string_view input = {},
                      std::chrono::milliseconds deadline = default_deadline, start_options options = {}) {
  options.write_stdin = !input.empty();
  process p(std::move(argv), options);
  // On a thread: a program that writes a lot before it reads must not be waited for by its writer.
  std::thread feeder([&] {
    if (!input.empty()) p.write(input);
    p.close_stdin();
  });
  run_result result;
  try {
    result.code = p.wait_exit(deadline);
  } catch (...) {
    p.kill_group();  // ends a write() that nobody reads
    feeder.join();
    throw;
  }
  feeder.join();
  result.out = p.out().text();
  result.err = p.err().text();
  return result;
}

}  // namespace lockstep::e2e

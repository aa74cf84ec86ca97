// A directory for one test's files, gone at its end.
#pragma once

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>

namespace lockstep::test {

/// Lies under TMPDIR (or /tmp). The destructor removes it with everything in it.
class temporary_directory {
 public:
  temporary_directory() : path_((std::filesystem::temp_directory_path() / "lockstep-XXXXXX").string()) {
    if (!::mkdtemp(path_.data())) throw std::system_error(errno, std::system_category(), "mkdtemp " + path_);
  }
  temporary_directory(const temporary_directory&) = delete;
  temporary_directory& operator=(const temporary_directory&) = delete;
  ~temporary_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace lockstep::test

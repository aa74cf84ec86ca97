#include "common/ready.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include "common/output.hpp"

namespace lockstep::examples {

std::string ready_line(std::initializer_list<listening> where) {
  std::string line = "ready:";
  for (const auto& [name, at] : where) {
    line += fmt::format(" {}=", name);
    for (const char c : escape(at.to_string())) line += c == ' ' ? "\\x20" : std::string(1, c);
  }
  return line + fmt::format(" pid={}", ::getpid());
}

void print_ready(std::initializer_list<listening> where) {
  write_out(ready_line(where) + "\n");
  flush_out();
}

}  // namespace lockstep::examples

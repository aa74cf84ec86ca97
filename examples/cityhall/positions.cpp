#include "cityhall/positions.hpp"

#include <fmt/format.h>

#include <charconv>
#include <sstream>
#include <stdexcept>

namespace lockstep::cityhall {

using json = nlohmann::ordered_json;

std::string shown(const position& at) {
  return fmt::format("epoch={} index={} chain={:016x}", at.epoch, at.index, at.chain);
}

json to_json(const position& at) {
  return json{{"epoch", at.epoch}, {"index", at.index}, {"chain", fmt::format("{:016x}", at.chain)}};
}

position parse_position(std::string_view text) {
  json fields = json::parse(text, nullptr, false);
  if (!fields.is_object()) {
    fields = json::object();
    std::istringstream words{std::string(text)};
    for (std::string word; words >> word;) {
      const std::size_t equals = word.find('=');
      if (equals != std::string::npos) fields[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  const auto number = [&](const char* name, int base) {
    const json found = fields.value(name, json());
    const std::string digits = found.is_string() ? found.get<std::string>() : found.dump();
    std::uint64_t value = 0;
    const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (ec != std::errc() || end != digits.data() + digits.size()) {
      throw std::invalid_argument(fmt::format(
          "'{}': expected a position as put prints it, such as 'epoch=1 index=2 chain=0123456789abcdef'", text));
    }
    return value;
  };
  position at;
  at.epoch = number("epoch", 10);
  at.index = number("index", 10);
  at.chain = number("chain", 16);
  return at;
}

}  // namespace lockstep::cityhall

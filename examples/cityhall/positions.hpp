// Positions as people and scripts see them.
#pragma once

#include <lockstep/core/ids.hpp>

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

namespace lockstep::cityhall {

/// "epoch=1 index=2 chain=0123456789abcdef"
std::string shown(const position& at);

/// {"epoch": 1, "index": 2, "chain": "0123456789abcdef"}
nlohmann::ordered_json to_json(const position& at);

/// Either of both, also with more around it, so that what `put` printed can be handed back as it is.
/// @throws std::invalid_argument naming `text`
position parse_position(std::string_view text);

}  // namespace lockstep::cityhall

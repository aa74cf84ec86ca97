// The messages of rpc, each one frame. The frame's id is the call's, chosen by its caller: the low 16 bits are the
// caller's slot, the rest tells the calls of a slot apart. Both sides call and serve, each with ids of its own; the
// kind tells which side's call is meant. Little-endian.
//
//   kind     from     payload
//   request  caller   u32 method | u32 time left in ms, 0 none | u32 credit in bytes, 0 one reply | arguments
//   reply    server   result
//   failure  server   u8 cause | u8[3], 0 | u32 code | text            ends a call or a stream
//   item     server   one item of a stream                              costs its size + 24 of the credit
//   end      server   nothing                                           ends a stream
//   cancel   caller   nothing                                           no answer is wanted any more
//   credit   caller   u32 bytes                                         more items of a stream may come
//   goodbye  both     nothing, id 0                                     the sender makes no new request, and begins
//                                                                       none when it was first to say it; it is
//                                                                       answered with a goodbye
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep {

enum class rpc_kind : std::uint8_t {
  request = 1,
  reply = 2,
  failure = 3,
  item = 4,
  end = 5,
  cancel = 6,
  credit = 7,
  goodbye = 8,
};

/// Why a call failed at its server.
enum class rpc_cause : std::uint8_t {
  handler = 1,         ///< the handler failed, with a code and a text of its own
  unknown_method = 2,  ///< not begun: nothing is registered under this number, or not as what was asked for
  overloaded = 3,      ///< not begun: as many handlers as allowed are busy
  closing = 4,         ///< not begun: the server said goodbye
  interrupted = 5,     ///< begun and cancelled by the server
};

inline constexpr std::size_t rpc_request_prefix_bytes = 12;
inline constexpr std::size_t rpc_failure_prefix_bytes = 8;
inline constexpr std::size_t rpc_item_overhead = 24;  ///< credit that an item costs beside its size
inline constexpr std::size_t rpc_slots = 1 << 16;     ///< calls that one side can have under way at most

}  // namespace lockstep

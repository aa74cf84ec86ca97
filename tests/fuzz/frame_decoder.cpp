// A stream of bytes gives the same frames and the same end in any chunks as in one piece.
//
// Input: a byte of options, a byte that seeds the sizes of the chunks, then the stream; with option bit 0 the stream is
// made of frames that are built from the input, so that checks hold, and with bit 1 one of its bytes is changed.
#include "lockstep/frame/codec.hpp"

#include "support/fuzz_input.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using namespace lockstep;
using test::fuzz_input;

constexpr std::size_t max_payload = 10'000;

struct history {
  std::string frames;  // what was delivered, in a form that tells any two histories apart
  verdict end = verdict::need_more;
  errc reason{};
  std::size_t left = 0;

  void add(const frame_view& frame) {
    frames += std::to_string(frame.kind) + ' ' + std::to_string(frame.flags) + ' ' + std::to_string(frame.id) + ' ' +
              std::to_string(frame.payload.size()) + ' ';
    frames += as_text(frame.payload);
  }
  friend bool operator==(const history&, const history&) = default;
};

std::vector<std::byte> frames_from(fuzz_input& from) {
  std::vector<std::byte> stream;
  while (!from.empty()) {
    const auto kind = static_cast<std::uint8_t>(from.number(1));
    const auto flags = static_cast<std::uint8_t>(from.number(1));
    const std::uint64_t id = from.number(2);
    const bytes_view payload = from.take(from.number(2) % 5000);
    const std::size_t at = stream.size();
    stream.resize(at + frame_header_bytes);
    encode_frame_header(stream.data() + at, {kind, flags, id}, payload.size(), xxh3_64(payload));
    stream.insert(stream.end(), payload.begin(), payload.end());
  }
  return stream;
}

history in_one_piece(bytes_view stream) {
  history result;
  for (;;) {
    const decoded_frame found = decode_frame(stream, max_payload);
    result.end = found.is;
    result.reason = found.reason;
    result.left = stream.size();
    if (found.is != verdict::ok) return result;
    result.add(found.frame);
    stream = stream.subspan(found.bytes);
  }
}

history in_chunks(bytes_view stream, unsigned seed) {
  history result;
  frame_decoder decoder(max_payload, 4096);
  for (;;) {
    frame_view frame;
    for (result.end = decoder.next(frame); result.end == verdict::ok; result.end = decoder.next(frame)) {
      result.add(frame);
    }
    if (result.end == verdict::corrupt) result.reason = decoder.reason();
    result.left = decoder.unread().size() + stream.size();
    if (result.end == verdict::corrupt || stream.empty()) return result;
    const mutable_bytes room = decoder.prepare();
    if (room.empty()) std::abort();
    seed = seed * 1103515245 + 12345;
    const std::size_t chunk = std::min({room.size(), stream.size(), std::size_t{1} + (seed >> 16) % 3000});
    std::memcpy(room.data(), stream.data(), chunk);
    decoder.commit(chunk);
    stream = stream.subspan(chunk);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_input from(data, size);
  const std::size_t options = from.number(1);
  const auto seed = static_cast<unsigned>(from.number(1));
  const std::size_t changed = options & 2 ? from.number(2) : 0;
  std::vector<std::byte> stream;
  if (options & 1) {
    stream = frames_from(from);
  } else {
    const bytes_view rest = from.take(size);
    stream.assign(rest.begin(), rest.end());
  }
  if (options & 2 && !stream.empty()) stream[changed % stream.size()] ^= std::byte{0x10};
  stream.shrink_to_fit();
  if (in_one_piece(stream) != in_chunks(stream, seed)) std::abort();
  return 0;
}

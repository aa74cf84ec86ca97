// node's way back from damage (design: C6). See raft/node.hpp.
//
// When the log or a snapshot turns out to be corrupt, the node ends, and its next life begins with an empty log in
// another folder; the damaged one stays for people. It does not vote until the group has given it back all that it may
// have acknowledged. DIR/refill says so:
//
//    0       8            16      24      32
//   +-------+------------+-------+-------+
//   | magic | generation | index | check |      u64 each, little-endian
//   +-------+------------+-------+-------+
//
//   generation  1: the folders are log.1 and snapshots.1; without this file they are log and snapshots
//   index       the last that may have been acknowledged
//   check       XXH3-64 of the 24 bytes before it
//
// What may have been acknowledged is what the damaged log says: its watermark, and the record headers that are sound.
// So this finds what recovery finds, and no more: see log/recovery.hpp.
#pragma once

#include "lockstep/raft/node.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace lockstep::raft {

namespace refill_format {
inline constexpr std::string_view file_name = "refill";
inline constexpr std::uint64_t magic = 0x314c4652'4b434f4c;  // "LOCKRFL1"
inline constexpr std::size_t bytes = 32;
}  // namespace refill_format

template <environment Env, state_machine Machine>
std::optional<std::system_error> basic_node<Env, Machine>::damage_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::system_error& error) {
    return error.code() == errc::corrupt ? std::optional(error) : std::nullopt;
  } catch (...) {
    return std::nullopt;
  }
}

template <environment Env, state_machine Machine>
std::string basic_node<Env, Machine>::folder(std::string_view name) const {
  const std::string path = log_files::join(options_.directory, name);
  return generation_ == 0 ? path : path + "." + std::to_string(generation_);
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::read_refill() {
  const std::string path = log_files::join(options_.directory, refill_format::file_name);
  std::error_code ec;
  const auto file = env_.open(path, open_mode::read, ec);
  if (ec == std::errc::no_such_file_or_directory) return;
  std::array<std::byte, refill_format::bytes> words;
  std::size_t got = 0;
  if (!ec) got = file.pread(0, words, ec);
  if (ec) throw std::system_error(ec, "cannot read " + path);
  const bool good = got == words.size() && load_le<std::uint64_t>(words.data()) == refill_format::magic &&
                    load_le<std::uint64_t>(words.data() + 24) == xxh3_64({words.data(), 24});
  if (!good) throw std::system_error(errc::corrupt, path + " is damaged; nothing was changed");
  generation_ = load_le<std::uint64_t>(words.data() + 8);
  refill_ = load_le<index_t>(words.data() + 16);
}

// D1. A group of one has nobody to get anything from: false.
template <environment Env, state_machine Machine>
awaitable<bool> basic_node<Env, Machine>::begin_refill(index_t acknowledged) {
  if (options_.members.size() == 1) co_return false;
  std::array<std::byte, refill_format::bytes> words;
  store_le(words.data(), refill_format::magic);
  store_le(words.data() + 8, generation_ + 1);
  store_le(words.data() + 16, std::max(refill_, acknowledged));
  store_le(words.data() + 24, xxh3_64({words.data(), 24}));
  const std::string path = log_files::join(options_.directory, refill_format::file_name);
  const std::string temporary = path + std::string(log_files::temporary_suffix);
  std::error_code ec;
  auto file = env_.open(temporary, open_mode::truncate, ec);
  const bytes_view whole(words);
  const std::span<const bytes_view> gather(&whole, 1);
  if (!ec) ec = co_await file.pwrite_datasync(0, gather, sync_on::disk_thread);
  if (!ec) env_.rename(temporary, path, ec);
  if (!ec) ec = co_await env_.sync_directory(options_.directory, sync_on::disk_thread);
  if (ec) throw std::system_error(ec, "cannot write " + path);
  co_return true;
}

// Of the log that cannot be opened.
template <environment Env, state_machine Machine>
index_t basic_node<Env, Machine>::last_index_on_disk() const {
  const std::string directory = folder("log");
  std::error_code ec;
  index_t last = 0;
  for (const std::string& name : env_.list(directory, ec)) {
    const std::string path = log_files::join(directory, name);
    const index_t first = log_files::parse_segment_name(name);
    if (first == 0 && name != log_files::watermark) continue;
    const auto file = env_.open(path, open_mode::read, ec);
    std::vector<std::byte> bytes(ec ? 0 : static_cast<std::size_t>(file.size(ec)));
    if (!ec) bytes.resize(file.pread(0, bytes, ec));
    if (ec) throw std::system_error(ec, "cannot read " + path);
    if (first == 0) {
      last = std::max(last, log_codec::decode_watermark(bytes).value_or(position()).index);
      continue;
    }
    last = std::max(last, first - 1);
    // What a payload holds may look like a header.
    const index_t most = first + bytes.size() / log_format::record_header_bytes;
    for (std::size_t at = log_format::segment_header_bytes; at + log_format::record_header_bytes <= bytes.size();) {
      const auto header = log_codec::decode_header(bytes.data() + at);
      const bool sound = header && header->index >= first && header->index <= most;
      if (sound) last = std::max(last, header->index);
      at += sound ? header->total_bytes() : log_format::record_alignment;
    }
  }
  if (ec) throw std::system_error(ec, "cannot list " + directory);
  return last;
}

}  // namespace lockstep::raft

// read_your_writes: reads of replicas that may be stale, but not staler than their session allows. Pure.
//
//   check::read_your_writes reads;
//   reads.committed(key, index, value);                      // the truth: each write of the history, in order
//   reads.wrote(session, index);                             // the session's write was acknowledged
//   reads.read(session, key, min_index, served_index, value, now);
//   auto broken = reads.finished();                          // when all commits were told
#pragma once

#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lockstep::sim::check {

/// Sequential consistency per session: a read with minimum position P is answered from a state that holds at least the
/// history up to P, and so everything that its session wrote and saw before (it must ask for that). The reads of one
/// session never go back in time. What a read returns is what the last write up to its state left.
class read_your_writes {
 public:
  /// A write of `key` took effect as record `index`; `absent` for an erasure. Told in order of `index`, at the latest
  /// before finished().
  violation committed(std::string_view key, index_t index, value_id value) {
    std::vector<version>& all = entry_of(key).second;
    if (!all.empty() && index <= all.back().index) {
      return "misuse: a write of key '" + std::string(key) + "' was committed at index " + detail::text(index) +
             " behind index " + detail::text(all.back().index);
    }
    all.push_back({index, value});
    return std::nullopt;
  }

  /// `session` knows that its write is record `index`.
  void wrote(std::uint64_t session, index_t index) { raise(sessions_[session].written, index); }

  /// A read was answered.
  /// @param min_index     the index that it asked the replica to hold.
  /// @param served_index  the last index of the state that it was answered from; 0 when the replica does not tell.
  /// @return what breaks the session's order; wrong values are told by finished().
  violation read(std::uint64_t session, std::string_view key, index_t min_index, index_t served_index, value_id value,
                 moment when) {
    known& here = sessions_[session];
    const answer next{session, &entry_of(key), min_index, served_index, value, when};
    const auto must_hold = [&](index_t least, const std::string& why) -> violation {
      if (served_index == 0 || served_index >= least) return std::nullopt;
      return describe(next) + ", but " + why + " index " + detail::text(least);
    };
    if (min_index < here.written) {
      return describe(next) + " asked for index " + detail::text(min_index) +
             " or later, but its session wrote index " + detail::text(here.written);
    }
    if (violation found = must_hold(min_index, "it asked for at least")) return found;
    if (violation found = must_hold(here.seen, "its session saw before")) return found;
    raise(here.seen, std::max(min_index, served_index));
    answers_.push_back(next);
    return std::nullopt;
  }

  /// Whether each read returned what it should have, now that every commit was told.
  [[nodiscard]] violation finished() const {
    std::map<std::pair<std::uint64_t, const key_entry*>, std::size_t> seen;  // looked up only
    for (const answer& each : answers_) {
      const std::vector<version>& all = each.key->second;
      std::size_t& last = seen[{each.session, each.key}];
      const std::size_t least = std::max(last, held_at(all, each.min_index));
      const std::size_t most = each.served_index == 0 ? all.size() : held_at(all, each.served_index);
      std::size_t position = each.served_index == 0 ? least : most;
      while (position < most && value_at(all, position) != each.value) ++position;
      if (value_at(all, position) != each.value) return wrong(each, all, least, most);
      last = std::max(last, position);
    }
    return std::nullopt;
  }

 private:
  struct version {
    index_t index;
    value_id value;
  };
  using key_map = std::map<std::string, std::vector<version>, std::less<>>;
  using key_entry = key_map::value_type;
  struct known {
    index_t written = 0;
    index_t seen = 0;
  };
  struct answer {
    std::uint64_t session;
    const key_entry* key;
    index_t min_index;
    index_t served_index;
    value_id value;
    moment when;
  };

  static void raise(index_t& at, index_t to) { at = std::max(at, to); }

  key_entry& entry_of(std::string_view key) {
    const auto found = keys_.find(key);
    return found != keys_.end() ? *found : *keys_.try_emplace(std::string(key)).first;
  }

  /// How many versions a state up to `index` holds.
  static std::size_t held_at(const std::vector<version>& all, index_t index) {
    const auto end = std::partition_point(all.begin(), all.end(), [&](const version& v) { return v.index <= index; });
    return static_cast<std::size_t>(end - all.begin());
  }
  static value_id value_at(const std::vector<version>& all, std::size_t held) {
    return held == 0 ? absent : all[held - 1].value;
  }

  static std::string describe(const answer& read) {
    return "session " + detail::text(read.session) + "'s read of key '" + read.key->first + "' at time " +
           detail::text(read.when) + " returned " + detail::value_text(read.value) +
           (read.served_index == 0 ? "" : " from index " + detail::text(read.served_index));
  }

  static violation wrong(const answer& read, const std::vector<version>& all, std::size_t least, std::size_t most) {
    const auto version_text = [&](std::size_t held) {
      return detail::value_text(value_at(all, held)) +
             (held == 0 ? ", never written by then" : ", written at index " + detail::text(all[held - 1].index));
    };
    if (read.served_index != 0) return describe(read) + ", but its value there is " + version_text(most);
    return describe(read) + ", which is older than " + version_text(least) + ", or was never committed";
  }

  key_map keys_;
  std::unordered_map<std::uint64_t, known> sessions_;  // never walked over
  std::vector<answer> answers_;
};

}  // namespace lockstep::sim::check

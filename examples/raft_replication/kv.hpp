// A key-value store as a state machine of Raft's. Its snapshot is written in the order of the keys while apply goes on:
// a pair that changes before the snapshot has come to it is first set aside as it was.
#pragma once

#include "raft_replication/kv_codec.hpp"

#include <lockstep/core/errors.hpp>
#include <lockstep/core/mutant.hpp>
#include <lockstep/raft/state_machine.hpp>

#include <cassert>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace lockstep::raft::kv {

struct item {
  std::string value;
  std::uint64_t revision = 0;
};

/// Told of each change of a key, in the order of the log, by apply(). Views until it returns. It must not use the
/// machine. restore() leads to another state without telling it: whoever watches then reads anew.
using watcher = std::function<void(std::string_view key, const item* now)>;  // null: deleted

/// A state_machine. Thread safety: none.
class machine {
 public:
  explicit machine(watcher watch = {}) : watch_(std::move(watch)) {}
  machine(const machine&) = delete;
  machine& operator=(const machine&) = delete;

  /// @return null when there is no such key; valid until the next apply() or restore().
  [[nodiscard]] const item* find(std::string_view key) const {
    const auto found = items_.find(key);
    return found == items_.end() ? nullptr : &found->second;
  }

  void apply(const entry& next, byte_buffer& to) {
    const std::optional<command> told = decode_command(next.payload);
    if (!told) return encode(to, result{outcome::malformed, 0, {}});
    const item* const now = find(told->key);
    result answer = now ? result{outcome::ok, now->revision, now->value} : result{outcome::absent, 0, {}};
    if (told->op == operation::cas && (now ? told->expected != now->value : told->expected.has_value())) {
      answer.is = outcome::differs;
    } else if (told->op == operation::put || told->op == operation::cas) {
      change(told->key, item{std::string(told->value), next.at.index});
      answer = {outcome::ok, next.at.index, {}};
    } else if (told->op == operation::del && now) {
      change(told->key, std::nullopt);
      answer = {outcome::ok, 0, {}};
    }
    encode(to, answer);
  }

  awaitable<void> snapshot(snapshot_sink& to) {
    assert(!view_);
    const struct view_of_now {
      std::optional<frozen_view>& view;
      ~view_of_now() { view.reset(); }
    } dropped_at_the_end{view_};
    view_.emplace();
    byte_buffer piece;
    for (bool more = true; more; piece.clear()) {
      more = write_pairs(piece);
      co_await to.write(piece.view());
    }
  }

  awaitable<void> restore(snapshot_source& from) {
    items_.clear();
    byte_buffer bytes;
    bool ended = false;
    for (std::size_t count = 1; count != 0;) {
      const mutable_bytes room(bytes.extend(piece_bytes), piece_bytes);
      count = co_await from.read(room);
      bytes.resize(bytes.size() - piece_bytes + count);
      if (!ended) ended = read_pairs(bytes);
    }
    if (!ended || !bytes.empty()) throw std::system_error(errc::malformed);
  }

 private:
  /// What a snapshot has still to write: the pairs behind `written`, those in `changed` as they were.
  struct frozen_view {
    std::string written;                                 // no key is empty
    std::map<std::string, std::optional<item>> changed;  // nothing: the key was absent
  };
  static constexpr std::size_t piece_bytes = std::size_t{64} << 10;

  void change(std::string_view of, std::optional<item> now) {
    const std::string key(of);
    const auto place = items_.find(key);
    if (view_ && key > view_->written && !mutated(mutant::snapshot_sees_later_changes)) {
      view_->changed.try_emplace(key, place == items_.end() ? std::nullopt : std::optional<item>(place->second));
    }
    if (watch_) watch_(key, now ? &*now : nullptr);
    if (now) {
      items_.insert_or_assign(key, std::move(*now));
    } else {
      items_.erase(place);
    }
  }

  /// @return whether there are more.
  bool write_pairs(byte_buffer& to) {
    auto& [written, changed] = *view_;
    for (auto live = items_.upper_bound(written); live != items_.end() || !changed.empty();) {
      if (to.size() >= piece_bytes) return true;
      const auto old = changed.begin();
      const bool as_it_was = old != changed.end() && (live == items_.end() || old->first <= live->first);
      const item* const pair = !as_it_was ? &live->second : old->second ? &*old->second : nullptr;
      written = as_it_was ? old->first : live->first;
      if (pair) encode(to, stored_pair{written, pair->revision, pair->value});
      if (live != items_.end() && live->first == written) ++live;
      if (as_it_was) changed.erase(old);
    }
    encode(to, stored_pair());
    return false;
  }

  /// Takes whole pairs off the front. @return whether the last was the snapshot's end.
  bool read_pairs(byte_buffer& bytes) {
    field_reader from(bytes.view());
    std::size_t unread = from.left();
    std::optional<stored_pair> pair;
    while ((pair = take_pair(from))) {
      unread = from.left();
      if (pair->key.empty()) break;
      if (!items_.empty() && pair->key <= items_.rbegin()->first) throw std::system_error(errc::malformed);
      items_.emplace_hint(items_.end(), pair->key, item{std::string(pair->value), pair->revision});
    }
    bytes.consume(bytes.size() - unread);
    return pair.has_value();
  }

  watcher watch_;
  std::map<std::string, item, std::less<>> items_;
  std::optional<frozen_view> view_;  // while a snapshot is written
};

static_assert(state_machine<machine>);

}  // namespace lockstep::raft::kv

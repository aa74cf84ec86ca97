// The replicated map with its clients' sessions, and those who watch it.
#pragma once

#include "raft_replication/kv.hpp"

#include <lockstep/core/wait_list.hpp>
#include <lockstep/raft/sessions.hpp>

#include <deque>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep::raft_replication {

/// What a key has become.
struct key_change {
  index_t index = 0;                 ///< of the entry that changed it; 0: a snapshot stands for it
  std::optional<std::string> value;  ///< nothing: it was deleted
};

/// A state machine: raft::sessions over raft::kv::machine. Thread safety: none.
class store {
 public:
  /// One who is told of the changes of a key, in their order; of one who does not keep up, the oldest are dropped.
  class watch {
   public:
    watch(store& in, std::string key) : of_(in), key_(std::move(key)), news_(in.executor_) {
      place_ = in.watches_.insert(in.watches_.end(), this);
    }
    watch(const watch&) = delete;
    ~watch() { of_.watches_.erase(place_); }

    /// Cancellation: no change is lost.
    awaitable<key_change> next() {
      while (changes_.empty()) {
        if (const std::error_code ended = co_await news_.wait()) throw std::system_error(ended);
      }
      key_change first = std::move(changes_.front());
      changes_.pop_front();
      co_return first;
    }

   private:
    friend store;
    static constexpr std::size_t most = 1024;

    void tell(key_change what) {
      if (changes_.size() == most) changes_.pop_front();
      changes_.push_back(std::move(what));
      news_.notify_all();
    }

    store& of_;
    const std::string key_;
    std::deque<key_change> changes_;
    wait_list news_;
    std::list<watch*>::iterator place_;
  };

  explicit store(asio::any_io_executor executor)
      : executor_(std::move(executor)),
        keys_([this](std::string_view key, const raft::kv::item* now) { tell(key, now); }),
        sessions_(keys_) {}

  /// As raft::kv::machine::find().
  [[nodiscard]] const raft::kv::item* find(std::string_view key) const { return keys_.find(key); }
  [[nodiscard]] std::size_t sessions() const noexcept { return sessions_.table().size(); }

  void apply(const raft::entry& next, byte_buffer& result) {
    applying_ = next.at.index;
    sessions_.apply(next, result);
  }
  awaitable<void> snapshot(raft::snapshot_sink& to) { return sessions_.snapshot(to); }
  awaitable<void> restore(raft::snapshot_source& from) {
    co_await sessions_.restore(from);
    for (watch* const each : watches_) {
      const raft::kv::item* const now = find(each->key_);
      each->tell({0, now ? std::optional(now->value) : std::nullopt});
    }
  }

 private:
  void tell(std::string_view key, const raft::kv::item* now) {
    for (watch* const each : watches_) {
      if (each->key_ == key) each->tell({applying_, now ? std::optional(now->value) : std::nullopt});
    }
  }

  asio::any_io_executor executor_;
  raft::kv::machine keys_;
  raft::sessions<raft::kv::machine> sessions_;
  std::list<watch*> watches_;
  index_t applying_ = 0;
};

static_assert(raft::state_machine<store>);

}  // namespace lockstep::raft_replication

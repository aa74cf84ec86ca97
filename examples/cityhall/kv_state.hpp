// kv_state: what the log's records add up to. Pure, and the same for everyone who applied the same records.
#pragma once

#include "cityhall/records.hpp"

#include <lockstep/log/codec.hpp>
#include <lockstep/log/format.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace lockstep::cityhall {

/// Counts since the beginning of the history, whatever was compacted since.
struct totals {
  std::uint64_t segments = 0;
  std::uint64_t entries = 0;

  friend bool operator==(const totals&, const totals&) = default;
};

/// Why a record could not be applied: it is no record of CityHall's, or of a later version.
enum class apply_verdict { ok, malformed, unknown_kind };

inline const char* explain(apply_verdict verdict) noexcept {
  switch (verdict) {
    case apply_verdict::ok: return "applied";
    case apply_verdict::malformed: return "its payload is not one of CityHall's";
    case apply_verdict::unknown_kind: return "its kind is unknown to this version";
  }
  return "";
}

/// Keys and values after the record at(), with counts. Copying copies everything.
class kv_state {
 public:
  using pair_map = std::map<std::string, std::string, std::less<>>;

  kv_state() = default;
  /// A state that was kept (a snapshot).
  kv_state(const position& at, const totals& counts, std::string leader_clients, pair_map pairs)
      : at_(at), counts_(counts), leader_clients_(std::move(leader_clients)), pairs_(std::move(pairs)) {}

  /// Applies the record that follows at(); all of it or, with another verdict than ok, nothing.
  apply_verdict apply(const record& next) {
    assert(next.index == at_.index + 1);
    if (next.kind == epoch_record) {
      std::optional<life> begun = life::decode(next.payload);
      if (!begun) return apply_verdict::malformed;
      leader_clients_ = std::move(begun->clients);
    } else if (next.kind == data_record) {
      const std::optional<segment_view> segment = segment_view::parse(next.payload);
      if (!segment) return apply_verdict::malformed;
      segment->for_each([this](const entry& each) { change(each); });
      counts_.segments += 1;
      counts_.entries += segment->count();
    } else {
      return apply_verdict::unknown_kind;
    }
    at_ = next.position();
    return apply_verdict::ok;
  }

  /// The last record applied.
  [[nodiscard]] const position& at() const noexcept { return at_; }
  [[nodiscard]] const totals& counts() const noexcept { return counts_; }
  /// Where the current leader's clients connect; empty before any leader's life.
  [[nodiscard]] const std::string& leader_clients() const noexcept { return leader_clients_; }
  [[nodiscard]] const pair_map& pairs() const noexcept { return pairs_; }

  /// @return null when the key is missing; valid until the next apply().
  [[nodiscard]] const std::string* find(std::string_view key) const noexcept {
    const auto found = pairs_.find(key);
    return found == pairs_.end() ? nullptr : &found->second;
  }

  /// Calls `visit(key, value)` in order for the pairs whose key begins with `prefix` and, when `after` is not null,
  /// comes behind *after; until it returns false.
  template <class Visit>
  void scan(std::string_view prefix, const std::string* after, Visit&& visit) const {
    auto pair = after && std::string_view(*after).compare(prefix) >= 0 ? pairs_.upper_bound(*after)
                                                                       : pairs_.lower_bound(prefix);
    for (; pair != pairs_.end() && std::string_view(pair->first).starts_with(prefix); ++pair) {
      if (!visit(std::string_view(pair->first), std::string_view(pair->second))) return;
    }
  }

  friend bool operator==(const kv_state&, const kv_state&) = default;

 private:
  void change(const entry& by) {
    const auto found = pairs_.find(by.key);
    if (by.op == operation::del) {
      if (found != pairs_.end()) pairs_.erase(found);
    } else if (found != pairs_.end()) {
      found->second = by.value;
    } else {
      pairs_.emplace(by.key, by.value);
    }
  }

  position at_;
  totals counts_;
  std::string leader_clients_;
  pair_map pairs_;
};

}  // namespace lockstep::cityhall

// A small sorted set of nodes.
#pragma once

#include "lockstep/core/ids.hpp"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <vector>

namespace lockstep::raft {

/// Node ids in ascending order, each once, in one block of memory: sets of this kind are read at every message and
/// changed a few times a year.
class id_set {
 public:
  using const_iterator = std::vector<node_id>::const_iterator;

  id_set() = default;
  id_set(std::initializer_list<node_id> ids) {
    for (const node_id id : ids) insert(id);
  }

  [[nodiscard]] const_iterator begin() const noexcept { return ids_.begin(); }
  [[nodiscard]] const_iterator end() const noexcept { return ids_.end(); }
  [[nodiscard]] std::size_t size() const noexcept { return ids_.size(); }
  [[nodiscard]] bool empty() const noexcept { return ids_.empty(); }

  [[nodiscard]] bool contains(node_id id) const noexcept { return std::binary_search(begin(), end(), id); }

  /// Whether every member of `other` is one of this set.
  [[nodiscard]] bool includes(const id_set& other) const noexcept {
    return std::includes(begin(), end(), other.begin(), other.end());
  }

  [[nodiscard]] std::size_t common_with(const id_set& other) const noexcept {
    return static_cast<std::size_t>(std::count_if(begin(), end(), [&](node_id id) { return other.contains(id); }));
  }

  void insert(node_id id) {
    const auto at = std::lower_bound(begin(), end(), id);
    if (at == end() || *at != id) ids_.insert(at, id);
  }

  void insert(const id_set& other) {
    for (const node_id id : other) insert(id);
  }

  void erase(node_id id) { std::erase(ids_, id); }

  template <class Predicate>
  void erase_if(Predicate&& unwanted) {
    std::erase_if(ids_, unwanted);
  }

  void clear() noexcept { ids_.clear(); }

  friend bool operator==(const id_set&, const id_set&) = default;

 private:
  std::vector<node_id> ids_;
};

}  // namespace lockstep::raft

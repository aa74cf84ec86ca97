// A queue in one block of memory, which it keeps when it is emptied.
#pragma once

#include <cassert>
#include <cstddef>
#include <utility>
#include <vector>

namespace lockstep::sequencer::detail {

/// T is default-constructible. References are valid until the next push_back().
template <class T>
class ring {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return slots_[place(i)]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return slots_[place(i)]; }
  [[nodiscard]] const T& back() const noexcept { return (*this)[size_ - 1]; }

  void push_back(T value) {
    if (size_ == slots_.size()) grow();
    ++size_;
    (*this)[size_ - 1] = std::move(value);
  }
  void pop_front() noexcept {
    assert(size_ != 0);
    first_ = place(1);
    --size_;
  }
  void pop_back() noexcept {
    assert(size_ != 0);
    --size_;
  }
  void clear() noexcept { first_ = size_ = 0; }

  friend bool operator==(const ring& a, const ring& b) {
    if (a.size_ != b.size_) return false;
    for (std::size_t i = 0; i < a.size_; ++i) {
      if (!(a[i] == b[i])) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] std::size_t place(std::size_t i) const noexcept { return (first_ + i) & (slots_.size() - 1); }
  void grow() {
    std::vector<T> grown(slots_.empty() ? 8 : slots_.size() * 2);
    for (std::size_t i = 0; i < size_; ++i) grown[i] = std::move((*this)[i]);
    slots_ = std::move(grown);
    first_ = 0;
  }

  std::vector<T> slots_;  // a power of two, or none
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

}  // namespace lockstep::sequencer::detail

// operation_memory: room for an asynchronous operation of which one is under way at a time, so that starting it
// allocates nothing however many channels share the thread.
#pragma once

#include <cstddef>
#include <new>

namespace lockstep::detail {

class operation_memory {
 public:
  operation_memory() = default;
  operation_memory(const operation_memory&) = delete;
  operation_memory& operator=(const operation_memory&) = delete;

  void* allocate(std::size_t bytes) {
    if (used_ || bytes > sizeof storage_) return ::operator new(bytes);
    used_ = true;
    return storage_;
  }

  void deallocate(void* pointer) noexcept {
    if (pointer == storage_) {
      used_ = false;
    } else {
      ::operator delete(pointer);
    }
  }

 private:
  alignas(std::max_align_t) std::byte storage_[320];
  bool used_ = false;
};

/// The allocator that Asio takes from a handler.
template <class T>
class operation_allocator {
 public:
  using value_type = T;

  explicit operation_allocator(operation_memory& memory) noexcept : memory_(&memory) {}
  template <class U>
  operation_allocator(const operation_allocator<U>& other) noexcept : memory_(other.memory_) {}

  T* allocate(std::size_t count) { return static_cast<T*>(memory_->allocate(count * sizeof(T))); }
  void deallocate(T* pointer, std::size_t) noexcept { memory_->deallocate(pointer); }

  template <class U>
  bool operator==(const operation_allocator<U>& other) const noexcept {
    return memory_ == other.memory_;
  }

 private:
  template <class>
  friend class operation_allocator;
  operation_memory* memory_;
};

}  // namespace lockstep::detail

// guard: whoever asks the real world for time, randomness or a thread inside a simulated run ends the program, and is
// told what to ask instead. Such a run would be another one each time.
//
//   #include "lockstep/sim/guard.hpp"        // in exactly one .cpp of a program: it defines functions of the C library
//
// Inside a run is a thread while one of its worlds lets things happen, or starts or ends a node. There, clock_gettime,
// gettimeofday, time, nanosleep, clock_nanosleep, sleep, usleep, getrandom, getentropy, pthread_create, and what stands
// on them (std::chrono's clocks, std::thread, Asio's own timers and sockets), and std::random_device say who called and
// abort(). Everywhere else they are the real ones, at the cost of a look at a thread's own variable.
//
// It sees what is called through the dynamic linker: it needs glibc, and for std::random_device libstdc++, both as
// shared libraries. What it does not see: the processor's own counters and randomness (rdtsc, rdrand), syscall(),
// /dev/urandom read as a file, and what the C library does inside of itself (timespec_get, waits with a timeout,
// arc4random). Running seeds twice (explore_options::run_twice) finds these, if they make a difference.
#pragma once

#include "lockstep/sim/detail/trace_words.hpp"
#include "lockstep/sim/node.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>

namespace lockstep::sim::detail {

[[noreturn, gnu::cold]] inline void refuse(const world& in, const char* called, const char* instead) {
  const node* const by = in.current_node();
  const std::string where = by ? "the program of node '" + by->name + "'" : "the world";
  std::fprintf(stderr,
               "lockstep: %s was called inside a simulated run (seed %llu), by %s at %s of virtual time. A run must "
               "depend on nothing but its seed; use %s instead.\n",
               called, static_cast<unsigned long long>(in.seed()), where.c_str(), trace_time(in.elapsed()).c_str(),
               instead);
  std::abort();
}

inline void not_inside_run(const char* called, const char* instead) {
  if (running_world) refuse(*running_world, called, instead);
}

inline constexpr const char* instead_of_clocks = "env.now() or env.wall_now()";
inline constexpr const char* instead_of_sleep = "the environment's timer";
inline constexpr const char* instead_of_entropy = "env.random()";
inline constexpr const char* instead_of_threads = "a coroutine, and the environment's file for what blocks on a disk,";

}  // namespace lockstep::sim::detail

extern "C" {

// A sanitizer's own, which must know of every thread: clang links it into the program, where RTLD_NEXT passes over it.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming)
[[gnu::weak]] int __interceptor_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

[[gnu::visibility("default")]] int clock_gettime(clockid_t which, timespec* to) noexcept {
  lockstep::sim::detail::not_inside_run("clock_gettime()", lockstep::sim::detail::instead_of_clocks);
  static const auto next = reinterpret_cast<decltype(&::clock_gettime)>(dlsym(RTLD_NEXT, "clock_gettime"));
  return next(which, to);
}

[[gnu::visibility("default")]] int gettimeofday(timeval* __restrict to, void* __restrict zone) noexcept {
  lockstep::sim::detail::not_inside_run("gettimeofday()", lockstep::sim::detail::instead_of_clocks);
  static const auto next = reinterpret_cast<decltype(&::gettimeofday)>(dlsym(RTLD_NEXT, "gettimeofday"));
  return next(to, zone);
}

[[gnu::visibility("default")]] time_t time(time_t* to) noexcept {
  lockstep::sim::detail::not_inside_run("time()", lockstep::sim::detail::instead_of_clocks);
  static const auto next = reinterpret_cast<decltype(&::time)>(dlsym(RTLD_NEXT, "time"));
  return next(to);
}

[[gnu::visibility("default")]] int nanosleep(const timespec* how_long, timespec* left) {
  lockstep::sim::detail::not_inside_run("nanosleep()", lockstep::sim::detail::instead_of_sleep);
  static const auto next = reinterpret_cast<decltype(&::nanosleep)>(dlsym(RTLD_NEXT, "nanosleep"));
  return next(how_long, left);
}

[[gnu::visibility("default")]] int clock_nanosleep(clockid_t which, int flags, const timespec* how_long,
                                                   timespec* left) {
  lockstep::sim::detail::not_inside_run("clock_nanosleep()", lockstep::sim::detail::instead_of_sleep);
  static const auto next = reinterpret_cast<decltype(&::clock_nanosleep)>(dlsym(RTLD_NEXT, "clock_nanosleep"));
  return next(which, flags, how_long, left);
}

[[gnu::visibility("default")]] unsigned sleep(unsigned seconds) {
  lockstep::sim::detail::not_inside_run("sleep()", lockstep::sim::detail::instead_of_sleep);
  static const auto next = reinterpret_cast<decltype(&::sleep)>(dlsym(RTLD_NEXT, "sleep"));
  return next(seconds);
}

[[gnu::visibility("default")]] int usleep(useconds_t microseconds) {
  lockstep::sim::detail::not_inside_run("usleep()", lockstep::sim::detail::instead_of_sleep);
  static const auto next = reinterpret_cast<decltype(&::usleep)>(dlsym(RTLD_NEXT, "usleep"));
  return next(microseconds);
}

[[gnu::visibility("default")]] ssize_t getrandom(void* into, size_t bytes, unsigned flags) {
  lockstep::sim::detail::not_inside_run("getrandom()", lockstep::sim::detail::instead_of_entropy);
  static const auto next = reinterpret_cast<decltype(&::getrandom)>(dlsym(RTLD_NEXT, "getrandom"));
  return next(into, bytes, flags);
}

[[gnu::visibility("default")]] int getentropy(void* into, size_t bytes) {
  lockstep::sim::detail::not_inside_run("getentropy()", lockstep::sim::detail::instead_of_entropy);
  static const auto next = reinterpret_cast<decltype(&::getentropy)>(dlsym(RTLD_NEXT, "getentropy"));
  return next(into, bytes);
}

[[gnu::visibility("default")]] int pthread_create(pthread_t* __restrict made, const pthread_attr_t* __restrict how,
                                                  void* (*runs)(void*), void* __restrict with) noexcept {
  lockstep::sim::detail::not_inside_run("pthread_create()", lockstep::sim::detail::instead_of_threads);
  static const auto next =
      __interceptor_pthread_create
          ? &__interceptor_pthread_create
          : reinterpret_cast<decltype(&__interceptor_pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  return next(made, how, runs, with);
}

#ifdef __GLIBCXX__
// std::random_device::_M_getval(), which every number of it comes from, also where that is a processor's instruction.
[[gnu::visibility("default")]] std::random_device::result_type lockstep_guarded_random_device(
    std::random_device* of) __asm__("_ZNSt13random_device9_M_getvalEv");

std::random_device::result_type lockstep_guarded_random_device(std::random_device* of) {
  lockstep::sim::detail::not_inside_run("std::random_device", lockstep::sim::detail::instead_of_entropy);
  static const auto next =
      reinterpret_cast<decltype(&lockstep_guarded_random_device)>(dlsym(RTLD_NEXT, "_ZNSt13random_device9_M_getvalEv"));
  return next(of);
}
#endif

}  // extern "C"

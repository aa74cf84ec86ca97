// environment: everything that a program built from the blocks may ask of the outside world.
//
// Every block that touches the world is `basic_x<Env>` with the alias `x = basic_x<real::env>`. `real::env`
// (env/real.hpp) stands on Asio and POSIX; a simulated environment answers the same questions from one seed.
// A block takes `Env&`, which must outlive it, and asks nothing of the world by any other way.
#pragma once

#include "lockstep/core/address.hpp"
#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"

#include <chrono>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace lockstep {

using duration = std::chrono::nanoseconds;
/// Monotonic time. Only differences mean something; an environment's `now()` is the one source.
using time_point = std::chrono::time_point<std::chrono::steady_clock, duration>;
/// Calendar time, for people and for retention by age; may jump.
using wall_time = std::chrono::time_point<std::chrono::system_clock, duration>;

enum class open_mode {
  read,        ///< must exist
  read_write,  ///< must exist
  create,      ///< read and write; created when missing
  create_new,  ///< read and write; an error when it exists
  truncate,    ///< read and write; created when missing, emptied when not
};

/// Where a blocking disk call runs: on the environment's disk threads (a stalled disk does not stop the node), or on
/// the calling thread (no hand-over; the node stands still meanwhile).
enum class sync_on { disk_thread, caller };

/// An open file. The calls without `awaitable` reach the page cache and are expected not to block for long.
/// A failed `datasync` means that any byte written since the last good one may be lost, whatever later calls say.
template <class F>
concept environment_file = std::movable<F> && std::default_initializable<F> &&
    requires(F file, const F constant, std::uint64_t offset, std::uint64_t length, mutable_bytes into,
             std::span<const bytes_view> from, std::error_code& ec, sync_on where) {
  { constant.is_open() } -> std::same_as<bool>;
  // Reads until `into` is full or the file ends. @return bytes read.
  { constant.pread(offset, into, ec) } -> std::same_as<std::size_t>;
  // Writes all of the buffers in order, or fails; after a failure any part may have been written.
  {file.pwrite(offset, from, ec)};
  // Makes the file's bytes (and its size) durable. Not cancellable.
  { file.datasync(where) } -> std::same_as<awaitable<std::error_code>>;
  // pwrite, then datasync, in one hand-over. The buffers must stay until it completes. Not cancellable.
  { file.pwrite_datasync(offset, from, where) } -> std::same_as<awaitable<std::error_code>>;
  {file.truncate(length, ec)};
  // Reserves space, so that later writes to it do not fail for want of space; errc::not_supported where the file
  // system can't. Does not change the file's size.
  {file.allocate(offset, length, ec)};
  { constant.size(ec) } -> std::same_as<std::uint64_t>;
  // The bytes [offset, offset + length) of the file for reading, which must lie within its size for as long as
  // they are touched. Sees later pwrites. `mapping.bytes()` is valid until the mapping is destroyed.
  { constant.map(offset, length, ec).bytes() } -> std::same_as<bytes_view>;
};

/// A connected stream: Asio's AsyncReadStream and AsyncWriteStream, and an end.
template <class S>
concept environment_stream = std::movable<S> &&
    requires(S stream, std::span<const bytes_view> gather, std::error_code& ec) {
  {stream.get_executor()};
  { stream.async_read_some(asio::mutable_buffer(), use_awaitable) } -> std::same_as<awaitable<std::size_t>>;
  { stream.async_write_some(asio::const_buffer(), use_awaitable) } -> std::same_as<awaitable<std::size_t>>;
  // Sends what can be sent now without suspending. @return bytes taken; 0 with `ec` would_block when none can.
  { stream.write_now(gather, ec) } -> std::same_as<std::size_t>;
  // Ends this side's sending; the peer reads end of file after what was sent.
  {stream.shutdown_send(ec)};
  // Ends both sides at once; pending operations complete with operation_aborted.
  {stream.close()};
  { stream.remote_address() } -> std::same_as<std::string>;
};

template <class A>
concept environment_acceptor = std::movable<A> && requires(A acceptor) {
  // The next connection. Cancellable; errors are thrown as system_error.
  {acceptor.accept()};
  // The address it listens on, with the real port.
  { acceptor.local_address() } -> std::same_as<address>;
  {acceptor.close()};
};

/// One-shot timer on the environment's clock.
template <class T>
concept environment_timer = requires(T timer, time_point when, duration after) {
  {timer.expires_at(when)};
  {timer.expires_after(after)};
  // @return nothing when it expired, operation_aborted when cancelled or set anew meanwhile.
  { timer.wait() } -> std::same_as<awaitable<std::error_code>>;
  {timer.cancel()};
};

template <class E>
concept environment = environment_file<typename E::file> && environment_stream<typename E::stream> &&
    environment_acceptor<typename E::acceptor> && environment_timer<typename E::timer> &&
    std::constructible_from<typename E::timer, E&> &&
    requires(E env, const address& where, const std::string& path, duration timeout, open_mode mode,
             sync_on where_to_run, std::error_code& ec) {
  typename E::mapping;
  typename E::file_lock;
  { env.get_executor() } -> std::convertible_to<asio::any_io_executor>;
  { env.now() } -> std::same_as<time_point>;
  { env.wall_now() } -> std::same_as<wall_time>;
  // Uniform random bits from this node's own seeded source.
  { env.random() } -> std::same_as<std::uint64_t>;

  // Resolves and connects. Throws system_error; errc::timed_out after `timeout`.
  { env.connect(where, timeout) } -> std::same_as<awaitable<typename E::stream>>;
  { env.listen(where, ec) } -> std::same_as<typename E::acceptor>;

  { env.open(path, mode, ec) } -> std::same_as<typename E::file>;
  {env.rename(path, path, ec)};
  {env.remove(path, ec)};
  // Not recursive; no error when it exists.
  {env.create_directory(path, ec)};
  // Names (not paths) of the entries, in no particular order.
  { env.list(path, ec) } -> std::same_as<std::vector<std::string>>;
  // Makes the directory's entries durable. Not cancellable.
  { env.sync_directory(path, where_to_run) } -> std::same_as<awaitable<std::error_code>>;
  // An exclusive lock, held until the result is destroyed or the process ends; the file holds the holder's pid.
  // errc::log_locked when somebody holds it, and then `holder_pid()` says who.
  { env.lock(path, ec) } -> std::same_as<typename E::file_lock>;
};

}  // namespace lockstep

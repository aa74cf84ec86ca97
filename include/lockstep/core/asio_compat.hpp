// The one place that knows Asio's versions: 1.22.1 (Debian 12) up to the newest.
//
// Names that moved out of `asio::experimental` are brought into `lockstep` from wherever they live.
#pragma once

// Before Asio, which decides by a macro of the standard library's how it allocates: the units of a program must agree.
#include <version>

#include <asio/version.hpp>
static_assert(ASIO_VERSION >= 102201, "lockstep needs standalone Asio 1.22.1 or newer");

#include <asio/any_io_executor.hpp>
#include <asio/associated_cancellation_slot.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/buffer.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/error.hpp>
#include <asio/execution_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#if ASIO_VERSION >= 103400
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#endif

#include <system_error>

namespace lockstep {

using asio::awaitable;
using asio::use_awaitable;
namespace this_coro = asio::this_coro;

#if ASIO_VERSION >= 103400
using asio::as_tuple;
#else
using asio::experimental::as_tuple;
#endif

/// True when `ec` is how Asio reports a cancelled operation.
inline bool is_cancelled(const std::error_code& ec) noexcept { return ec == asio::error::operation_aborted; }

}  // namespace lockstep

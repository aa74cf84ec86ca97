// Calls and streams over channels, connections that come back, and the loop that accepts them.
#pragma once

#include "lockstep/rpc/backoff.hpp"
#include "lockstep/rpc/codec.hpp"
#include "lockstep/rpc/format.hpp"
#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/peer.hpp"
#include "lockstep/rpc/rpc_options.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/rpc/service.hpp"
#include "lockstep/rpc/status.hpp"

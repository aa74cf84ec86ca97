// lockstep: framed transport, calls, a checksummed log, catch-up and Raft as C++20 coroutines on standalone Asio.
//
// Everything but the simulator (lockstep/sim.hpp). Each folder has an umbrella of its own: lockstep/log.hpp,
// lockstep/frame.hpp, …
#pragma once

#include "lockstep/catchup.hpp"
#include "lockstep/core.hpp"
#include "lockstep/env.hpp"
#include "lockstep/frame.hpp"
#include "lockstep/log.hpp"
#include "lockstep/raft.hpp"
#include "lockstep/rpc.hpp"

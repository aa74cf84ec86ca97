// The simulator: a program built from the blocks runs in it unchanged, under every fault, from one seed. For tests: it
// is not part of lockstep.hpp. docs/simulation.md is its guide.
#pragma once

#include "lockstep/sim/check/commit_order.hpp"
#include "lockstep/sim/check/convergence.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/kv_history.hpp"
#include "lockstep/sim/check/linearizability.hpp"
#include "lockstep/sim/check/prefix.hpp"
#include "lockstep/sim/check/read_your_writes.hpp"
#include "lockstep/sim/check/total_order.hpp"
#include "lockstep/sim/durable_view.hpp"
#include "lockstep/sim/explore.hpp"
#include "lockstep/sim/trace.hpp"

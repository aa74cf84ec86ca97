// Raft: a log that a majority agrees on, and the state machine that it drives.
#pragma once

#include "lockstep/raft/confchange.hpp"
#include "lockstep/raft/config.hpp"
#include "lockstep/raft/core.hpp"
#include "lockstep/raft/hard_state_file.hpp"
#include "lockstep/raft/node.hpp"
#include "lockstep/raft/session_command.hpp"
#include "lockstep/raft/sessions.hpp"
#include "lockstep/raft/snapshot_store.hpp"
#include "lockstep/raft/state_machine.hpp"

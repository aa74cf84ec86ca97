// The log: append-only, checksummed, crash-safe.
#pragma once

#include "lockstep/log/append_log.hpp"
#include "lockstep/log/batch.hpp"
#include "lockstep/log/codec.hpp"
#include "lockstep/log/cursor.hpp"
#include "lockstep/log/directory.hpp"
#include "lockstep/log/format.hpp"
#include "lockstep/log/options.hpp"
#include "lockstep/log/recovery.hpp"
#include "lockstep/log/verify.hpp"

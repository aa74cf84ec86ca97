// Floor 0: bytes, checksum, errors, ids, coroutine ownership.
#pragma once

#include "lockstep/core/address.hpp"
#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/fields.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/core/wait_list.hpp"

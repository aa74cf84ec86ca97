// Catch-up: followers that keep their logs equal to a source's.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/catchup/follower.hpp"
#include "lockstep/catchup/source.hpp"

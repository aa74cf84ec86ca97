// Floor 1: the environment seam and the real environment.
#pragma once

#include "lockstep/env/env.hpp"
#include "lockstep/env/real.hpp"

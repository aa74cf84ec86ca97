// Framed transport: frames with checks over any stream, a handshake, and bounded queues.
#pragma once

#include "lockstep/frame/channel.hpp"
#include "lockstep/frame/channel_options.hpp"
#include "lockstep/frame/codec.hpp"
#include "lockstep/frame/format.hpp"
#include "lockstep/frame/hello.hpp"
#include "lockstep/frame/stream_traits.hpp"

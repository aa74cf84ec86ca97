// What all tests of catch-up instantiate, compiled once.

#include "world.hpp"

namespace lockstep {

template class basic_append_log<test::pipe_env>;
template class basic_channel<test::pipe_env>;
template class basic_source<test::pipe_env>;
template class basic_follower<test::pipe_env>;
template class detail::source_session<test::pipe_env>;
template class detail::follower_session<test::pipe_env>;

}  // namespace lockstep

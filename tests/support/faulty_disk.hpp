// The simulator's disk under the names that the tests use; faulty_env (faulty_env.hpp) is a program's view of it.
//
//   faulty_disk disk;
//   disk.crash_at(17);                        // the 18th operation from here and all after it fail
//   { asio::io_context io; faulty_env env(io.get_executor(), disk); run(io, program(env)); }
//   for_each_crash_image(disk, 50, [&](faulty_disk& image, const std::string& which) {
//     SCOPED_TRACE(which);
//     asio::io_context io; faulty_env env(io.get_executor(), image); /* recover, and look */ });
#pragma once

#include "lockstep/sim/disk.hpp"

namespace lockstep::test {

using faulty_disk = sim::disk;

using sim::crashed_error;
using sim::disk_error;
using sim::fault;
using sim::for_each_crash;
using sim::for_each_crash_image;
using sim::op;
using sim::op_kind;
using sim::page_size;
using sim::power_cut;
using sim::sector_size;
using sim::survives;
using sim::times;
using sim::to_string;
using sim::view;

}  // namespace lockstep::test

// append_log on a disk that syncs more slowly than the program writes.
#include "lockstep/log/append_log.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

namespace lockstep::test {
namespace {

TEST(append_log_on_a_slow_disk, a_log_that_never_waits_for_syncs_closes_a_bounded_number_of_segments_ahead_of_them) {
  faulty_disk disk;
  log_life life(disk, small_options(sync_policy::never));
  life.opened();
  disk.hold_syncs();
  life.append_up_to(200);  // 20 segments
  poll(life.io);
  EXPECT_LT(life.log->acked().index, 200u);
  EXPECT_LE(life.log->segment_count(), 10u);
  disk.release_syncs();
  life.durable(200);
  EXPECT_EQ(life.contents(), numbered(1, 200));
  life.close();
}

}  // namespace
}  // namespace lockstep::test

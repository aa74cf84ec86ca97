#include "cityhall/store.hpp"

#include "faulty_env.hpp"
#include "run.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace lockstep::cityhall {
namespace {

using test::faulty_disk;
using test::faulty_env;
using store = basic_store<faulty_env>;

constexpr const char* directory = "/city";

byte_buffer segment_of(const std::string& key) {
  segment_builder builder;
  builder.add({operation::put, key, "value"});
  byte_buffer payload;
  payload.append(builder.payload());
  return payload;
}

/// One life of a node whose store applies what its log is given.
class node {
 public:
  explicit node(faulty_disk& disk, store_options options = small_options()) : env_(io.get_executor(), disk) {
    opened_ = test::run(io, store::open(env_, directory, std::move(options)));
    running_.emplace(test::start(io, opened_->run()));
  }
  node(const node&) = delete;
  ~node() { end(); }

  static store_options small_options() {
    store_options options;
    options.log.segment_bytes = log_format::segment_header_bytes + 200;
    options.log.sync_where = sync_on::caller;
    options.log.max_unsynced_bytes = 16 << 10;
    options.log.max_payload_bytes = 4 << 10;
    options.snapshot_every = 0;
    options.retain_bytes = 1;
    options.start_over = true;
    return options;
  }
  static store_options compacting_options() {
    store_options options = small_options();
    options.snapshot_every = 3;
    return options;
  }

  [[nodiscard]] store& at() { return *opened_; }
  [[nodiscard]] const kv_state& state() const { return opened_->state(); }

  /// @return the last record's position, applied.
  position write(const std::string& key, int times = 1, epoch_t epoch = 1) {
    position last;
    for (int i = 0; i < times; ++i) {
      last = at().log().append(epoch, segment_of(key + std::to_string(i)).view());
      EXPECT_EQ(test::run(io, at().holding(last)), std::error_code());
    }
    return last;
  }
  bool run_until(const std::function<bool()>& condition) { return test::run_until(io, condition); }
  test::started<std::error_code> ask_for(const position& wanted) { return test::start(io, at().holding(wanted)); }

  void end() {
    if (!opened_) return;
    test::run(io, opened_->close());
    EXPECT_TRUE(run_until([this] { return running_->done(); }));
    EXPECT_TRUE(!running_->failed() || running_->error() == errc::closed);  // closed while it wrote a snapshot
    opened_.reset();
  }

  asio::io_context io;

 private:
  faulty_env env_;
  std::unique_ptr<store> opened_;
  std::optional<test::started<void>> running_;
};

/// A state of `count` records in a history of its own.
kv_state some_state(index_t count, epoch_t epoch) {
  kv_state::pair_map pairs;
  pairs.emplace("from", "snapshot");
  return kv_state({epoch, count, 0xabc}, {count, count}, "127.0.0.1:1", std::move(pairs));
}

// D2. Found by the simulator: the directory above was never synced, so that a power loss took the whole store.
TEST(cityhall_store, is_there_after_a_power_loss_with_all_that_it_acknowledged) {
  faulty_disk disk;
  position last;
  {
    node one(disk);
    last = one.write("key", 5);
  }
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    faulty_disk left = disk.power_loss(seed);
    node again(left);
    EXPECT_EQ(again.state().at(), last) << "seed " << seed;
  }
}

TEST(cityhall_store, wakes_readers_of_a_position_that_comes_with_a_snapshot_and_nothing_behind_it) {
  faulty_disk disk;
  node replica(disk);
  const kv_state state = some_state(7, 1);
  auto reader = replica.ask_for(state.at());
  const byte_buffer bytes = encode_snapshot(state);
  test::run(replica.io, replica.at().install_snapshot(bytes.view(), state.at()));
  test::run(replica.io, replica.at().log().reset(state.at()));
  ASSERT_TRUE(replica.run_until([&] { return reader.done(); }));
  EXPECT_EQ(reader.result(), std::error_code());
  EXPECT_EQ(replica.state(), state);
}

TEST(cityhall_store, a_leaders_snapshot_replaces_a_later_one_of_another_history) {
  faulty_disk disk;
  const kv_state state = some_state(4, 2);
  {
    node replica(disk, node::compacting_options());
    replica.write("dead", 10);
    const byte_buffer bytes = encode_snapshot(state);
    test::run(replica.io, replica.at().install_snapshot(bytes.view(), state.at()));
    test::run(replica.io, replica.at().log().reset(state.at()));
    ASSERT_TRUE(replica.run_until([&] { return replica.state() == state; }));
  }
  node again(disk);
  EXPECT_EQ(again.state(), state);
}

/// A replica whose third record is applied, and then taken back while the snapshot that holds it is being written.
struct taken_back {
  faulty_disk disk;
  node replica{disk, node::compacting_options()};
  position kept = replica.write("kept", 2);

  taken_back() {
    disk.hold_syncs();  // of the snapshot only: the log's are the caller's
    replica.write("cut off");
    EXPECT_TRUE(replica.run_until([&] { return disk.held_syncs() != 0; }));
    test::run(replica.io, replica.at().give_up_snapshot_behind(kept.index));
    test::run(replica.io, replica.at().log().truncate_suffix(kept.index));
  }
};

TEST(cityhall_store, goes_back_when_records_were_taken_back_while_it_wrote_a_snapshot_of_them) {
  taken_back in;
  in.disk.release_syncs();
  ASSERT_TRUE(in.replica.run_until([&] { return in.replica.state().at() == in.kept; }));
  in.replica.end();
  EXPECT_FALSE(in.disk.exists(snapshot_path(directory)));
}

TEST(cityhall_store, does_not_take_records_that_were_taken_back_for_those_that_came_in_their_place) {
  taken_back in;
  const position replaced = in.replica.at().log().append(2, segment_of("in its place").view());
  test::run(in.replica.io, in.replica.at().log().durable(replaced.index));
  auto reader = in.replica.ask_for(replaced);
  test::poll(in.replica.io);
  EXPECT_FALSE(reader.done());
  in.disk.release_syncs();
  ASSERT_TRUE(in.replica.run_until([&] { return reader.done(); }));
  EXPECT_TRUE(in.replica.state().find("in its place"));
  EXPECT_FALSE(in.replica.state().find("cut off0"));
}

TEST(cityhall_store, starts_over_when_a_cut_goes_behind_its_snapshot_and_the_log_before_is_gone) {
  faulty_disk disk;
  node replica(disk, node::compacting_options());
  position last;
  index_t kept = 0;
  for (int i = 0; i < 100 && (kept == 0 || replica.at().latest()->upto.index <= kept); ++i) {
    last = replica.write("key" + std::to_string(i));
    while (test::poll(replica.io) != 0) continue;  // its snapshots and what they replace
    kept = replica.at().log().base().index;
  }
  ASSERT_GT(kept, 0U);
  test::run(replica.io, replica.at().give_up_snapshot_behind(kept));
  test::run(replica.io, replica.at().log().truncate_suffix(kept));
  ASSERT_TRUE(replica.run_until([&] { return replica.at().log().last() == position{}; }));
  test::run(replica.io, replica.at().log().durable(0));  // the reset has ended
  auto reader = replica.ask_for(last);
  const position anew = replica.write("anew", 1, 2);
  EXPECT_EQ(anew.index, 1U);
  EXPECT_EQ(replica.state().pairs().size(), 1U);
  ASSERT_TRUE(replica.run_until([&] { return reader.done(); }));
  EXPECT_EQ(reader.result(), errc::diverged);
}

// D3. It came back with a power loss, counted as one whose installation was cut short, and the log was reset to it.
TEST(cityhall_store, a_snapshot_that_was_given_up_does_not_come_back) {
  faulty_disk disk;
  node replica(disk, node::compacting_options());
  replica.write("key", 4);
  while (test::poll(replica.io) != 0) continue;  // its snapshot
  ASSERT_TRUE(disk.exists(snapshot_path(directory), test::view::durable));
  test::run(replica.io, replica.at().give_up_snapshot_behind(1));
  EXPECT_FALSE(disk.exists(snapshot_path(directory), test::view::durable));
}

TEST(cityhall_store, refuses_a_log_whose_beginning_no_snapshot_stands_for_unless_told_to_start_over) {
  faulty_disk disk;
  {
    node leader(disk, node::compacting_options());
    leader.write("key", 20);
    ASSERT_TRUE(leader.run_until([&] { return leader.at().log().base().index > 1; }));
    test::run(leader.io, leader.at().give_up_snapshot_behind(0));
  }
  store_options as_leader = node::small_options();
  as_leader.start_over = false;
  EXPECT_THROW(node(disk, as_leader), store_corrupt);
  node replica(disk);
  EXPECT_EQ(replica.state(), kv_state());
  EXPECT_EQ(replica.at().log().last(), position{});
}

TEST(cityhall_store, has_its_present_state_for_a_snapshot_while_none_was_written) {
  faulty_disk disk;
  node leader(disk);
  EXPECT_FALSE(leader.at().latest());
  const position last = leader.write("key", 3);
  const auto image = leader.at().latest();
  ASSERT_TRUE(image);
  EXPECT_EQ(image->upto, last);
  EXPECT_EQ(decode_snapshot(image->bytes), leader.state());
}

TEST(cityhall_store, tells_readers_of_a_position_that_a_later_leader_replaced) {
  faulty_disk disk;
  node leader(disk);
  position gone = leader.write("key", 3);
  gone.chain += 1;
  auto reader = leader.ask_for(gone);
  test::poll(leader.io);
  EXPECT_FALSE(reader.done());
  leader.write("later", 1, 2);
  ASSERT_TRUE(leader.run_until([&] { return reader.done(); }));
  EXPECT_EQ(reader.result(), errc::diverged);
}

TEST(cityhall_store, lets_readers_go_when_it_closes) {
  faulty_disk disk;
  node leader(disk);
  auto reader = leader.ask_for({9, 9, 9});
  test::poll(leader.io);
  leader.end();
  ASSERT_TRUE(leader.run_until([&] { return reader.done(); }));
  EXPECT_EQ(reader.result(), errc::closed);
}

}  // namespace
}  // namespace lockstep::cityhall

// A node's end, whatever it is doing then: nothing of it goes on, whoever waits is told, and the next life begins.
#include "raft/node_group.hpp"

#include <map>

namespace lockstep::raft::test {
namespace {

/// What is to happen in the life of a node that is closed, and what came of it.
struct ending {
  std::function<bool(node_type&)> when = [](node_type&) { return true; };  // somebody begins to wait
  std::function<bool(node_type&)> then = [](node_type&) { return true; };  // and it is closed
  std::function<awaitable<std::error_code>(node_type&)> asks_first;        // of those who wait
  bool runs = true;
  bool closes_twice_at_once = false;
  std::size_t passing = 0;  // how many turns others have in between

  std::map<std::string, std::optional<std::error_code>> waits;  // what they ended with
  std::vector<std::string> under_way;                           // those that had not ended when close() began
  std::vector<std::string> late;                                // nor when it had completed
  std::optional<std::error_code> run_ended;
  bool over = false;
  std::uint64_t operations = 0;  // of the disk, until then
  change_error why{};
};

awaitable<void> note(awaitable<std::error_code> what, std::size_t& begun, std::optional<std::error_code>& ended) {
  ++begun;
  ended = co_await std::move(what);
}
awaitable<std::error_code> error_of_proposal(node_type& to) {
  const outcome done = co_await to.propose(as_bytes("last words"), 1h);
  co_return done.error;
}
awaitable<std::error_code> close_quietly(node_type& node) {
  try {
    co_await node.close();
  } catch (const std::system_error& error) {
    co_return error.code();
  }
  co_return std::error_code();
}
awaitable<void> run(node_type& node, std::optional<std::error_code>& ended) {
  try {
    co_await node.run();
    ended = std::error_code();
  } catch (const std::system_error& error) {
    ended = error.code();
  }
}

awaitable<void> wait_for(sim::env& on, node_type& node, const std::function<bool(node_type&)>& condition) {
  sim::env::timer timer(on);
  while (!condition(node)) {
    timer.expires_after(100us);
    (void)co_await timer.wait();
  }
}

awaitable<void> live_and_close(sim::env& on, group& of, std::size_t i, ending& told) {
  of.machines[i] = std::make_shared<adder>();
  auto node = co_await node_type::open(on, of.options_of(i), *of.machines[i]);
  of.nodes[i] = node.get();
  task_group running(on.get_executor());
  task_group asking(on.get_executor());
  running.spawn(serve_members(on, *node));
  running.spawn(of.propose_now_and_then(on, *node));
  if (told.runs) asking.spawn(run(*node, told.run_ended));
  co_await wait_for(on, *node, told.when);

  std::size_t begun = 0;
  if (told.asks_first) asking.spawn(note(told.asks_first(*node), begun, told.waits["first"]));
  while (begun != told.waits.size()) co_await asio::post(on.get_executor(), use_awaitable);
  asking.spawn(note(error_of_proposal(*node), begun, told.waits["propose"]));
  asking.spawn(note(node->read_barrier(1h), begun, told.waits["read_barrier"]));
  asking.spawn(note(node->add(9, "n9:7000", 1h, told.why), begun, told.waits["change_members"]));
  asking.spawn(note(node->snapshot(1h), begun, told.waits["snapshot"]));
  asking.spawn(note(node->changed(on.now() + 1h), begun, told.waits["changed"]));
  while (begun != told.waits.size()) co_await asio::post(on.get_executor(), use_awaitable);
  for (std::size_t turn = 0; turn < told.passing; ++turn) co_await asio::post(on.get_executor(), use_awaitable);
  co_await wait_for(on, *node, told.then);

  for (const auto& [name, ended] : told.waits) {
    if (!ended) told.under_way.push_back(name);
  }
  if (told.closes_twice_at_once) asking.spawn(note(close_quietly(*node), begun, told.waits["close"]));
  (void)co_await close_quietly(*node);
  for (const std::string& name : told.under_way) {
    if (!told.waits[name]) told.late.push_back(name);
  }
  if (told.runs && !told.run_ended) told.late.push_back("run");
  (void)co_await close_quietly(*node);
  running.cancel();
  co_await running.join();
  co_await asking.join();
  of.nodes[i] = nullptr;
  node.reset();
  told.operations = on.on().storage.operations();
  told.over = true;
  wait_list nothing(on.get_executor());
  (void)co_await nothing.wait();
}

void begin(group& of, std::size_t i, ending& told) {
  sim::node& target = *of.world.nodes()[i];
  target.crash();
  target.start([&of, &told, i](sim::env& on) { return live_and_close(on, of, i, told); });
}

/// @param waiting  those that are under way when the node is closed.
void expect_a_clean_end(group& of, std::size_t i, ending& told, const std::vector<std::string>& waiting) {
  sim::node& target = *of.world.nodes()[i];
  ASSERT_TRUE(of.world.run_until([&] { return told.over || !target.running(); }, 120s)) << "it does not end";
  ASSERT_TRUE(target.running()) << target.failure_text();
  EXPECT_EQ(told.late, std::vector<std::string>()) << "close() had completed before";
  for (const std::string& name : waiting) {
    EXPECT_EQ(std::count(told.under_way.begin(), told.under_way.end(), name), 1) << name << " did not wait";
  }
  for (const std::string& name : told.under_way) {
    const std::error_code ended = told.waits[name].value_or(std::error_code());
    EXPECT_TRUE(ended == errc::closed || ended == errc::timed_out) << name << ": " << ended.message();
  }
  for (std::size_t other = 0; other < of.size; ++other) {
    if (other != i) of.world.nodes()[other]->crash();
  }
  of.world.run_for(120s);
  EXPECT_FALSE(of.world.step()) << "something goes on";
  EXPECT_EQ(target.storage.operations(), told.operations);

  target.storage.on_operation(nullptr);
  target.storage.clear_faults();
  for (std::size_t each = 0; each < of.size; ++each) {
    sim::node& again = *of.world.nodes()[each];
    again.crash();
    again.disk_time = {};
    again.start([&of, each](sim::env& on) { return of.live(on, each); });
  }
  ASSERT_TRUE(of.goes_on(3));
  const std::size_t due = of.acknowledged.size();
  ASSERT_TRUE(of.world.run_until([&] { return of.machines[i]->applied.size() >= due; }, 60s));
  EXPECT_TRUE(target.running()) << target.failure_text();
  EXPECT_TRUE(of.agrees());
}

/// Lets node i + 1 lead, which begins its life of an ending.
void let_lead(group& of, std::size_t i) {
  const auto leads = [&] { return of.nodes[i] && of.nodes[i]->core().role() == role::leader; };
  for (int attempt = 0; attempt < 50 && !leads(); ++attempt) {
    const std::size_t leader = of.leader();
    if (leader == i || !of.nodes[i]) continue;
    const auto hand_over = [i](sim::env&, node_type& node) -> awaitable<void> { (void)co_await node.transfer(i + 1); };
    of.tasks[leader].push_back(hand_over);
    (void)of.world.run_until(leads, 500ms);
  }
  ASSERT_TRUE(leads());
}

TEST(raft_node_close, before_it_runs) {
  group of(61);
  ASSERT_TRUE(of.goes_on(5));
  ending told;
  told.runs = false;
  begin(of, 0, told);
  expect_a_clean_end(of, 0, told, {});
}

TEST(raft_node_close, as_a_follower) {
  for (std::size_t passing = 0; passing < 12; ++passing) {
    SCOPED_TRACE(passing);
    group of(62 + passing);
    ASSERT_TRUE(of.goes_on(5));
    const std::size_t i = (of.leader() + 1) % 3;
    ending told;
    told.when = [](node_type& node) { return node.core().leader() != 0 && node.applied() > 1; };
    told.passing = passing;
    told.closes_twice_at_once = passing % 2 != 0;
    begin(of, i, told);
    expect_a_clean_end(of, i, told, {"read_barrier"});
  }
}

awaitable<void> grant_pre_votes_only(channel_type& from) {
  for (;;) {
    const frame_view frame = co_await from.receive();
    const auto heard = decode_message(frame);
    if (!heard || heard->type != message_type::vote_request || !heard->pre) continue;
    message answer = from_leader(message_type::vote_response);
    answer.from = 2;
    answer.to = 1;
    answer.term = heard->term;
    answer.pre = answer.granted = true;
    const encoded_words words = encode_message(answer);
    co_await from.send(static_cast<std::uint8_t>(answer.type), 0, words.view());
  }
}

TEST(raft_node_close, as_a_candidate) {
  for (const role stands_as : {role::pre_candidate, role::candidate}) {
    SCOPED_TRACE(static_cast<int>(stands_as));
    group of(74, node_options(), 2);
    ASSERT_TRUE(of.goes_on(5));
    ending told;
    told.when = [stands_as](node_type& node) { return node.core().role() == stands_as && node.settled(); };
    of.world.nodes()[1]->crash();
    of.world.nodes()[1]->start([](sim::env& on) { return accept_members(on, 2, grant_pre_votes_only); });
    begin(of, 0, told);
    expect_a_clean_end(of, 0, told, {});
  }
}

/// Lets node i + 1 lead, and come to its end when the others are gone.
void begin_alone(group& of, std::size_t i, ending& told) {
  told.when = [&of, i](node_type&) {
    const auto& nodes = of.world.nodes();
    return std::none_of(nodes.begin(), nodes.end(),
                        [&](const auto& each) { return each != nodes[i] && each->running(); });
  };
  begin(of, i, told);
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i] != nullptr; }, 10s));
  let_lead(of, i);
  ASSERT_TRUE(of.goes_on(2));
  for (std::size_t other = 0; other < of.size; ++other) {
    if (other != i) of.world.nodes()[other]->crash();
  }
}

TEST(raft_node_close, as_a_leader_that_has_lost_the_others) {
  for (std::size_t passing = 0; passing < 12; ++passing) {
    SCOPED_TRACE(passing);
    group of(75 + passing);
    ASSERT_TRUE(of.goes_on(5));
    const std::size_t i = (of.leader() + 1) % 3;
    ending told;
    told.passing = passing;
    told.closes_twice_at_once = passing % 2 != 0;
    begin_alone(of, i, told);
    expect_a_clean_end(of, i, told, {"propose", "read_barrier", "change_members"});
    EXPECT_EQ(told.waits["propose"], make_error_code(errc::timed_out)) << "it is in the log";
    EXPECT_EQ(told.waits["read_barrier"], make_error_code(errc::closed));
    EXPECT_EQ(told.waits["change_members"], make_error_code(errc::closed));
  }
}

TEST(raft_node_close, while_another_is_to_lead) {
  for (std::size_t passing = 0; passing < 12; ++passing) {
    SCOPED_TRACE(passing);
    group of(100 + passing);
    ASSERT_TRUE(of.goes_on(5));
    const std::size_t i = (of.leader() + 1) % 3;
    ending told;
    told.asks_first = [next = (i + 1) % 3 + 1](node_type& node) { return node.transfer(next); };
    told.passing = passing;
    begin_alone(of, i, told);
    expect_a_clean_end(of, i, told, {"read_barrier"});
    EXPECT_EQ(told.waits["first"], std::error_code());
    EXPECT_EQ(told.waits["propose"], make_error_code(errc::overloaded)) << "the transfer has ended";
    EXPECT_EQ(told.waits["read_barrier"], make_error_code(errc::closed));
  }
}

TEST(raft_node_close, while_a_joint_configuration_is_left) {
  for (std::size_t passing = 0; passing < 12; ++passing) {
    SCOPED_TRACE(passing);
    group of(112 + passing);
    ASSERT_TRUE(of.goes_on(5));
    const std::size_t leader = of.leader();
    const std::size_t i = (leader + 1) % 3;
    std::error_code joined;
    of.run_on(leader, [&](sim::env&, node_type& node) -> awaitable<void> {
      change_list demote;
      demote.how = transition::joint_explicit;
      demote.changes.push_back({change_type::add_learner, (i + 1) % 3 + 1, ""});
      change_error why{};
      joined = co_await node.change_members(demote, 5s, why);
    });
    ASSERT_FALSE(joined) << joined.message();
    ending told;
    told.asks_first = [&told](node_type& node) { return node.leave_joint(1h, told.why); };
    told.passing = passing;
    told.closes_twice_at_once = passing % 2 != 0;
    begin_alone(of, i, told);
    expect_a_clean_end(of, i, told, {"first", "propose", "read_barrier"});
    EXPECT_EQ(told.waits["first"], make_error_code(errc::closed));
    EXPECT_EQ(told.waits["change_members"], make_error_code(errc::overloaded)) << "the last change is under way";
  }
}

/// Sets `met` when the disk is asked for this.
void watch_for(sim::node& target, sim::op_kind kind, std::string path, bool& met) {
  target.storage.on_operation([kind, path = std::move(path), &met](const sim::op& next) {
    if (next.kind == kind && next.path.find(path) != std::string::npos) met = true;
  });
}

TEST(raft_node_close, while_the_hard_state_is_written) {
  group of(90);
  ASSERT_TRUE(of.goes_on(5));
  const std::size_t leader = of.leader();
  const std::size_t i = (leader + 1) % 3;
  sim::node& target = *of.world.nodes()[i];
  ending told;
  bool writes = false;
  told.when = [&](node_type& node) { return writes && !node.settled(); };
  begin(of, i, told);
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i] && of.nodes[i]->applied() > 1; }, 10s));
  target.disk_time.extra = 50ms;
  of.world.run_for(1s);
  watch_for(target, sim::op_kind::datasync, "hard_state", writes);
  of.world.nodes()[leader]->crash();
  expect_a_clean_end(of, i, told, {"propose", "read_barrier", "change_members"});
}

TEST(raft_node_close, while_a_snapshot_is_taken) {
  group of(91, with_small_snapshots());
  ASSERT_TRUE(of.goes_on(5));
  const std::size_t i = (of.leader() + 1) % 3;
  sim::node& target = *of.world.nodes()[i];
  ending told;
  bool writes = false;
  told.when = [&](node_type&) { return writes; };
  begin(of, i, told);
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i] && of.nodes[i]->applied() > 1; }, 10s));
  target.disk_time.extra = 50ms;
  watch_for(target, sim::op_kind::datasync, "/snapshots/", writes);
  expect_a_clean_end(of, i, told, {"snapshot"});
}

TEST(raft_node_close, while_a_snapshot_is_sent) {
  group of(92, with_small_snapshots());
  ASSERT_TRUE(of.goes_on(5));
  const std::size_t i = (of.leader() + 1) % 3;
  const std::size_t away = (i + 1) % 3;
  ending told;
  bool begins = false;
  const auto sends = [away](node_type& node) {
    const progress* const target = node.core().progress_of(away + 1);
    return target && target->state() == progress::state_t::snapshot;
  };
  told.when = [&](node_type& node) { return begins && sends(node); };
  begin(of, i, told);
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i] != nullptr; }, 10s));
  let_lead(of, i);
  of.world.nodes()[away]->crash();
  const index_t last = of.nodes[i]->log().last().index;
  of.command_bytes = 500;
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i]->log().base().index > last; }, 120s));
  of.world.net().limit_bandwidth(*of.world.nodes()[i], *of.world.nodes()[away], 20'000);
  begins = true;
  of.world.nodes()[away]->start();
  expect_a_clean_end(of, i, told, {"read_barrier"});
}

/// From the moment when all of a snapshot has come, the disk's operations are counted.
struct installation {
  bool begun = false;
  std::size_t operations = 0;
  bool removed = false;
  bool done = false;

  void see(const sim::op& next) {
    begun = begun || (next.kind == sim::op_kind::datasync && next.path.ends_with(".part"));
    if (!begun || done) return;
    ++operations;
    removed = removed || (next.kind == sim::op_kind::remove && next.path.ends_with(".snap"));
    done = removed && next.kind == sim::op_kind::sync_directory && next.path.ends_with("/snapshots");
  }
};

TEST(raft_node_close, at_any_step_of_the_installation_of_a_snapshot) {
  std::size_t steps = 0;
  bool all = false;
  for (; !all; ++steps) {
    SCOPED_TRACE(steps);
    group of(93, with_small_snapshots());
    of.command_bytes = 200;
    ASSERT_TRUE(of.goes_on(20));
    const std::size_t i = (of.leader() + 1) % 3;
    sim::node& target = *of.world.nodes()[i];
    const index_t last = of.nodes[i]->log().last().index;
    ending told;
    installation seen;
    told.when = [&](node_type&) {
      all = seen.done;
      return all || seen.operations > steps;
    };
    target.crash();
    ASSERT_TRUE(of.world.run_until([&] { return of.nodes[of.leader()]->log().base().index > last; }, 60s));
    target.disk_time.extra = 2ms;
    target.storage.on_operation([&seen](const sim::op& next) { seen.see(next); });
    begin(of, i, told);
    expect_a_clean_end(of, i, told, {});
    if (HasFailure()) return;
  }
  EXPECT_GT(steps, 5u) << "most of them are syncs";
}

TEST(raft_node_close, after_a_failure) {
  for (std::size_t passing = 0; passing < 6; ++passing) {
    SCOPED_TRACE(passing);
    group of(94 + passing);
    ASSERT_TRUE(of.goes_on(5));
    const std::size_t i = (of.leader() + 1) % 3;
    sim::node& target = *of.world.nodes()[i];
    ending told;
    bool leads = false;
    told.when = [&](node_type&) { return leads; };
    told.then = [&](node_type&) { return told.run_ended.has_value(); };
    told.passing = passing;
    begin(of, i, told);
    ASSERT_TRUE(of.world.run_until([&] { return of.nodes[i] != nullptr; }, 10s));
    let_lead(of, i);
    for (std::size_t other = 0; other < 3; ++other) {
      if (other != i) of.world.nodes()[other]->crash();
    }
    sim::fault failing;
    failing.kinds = {sim::op_kind::datasync};
    failing.path_contains = "/log/";
    target.storage.inject(failing);
    leads = true;
    expect_a_clean_end(of, i, told, {});
    EXPECT_EQ(told.run_ended, make_error_code(errc::log_failed));
    for (const auto& [name, ended] : told.waits) EXPECT_TRUE(ended) << name;
    EXPECT_EQ(told.waits["read_barrier"], make_error_code(errc::closed));
  }
}

}  // namespace
}  // namespace lockstep::raft::test

// What a node answers: to whom proposes, to other members, and to those who are none.
#include "raft/node_group.hpp"

namespace lockstep::raft::test {
namespace {

awaitable<void> send(channel_type& to, message what) {
  const encoded_words words = encode_message(what);
  co_await to.send(static_cast<std::uint8_t>(what.type), 0, words.view());
}

/// As the member that `what` is from, when its receiver listens.
awaitable<void> say(sim::env& on, message what) {
  sim::env::timer timer(on);
  for (;;) {
    try {
      std::optional<channel_type> over;
      co_await connect_to(on, what.from, static_cast<std::size_t>(what.to), over);
      co_await send(*over, what);
      co_await hear_all(*over);
    } catch (const std::system_error&) {
      // Not yet, or it has ended.
    }
    timer.expires_after(20ms);
    (void)co_await timer.wait();
  }
}

std::error_code failure_of(const sim::node& ended) {
  try {
    if (ended.failure()) std::rethrow_exception(ended.failure());
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

// --- rules that are broken --------------------------------------------------------------------------------------

TEST(raft_node_answers, a_follower_of_two_leaders_in_one_term_stops_and_names_both) {
  group of(41);
  sim::node& target = *of.world.nodes()[1];
  message beat = from_leader(message_type::heartbeat);
  beat.round = 1;
  of.world.nodes()[2]->crash();
  of.world.nodes()[0]->start([beat](sim::env& on) { return say(on, beat); });
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[1] && of.nodes[1]->core().leader() == 1; }, 10s));
  of.world.run_for(500ms);
  ASSERT_TRUE(target.running()) << target.failure_text();
  beat.from = 3;
  of.world.nodes()[2]->start([beat](sim::env& on) { return say(on, beat); });
  ASSERT_TRUE(of.world.run_until([&] { return !target.running(); }, 10s));
  EXPECT_EQ(failure_of(target), errc::diverged);
  EXPECT_NE(target.failure_text().find("nodes 1 and 3 both lead term 1"), std::string::npos) << target.failure_text();
}

TEST(raft_node_answers, a_leader_that_hears_another_one_of_its_term_stops_and_names_both) {
  group of(42, node_options(), 1);
  ASSERT_TRUE(of.goes_on(1));
  sim::node& target = *of.world.nodes()[0];
  const term_t term = of.nodes[0]->core().term();
  message beat = from_leader(message_type::heartbeat);
  beat.from = 2;
  beat.to = 1;
  beat.term = term;
  beat.round = 1;
  of.world.add_node("n2").start([beat](sim::env& on) { return say(on, beat); });
  ASSERT_TRUE(of.world.run_until([&] { return !target.running(); }, 10s));
  EXPECT_EQ(failure_of(target), errc::diverged);
  const std::string said = "nodes 1 and 2 both lead term " + std::to_string(term);
  EXPECT_NE(target.failure_text().find(said), std::string::npos) << target.failure_text();
}

// --- votes ------------------------------------------------------------------------------------------------------

/// Wants node 2's vote in term 10, as node `id`, and notes what it says.
awaitable<void> want_vote(sim::env& on, node_id id, std::optional<bool>& granted) {
  message request = from_leader(message_type::vote_request);
  request.from = id;
  request.term = 10;
  request.at = {9, 100, 0};
  std::optional<channel_type> over;
  co_await connect_to(on, id, 2, over);
  co_await send(*over, request);
  for (;;) {
    const frame_view frame = co_await over->receive();
    const auto heard = decode_message(frame);
    if (heard && heard->type == message_type::vote_response && !heard->pre) granted = heard->granted;
  }
}

/// Node 2 of three; a test speaks as the others.
struct lonely_voter : group {
  sim::node& target = *world.nodes()[1];

  explicit lonely_voter(std::uint64_t seed) : group(seed) {
    for (const std::size_t other : {0u, 2u}) world.nodes()[other]->crash();
    await_node();
  }
  void await_node() {
    EXPECT_TRUE(world.run_until([&] { return nodes[1] != nullptr; }, 10s));
    world.run_for(10ms);  // it listens
  }
  void restart_after_power_loss() {
    target.lose_power({});
    target.start();
    await_node();
  }
  std::optional<bool> vote_for(node_id id) {
    std::optional<bool> granted;
    sim::node& candidate = *world.nodes()[id - 1];
    candidate.start([&granted, id](sim::env& on) { return want_vote(on, id, granted); });
    (void)world.run_until([&] { return granted.has_value(); }, 500ms);
    candidate.crash();
    return granted;
  }
};

TEST(raft_node_answers, a_vote_that_was_told_is_not_given_again_after_a_power_loss) {  // paper, figure 2
  lonely_voter of(49);
  EXPECT_EQ(of.vote_for(1), true);
  of.restart_after_power_loss();
  EXPECT_EQ(of.vote_for(3), false);
  EXPECT_EQ(of.vote_for(1), true);
}

// --- proposals --------------------------------------------------------------------------------------------------

TEST(raft_node_answers, a_follower_refuses_a_proposal_and_names_the_leader) {
  group of(43);
  ASSERT_TRUE(of.goes_on(5));
  const std::size_t leader = of.leader();
  const std::size_t follower = (leader + 1) % 3;
  outcome refused;
  of.run_on(follower, [&](sim::env&, node_type& node) -> awaitable<void> {
    refused = co_await node.propose(as_bytes("refused"), 5s);
  });
  EXPECT_EQ(refused.error, errc::not_leader);
  EXPECT_EQ(refused.leader, leader + 1);
  of.world.nodes()[leader]->crash();
  of.world.nodes()[3 - leader - follower]->crash();
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[follower]->core().leader() == 0; }, 10s));
  outcome nobody_leads;
  of.run_on(follower, [&](sim::env&, node_type& node) -> awaitable<void> {
    nobody_leads = co_await node.propose(as_bytes("refused"), 5s);
  });
  EXPECT_EQ(nobody_leads.error, errc::not_leader);
  EXPECT_EQ(nobody_leads.leader, 0u);
  of.world.nodes()[leader]->start();
  of.world.nodes()[3 - leader - follower]->start();
  ASSERT_TRUE(of.goes_on(10));
  for (const auto& each : of.machines) EXPECT_EQ(std::count(each->applied.begin(), each->applied.end(), "refused"), 0);
}

awaitable<void> propose_into(node_type& to, std::string command, std::optional<outcome>& done) {
  done = co_await to.propose(as_bytes(command), 30s);
}

TEST(raft_node_answers, more_than_may_be_uncommitted_is_refused_and_goes_on_when_there_is_room) {
  node_options options;
  options.core.max_uncommitted_bytes = 1000;
  group of(44, options);
  ASSERT_TRUE(of.goes_on(5));
  of.proposes = false;
  of.world.run_for(500ms);
  const std::size_t leader = of.leader();
  const auto cut = [&](bool block) {
    for (const auto& other : of.world.nodes()) {
      sim::node& one = *of.world.nodes()[leader];
      if (other.get() == &one) continue;
      if (block) {
        of.world.net().block(one, *other);
        of.world.net().block(*other, one);
      } else {
        of.world.net().unblock(one, *other);
        of.world.net().unblock(*other, one);
      }
    }
  };
  cut(true);
  std::array<std::optional<outcome>, 10> done;
  const auto propose_all = [&](sim::env& on, node_type& node) -> awaitable<void> {
    task_group asking(on.get_executor());
    for (std::size_t i = 0; i < done.size(); ++i) {
      std::string command = "taken or not " + std::to_string(i);
      command.resize(300, '.');
      asking.spawn(propose_into(node, std::move(command), done[i]));
    }
    co_await asking.join();
  };
  of.tasks[leader].push_back(propose_all);
  const auto ended = [&] { return std::count_if(done.begin(), done.end(), [](const auto& each) { return !!each; }); };
  ASSERT_TRUE(of.world.run_until([&] { return ended() == 7; }, 300ms));
  of.world.run_for(100ms);
  EXPECT_EQ(ended(), 7) << "three are under way: 900 bytes";
  for (const auto& each : done) {
    if (each) {
      EXPECT_EQ(each->error, errc::overloaded);
    }
  }
  cut(false);
  ASSERT_TRUE(of.world.run_until([&] { return ended() == 10; }, 30s));
  EXPECT_EQ(std::count_if(done.begin(), done.end(), [](const auto& each) { return each->ok(); }), 3);
  // One that is alone may be as large as a record may be.
  for (const std::size_t size : {300u, 2000u}) {
    outcome later;
    of.run_on(leader, [&](sim::env&, node_type& node) -> awaitable<void> {
      const std::string command(size, 'x');
      later = co_await node.propose(as_bytes(command), 5s);
    });
    EXPECT_TRUE(later.ok()) << later.error.message();
  }
  const std::vector<std::string>& applied = of.machines[leader]->applied;
  for (std::size_t i = 0; i < done.size(); ++i) {
    const std::string command = "taken or not " + std::to_string(i);
    const auto is_it = [&](const std::string& each) { return each.starts_with(command + "."); };
    EXPECT_EQ(std::count_if(applied.begin(), applied.end(), is_it), done[i]->ok() ? 1 : 0) << i;
  }
}

// --- another cluster --------------------------------------------------------------------------------------------

TEST(raft_node_answers, the_directory_of_another_cluster_or_node_is_refused_by_a_text_that_names_both) {
  group of(45);
  ASSERT_TRUE(of.goes_on(5));
  sim::node& target = *of.world.nodes()[1];
  target.crash();
  const auto contents = [&] {
    std::vector<std::pair<std::string, std::vector<std::byte>>> all;
    for (const std::string& path : target.storage.files()) {
      if (!path.ends_with(log_files::lock)) all.emplace_back(path, *target.storage.bytes(path));
    }
    return all;
  };
  const auto open_as = [&](const std::string& cluster, node_id id) {
    const auto before = contents();
    const sim::node::program opens = [&of, cluster, id](sim::env& on) -> awaitable<void> {
      adder machine;
      node_options options = of.options_of(1);
      options.cluster = cluster;
      options.core.id = id;
      (void)co_await node_type::open(on, options, machine);
    };
    target.start(opens);
    EXPECT_TRUE(of.world.run_until([&] { return !target.running(); }, 10s));
    EXPECT_TRUE(contents() == before) << "something is changed";
    return std::pair(failure_of(target), target.failure_text());
  };
  const auto [other_cluster, clusters] = open_as("other", 2);
  EXPECT_EQ(other_cluster, errc::wrong_cluster);
  EXPECT_NE(clusters.find("/data belongs to node 2 of cluster test, not to node 2 of cluster other"), std::string::npos)
      << clusters;
  const auto [other_node, nodes] = open_as("test", 3);
  EXPECT_EQ(other_node, errc::wrong_node);
  EXPECT_NE(nodes.find("/data belongs to node 2 of cluster test, not to node 3 of cluster test"), std::string::npos)
      << nodes;
  target.start([&](sim::env& on) { return of.live(on, 1); });
  ASSERT_TRUE(of.goes_on(10));
  ASSERT_TRUE(of.world.run_until([&] { return of.machines[1]->applied.size() >= of.acknowledged.size(); }, 10s));
  EXPECT_TRUE(of.agrees());
}

TEST(raft_node_answers, a_node_of_another_cluster_is_refused_and_told_both_names) {
  group of(46, node_options(), 4);
  of.founders = 3;
  of.world.nodes()[3]->crash();
  ASSERT_TRUE(of.goes_on(5));
  const term_t term = of.nodes[0]->core().term();
  std::string trouble;
  of.world.nodes()[3]->start([&](sim::env& on) -> awaitable<void> {
    adder machine;
    node_options options = of.options_of(0);
    options.core.id = 4;
    options.cluster = "other";
    options.members = {{1, "n1:7000"}, {4, "n4:7000"}};
    const auto node = co_await node_type::open(on, options, machine);
    task_group running(on.get_executor());
    running.spawn(node->run());
    for (;;) {
      (void)co_await node->changed(on.now() + 10ms);
      for (const member_status& each : node->status().members) {
        if (each.id == 1) trouble = each.trouble;
      }
    }
  });
  const auto is_told = [&] { return trouble.find("'test'") != std::string::npos; };
  EXPECT_TRUE(of.world.run_until(is_told, 10s)) << trouble;
  EXPECT_NE(trouble.find("'other'"), std::string::npos) << trouble;
  ASSERT_TRUE(of.goes_on(200));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(of.nodes[i]->connected(4));
    EXPECT_EQ(of.nodes[i]->core().term(), term) << "it disturbs nobody";
  }
}

// --- what is sent -----------------------------------------------------------------------------------------------

/// A learner that takes down what it is sent, and acknowledges records when it may.
struct listener {
  struct batch {
    std::size_t bytes;
    std::size_t records;
  };
  bool acknowledges = false;
  index_t has = 0;
  std::vector<batch> batches;
  std::size_t heartbeats = 0;
  std::size_t heartbeats_with_more = 0;

  awaitable<void> follow(channel_type& leader) {
    for (;;) {
      const frame_view frame = co_await leader.receive();
      const auto heard = decode_message(frame);
      if (!heard) continue;
      message answer = from_leader(message_type::append_response);
      answer.from = 2;
      answer.to = 1;
      answer.term = heard->term;
      if (heard->type == message_type::heartbeat) {
        ++heartbeats;
        const bool has_more = frame.payload.size() != encode_message(*heard).view().size() || !heard->records.empty();
        if (has_more || heard->commit > has) ++heartbeats_with_more;
        answer.type = message_type::heartbeat_response;
        answer.round = heard->round;
        answer.index = has;
      } else if (heard->type == message_type::append && acknowledges) {
        if (!heard->records.empty()) batches.push_back({heard->records.bytes().size(), heard->records.count()});
        answer.rejected = heard->at.index > has;
        if (!answer.rejected && !heard->records.empty()) has = std::max(has, heard->records.last());
        answer.index = answer.rejected ? heard->at.index : has;
      } else {
        continue;
      }
      co_await send(leader, answer);
    }
  }
};

TEST(raft_node_answers, batches_are_bounded_by_bytes_and_heartbeats_carry_no_records) {
  node_options options;
  options.max_batch_bytes = 4096;
  options.core.in_flight.bytes = 1 << 20;
  group of(47, options, 1);
  of.proposes = false;
  ASSERT_NE(of.leader(), of.size);
  of.run_on(0, [&](sim::env&, node_type& node) -> awaitable<void> {
    sim::random_stream sizes = of.world.random("sizes");
    for (int i = 0; i < 200; ++i) {
      const std::string command(i == 100 ? 20000 : sizes.below(1500), 'x');
      const outcome done = co_await node.propose(as_bytes(command), 5s);
      EXPECT_TRUE(done.ok()) << done.error.message();
    }
  });
  listener learner;
  of.world.add_node("n2").start([&](sim::env& on) -> awaitable<void> {
    const session_type session = [&](channel_type& leader) { return learner.follow(leader); };
    co_await accept_members(on, 2, session);
  });
  of.run_on(0, [&](sim::env&, node_type& node) -> awaitable<void> {
    change_error why{};
    const std::error_code changed = co_await node.add(2, "n2:7000", 5s, why);
    EXPECT_FALSE(changed) << changed.message();
  });
  ASSERT_TRUE(of.world.run_until([&] { return learner.heartbeats >= 20; }, 10s)) << "while nothing is acknowledged";
  learner.acknowledges = true;
  // What was sent is not sent again over this connection.
  of.world.net().reset(*of.world.nodes()[0], *of.world.nodes()[1]);
  const index_t last = of.nodes[0]->log().last().index;
  ASSERT_TRUE(of.world.run_until([&] { return learner.has == last; }, 30s)) << learner.has;
  const std::size_t before = learner.heartbeats;
  ASSERT_TRUE(of.world.run_until([&] { return learner.heartbeats >= before + 20; }, 10s));
  EXPECT_EQ(learner.heartbeats_with_more, 0u);
  EXPECT_EQ(of.nodes[0]->status().members.at(0).match, last);
  std::size_t most = 0;
  std::size_t larger = 0;
  for (const listener::batch& each : learner.batches) {
    if (each.bytes > options.max_batch_bytes) {
      ++larger;
      EXPECT_EQ(each.records, 1u);
      EXPECT_GT(each.bytes, 20000u);
    } else {
      most = std::max(most, each.bytes);
    }
  }
  EXPECT_EQ(larger, 1u) << "the record that is larger itself";
  EXPECT_GT(most, options.max_batch_bytes - 1600) << "as much as fits goes together";
  EXPECT_LT(learner.batches.size(), 100u);
}

}  // namespace
}  // namespace lockstep::raft::test

#include "raft_replication/topology.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

namespace lockstep::raft_replication {
namespace {

using peers = std::map<node_id, std::string>;

std::string why_refused(const std::function<void()>& what) {
  try {
    what();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "it was taken";
}

TEST(raft_replication_topology, lists_of_peers_are_read_as_one) {
  const peers all{{1, "a:1"}, {2, "b:2"}, {3, "[::1]:3"}};
  EXPECT_EQ(parse_peers({"1=a:1,2=b:2,3=[::1]:3"}), all);
  EXPECT_EQ(parse_peers({"3=[::1]:3", "2=b:2,1=a:1"}), all);
}

TEST(raft_replication_topology, a_node_or_an_address_twice_is_refused_and_both_are_named) {
  EXPECT_EQ(why_refused([] { (void)parse_peers({"1=a:1,1=b:2"}); }), "node 1 is there twice: a:1 and b:2");
  EXPECT_EQ(why_refused([] { (void)parse_peers({"1=a:1", "2=a:1"}); }), "nodes 1 and 2 have the same address a:1");
}

TEST(raft_replication_topology, what_is_no_peer_is_refused) {
  for (const char* const text : {"", "a:1", "=a:1", "0=a:1", "x=a:1", "1=a:1,", "1=a", "1="}) {
    EXPECT_THROW((void)parse_peers({text}), std::invalid_argument) << text;
  }
}

TEST(raft_replication_topology, this_node_must_stand_among_the_peers_where_it_listens) {
  const peers all{{1, "a:1"}, {2, "b:2"}, {3, "c:3"}};
  EXPECT_NO_THROW(check_peers(all, 2, address("b", 2)));
  EXPECT_EQ(why_refused([&] { check_peers(all, 4, address("b", 2)); }),
            "--id 4 is not among the nodes of --peer: 1, 2, 3");
  EXPECT_EQ(why_refused([&] { check_peers(all, 1, address("b", 2)); }), "--listen b:2 differs from --peer 1=a:1");
}

TEST(raft_replication_topology, an_even_number_is_refused) {
  EXPECT_NO_THROW(check_peers({{1, "a:1"}}, 1, address("a", 1)));
  EXPECT_EQ(why_refused([] {
              check_peers({{1, "a:1"}, {2, "b:2"}}, 1, address("a", 1));
            }),
            "--peer names 2 nodes (1, 2): an even number survives no more failures than 1, name an odd number");
}

}  // namespace
}  // namespace lockstep::raft_replication

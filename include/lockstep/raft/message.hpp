// What the nodes of a Raft group say to each other. Plain data: raft/codec.hpp has their bytes.
//
// Terms and names are those of Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 2,
// and of Ongaro's dissertation ("Consensus: Bridging Theory and Practice") for what goes beyond.
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/log/batch.hpp"

#include <cstdint>

namespace lockstep::raft {

/// A leader's life; the epoch of the records that it makes.
using term_t = epoch_t;

enum class message_type : std::uint8_t {
  vote_request = 1,
  vote_response = 2,
  append = 3,
  append_response = 4,
  heartbeat = 5,
  heartbeat_response = 6,
  read_request = 7,  ///< a follower asks its leader for an index to read at (dissertation, section 6.4)
  read_response = 8,
  timeout_now = 9,  ///< the leader asks a follower to become leader in its place (section 3.10)
  snapshot_offer = 10,
};

/// A field that a type does not name is zero.
struct message {
  message_type type = message_type::heartbeat;
  node_id from = 0;
  node_id to = 0;
  term_t term = 0;

  /// vote_request: the candidate's last record. append: the record before the first of `records`. snapshot_offer: the
  /// last one that the snapshot stands for. append_response, rejected: the last record that may be common (its chain is
  /// not filled in). A chain of 0 is not known, and compared with nothing.
  position at;
  /// append, heartbeat: what of the leader's log is committed; a heartbeat names nothing that its receiver has not
  /// acknowledged.
  index_t commit = 0;
  /// append_response, heartbeat_response: the last index that is durable and as the leader has it; when rejected, the
  /// index that was asked for. read_response: the index to read at; 0: this node does not lead.
  index_t index = 0;
  /// heartbeat, heartbeat_response: the leader's round of asking whether it still leads.
  /// read_request, read_response: which of the follower's reads.
  std::uint64_t round = 0;

  bool pre = false;       ///< vote_request, vote_response: asks who would vote, before a term is begun (section 9.6)
  bool quiet = false;     ///< heartbeat: the last one until something happens; the receiver need not wait for another
  bool transfer = false;  ///< vote_request: at the leader's own wish, so that nobody refuses for the leader's sake
  bool granted = false;   ///< vote_response
  bool rejected = false;  ///< append_response: `at` does not fit
  bool lost = false;      ///< append_response, rejected: this node may have acknowledged what its disk has lost since

  /// append: records that follow `at`, with sound headers and rising indexes; their chain is checked as they are
  /// appended.
  record_batch records;
};

}  // namespace lockstep::raft

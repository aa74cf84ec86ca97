// What the nodes of a sequencer say to each other. Plain data.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/log/batch.hpp"
#include "lockstep/sequencer/entry.hpp"

#include <cstdint>

namespace lockstep::sequencer {

enum class message_type : std::uint8_t {
  takeover = 1,         ///< a new leader: follow nobody older; what do you have?
  takeover_answer = 2,  ///< I do; this
  records = 3,          ///< of the leader, or of whom a new leader fetches from: its position, and what follows it
  fetch = 4,            ///< what follows this position, or where we differ
  compacted = 5,        ///< answers fetch: it is not kept any more
  ack = 6,              ///< durable here, and as the leader has it
  refused = 7,          ///< you are not the leader any more
  submit = 8,           ///< to the leader: number this
  submitted = 9,        ///< its answer
};

/// What becomes of a message that was submitted.
enum class submit_status : std::uint8_t {
  ordered,         ///< it is delivered under its number, now or long ago, and only there
  forgotten,       ///< it was ordered; its number is not remembered any more
  out_of_turn,     ///< not ordered: the sender's messages before it are not there yet
  unknown_sender,  ///< not ordered now; the sender's session has expired, so nobody knows whether it was before
  overloaded,      ///< not ordered: too much is not delivered yet, or there are too many senders
  not_leader,      ///< not ordered: no leader is known here, or it does not lead yet, or any more
};

/// A field that a type does not name is zero.
struct message {
  message_type type = message_type::records;
  node_id from = 0;
  node_id to = 0;
  epoch_t epoch = 0;  ///< the sender's

  /// takeover_answer: the last durable record. fetch: a record that the asking node has. records: one that the sending
  /// node has; the records behind it follow. What a leader says of its log stays true for its whole epoch.
  position at;
  /// records: the last that is to be sent; when above at.index, the driver adds the records behind `at`, as many as fit
  /// a message, at least one. fetch: the last that is wanted; at.index: none, only a comparison.
  /// ack: the last durable one. submitted: the message's number.
  index_t index = 0;
  /// records, of a leader: where the order stood when its epoch began.
  position start;
  /// records, of a leader: what may be delivered, wherever it is durable.
  index_t bound = 0;
  epoch_t accepted = 0;    ///< takeover_answer: see hard_state
  node_id leader = 0;      ///< refused: of this epoch
  bool wants_ack = false;  ///< records

  sender_id sender = 0;                           ///< submit, submitted
  std::uint64_t n = 0;                            ///< submit, submitted
  std::uint64_t since_ns = 0;                     ///< submit: see submission
  submit_status status = submit_status::ordered;  ///< submitted
  bytes_view payload;                             ///< submit; valid until the next input

  /// records: they follow `at`, with sound headers and rising indexes; their chain is checked as they are appended.
  record_batch records;
};

}  // namespace lockstep::sequencer

// What a replica is asked for: here, or by the leader, and each change once.
#include "raft_replication/replica.hpp"
#include "raft_replication/tables.hpp"
#include "raft_replication/verdicts.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::raft_replication {

using namespace std::chrono_literals;

namespace {

// One try of something that the leader is asked for. After it the same is asked again, of whoever leads then.
constexpr duration longest_try = 2s;

/// Commands that wait for their answers in one session.
constexpr std::uint32_t session_window = 1024;

/// Not later than `deadline`; longer than 0, which is no limit for rpc.
duration left_until(time_point deadline, time_point now) { return std::max<duration>(deadline - now, 1ms); }

}  // namespace

awaitable<reply> replica::carry_out(request asked, duration limit) {
  const verb what = asked.what;
  const bool changes = asked.changes();
  reply answer;
  try {
    answer = co_await dispatch(std::move(asked), env_.now() + limit);
  } catch (const std::system_error& error) {
    if (error.code() != errc::closed) throw;
    answer.code = changes ? reply_code::outcome_unknown : reply_code::failed;
    answer.words = "this node is stopping";
  }
  ++counters_.requests[{what, answer.code}];
  co_return answer;
}

awaitable<reply> replica::dispatch(request asked, time_point deadline) {
  reply answer;
  switch (asked.what) {
    case verb::put:
    case verb::del:
    case verb::cas: co_return co_await write(asked, deadline);
    case verb::get: co_return co_await read(asked, deadline);
    case verb::add:
    case verb::promote:
    case verb::remove: co_return co_await change(asked, deadline);
    case verb::transfer: co_return co_await transfer(asked, deadline);
    case verb::snapshot: co_return co_await take_snapshot(deadline);
    case verb::status: answer.words = json_text(status()); co_return answer;
    case verb::members: answer.words = json_text(members()); co_return answer;
    default: break;
  }
  answer.code = reply_code::refused;
  answer.words = "not a request to a node";
  co_return answer;
}

// As no_leader or outcome_unknown.
reply replica::gave_up(reply_code code, std::string why) const {
  reply answer;
  answer.code = code;
  if (why.empty()) why = leaderless();
  if (code == reply_code::outcome_unknown) {
    answer.words = (why.empty() ? "timed out" : why) + "; outcome unknown";
  } else {
    answer.words = why.empty() ? "timed out; nothing was changed" : why;
  }
  return answer;
}

awaitable<reply> replica::write(const request& asked, time_point deadline) {
  raft::kv::command told;
  told.op = asked.what == verb::put   ? raft::kv::operation::put
            : asked.what == verb::del ? raft::kv::operation::del
                                      : raft::kv::operation::cas;
  told.key = asked.key;
  told.value = asked.value;
  if (asked.expected) told.expected = *asked.expected;
  reply answer;
  if (!told.sound()) {
    answer.code = reply_code::refused;
    answer.words = "a key has from 1 byte to 64 KiB, a value at most 3 MiB";
    co_return answer;
  }
  byte_buffer command;
  encode(command, told);
  const led done = co_await in_session(command.view(), deadline);
  if (done.gave_up()) co_return gave_up(done.code, done.words);
  answer.code = done.code;
  answer.words = done.words;
  if (done.code != reply_code::ok) co_return answer;
  // It is applied at the leader. Here too, before anybody is told.
  while (node_->applied() < done.at.index) {
    if (env_.now() >= deadline) co_return gave_up(reply_code::outcome_unknown);
    if (const std::error_code closed = co_await node_->changed(deadline)) throw std::system_error(closed);
  }
  const std::optional<raft::kv::result> result = raft::kv::decode_result(done.result.view());
  if (!result) throw std::system_error(errc::malformed, "the state machine's answer");
  answer.index = done.at.index;
  answer.term = done.at.epoch;
  if (result->is == raft::kv::outcome::absent) answer.code = reply_code::absent;
  if (result->is == raft::kv::outcome::differs) {
    answer.code = reply_code::differs;
    if (result->revision != 0) answer.value = std::string(result->value);
  }
  co_return answer;
}

awaitable<reply> replica::read(const request& asked, time_point deadline) {
  while (!asked.stale) {
    const std::error_code refused = co_await node_->read_barrier(left_until(deadline, env_.now()));
    if (!refused) break;
    if (refused == errc::closed) throw std::system_error(refused);
    if (env_.now() >= deadline) co_return gave_up(reply_code::no_leader);
    co_await pause(deadline);
  }
  reply answer;
  const raft::kv::item* const found = store_.find(asked.key);
  if (found) {
    answer.index = found->revision;
    answer.value = found->value;
  } else {
    answer.code = reply_code::absent;
  }
  co_return answer;
}

awaitable<reply> replica::change(const request& asked, time_point deadline) {
  const raft::configuration& now = node_->core().members();
  const auto known = now.addresses.find(asked.node);
  reply refused;
  refused.code = reply_code::refused;
  if (asked.what == verb::add && now.is_member(asked.node)) {
    refused.words = fmt::format("node {} is a member already, at {}", asked.node,
                                known == now.addresses.end() ? "no address" : known->second);
    co_return refused;
  }
  if (asked.what != verb::add && !now.is_member(asked.node)) {
    refused.words = fmt::format("node {} is not a member", asked.node);
    co_return refused;
  }
  if (asked.what == verb::add) {
    for (const auto& [id, where] : now.addresses) {
      if (where != asked.address) continue;
      refused.words = fmt::format("node {} has the address {}", id, where);
      co_return refused;
    }
  }
  raft::change one;
  one.type = asked.what == verb::add       ? raft::change_type::add_learner
             : asked.what == verb::promote ? raft::change_type::add_voter
                                           : raft::change_type::remove;
  one.node = asked.node;
  one.address = asked.address;
  raft::change_list list;
  list.changes.push_back(one);
  byte_buffer bytes;
  raft::encode_changes(bytes, list);
  // Again is as good as once: who is a member already is not added twice.
  const led done = co_await by_leader(change_method, bytes.view(), deadline);
  if (done.gave_up()) co_return gave_up(done.code, done.words);
  reply answer;
  answer.code = done.code;
  answer.words = done.words;
  if (answer.ok()) {
    answer.index = done.at.index;
    answer.term = done.at.epoch;
  }
  co_return answer;
}

awaitable<reply> replica::transfer(const request& asked, time_point deadline) {
  byte_buffer bytes;
  field_writer(bytes).number(asked.node);
  const led begun = co_await by_leader(transfer_method, bytes.view(), deadline);
  reply answer;
  answer.code = begun.code;
  answer.words = begun.words;
  if (begun.gave_up()) co_return gave_up(begun.code, begun.words);
  if (!answer.ok()) co_return answer;
  // Its leader gives it up after an election timeout.
  const time_point until = std::min(deadline, env_.now() + 2 * options_.election_timeout);
  while (node_->core().leader() != asked.node) {
    if (env_.now() >= until) {
      answer.code = reply_code::failed;
      answer.words = fmt::format("node {} did not take over in time", asked.node);
      co_return answer;
    }
    if (const std::error_code closed = co_await node_->changed(until)) throw std::system_error(closed);
  }
  answer.words = fmt::format("node {} leads term {}", asked.node, node_->core().term());
  answer.term = node_->core().term();
  co_return answer;
}

awaitable<reply> replica::take_snapshot(time_point deadline) {
  reply answer;
  const std::error_code failed = co_await node_->snapshot(left_until(deadline, env_.now()));
  if (failed == errc::closed) throw std::system_error(failed);
  answer.index = node_->snapshot_index();
  answer.words = fmt::format("snapshot at index {}", answer.index);
  if (failed) {
    answer.code = reply_code::outcome_unknown;
    answer.words = "the snapshot takes longer than that";
  }
  co_return answer;
}

// --- exactly once (Ongaro's dissertation, section 6.3) ------------------------------------------------------------

auto replica::open_session(time_point deadline) -> awaitable<led> {
  raft::open_session wanted;
  wanted.limits.window = session_window;
  byte_buffer request;
  raft::encode_session_request(request, wanted);
  led opened = co_await by_leader(propose_method, request.view(), deadline);
  // A session is nothing that anybody could miss.
  if (opened.code == reply_code::outcome_unknown) opened.code = reply_code::no_leader;
  if (opened.code != reply_code::ok) co_return opened;
  const auto answer = raft::decode_session_response(opened.result.view());
  const auto session = answer ? raft::decode_opened_session(*answer) : std::nullopt;
  if (!session) throw std::system_error(errc::malformed, "the answer to open_session");
  session_ = *session;
  co_return opened;
}

auto replica::in_session(bytes_view command, time_point deadline) -> awaitable<led> {
  for (;;) {
    while (session_ == 0) {
      led opened;
      if (opening_) {
        if (const std::error_code closed = co_await node_->changed(deadline)) throw std::system_error(closed);
        if (env_.now() < deadline) continue;
        opened.code = reply_code::no_leader;
        co_return opened;
      }
      struct opening_mark {
        bool& set;
        explicit opening_mark(bool& mark) : set(mark) { set = true; }
        ~opening_mark() { set = false; }
      };
      {
        const opening_mark only_one(opening_);
        opened = co_await open_session(deadline);
      }
      if (opened.code != reply_code::ok) co_return opened;
    }
    while (!in_flight_.empty() && sequence_ + 1 >= *in_flight_.begin() + session_window) {
      if (const std::error_code closed = co_await node_->changed(deadline)) throw std::system_error(closed);
      if (env_.now() < deadline) continue;
      led busy;
      busy.code = reply_code::no_leader;
      co_return busy;
    }
    const raft::session_id session = session_;
    struct numbered {
      std::set<std::uint64_t>& in;
      const std::uint64_t sequence;
      numbered(std::set<std::uint64_t>& all, std::uint64_t next) : in(all), sequence(next) { in.insert(next); }
      ~numbered() { in.erase(sequence); }
    } const mine(in_flight_, ++sequence_);
    raft::session_command sent;
    sent.session = session;
    sent.sequence = mine.sequence;
    sent.acknowledged = *in_flight_.begin() - 1;
    sent.payload = command;
    byte_buffer request;
    raft::encode_session_request(request, sent);
    led done = co_await by_leader(propose_method, request.view(), deadline);
    if (done.code != reply_code::ok) co_return done;
    const auto answer = raft::decode_session_response(done.result.view());
    if (!answer) throw std::system_error(errc::malformed, "the answer to a session's command");
    const session_verdict verdict = judge(answer->status, done.doubtful);
    if (verdict == session_verdict::answered) {
      byte_buffer body;
      body.append(answer->body);
      done.result = std::move(body);
      co_return done;
    }
    if (answer->status == raft::session_status::unknown_session && session_ == session) session_ = 0;
    if (verdict == session_verdict::unknown) {
      done.code = reply_code::outcome_unknown;
      done.words = "the session of its node has ended";
      co_return done;
    }
  }
}

// --- by the leader ----------------------------------------------------------------------------------------------

awaitable<void> replica::pause(time_point deadline) {
  real::timer timer(env_);
  timer.expires_at(std::min(deadline, env_.now() + 20ms));
  if (const std::error_code cancelled = co_await timer.wait()) throw std::system_error(cancelled);
}

auto replica::by_leader(method which, bytes_view arguments, time_point deadline) -> awaitable<led> {
  bool doubtful = false;
  for (;;) {
    led tried;
    const node_id leader = node_->core().leader();
    const duration limit = std::min<duration>(left_until(deadline, env_.now()), longest_try);
    if (leader == 0) {
      tried.code = reply_code::no_leader;
    } else if (leader == options_.id) {
      tried = co_await here(which, arguments, limit);
    } else {
      tried = co_await there(leader, which, arguments, limit);
    }
    doubtful = doubtful || tried.code == reply_code::outcome_unknown;
    tried.doubtful = doubtful;
    if (!tried.gave_up()) {
      // An earlier try may have taken effect, and be why this one is refused.
      if (doubtful && tried.code != reply_code::ok) tried.code = reply_code::outcome_unknown;
      co_return tried;
    }
    if (env_.now() >= deadline) {
      tried.code = doubtful ? reply_code::outcome_unknown : reply_code::no_leader;
      tried.words.clear();
      co_return tried;
    }
    if (leader == 0) {
      while (node_->core().leader() == 0 && env_.now() < deadline) {
        if (const std::error_code closed = co_await node_->changed(deadline)) throw std::system_error(closed);
      }
    } else {
      co_await pause(deadline);
    }
  }
}

// This node leads, as far as it knows.
auto replica::here(method which, bytes_view arguments, duration limit) -> awaitable<led> {
  led done;
  std::error_code error;
  raft::change_error why = raft::change_error::none;
  if (which == propose_method) {
    raft::outcome what = co_await node_->propose(arguments, limit);
    error = what.error;
    done.at = what.at;
    done.result = std::move(what.result);
  } else if (which == change_method) {
    std::optional<raft::change_list> list = raft::decode_changes(arguments);
    if (!list) throw rpc_error(refused_malformed, "malformed request");
    error = co_await node_->change_members(std::move(*list), limit, why);
    done.at.index = node_->core().members_index();
    done.at.epoch = node_->core().term();
  } else {
    field_reader from(arguments);
    const auto to = from.number<std::uint64_t>();
    if (!from.complete()) throw rpc_error(refused_malformed, "malformed request");
    if (to != options_.id) error = co_await node_->transfer(to);
    if (error == errc::wrong_node) {
      done.code = reply_code::refused;
      done.words = fmt::format("node {} is not a voter that could lead", to);
      co_return done;
    }
  }
  if (error == errc::closed) throw std::system_error(error);
  done.code = code_of(error);
  if (error) done.words = error.message();
  if (why != raft::change_error::none) {
    done.code = reply_code::refused;
    if (!error) done.words = raft::describe(why);
  }
  co_return done;
}

auto replica::there(node_id leader, method which, bytes_view arguments, duration limit) -> awaitable<led> {
  led done;
  const auto& addresses = node_->core().members().addresses;
  const auto found = addresses.find(leader);
  if (found == addresses.end()) {
    done.code = reply_code::no_leader;
    co_return done;
  }
  const std::string where = found->second;
  byte_buffer result;
  const rpc_status status = co_await links_.call(leader, where, which, arguments, result, limit);
  if (status.ok()) {
    field_reader from(result.view());
    done.at = from.at();
    if (!from.good()) throw std::system_error(errc::malformed, "the leader's answer");
    done.result.append(from.rest());
    co_return done;
  }
  if (status.code() != errc::remote_failure) {
    done.code = status.outcome_unknown() ? reply_code::outcome_unknown : reply_code::no_leader;
    co_return done;
  }
  switch (status.remote_code()) {
    case refused_not_leader:
    case refused_overloaded: done.code = reply_code::no_leader; break;
    case refused_unknown: done.code = reply_code::outcome_unknown; break;
    case refused_change: done.code = reply_code::refused; break;
    default: done.code = reply_code::failed;
  }
  done.words = status.text();
  co_return done;
}

awaitable<void> replica::answer_led(method which, const rpc_request& in, rpc_reply& out) {
  const duration limit = in.deadline == time_point::max() ? longest_try : left_until(in.deadline, env_.now());
  if (node_->core().leader() != options_.id) {
    out.fail(refused_not_leader, "this node does not lead");
    co_return;
  }
  std::optional<led> done;
  try {
    // Before the caller gives up, so that it is told what is known.
    done.emplace(co_await here(which, in.arguments, limit * 9 / 10));
  } catch (const std::system_error& error) {
    if (error.code() != errc::closed) throw;
  }
  if (!done) {
    out.fail(refused_unknown, "this node is stopping");
    co_return;
  }
  switch (done->code) {
    case reply_code::ok:
      field_writer(out.body()).at(done->at);
      out.body().append(done->result.view());
      break;
    case reply_code::no_leader: out.fail(refused_not_leader, "this node does not lead"); break;
    case reply_code::refused: out.fail(refused_change, done->words); break;
    case reply_code::outcome_unknown: out.fail(refused_unknown, "timed out"); break;
    default: out.fail(0, done->words);
  }
}

}  // namespace lockstep::raft_replication

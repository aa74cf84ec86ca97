// node's coroutines. See raft/node.hpp.
#pragma once

#include "lockstep/raft/node.hpp"

#include <algorithm>
#include <array>
#include <cassert>

namespace lockstep::raft {

template <environment Env, state_machine Machine>
basic_node<Env, Machine>::basic_node(Env& env, node_options options, Machine& machine)
    : env_(env),
      options_(std::move(options)),
      machine_(machine),
      group_(env.get_executor()),
      turns_(env.get_executor()),
      news_(env.get_executor()),
      ticker_(env) {}

// --- opening ----------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
auto basic_node<Env, Machine>::open(Env& env, node_options options, Machine& machine)
    -> awaitable<std::unique_ptr<basic_node>> {
  std::unique_ptr<basic_node> made(new basic_node(env, std::move(options), machine));
  basic_node& node = *made;
  const std::string& directory = node.options_.directory;
  node_identity identity;
  identity.cluster = node.options_.cluster;
  identity.node = node.options_.core.id;
  node.lock_directory();
  node.hard_ = co_await basic_hard_state_file<Env>::open(env, directory, identity);
  auto opened = co_await log_type::open(env, directory + "/log", node.options_.log);
  if (!opened.log) throw std::system_error(errc::corrupt, opened.report.reason);
  node.log_ = std::move(opened.log);
  log_type& log = *node.log_;
  node.store_ = co_await store_type::open(env, directory + "/snapshots");
  const std::optional<snapshot_info> newest = node.store_->newest();
  stored_state stored;
  stored.hard = node.hard_->state();
  stored.configurations.emplace_back();
  if (newest) {
    const position& at = newest->id.at;
    co_await node.restore(at.index);
    // A crash came between a snapshot's installation and the log's.
    if (log.position_at(at.index) != at && at.index > log.base().index) co_await log.reset(at);
    stored.commit = at.index;
    stored.configurations.assign(1, {at.index, newest->config});
  }

  if (log.last().index == 0 && !node.options_.members.empty()) {
    // The same record on every first member, so that their logs begin alike.
    configuration first;
    for (const auto& [id, where] : node.options_.members) {
      first.voters.incoming.insert(id);
      first.addresses[id] = where;
    }
    byte_buffer bytes;
    encode_configuration(bytes, first);
    (void)log.append(0, bytes.view(), config_record);
    co_await log.durable(1);
  }
  typename log_type::read_place place;
  place.next = std::max(log.first_index(), stored.commit + 1);
  for (;;) {
    const record_batch batch = log.read(place, std::size_t{1} << 20, visibility::staged);
    if (batch.empty()) break;
    for (const record each : batch) {
      if (each.kind != config_record) continue;
      auto config = decode_configuration(each.payload);
      if (!config) throw std::system_error(errc::corrupt, "record " + std::to_string(each.index) + " in " + directory);
      stored.configurations.push_back({each.index, std::move(*config)});
    }
  }
  core_options core = node.options_.core;
  core.seed = env.random();
  node.seen_log_.log = &log;
  node.seen_log_.witness = node.options_.witness;
  node.core_.emplace(core, node.seen_log_, std::move(stored), node.now());
  co_return made;
}

// Before anything in it is read. (D2 is for whoever makes a file there.)
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::lock_directory() {
  const std::string& directory = options_.directory;
  std::error_code ec;
  env_.create_directory(directory, ec);
  if (ec) throw std::system_error(ec, "cannot make node directory " + directory);
  lock_ = env_.lock(log_files::join(directory, log_files::lock), ec);
  if (ec == errc::log_locked) {
    throw std::system_error(ec,
                            "node directory " + directory + " is locked by pid " + std::to_string(lock_.holder_pid()));
  }
  if (ec) throw std::system_error(ec, "cannot lock node directory " + directory);
}

template <environment Env, state_machine Machine>
channel_options basic_node<Env, Machine>::hello() const {
  channel_options made = options_.channel;
  made.cluster = options_.cluster;
  made.node = options_.core.id;
  return made;
}

// --- inputs and their effects -----------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::turn {
  explicit turn(basic_node& in) : of(in) { of.busy_ = true; }
  turn(const turn&) = delete;
  ~turn() {
    of.busy_ = false;
    while (!of.lost_.empty()) {
      const node_id lost = of.lost_.back();
      of.lost_.pop_back();
      of.lose(lost);
    }
    of.turns_.notify_all();
    of.news_.notify_all();
  }
  basic_node& of;
};

// One input at a time: what it asks of the disk is done before the next.
template <environment Env, state_machine Machine>
template <class Input>
awaitable<void> basic_node<Env, Machine>::input(Input what) {
  while (busy_) (void)co_await turns_.wait();
  if (closing_) throw std::system_error(errc::closed);
  const effects& doing = what(*core_);
  if (!doing.persist && !doing.truncate) {
    perform(doing);
    co_return;
  }
  const turn held(*this);
  try {
    if (doing.persist) co_await hard_->write(*doing.persist);
    if (doing.truncate) {
      drop_proposals(*doing.truncate, errc::not_leader);
      co_await log_->truncate_suffix(*doing.truncate);
    }
    perform(doing);
  } catch (...) {
    fail(std::current_exception());
    throw;
  }
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::perform(const effects& doing) {
  if (!doing.broken.empty()) {
    fail(std::make_exception_ptr(std::system_error(errc::diverged, doing.broken)));
    return;
  }
  try {
    append(doing);
  } catch (const std::system_error& error) {
    if (log_->failure() || doing.append_own.empty()) throw;
    // No room, for instance. Somebody else may have some.
    drop_proposals(log_->last().index, error.code());
    perform(core_->resign(error.what()));
    return;
  }
  for (const message& each : doing.send) post(each);
  for (const released_read& each : doing.reads) {
    for (waiting_read* const waiting : reads_) {
      if (waiting->id == each.id) waiting->index = each.index;
    }
  }
  // Last: an adopted configuration is an input, whose effects are none.
  if (!doing.append.empty()) adopt(doing.append);
  news_.notify_all();
  if (core_->deadline() < ticks_at_) ticker_.cancel();
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::append(const effects& doing) {
  bad_records_ = false;
  if (!doing.append.empty()) {
    if (options_.witness) {
      for (const record each : doing.append) (void)log_->append(each.epoch, each.payload, each.kind);
    } else {
      bytes_view rest = doing.append.bytes();
      bad_records_ = log_->append_encoded(rest) != log_codec::record_verdict::ok;
    }
  }
  for (const own_record& each : doing.append_own) {
    if (each.kind == data_record) {
      std::array<std::byte, sizeof(std::uint64_t)> time;
      store_le(time.data(), static_cast<std::uint64_t>(env_.wall_now().time_since_epoch().count()));
      const std::array<bytes_view, 2> payload{bytes_view(time), each.payload};
      (void)log_->append(core_->term(), payload, each.kind);
    } else {
      (void)log_->append(core_->term(), each.payload, each.kind);
    }
  }
}

// Only what is in the log now: its chain was verified as it was appended.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::adopt(const record_batch& records) {
  for (const record each : records) {
    if (each.kind != config_record || each.index > log_->last().index || each.index <= core_->members_index()) continue;
    auto config = decode_configuration(each.payload);
    if (!config) return fail(std::make_exception_ptr(std::system_error(errc::corrupt, "a configuration in the log")));
    (void)core_->adopt(each.index, std::move(*config));
  }
}

// Lost messages are sent anew when a connection begins; so whoever can't be told anything loses his connection.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::post(const message& of) {
  const auto found = members_.find(of.to);
  if (found == members_.end() || found->second.channels.empty()) return;
  channel_type& over = *found->second.channels.front();
  const encoded_words words = encode_message(of);
  if (!over.try_send(static_cast<std::uint8_t>(of.type), 0, words.view(), frame_flags_of(of.type))) over.abort();
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::fail(std::exception_ptr why) {
  if (!failure_) failure_ = std::move(why);
  closing_ = true;
  group_.cancel();
  news_.notify_all();
  turns_.notify_all();
}

// --- what runs --------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::run() {
  group_.spawn(tick());
  group_.spawn(flush());
  group_.spawn(apply());
  group_.spawn(take_snapshots());
  group_.spawn(dial_members());
  std::exception_ptr ended;
  try {
    co_await group_.join_passing_cancellation();
  } catch (...) {
    ended = std::current_exception();
  }
  closing_ = true;
  news_.notify_all();
  turns_.notify_all();
  if (failure_) std::rethrow_exception(failure_);
  if (ended) std::rethrow_exception(ended);
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::tick() {
  while (!closing_) {
    ticks_at_ = core_->deadline();
    if (ticks_at_ > now()) {
      ticker_.expires_at(time_point(ticks_at_));
      (void)co_await ticker_.wait();
      continue;
    }
    const auto what = [this](core_type& core) -> const effects& { return core.tick(now()); };
    co_await input(what);
  }
}

// The log makes records durable for others too, a change of its ends for instance: what counts is what the core knows.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::flush() {
  position told = log_->acked();
  while (!closing_) {
    if (log_->acked() != told) {
      told = log_->acked();
      const auto what = [this](core_type& core) -> const effects& { return core.persisted(now()); };
      co_await input(what);
    } else if (busy_ || log_->last() == told) {
      (void)co_await news_.wait();
    } else {
      co_await log_->durable(log_->last().index);
    }
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::apply() {
  apply_place_.next = applied_.index + 1;
  while (!closing_) {
    if (applied_.index < core_->applicable() && !(machine_busy_ && busy_)) {
      apply_some();
      news_.notify_all();
      co_await asio::post(env_.get_executor(), use_awaitable);  // others have their turn
    } else {
      (void)co_await news_.wait();
    }
  }
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::apply_some() {
  const index_t limit = core_->applicable();
  const record_batch batch = log_->read(apply_place_, std::size_t{64} << 10);
  for (const record each : batch) {
    if (each.index > limit) {
      apply_place_ = {};
      apply_place_.next = each.index;
      return;
    }
    result_.clear();
    if (each.kind == data_record && each.payload.size() >= sizeof(std::uint64_t)) {
      entry next;
      next.at = each.position();
      next.time_ns = load_le<std::uint64_t>(each.payload.data());
      next.payload = each.payload.subspan(sizeof(std::uint64_t));
      machine_.apply(next, result_);
    }
    applied_ = each.position();
    applied_bytes_ += each.payload.size();
    answer_proposal(each);
  }
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::answer_proposal(const record& applied) {
  while (!proposals_.empty() && proposals_.front()->index <= applied.index) {
    waiting_proposal& waiting = *proposals_.front();
    proposals_.pop_front();
    waiting.ended = true;
    if (waiting.index == applied.index && waiting.term == applied.epoch) {
      waiting.to->at = applied.position();
      waiting.to->result.append(result_.view());
    } else {
      waiting.to->error = errc::not_leader;  // another leader's record stands in its place
    }
  }
}

// Of records that are not in the log any more, and so are never applied.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::drop_proposals(index_t keep, std::error_code why) {
  while (!proposals_.empty() && proposals_.back()->index > keep) {
    proposals_.back()->ended = true;
    proposals_.back()->to->error = why;
    proposals_.pop_back();
  }
}

// --- connections ------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::dial_members() {
  while (!closing_) {
    for (const auto& [id, where] : core_->members().addresses) {
      member& known = member_of(id);
      known.where = where;
      if (id == options_.core.id || known.dialled) continue;
      known.dialled = true;
      group_.spawn(dial(id));
    }
    (void)co_await news_.wait();
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::dial(node_id id) {
  backoff waits(options_.reconnect_least, options_.reconnect_most);
  typename Env::timer timer(env_);
  while (!closing_ && core_->members().is_member(id)) {
    try {
      const std::optional<address> where = address::parse(member_of(id).where);
      if (!where) throw std::system_error(errc::malformed, "the address of node " + std::to_string(id));
      auto stream = co_await env_.connect(*where, options_.connect_timeout);
      channel_options who = hello();
      who.purpose = raft_purpose;
      who.expected_node = id;
      channel_type over(env_, std::move(stream), std::move(who));
      (void)co_await over.handshake();
      waits.reset();
      co_await talk(id, over, true);
    } catch (const std::system_error&) {
      // Not reached, refused, or lost: it is tried again.
    }
    if (closing_) co_return;
    timer.expires_after(waits.next(env_.random()));
    (void)co_await timer.wait();
  }
  member_of(id).dialled = false;
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::serve(channel_type& from) {
  const node_id id = from.peer().node;
  if (id == 0) throw std::system_error(errc::wrong_node, "only members connect for this");
  co_await talk(id, from, false);
}

// As long as the connection lasts.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::talk(node_id with, channel_type& over, bool ours) {
  auto& channels = member_of(with).channels;
  const auto place = channels.insert(ours ? channels.begin() : channels.end(), &over);
  std::exception_ptr ended;
  try {
    if (ours) {
      task_group both(env_.get_executor());
      both.spawn(hear(with, over));
      both.spawn(ship(with, over));
      co_await both.join_passing_cancellation();
    } else {
      co_await hear(with, over);
    }
  } catch (...) {
    ended = std::current_exception();
  }
  channels.erase(place);
  lose(with);
  if (ended) std::rethrow_exception(ended);
}

// The effects of an input that waits for the disk must stay until they are performed.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::lose(node_id with) {
  if (closing_) return;
  if (busy_)
    lost_.push_back(with);
  else
    perform(core_->disconnected(with, now()));
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::hear(node_id from, channel_type& over) {
  for (;;) {
    const frame_view frame = co_await over.receive();
    if (co_await hear_of_snapshot(frame, member_of(from), over)) continue;
    const std::optional<message> heard = decode_message(frame);
    if (!heard || heard->from != from || heard->to != options_.core.id) {
      throw std::system_error(errc::malformed, "from node " + std::to_string(from));
    }
    const auto what = [&](core_type& core) -> const effects& { return core.receive(*heard, now()); };
    co_await input(what);
    if (bad_records_) throw std::system_error(errc::bad_checksum, "records of node " + std::to_string(from));
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::ship(node_id to, channel_type& over) {
  member& target = member_of(to);
  while (!closing_) {
    const append_plan plan = busy_ ? append_plan() : core_->next_append(to);
    if (plan.send == append_plan::what::nothing) {
      (void)co_await news_.wait();
      continue;
    }
    if (plan.send == append_plan::what::snapshot) {
      co_await send_snapshot(to, over);
      continue;
    }
    message made;
    made.type = message_type::append;
    made.from = options_.core.id;
    made.to = to;
    made.term = core_->term();
    made.commit = plan.commit;
    if (target.shipped.index + 1 != plan.next || log_->position_at(plan.next - 1) != target.shipped) {
      target.place = {};
      target.place.next = plan.next;
      target.shipped = *log_->position_at(plan.next - 1);
    }
    made.at = target.shipped;
    if (plan.send == append_plan::what::records) {
      made.records = log_->read(target.place, options_.max_batch_bytes, visibility::staged);
      if (!plan.payloads) made.records = for_witness(made.records, plan.last);
      for (const record each : made.records) {
        target.shipped.epoch = each.epoch;
        target.shipped.index = each.index;
        target.shipped.chain = each.chain;
      }
    }
    core_->sent(to, target.shipped.index, made.records.bytes().size(), plan);
    const encoded_words words = encode_message(made);
    const std::array<bytes_view, 2> parts{words.view(), made.records.bytes()};
    co_await over.send(static_cast<std::uint8_t>(made.type), 0, parts, frame_flags_of(made.type));
  }
}

// Without the payloads of commands, up to `last`. The witness makes records of its own of them.
template <environment Env, state_machine Machine>
record_batch basic_node<Env, Machine>::for_witness(const record_batch& records, index_t last) {
  const auto bytes = std::make_shared<byte_buffer>();
  position before;
  for (const record each : records) {
    if (each.index > last) break;
    const bytes_view payload = each.kind == data_record ? bytes_view() : each.payload;
    before.index = each.index - 1;
    std::byte* const to = bytes->extend(log_format::record_bytes(payload.size()));
    const record_kind kind = each.kind == data_record ? witness_record : each.kind;
    before = log_codec::encode_record(to, before, each.epoch, kind, {&payload, 1});
  }
  return {bytes->view(), records.first(), before.index, bytes};
}

// --- what the program asks for ----------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<outcome> basic_node<Env, Machine>::propose(bytes_view command, duration limit) {
  const time_point deadline = env_.now() + limit;
  outcome result;
  waiting_proposal self;
  self.to = &result;
  struct leave {
    basic_node& of;
    waiting_proposal& gone;
    ~leave() { std::erase(of.proposals_, &gone); }
  } const when_done{*this, self};
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& {
    const effects& doing = core.propose(data_record, command, refused);
    if (!refused) {
      self.index = log_->last().index + 1;
      self.term = core.term();
      proposals_.push_back(&self);
    }
    return doing;
  };
  co_await input(what);
  result.leader = core_->leader();
  if (refused) {
    result.error = refused;
    co_return result;
  }
  while (!self.ended && !closing_ && env_.now() < deadline) (void)co_await news_.wait();
  if (!self.ended) result.error = closing_ ? errc::closed : errc::timed_out;
  result.leader = core_->leader();
  co_return result;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::read_barrier(duration limit) {
  const time_point deadline = env_.now() + limit;
  waiting_read self;
  self.id = ++last_read_;
  reads_.push_back(&self);
  struct leave {
    basic_node& of;
    waiting_read& gone;
    ~leave() { std::erase(of.reads_, &gone); }
  } const when_done{*this, self};
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.read(self.id, now(), refused); };
  co_await input(what);
  if (refused) co_return refused;
  while (!closing_ && env_.now() < deadline) {
    if (self.index == index_t{0}) co_return errc::not_leader;
    if (self.index && applied_.index >= *self.index) co_return std::error_code();
    (void)co_await news_.wait();
  }
  co_return closing_ ? errc::closed : errc::timed_out;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::transfer(node_id to) {
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.transfer(to, now(), refused); };
  co_await input(what);
  co_return refused;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::change_members(change_list changes, duration limit,
                                                                    change_error& why) {
  const time_point deadline = env_.now() + limit;
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.change_members(changes, refused, why); };
  co_await input(what);
  co_return co_await committed_members(refused, why, deadline);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::leave_joint(duration limit, change_error& why) {
  const time_point deadline = env_.now() + limit;
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.leave_joint(refused, why); };
  co_await input(what);
  co_return co_await committed_members(refused, why, deadline);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::committed_members(std::error_code refused, change_error why,
                                                                       time_point deadline) {
  if (refused || why != change_error::none) co_return refused;
  const term_t term = core_->term();
  while (!closing_ && env_.now() < deadline) {
    // Whoever leads no more does not know what became of it.
    if (core_->role() != role::leader || core_->term() != term) co_return errc::timed_out;
    if (core_->members_index() <= core_->commit() && !core_->members().auto_leave) co_return std::error_code();
    (void)co_await news_.wait();
  }
  co_return closing_ ? errc::closed : errc::timed_out;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::changed(time_point until) {
  if (closing_) co_return errc::closed;
  changes_alarm_.at(until);
  (void)co_await news_.wait();
  co_return closing_ ? errc::closed : std::error_code();
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::snapshot(duration limit) {
  const time_point deadline = env_.now() + limit;
  const index_t wanted = applied_.index;
  snapshot_wanted_ = std::max(snapshot_wanted_, wanted);
  news_.notify_all();
  while (snapshot_index_ < wanted) {
    if (env_.now() >= deadline) co_return errc::timed_out;
    if (const std::error_code closed = co_await changed(deadline)) co_return closed;
  }
  co_return closing_ ? errc::closed : std::error_code();
}

template <environment Env, state_machine Machine>
bool basic_node<Env, Machine>::connected(node_id to) const {
  const auto found = members_.find(to);
  return found != members_.end() && !found->second.channels.empty();
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::close() {
  closing_ = true;
  group_.cancel();
  news_.notify_all();
  turns_.notify_all();
  co_await group_.join();
  changes_alarm_.stop();
  co_await changes_alarm_.join();
  if (log_) co_await log_->close();
}

}  // namespace lockstep::raft

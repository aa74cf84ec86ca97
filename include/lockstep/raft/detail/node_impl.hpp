// node's coroutines. See raft/node.hpp.
#pragma once

#include "lockstep/raft/node.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/co_spawn.hpp>

#include <algorithm>
#include <array>
#include <cassert>

namespace lockstep::raft {

template <environment Env, state_machine Machine>
basic_node<Env, Machine>::basic_node(Env& env, node_options options, Machine& machine)
    : env_(env),
      options_(std::move(options)),
      machine_(machine),
      life_(env.random()),
      group_(env.get_executor()),
      turns_(env.get_executor()),
      news_(env.get_executor()),
      applied_news_(env.get_executor()),
      read_news_(env.get_executor()),
      ticker_(env),
      alarm_(env) {}

// --- opening ----------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
auto basic_node<Env, Machine>::open(Env& env, node_options options, Machine& machine)
    -> awaitable<std::unique_ptr<basic_node>> {
  std::unique_ptr<basic_node> made(new basic_node(env, std::move(options), machine));
  basic_node& node = *made;
  node_identity identity;
  identity.cluster = node.options_.cluster;
  identity.node = node.options_.core.id;
  node.lock_directory();
  node.hard_ = co_await basic_hard_state_file<Env>::open(env, node.options_.directory, identity);
  node.read_refill();
  std::exception_ptr failure;
  try {
    co_await node.open_files();
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return made;
  if (node.log_) {
    try {
      co_await node.log_->close();
    } catch (const std::system_error&) {
      // Why it cannot be opened says more.
    }
  }
  // Not at once: the state machine may have taken a part of the state already.
  const auto damage = damage_of(failure);
  if (damage && co_await node.begin_refill(node.last_index_on_disk())) throw refill_begun(*damage);
  std::rethrow_exception(failure);
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::open_files() {
  auto opened = co_await log_type::open(env_, folder("log"), options_.log);
  if (!opened.log) throw std::system_error(errc::corrupt, folder("log") + ": " + opened.report.reason);
  log_ = std::move(opened.log);
  log_type& log = *log_;
  found_at_open_ = log.last().index;
  store_ = co_await store_type::open(env_, folder("snapshots"), options_.snapshots);
  const std::optional<snapshot_info> newest = store_->newest();
  stored_state stored;
  stored.hard = hard_->state();
  stored.configurations.emplace_back();
  if (newest) {
    const position& at = newest->id.at;
    co_await restore(at.index);
    // A crash came between a snapshot's installation and the log's. A witness may have the record with another chain.
    const std::optional<position> mine = log.position_at(at.index);
    const bool has_it = mine && mine->epoch == at.epoch && (mine->chain == at.chain || options_.witness);
    if (!has_it && at.index > log.base().index && !mutated(mutant::keep_log_short_of_snapshot)) co_await log.reset(at);
    stored.commit = at.index;
    stored.configurations.assign(1, {at.index, newest->config});
  }
  if (log.base().index > stored.commit) {
    throw std::system_error(errc::corrupt, log.directory() + " begins behind every snapshot");
  }

  // After damage the group gives it back, whoever its members are by now.
  if (log.last().index == 0 && !options_.members.empty() && generation_ == 0) {
    // The same record on every first member, so that their logs begin alike.
    configuration first;
    for (const auto& [id, where] : options_.members) {
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
      if (!config) {
        throw std::system_error(errc::malformed, "record " + std::to_string(each.index) + " in " + log.directory() +
                                                     ", a configuration; of another version perhaps");
      }
      stored.configurations.push_back({each.index, std::move(*config)});
    }
  }
  if (contradicts(stored.configurations.back().config)) std::rethrow_exception(another_kind_of_member());
  core_options core = options_.core;
  core.seed = env_.random();
  core.must_refill = log.acked().index < refill_ ? refill_ : 0;
  seen_log_.log = &log;
  seen_log_.witness = options_.witness;
  core_.emplace(core, seen_log_, std::move(stored), now());
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

// The process is told apart by what it says its features are: this node has none.
template <environment Env, state_machine Machine>
channel_options basic_node<Env, Machine>::hello() const {
  channel_options made = options_.channel;
  made.cluster = options_.cluster;
  made.node = options_.core.id;
  made.features = life_;
  if (made.keepalive == duration(0)) made.keepalive = options_.core.election_timeout / 2;
  made.admit = [this, also = options_.channel.admit](const peer_info& peer) {
    std::optional<refusal> refused = admit(peer);
    return refused || !also ? refused : also(peer);
  };
  return made;
}

// While another process has a connection open that says that it is the same node. One that was just started again has
// to wait until its former life's connections have ended, so that nothing of that one is heard after something of it.
template <environment Env, state_machine Machine>
std::optional<refusal> basic_node<Env, Machine>::admit(const peer_info& peer) const {
  const auto known = members_.find(peer.node);
  if (known == members_.end() || known->second.lines.empty() || known->second.life == peer.features) {
    return std::nullopt;
  }
  return refusal(errc::wrong_node, "another process is connected as node " + std::to_string(peer.node) +
                                       ": either its id is used twice, or it was started again just now");
}

// --- inputs and their effects -----------------------------------------------------------------------------------

// A coroutine that is in here. close() waits for it; but it may be destroyed after the node, with the executor.
template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::visit {
  explicit visit(basic_node& in) : of(in), alive(in.alive_) { ++in.visits_; }
  visit(const visit&) = delete;
  ~visit() {
    if (!node_is_gone() && --of.visits_ == 0 && of.closing_) of.news_.notify_all();
  }
  [[nodiscard]] bool node_is_gone() const noexcept { return alive.expired(); }
  basic_node& of;
  std::weak_ptr<const void> alive;
};

template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::turn : visit {
  explicit turn(basic_node& in) : visit(in) { in.busy_ = true; }
  ~turn() {
    if (visit::node_is_gone()) return;
    basic_node& node = visit::of;
    node.busy_ = false;
    while (!node.lost_.empty()) {
      const node_id lost = node.lost_.back();
      node.lost_.pop_back();
      node.lose(lost);
    }
    node.turns_.notify_all();
    node.news_.notify_all();
  }
};

// One input at a time: what it asks of the disk is done before the next. Who has many of them and wants no coroutine
// for each calls decide() and carry_out() while nobody is busy.
template <environment Env, state_machine Machine>
template <class Input>
awaitable<std::error_code> basic_node<Env, Machine>::input(Input what) {
  const visit inside(*this);
  while (busy_ && !closing_) (void)co_await turns_.wait();
  if (closing_) co_return errc::closed;
  if (const effects* const doing = decide(what)) {
    const bool throws = co_await this_coro::throw_if_cancelled();
    co_await this_coro::throw_if_cancelled(false);  // what is decided is carried out
    co_await carry_out(*doing);
    co_await this_coro::throw_if_cancelled(throws);
  }
  co_return std::error_code();
}

// Performs the effects and returns nothing, or returns those that need the disk.
template <environment Env, state_machine Machine>
template <class Input>
const effects* basic_node<Env, Machine>::decide(const Input& what) {
  try {
    const effects& decided = what(*core_);
    if (decided.persist || decided.truncate) return &decided;
    perform(decided);
    return nullptr;
  } catch (const std::system_error& error) {
    if (error.code() == errc::corrupt) fail(std::current_exception());
    throw;
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::carry_out(const effects& doing) {
  const turn held(*this);
  try {
    co_await deaf(write(doing));
    perform(doing);
  } catch (...) {
    fail(std::current_exception());
    throw;
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::write(const effects& doing) {
  if (doing.persist && mutated(mutant::reply_before_hard_state)) {
    for (const message& each : doing.send) post(each);
  }
  if (doing.persist) co_await hard_->write(*doing.persist);
  if (doing.truncate && !mutated(mutant::keep_conflicting_records)) {
    // Whoever else has them may lead yet, and commit them (paper, figure 8).
    if (!mutated(mutant::answer_by_any_record)) drop_proposals(*doing.truncate, errc::timed_out);
    co_await log_->truncate_suffix(*doing.truncate);
  }
}

// The caller's end does not end `work`: a connection that breaks leaves no half of it.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::deaf(awaitable<void> work) {
  co_await asio::co_spawn(env_.get_executor(), std::move(work),
                          asio::bind_cancellation_slot(asio::cancellation_slot(), use_awaitable));
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::perform(const effects& doing) {
  if (!doing.broken.empty()) {
    fail(rule_broken(doing.broken));
    return;
  }
  for (const released_read& each : doing.reads) {
    const auto waiting = std::lower_bound(reads_.begin(), reads_.end(), each.id,
                                          [](const waiting_read* read, std::uint64_t id) { return read->id < id; });
    if (waiting != reads_.end() && (*waiting)->id == each.id) (*waiting)->index = each.index;
  }
  if (!doing.reads.empty()) read_news_.notify_all();
  try {
    append(doing);
  } catch (const std::system_error& error) {
    // What was appended before there was no more room counts.
    if (!doing.append.empty()) adopt(doing.append);
    if (log_->failure() || doing.append_own.empty()) throw;
    // No room, for instance. Somebody else may have some.
    drop_proposals(log_->last().index, error.code());
    if (mutated(mutant::lead_with_full_disk)) return;
    perform(core_->resign(error.what()));
    return;
  }
  for (const message& each : doing.send) post(each);
  // Last: an adopted configuration is an input, whose effects are none.
  if (!doing.append.empty()) adopt(doing.append);
  assert(bad_records_ || core_->broken_rule().empty());
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
  if (mutated(mutant::learn_members_at_start_only)) return;
  for (const record each : records) {
    if (each.kind != config_record || each.index > log_->last().index || each.index <= core_->members_index()) continue;
    auto config = decode_configuration(each.payload);
    // Its chain is sound: this is what its leader has made, another version perhaps.
    if (!config) return fail(std::make_exception_ptr(std::system_error(errc::malformed, "a configuration in the log")));
    if (contradicts(*config)) return fail(another_kind_of_member());
    (void)core_->adopt(each.index, std::move(*config));
  }
}

// A witness that led, or whose snapshots others got, would lose what it never had.
template <environment Env, state_machine Machine>
bool basic_node<Env, Machine>::contradicts(const configuration& config) const {
  return config.voters.contains(options_.core.id) && config.witnesses.contains(options_.core.id) != options_.witness;
}

template <environment Env, state_machine Machine>
std::exception_ptr basic_node<Env, Machine>::another_kind_of_member() const {
  const std::string what = options_.witness ? " is a full voter of its group, and was started as a witness"
                                            : " is a witness of its group, and was not started as one";
  return std::make_exception_ptr(
      std::system_error(errc::wrong_node, "node " + std::to_string(options_.core.id) + what));
}

// Lost messages are sent anew when a connection begins; so whoever does not take any more loses his connection.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::post(const message& of) {
  if (promises_too_early(of)) return fail(rule_broken("a message goes out whose term or vote is not durable"));
  const auto found = members_.find(of.to);
  if (found == members_.end() || found->second.lines.empty()) return;
  constexpr std::size_t most_unsent = 4096;
  line& to = found->second.lines.front();
  if (to.unsent.empty()) {
    const encoded_words words = encode_message(of);
    if (to.over.try_send(static_cast<std::uint8_t>(of.type), 0, words.view(), frame_flags_of(of.type))) return;
  }
  if (to.unsent.size() == most_unsent) return to.over.abort();
  to.unsent.push_back(of);
  to.more.notify_one();
}

// A pre-vote is of a term that may never be.
template <environment Env, state_machine Machine>
bool basic_node<Env, Machine>::promises_too_early(const message& of) const {
  const hard_state& durable = hard_->state();
  if (of.pre) return false;
  return of.term > durable.term || (of.granted && (of.term != durable.term || of.to != durable.vote));
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::fail(std::exception_ptr why) {
  if (!failure_) failure_ = std::move(why);
  closing_ = true;
  group_.cancel();
  wake_everybody();
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::wake_everybody() {
  news_.notify_all();
  turns_.notify_all();
  applied_news_.notify_all();
  read_news_.notify_all();
}

// --- what runs --------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::run() {
  group_.spawn(tick());
  group_.spawn(watch_deadlines());
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
  wake_everybody();
  if (!failure_) failure_ = ended;
  if (!failure_) co_return;
  const auto damage = damage_of(failure_);
  if (damage && co_await begin_refill(log_->last().index)) throw refill_begun(*damage);
  std::rethrow_exception(failure_);
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
    if (co_await input(what)) co_return;
  }
}

// One timer for all who wait: when the first of their deadlines may have come, everybody looks at his own.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::watch_deadlines() {
  while (!closing_) {
    alarm_.expires_at(alarm_at_);
    if (alarm_at_ > env_.now()) {
      (void)co_await alarm_.wait();
    } else {
      alarm_at_ = time_point::max();
      news_.notify_all();
      applied_news_.notify_all();
      read_news_.notify_all();
    }
  }
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::wake_at(time_point deadline) {
  if (deadline >= alarm_at_) return;
  alarm_at_ = deadline;
  alarm_.cancel();
}

// The log makes records durable for others too, a change of its ends for instance: what counts is what the core knows.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::flush() {
  position told = log_->acked();
  while (!closing_) {
    if (log_->acked() != told) {
      told = log_->acked();
      const auto what = [this](core_type& core) -> const effects& { return core.persisted(now()); };
      if (co_await input(what)) co_return;
    } else if (busy_ || log_->last() == told) {
      (void)co_await news_.wait();
    } else {
      co_await log_->durable(log_->last().index);
    }
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::apply() {
  apply_place_.next = mutated(mutant::apply_again_after_start) ? log_->first_index() : applied_.index + 1;
  while (!closing_) {
    if (applied_.index < applicable() && !(machine_busy_ && busy_)) {
      apply_some();
      news_.notify_all();
      applied_news_.notify_up_to(applied_.index);
      co_await asio::post(env_.get_executor(), use_awaitable);  // others have their turn
    } else {
      (void)co_await news_.wait();
    }
  }
}

template <environment Env, state_machine Machine>
index_t basic_node<Env, Machine>::applicable() const {
  return mutated(mutant::apply_before_commit) ? log_->acked().index : core_->applicable();
}

template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::apply_some() {
  const index_t limit = applicable();
  const record_batch batch = log_->read(apply_place_, std::size_t{64} << 10);
  bytes_view rest = batch.bytes();
  for (const record each : batch) {
    if (each.index > limit) {
      apply_place_ = {};
      apply_place_.next = each.index;
      return;
    }
    // Of what an earlier life has left on disk, the log verifies its end only when it is opened.
    if (record found; each.index <= found_at_open_ && !options_.witness &&
                      log_codec::decode_record(rest, applied_, found) != log_codec::record_verdict::ok) {
      throw std::system_error(errc::corrupt, folder("log") + ": record " + std::to_string(each.index));
    }
    rest = rest.subspan(log_format::record_bytes(each.payload.size()));
    result_.clear();
    if (each.kind == data_record && each.payload.size() >= sizeof(std::uint64_t) && !options_.witness) {
      entry next;
      next.at = each.position();
      next.time_ns = load_le<std::uint64_t>(each.payload.data());
      next.payload = each.payload.subspan(sizeof(std::uint64_t));
      machine_.apply(next, result_);
    }
    if (each.kind == config_record) {
      if (auto config = decode_configuration(each.payload)) applied_members_ = std::move(*config);
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
    proposals_.end(waiting);
    if (waiting.index == applied.index && (waiting.term == applied.epoch || mutated(mutant::answer_by_any_record))) {
      waiting.to->at = applied.position();
      waiting.to->result.append(result_.view());
    } else {
      waiting.to->error = errc::not_leader;  // another leader's record stands in its place
    }
  }
}

// Of records that are not in this log any more.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::drop_proposals(index_t keep, std::error_code why) {
  while (!proposals_.empty() && proposals_.back()->index > keep) {
    proposals_.back()->to->error = why;
    proposals_.end(*proposals_.back());
  }
  applied_news_.notify_all();
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
    std::optional<time_point> connected_at;
    try {
      const std::optional<address> where = address::parse(member_of(id).where);
      if (!where) throw std::system_error(errc::malformed, "the address of node " + std::to_string(id));
      auto stream = co_await env_.connect(*where, options_.connect_timeout);
      channel_options who = hello();
      who.purpose = raft_purpose;
      who.expected_node = id;
      if (who.idle_timeout == duration(0)) who.idle_timeout = silence_limit();
      channel_type over(env_, std::move(stream), std::move(who));
      (void)co_await over.handshake();
      member_of(id).trouble.clear();
      connected_at = env_.now();
      co_await talk(id, over, true);
    } catch (const std::system_error& error) {
      // Not reached, refused, or lost: it is tried again.
      member_of(id).trouble = error.what();
      if (error.code() == errc::corrupt) fail(std::current_exception());  // what was to be sent
      // The connections that it has opened may be as dead.
      if (error.code() == errc::idle_timeout) {
        for (line& each : member_of(id).lines) each.over.abort();
      }
    }
    if (closing_) co_return;
    if (connected_at && env_.now() - *connected_at >= options_.reconnect_most) waits.reset();
    timer.expires_after(waits.next(env_.random()));
    member_of(id).next_attempt = &timer;
    (void)co_await timer.wait();
    member_of(id).next_attempt = nullptr;
  }
  member_of(id).dialled = false;
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::serve(channel_type& from) {
  const node_id id = from.peer().node;
  if (id == 0) throw std::system_error(errc::wrong_node, "only members connect for this");
  if (closing_) throw std::system_error(errc::closed);
  co_await talk(id, from, false);
}

// Other members say now and then that they are alive. A quiet leader's end must be noticed soon: see quiesce_after.
template <environment Env, state_machine Machine>
duration basic_node<Env, Machine>::silence_limit() const {
  return options_.core.election_timeout * (options_.core.quiesce_after == instant() ? 10 : 2);
}

// As long as the connection lasts.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::talk(node_id with, channel_type& over, bool ours) {
  member_of(with).life = over.peer().features;
  std::list<line>& lines = member_of(with).lines;
  if (!ours) {
    if (member_of(with).next_attempt) member_of(with).next_attempt->cancel();  // it can be reached, it seems
    // Its process has one connection of its own at a time: those before are over, though this end does not know.
    for (line& each : lines) {
      if (!each.ours) each.over.abort();
    }
  }
  const auto place = lines.emplace(ours ? lines.begin() : lines.end(), over, ours, env_.get_executor());
  std::exception_ptr ended;
  try {
    task_group all(env_.get_executor());
    all.spawn(hear(with, over));
    all.spawn(speak(*place));
    if (ours) all.spawn(ship(with, over));
    co_await all.join_passing_cancellation();
  } catch (...) {
    ended = std::current_exception();
  }
  lines.erase(place);
  lose(with);
  news_.notify_all();
  if (ended) std::rethrow_exception(ended);
}

// The effects of an input that waits for the disk must stay until they are performed.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::lose(node_id with) {
  if (closing_ || mutated(mutant::forget_lost_connection)) return;
  if (busy_)
    lost_.push_back(with);
  else
    perform(core_->disconnected(with, now()));
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::hear(node_id from, channel_type& over) {
  for (;;) {
    co_await this_coro::throw_if_cancelled(true);
    const frame_view frame = co_await over.receive();
    co_await this_coro::throw_if_cancelled(false);  // what is decided is carried out
    member_of(from).heard = env_.now();
    if (core_->leader() == from) heard_leader_ = env_.now();
    if (is_of_snapshots(frame.kind)) {
      co_await hear_of_snapshot(frame, from, over);
      continue;
    }
    std::optional<message> heard = decode_message(frame);
    if (!heard || heard->from != from || heard->to != options_.core.id) {
      throw std::system_error(errc::malformed, "from node " + std::to_string(from));
    }
    while (!log_->has_room_for(heard->records.bytes().size())) co_await log_->make_room();
    // Only over a connection of this node's own, which ends soon, would it notice that a quiet leader is gone.
    const std::list<line>& lines = member_of(from).lines;
    const bool is_reached = !lines.empty() && lines.front().ours;
    if (!is_reached && !mutated(mutant::trust_quiet_leader_unseen)) heard->quiet = false;
    const auto what = [&](core_type& core) -> const effects& { return core.receive(*heard, now()); };
    if (busy_ || closing_) {
      if (const std::error_code ec = co_await input(what)) throw std::system_error(ec);
    } else if (const effects* const doing = decide(what)) {
      co_await carry_out(*doing);
    }
    if (bad_records_) throw std::system_error(errc::bad_checksum, "records of node " + std::to_string(from));
  }
}

// What could not be sent at once.
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::speak(line& to) {
  for (;;) {
    if (to.unsent.empty()) {
      if (const std::error_code ec = co_await to.more.wait()) throw std::system_error(ec);
      continue;
    }
    const message& next = to.unsent.front();
    const encoded_words words = encode_message(next);
    co_await to.over.send(static_cast<std::uint8_t>(next.type), 0, words.view(), frame_flags_of(next.type));
    to.unsent.pop_front();
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
    if (target.place.next != plan.next || log_->position_at(plan.next - 1) != target.shipped) {
      target.place = {};
      target.place.next = plan.next;
      target.shipped = *log_->position_at(plan.next - 1);
    }
    made.at = target.shipped;
    if (plan.send == append_plan::what::records) {
      made.records = log_->read(target.place, options_.max_batch_bytes, visibility::staged);
      made.records = made.records.up_to(plan.last);
      if (!plan.payloads) made.records = for_witness(made.records);
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

// Without the payloads of commands. The witness makes records of its own of them.
template <environment Env, state_machine Machine>
record_batch basic_node<Env, Machine>::for_witness(const record_batch& records) {
  const auto bytes = std::make_shared<byte_buffer>();
  position before;
  for (const record each : records) {
    const bytes_view payload = each.kind == data_record ? bytes_view() : each.payload;
    before.index = each.index - 1;
    std::byte* const to = bytes->extend(log_format::record_bytes(payload.size()));
    const record_kind kind = each.kind == data_record ? witness_record : each.kind;
    before = log_codec::encode_record(to, before, each.epoch, kind, {&payload, 1});
  }
  return {bytes->view(), records.first(), before.index, bytes};
}

// --- what the program asks for ----------------------------------------------------------------------------------

// How a proposal or a read waits for what it needs to be applied. Cancellation is seen when the wait has ended.
template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::until_applied {
  std::uint64_t number;
  std::optional<std::error_code> begin() { return std::nullopt; }
  std::exception_ptr end(std::error_code) { return nullptr; }
};

template <environment Env, state_machine Machine>
awaitable<outcome> basic_node<Env, Machine>::propose(bytes_view command, duration limit) {
  const time_point deadline = env_.now() + limit;
  outcome result;
  waiting_proposal self;
  self.to = &result;
  struct leave : visit {
    leave(basic_node& in, waiting_proposal& who) : visit(in), gone(who) {}
    ~leave() {
      if (!gone.ended && !visit::node_is_gone()) visit::of.proposals_.end(gone);
    }
    waiting_proposal& gone;
  } const when_done(*this, self);
  std::error_code refused;
  const std::size_t bytes = sizeof(std::uint64_t) + command.size();  // behind the time
  if (bytes > options_.log.max_payload_bytes)
    refused = errc::record_too_large;
  else if (!log_->has_room_for(log_format::record_bytes(bytes)))
    refused = errc::overloaded;
  if (refused) {
    result.error = refused;
    co_return result;
  }
  const auto what = [&](core_type& core) -> const effects& {
    const effects& doing = core.propose(data_record, command, refused);
    if (!refused) {
      self.index = log_->last().index + 1;
      self.term = core.term();
      proposals_.push_back(self);
    }
    return doing;
  };
  if (busy_ || closing_) {
    if (const std::error_code closed = co_await input(what)) refused = closed;
  } else {
    [[maybe_unused]] const effects* const doing = decide(what);
    assert(!doing);  // a leader's records go to the log, and nothing else has to be durable before
  }
  result.leader = core_->leader();
  if (refused) {
    result.error = refused;
    co_return result;
  }
  const until_applied there{self.index};
  while (!self.ended && !closing_ && env_.now() < deadline) {
    wake_at(deadline);
    co_await applied_news_.wait_as(there);
  }
  if (!self.ended) result.error = errc::timed_out;  // also when the node closes: the record is in the log
  result.leader = core_->leader();
  co_return result;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::read_barrier(duration limit) {
  if (options_.witness && !mutated(mutant::witness_answers_reads)) co_return errc::wrong_node;
  const time_point deadline = env_.now() + limit;
  waiting_read self;
  self.id = ++last_read_;
  reads_.push_back(&self);
  struct leave : visit {
    leave(basic_node& in, waiting_read& who) : visit(in), gone(who) {}
    ~leave() {
      if (!visit::node_is_gone()) std::erase(visit::of.reads_, &gone);
    }
    waiting_read& gone;
  } const when_done(*this, self);
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.read(self.id, now(), refused); };
  if (const std::error_code closed = co_await input(what)) co_return closed;
  if (refused) co_return refused;
  while (!closing_ && env_.now() < deadline) {
    if (self.index == index_t{0}) co_return errc::not_leader;
    const bool is_applied = self.index && applied_.index >= *self.index && !restoring_;
    if (is_applied || (self.index && mutated(mutant::read_before_applied))) co_return std::error_code();
    wake_at(deadline);
    const until_applied there{self.index.value_or(0)};
    if (self.index)
      co_await applied_news_.wait_as(there);
    else
      (void)co_await read_news_.wait();
  }
  co_return closing_ ? errc::closed : errc::timed_out;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::transfer(node_id to) {
  std::error_code refused;
  const auto what = [&](core_type& core) -> const effects& { return core.transfer(to, now(), refused); };
  if (const std::error_code closed = co_await input(what)) co_return closed;
  co_return refused;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::change_members(change_list changes, duration limit,
                                                                    change_error& why) {
  const time_point deadline = env_.now() + limit;
  std::error_code refused;
  index_t record = 0;
  const auto what = [&](core_type& core) -> const effects& {
    record = log_->last().index + 1;
    return core.change_members(changes, refused, why);
  };
  if (const std::error_code closed = co_await input(what)) co_return closed;
  if (refused || why != change_error::none) co_return refused;
  co_return co_await changed_members(record, deadline);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::change_one(change what, duration limit, change_error& why) {
  change_list one;
  one.changes.push_back(std::move(what));
  return change_members(std::move(one), limit, why);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::add(node_id who, std::string address, duration limit,
                                                         change_error& why) {
  return change_one({change_type::add_learner, who, std::move(address)}, limit, why);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::promote(node_id who, duration limit, change_error& why) {
  return change_one({change_type::add_voter, who, ""}, limit, why);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::remove(node_id who, duration limit, change_error& why) {
  return change_one({change_type::remove, who, ""}, limit, why);
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::leave_joint(duration limit, change_error& why) {
  const time_point deadline = env_.now() + limit;
  std::error_code refused;
  index_t record = 0;
  const auto what = [&](core_type& core) -> const effects& {
    record = log_->last().index + 1;
    return core.leave_joint(refused, why);
  };
  if (const std::error_code closed = co_await input(what)) co_return closed;
  if (refused || why != change_error::none) co_return refused;
  co_return co_await changed_members(record, deadline);
}

// Waits for the change that was just begun. Whoever leads no more may not learn what became of it.
template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::changed_members(index_t change, time_point deadline) {
  if (core_->members_index() != change) co_return errc::overloaded;  // its record has found no room
  const visit inside(*this);
  const term_t term = core_->term();
  while (!closing_ && env_.now() < deadline) {
    if (change > log_->base().index) {
      const std::optional<position> there = log_->position_at(change);
      // Whoever else has it may lead yet, unless another record is committed in its place.
      if (!there || there->epoch != term) co_return core_->commit() >= change ? errc::not_leader : errc::timed_out;
    }
    const bool leads = core_->role() == role::leader && core_->term() == term;
    if (core_->commit() >= change) {
      if (core_->members_index() == change && !core_->members().auto_leave) co_return std::error_code();
      // Behind a joint configuration stands the one that ends it.
      if (!leads || core_->members_index() == change) co_return errc::timed_out;
      change = core_->members_index();
    } else if (!leads) {
      co_return errc::timed_out;
    } else {
      wake_at(deadline);
      (void)co_await news_.wait();
    }
  }
  co_return closing_ ? errc::closed : errc::timed_out;
}

template <environment Env, state_machine Machine>
node_status basic_node<Env, Machine>::status() const {
  const time_point when = env_.now();
  node_status made;
  made.core = core_->status();
  made.cluster = options_.cluster;
  made.witness = options_.witness;
  made.first = log_->first_index();
  made.durable = log_->acked().index;
  made.applied = applied_.index;
  made.snapshot = snapshot_index_;
  made.refill = made.durable < refill_ ? refill_ : 0;
  if (heard_leader_ && core_->role() != role::leader) made.leader_silent_for = when - *heard_leader_;
  const configuration& members = core_->members();
  members.for_each_member([&](node_id id) {
    if (id == options_.core.id) return;
    member_status& each = made.members.emplace_back();
    each.id = id;
    each.votes = members.voters.contains(id);
    each.connected = connected(id);
    if (const auto address = members.addresses.find(id); address != members.addresses.end()) {
      each.address = address->second;
    }
    if (const auto known = members_.find(id); known != members_.end()) {
      if (known->second.heard) each.silent_for = when - *known->second.heard;
      each.trouble = known->second.trouble;
    }
    if (const progress* const of = core_->progress_of(id)) {
      each.state = of->state();
      each.match = of->match();
      each.lag = made.core.last - std::min(made.core.last, each.match);
    }
  });
  return made;
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::changed(time_point until) {
  if (closing_) co_return errc::closed;
  const visit inside(*this);
  wake_at(until);
  (void)co_await news_.wait();
  co_return closing_ ? errc::closed : std::error_code();
}

template <environment Env, state_machine Machine>
awaitable<std::error_code> basic_node<Env, Machine>::snapshot(duration limit) {
  const time_point deadline = env_.now() + limit;
  const visit inside(*this);
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
  return found != members_.end() && !found->second.lines.empty();
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::close() {
  closing_ = true;
  group_.cancel();
  wake_everybody();
  co_await group_.join();
  for (auto& [id, other] : members_) {
    for (line& each : other.lines) each.over.abort();
  }
  const auto serves = [](const auto& each) { return !each.second.lines.empty(); };
  while (visits_ != 0 || std::any_of(members_.begin(), members_.end(), serves)) {
    (void)co_await news_.wait_uncancellable();
  }
  if (log_) co_await log_->close();
}

}  // namespace lockstep::raft

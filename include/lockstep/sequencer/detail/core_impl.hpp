// core's decisions. See sequencer/core.hpp.
#pragma once

#include "lockstep/core/errors.hpp"
#include "lockstep/sequencer/core.hpp"

#include <cassert>
#include <tuple>

namespace lockstep::sequencer {

template <core_log Log>
core<Log>::core(const core_options& options, Log& log, stored_state stored, instant now)
    : options_(options),
      log_(log),
      hard_(stored.hard),
      stored_hard_(stored.hard),
      last_(log.last()),
      durable_(position(log.acked()).index),
      delivered_(stored.delivered),
      bound_(stored.delivered),
      held_(options.holdback_bytes),
      senders_(stored.senders ? std::move(*stored.senders) : sender_table(options.senders)),
      now_(now),
      random_state_(options.seed) {
  assert(delivered_ >= position(log.base()).index && delivered_ <= last_.index);
  // Its records can have come by catch-up, from a later epoch than it knows.
  if (last_.epoch > hard_.epoch) hard_ = {last_.epoch, 0, hard_.accepted};
  if (hard_.leader != options_.id) state_ = following{hard_.leader};
  compare_anew();
}

template <core_log Log>
bool core<Log>::replay(const record& next) {
  assert(next.index == delivered_ + undelivered_.size() + 1);
  const std::optional<entry> of = decode_entry(next.payload);
  if (!of || next.kind != data_record) return false;
  undelivered_.push_back({of->sender, of->n, of->time_ns, of->payload.size(), 0});
  undelivered_bytes_ += of->payload.size();
  return true;
}

// --- inputs -----------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::begin(instant now) {
  now_ = std::max(now_, now);
  effects_.clear();
  if (role() == role::retired) return;
  last_ = log_.last();
  durable_ = std::min(position(log_.acked()).index, last_.index);
  assert(undelivered_.size() == last_.index - delivered_ && "an append that the log refuses ends the core");
}

template <core_log Log>
const effects& core<Log>::done() {
  if (role() == role::retired) {
    // What it would have said may rest on what is taken back.
    effects_.send.clear();
    effects_.append.clear();
  } else {
    if (as_taking_over()) end_takeover();
    if (as_leader()) update_bound();
    deliver();
  }
  if (hard_ != stored_hard_) effects_.persist = stored_hard_ = hard_;
  return effects_;
}

template <core_log Log>
bool core<Log>::refuses(epoch_t epoch, node_id leader) const {
  return epoch < hard_.epoch || (epoch == hard_.epoch && hard_.leader != 0 && leader != hard_.leader);
}

template <core_log Log>
const effects& core<Log>::lead(epoch_t epoch, instant now, std::uint64_t wall_ns, std::error_code& ec) {
  begin(now);
  // Nobody leads an epoch twice: what was numbered in the first life may be lost here and not elsewhere.
  const bool has_led = epoch == hard_.epoch && (hard_.accepted == epoch || as_taking_over());
  const bool is_late = has_led || last_.epoch >= epoch || refuses(epoch, options_.id);
  ec = {};
  if (role() == role::retired) {
    ec = errc::closed;
  } else if (is_late || epoch > max_epoch) {
    ec = errc::stale_epoch;
  } else {
    enter(epoch, options_.id);
    wall_ns_ = wall_ns;
    wall_at_ = now_;
    begin_takeover();
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::follow(node_id leader, epoch_t epoch, instant now, std::error_code& ec) {
  begin(now);
  ec = {};
  if (role() == role::retired) {
    ec = errc::closed;
  } else if (leader == options_.id || !options_.members.contains(leader)) {
    ec = errc::wrong_node;
  } else if (refuses(epoch, leader) || epoch > max_epoch) {
    ec = errc::stale_epoch;
  } else if (leader != hard_.leader || epoch != hard_.epoch) {
    enter(epoch, leader);
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::submit(const submission& of, instant now) {
  begin(now);
  if (role() != role::follower || leader() == 0) {
    on_submit(of, options_.id);
    return done();
  }
  message& forwarded = send(leader(), message_type::submit);
  forwarded.sender = of.sender;
  forwarded.n = of.n;
  forwarded.since_ns = of.since_ns;
  forwarded.payload = of.payload;
  return done();
}

template <core_log Log>
const effects& core<Log>::persisted(instant now) {
  begin(now);
  if (role() != role::follower) return done();
  accept_epoch();
  acknowledge(false);
  return done();
}

template <core_log Log>
const effects& core<Log>::tick(instant now) {
  begin(now);
  if (role() == role::retired) return done();
  if (leading* const lead = as_leader(); lead && now_ >= lead->heartbeat_due) {
    lead->heartbeat_due = now_ + options_.heartbeat_interval;
    broadcast(last_, last_.index, true);
  }
  if (as_taking_over()) go_on_taking_over();
  if (with_.ask_due && now_ >= *with_.ask_due) {
    with_.asked.clear();
    ask_now();
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::receive(const message& of, instant now) {
  begin(now);
  if (role() == role::retired || of.from == options_.id || !options_.members.contains(of.from)) return done();
  switch (of.type) {  // what is true in every epoch
    case message_type::submit: on_submit({of.sender, of.n, of.since_ns, of.payload}, of.from); return done();
    case message_type::submitted: effects_.answers.push_back({of.sender, of.n, of.status, of.index}); return done();
    default: break;
  }
  const bool of_leader = of.type == message_type::takeover || of.type == message_type::records;
  const bool is_news = of.epoch > hard_.epoch || (of.epoch == hard_.epoch && hard_.leader == 0 && of.epoch != 0);
  if (is_news && of.epoch <= max_epoch) {
    if (of_leader) enter(of.epoch, of.from);
    if (of.type == message_type::refused && of.leader != options_.id) enter(of.epoch, of.leader);
  }
  if (of.epoch != hard_.epoch) {
    const bool is_late = of.epoch < hard_.epoch && (of_leader || of.type == message_type::fetch);
    if (is_late) send(of.from, message_type::refused).leader = hard_.leader;
    return done();
  }
  switch (of.type) {
    case message_type::takeover: on_takeover(of); break;
    case message_type::takeover_answer: on_takeover_answer(of); break;
    case message_type::records: on_records(of); break;
    case message_type::fetch: on_fetch(of); break;
    case message_type::compacted:
      if (of.from != source()) break;
      effects_.catch_up = of.from;
      retire();
      break;
    case message_type::ack: on_ack(of); break;
    default: break;
  }
  return done();
}

// --- roles ------------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::enter(epoch_t epoch, node_id leader) {
  hard_.epoch = epoch;
  hard_.leader = leader;
  state_ = following{leader};
  bound_ = delivered_;
  acked_ = 0;
  senders_.forget_pending();
  compare_anew();
}

template <core_log Log>
void core<Log>::retire() {
  state_ = retired{};
  held_.clear();
}

// What is delivered is the same everywhere with quorum_acks, and perhaps not without.
template <core_log Log>
void core<Log>::compare_anew() {
  held_.clear();
  with_.start.reset();
  with_.matched = options_.quorum_acks ? delivered_ : 0;
  with_.differs_from.reset();
  with_.last = 0;
  with_.asked.clear();
  with_.ask_due.reset();
}

template <core_log Log>
void core<Log>::begin_takeover() {
  taking_over& takeover = state_.template emplace<taking_over>();
  takeover.until = now_ + options_.takeover_limit;
  compare_anew();
  ask_what_others_have();
  if (options_.members.size() == 1) choose_order();
}

template <core_log Log>
void core<Log>::ask_what_others_have() {
  taking_over& takeover = *as_taking_over();
  takeover.ask_due = now_ + options_.heartbeat_interval;
  for (const node_id id : options_.members) {
    const auto answered = [id](const auto& each) { return each.id == id; };
    if (id != options_.id && std::none_of(takeover.answers.begin(), takeover.answers.end(), answered)) {
      send(id, message_type::takeover);
    }
  }
}

template <core_log Log>
void core<Log>::go_on_taking_over() {
  const taking_over& takeover = *as_taking_over();
  if (now_ >= takeover.until) {
    // Whoever it fetches from may be gone.
    if (takeover.source != 0) return begin_takeover();
    choose_order();
  }
  if (as_taking_over() && takeover.source == 0 && now_ >= takeover.ask_due) ask_what_others_have();
}

template <core_log Log>
void core<Log>::on_takeover(const message& of) {
  if (of.from != hard_.leader) return;
  message& answer = send(of.from, message_type::takeover_answer);
  answer.at = log_.acked();
  answer.accepted = hard_.accepted;
}

template <core_log Log>
void core<Log>::on_takeover_answer(const message& of) {
  taking_over* const takeover = as_taking_over();
  if (!takeover || takeover->source != 0) return;
  const auto known = [&of](const auto& each) { return each.id == of.from; };
  if (std::any_of(takeover->answers.begin(), takeover->answers.end(), known)) return;
  takeover->answers.push_back({of.from, of.accepted, of.at});
  const std::size_t enough = options_.quorum_acks ? options_.members.quorum() : options_.members.size();
  if (takeover->answers.size() + 1 >= enough) choose_order();
}

// The longest order of the latest epoch, of the nodes that have answered. With quorum_acks they are a majority, so that
// it has everything that was delivered anywhere.
template <core_log Log>
void core<Log>::choose_order() {
  taking_over& takeover = *as_taking_over();
  if (options_.quorum_acks && takeover.answers.size() + 1 < options_.members.quorum()) {
    takeover.until = now_ + options_.takeover_limit;
    return;
  }
  typename taking_over::member best{options_.id, hard_.accepted, last_};
  for (const auto& each : takeover.answers) {
    if (std::pair(each.accepted, each.last.index) > std::pair(best.accepted, best.last.index)) best = each;
  }
  takeover.source = best.id;
  takeover.target = best.last;
  takeover.until = now_ + options_.takeover_limit;
  if (best.id == options_.id) return;
  with_.start = best.last;
  learn(best.last);
  take_back_what_differs();
  if (misses_something()) ask_now();
}

template <core_log Log>
void core<Log>::end_takeover() {
  const taking_over& takeover = *as_taking_over();
  if (takeover.source == 0 || durable_ != last_.index || last_ != takeover.target) return;
  become_leader();
}

template <core_log Log>
void core<Log>::become_leader() {
  hard_.accepted = hard_.epoch;
  leading& lead = state_.template emplace<leading>();
  lead.start = last_;
  for (const node_id id : options_.members) {
    if (id != options_.id) lead.peers.push_back({id, 0});
  }
  compare_anew();
  bound_ = lead.bound_told = delivered_;
  for (std::size_t i = 0; i < undelivered_.size(); ++i) senders_.number(undelivered_[i].sender, undelivered_[i].n);
  lead.heartbeat_due = now_ + options_.heartbeat_interval;
  broadcast(last_, last_.index, true);
}

// --- numbering --------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::on_submit(const submission& of, node_id from) {
  if (!as_leader()) return answer_to(from, of, submit_status::not_leader);
  using what = sender_table::what;
  const sender_table::verdict known = senders_.check(of.sender, of.n, of.since_ns);
  switch (known.is) {
    case what::next: return number(of, from);
    case what::pending:
      for (std::size_t i = undelivered_.size(); i-- != 0;) {
        numbered& each = undelivered_[i];
        if (each.sender == of.sender && each.n == of.n) {
          each.asked_by = from;
          return;
        }
      }
      return;
    case what::ordered: return answer_to(from, of, submit_status::ordered, known.index);
    case what::forgotten: return answer_to(from, of, submit_status::forgotten);
    case what::out_of_turn: return answer_to(from, of, submit_status::out_of_turn);
    case what::unknown: return answer_to(from, of, submit_status::unknown_sender);
    case what::full: return answer_to(from, of, submit_status::overloaded);
  }
}

template <core_log Log>
void core<Log>::number(const submission& of, node_id from) {
  if (undelivered_bytes_ != 0 && undelivered_bytes_ + of.payload.size() > options_.max_undelivered_bytes) {
    return answer_to(from, of, submit_status::overloaded);
  }
  const std::uint64_t last_ns = undelivered_.empty() ? senders_.time_ns() : undelivered_.back().time_ns;
  const std::uint64_t wall_ns = wall_ns_ + static_cast<std::uint64_t>((now_ - wall_at_).count());
  effects_.append_own = entry{of.sender, of.n, std::max(last_ns, wall_ns), of.payload};
  undelivered_.push_back({of.sender, of.n, effects_.append_own->time_ns, of.payload.size(), from});
  undelivered_bytes_ += of.payload.size();
  senders_.number(of.sender, of.n);
  broadcast(last_, last_.index + 1, false);
}

template <core_log Log>
void core<Log>::answer_to(node_id from, const submission& of, submit_status status, index_t index) {
  if (from == options_.id) {
    effects_.answers.push_back({of.sender, of.n, status, index});
    return;
  }
  message& answer = send(from, message_type::submitted);
  answer.sender = of.sender;
  answer.n = of.n;
  answer.status = status;
  answer.index = index;
}

// --- records ----------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::on_records(const message& of) {
  if (of.from != source()) return;
  const auto known = [this] { return std::tuple(last_.index, with_.matched, with_.differs_from); };
  const auto before = known();
  if (role() == role::follower) {
    if (!with_.start) {
      with_.start = of.start;
      learn(of.start);
    }
    bound_ = std::max(bound_, of.bound);
  }
  learn(of.at);
  if (!of.records.empty() && of.records.first() == of.at.index + 1)
    with_.last = std::max(with_.last, of.records.last());
  with_.last = std::max(with_.last, of.index);
  take_back_what_differs();
  take(of.at, of.records);
  take_held();
  if (role() == role::retired) return;
  if (role() == role::follower) {
    accept_epoch();
    acknowledge(of.wants_ack);
  }
  // What is dropped again, since too much is held back, is not asked for again at once.
  const bool answers = std::erase(with_.asked, of.at.index + 1) != 0 && known() != before;
  if (answers && as_taking_over()) as_taking_over()->until = now_ + options_.takeover_limit;
  if (answers && misses_something()) ask_now();
  ask_for_what_is_missing();
}

/// The other log has this record, or begins behind it.
template <core_log Log>
void core<Log>::learn(const position& theirs) {
  with_.last = std::max(with_.last, theirs.index);
  const std::optional<position> ours = own(theirs.index);
  if (ours == theirs) {
    with_.matched = std::max(with_.matched, theirs.index);
  } else if (ours) {
    with_.differs_from = std::min(with_.differs_from.value_or(theirs.index), theirs.index);
  }
}

template <core_log Log>
void core<Log>::take_back_what_differs() {
  const index_t base = position(log_.base()).index;
  if (with_.start) {
    // What its leader has behind the start is of this epoch.
    const index_t first = std::max(with_.start->index, base) + 1;
    if (first <= last_.index && own(first)->epoch != hard_.epoch) {
      with_.differs_from = std::min(with_.differs_from.value_or(first), first);
    }
  }
  if (!with_.differs_from) return;
  if (*with_.differs_from <= base) {
    effects_.catch_up = source();
    retire();
  } else if (*with_.differs_from <= with_.matched + 1) {
    take_back(*with_.differs_from - 1);
  }
}

template <core_log Log>
void core<Log>::take_back(index_t keep) {
  if (keep < delivered_ && options_.quorum_acks) {
    effects_.broken = "record " + std::to_string(keep + 1) + " was delivered, and is not as the leader has it";
    return retire();
  }
  effects_.truncate = keep;
  if (keep < delivered_) {
    effects_.taken_back = true;
    return retire();
  }
  last_ = *own(keep);
  durable_ = std::min(durable_, keep);
  with_.matched = std::min(with_.matched, keep);
  for (; undelivered_.size() > keep - delivered_; undelivered_.pop_back()) {
    undelivered_bytes_ -= undelivered_.back().bytes;
  }
  with_.differs_from.reset();
}

template <core_log Log>
void core<Log>::take(const position& at, const record_batch& records) {
  if (role() == role::retired || records.empty() || records.first() != at.index + 1) return;
  if (at.index > last_.index) {
    if (records.last() - last_.index <= options_.most_behind) held_.add(at, records);
    return;
  }
  if (own(at.index) != at) return;
  // What is here already stays as it is: taking it back would also take what follows it.
  std::size_t same_bytes = 0;
  index_t next = records.first();
  for (const record& each : records) {
    const std::optional<position> ours = own(each.index);
    if (ours && *ours != each.position()) {
      with_.matched = each.index - 1;
      take_back(with_.matched);
      if (role() == role::retired) return;
      break;
    }
    if (!ours) break;
    same_bytes += log_format::record_bytes(each.payload.size());
    ++next;
  }
  with_.matched = std::max(with_.matched, next - 1);
  if (next <= records.last()) append_what_follows(records.without_front(same_bytes, next));
}

/// @param records  they follow last_ by their indexes and the position before them.
template <core_log Log>
bool core<Log>::append_what_follows(record_batch records) {
  if (const index_t end = wanted(); records.last() > end) {
    if (records.first() > end) return false;
    records = records.up_to(end);
  }
  position last = last_;
  const std::size_t before = undelivered_.size();
  for (const record& each : records) {
    const std::optional<entry> of = decode_entry(each.payload);
    if (!of || each.kind != data_record || each.epoch < last.epoch || each.epoch > hard_.epoch) {
      for (; undelivered_.size() != before; undelivered_.pop_back()) undelivered_bytes_ -= undelivered_.back().bytes;
      return false;
    }
    undelivered_.push_back({of->sender, of->n, of->time_ns, of->payload.size(), 0});
    undelivered_bytes_ += of->payload.size();
    last = each.position();
  }
  last_ = last;
  with_.matched = last.index;
  effects_.append.push_back(std::move(records));
  return true;
}

template <core_log Log>
void core<Log>::take_held() {
  if (with_.matched != last_.index || role() == role::retired) return;
  held_.release(last_.index, [this](const holdback::held& next, index_t last) {
    // One that begins earlier is compared record by record when it is sent again.
    if (next.at.index == last && next.at == last_) append_what_follows(next.records);
    return last_.index;
  });
}

template <core_log Log>
bool core<Log>::misses_something() const noexcept {
  return with_.differs_from || std::min(with_.last, wanted()) > last_.index || with_.matched < last_.index;
}

template <core_log Log>
void core<Log>::ask_for_what_is_missing() {
  if (!misses_something()) {
    with_.asked.clear();
    with_.ask_due.reset();
  } else if (!with_.ask_due) {
    with_.ask_due = now_ + by_chance(options_.fetch_wait);
  }
}

template <core_log Log>
void core<Log>::ask_now() {
  with_.ask_due = now_ + by_chance(options_.fetch_retry);
  if (with_.differs_from) {
    // By bisection: histories that agree at one position agree at all before it.
    const index_t base = position(log_.base()).index;
    const index_t lowest = std::max(with_.matched, base);
    const index_t middle = lowest + (*with_.differs_from - lowest) / 2;
    const position at = *own(middle);
    return ask_for(at, at.index);
  }
  const index_t end = std::min(with_.last, wanted());
  if (end > last_.index && end - last_.index > options_.most_behind) {
    effects_.catch_up = source();
    return retire();
  }
  position from = last_;
  for (const holdback::held& each : held_.waiting()) {
    if (each.at.index > from.index) ask_for(from, each.at.index);
    if (each.records.last() <= from.index) continue;
    for (const record& one : each.records) from = one.position();
  }
  if (end > from.index || with_.matched < last_.index) ask_for(from, end);
}

template <core_log Log>
void core<Log>::ask_for(const position& at, index_t last) {
  if (with_.asked.size() >= options_.fetches_in_flight) return;
  if (std::find(with_.asked.begin(), with_.asked.end(), at.index + 1) != with_.asked.end()) return;
  with_.asked.push_back(at.index + 1);
  message& fetch = send(source(), message_type::fetch);
  fetch.at = at;
  fetch.index = std::max(at.index, last);
}

// A leader answers its followers, and a node whose order is adopted answers the new leader.
template <core_log Log>
void core<Log>::on_fetch(const message& of) {
  const bool of_new_leader = role() == role::follower && of.from == hard_.leader;
  if (!as_leader() && !of_new_leader) return;
  if (of.at.index < position(log_.base()).index) {
    send(of.from, message_type::compacted);
    return;
  }
  const position ours = *own(std::min(of.at.index, last_.index));
  records_message(of.from, ours, ours == of.at ? std::clamp(of.index, ours.index, last_.index) : ours.index);
}

// --- what is durable --------------------------------------------------------------------------------------------

// Not before all of the leader's order as it began is durable here, and nothing else: a later takeover that finds this
// epoch accepted takes the log here for its order.
template <core_log Log>
void core<Log>::accept_epoch() {
  if (!with_.start || with_.differs_from || with_.matched < with_.start->index) return;
  if (durable_ >= with_.start->index) hard_.accepted = hard_.epoch;
}

template <core_log Log>
void core<Log>::acknowledge(bool again) {
  if (hard_.accepted != hard_.epoch || !with_.start) return;
  const index_t index = std::min(with_.matched, durable_);
  if (index <= acked_ && !again) return;
  acked_ = index;
  send(hard_.leader, message_type::ack).index = index;
}

template <core_log Log>
void core<Log>::on_ack(const message& of) {
  leading* const lead = as_leader();
  if (!lead) return;
  for (typename leading::peer& each : lead->peers) {
    if (each.id == of.from && of.index <= last_.index) each.acked = std::max(each.acked, of.index);
  }
}

template <core_log Log>
void core<Log>::update_bound() {
  leading& lead = *as_leader();
  const index_t safe = options_.quorum_acks ? options_.members.committed([this](node_id id) {
    return std::optional<index_t>(id == options_.id ? durable_ : acked_by(id));
  })
                                            : durable_;
  bound_ = std::max(bound_, safe);
  if (bound_ <= lead.bound_told) return;
  const std::optional<position> at = own(bound_);
  broadcast(*at, at->index, false);
}

template <core_log Log>
void core<Log>::deliver() {
  index_t end = std::min(bound_, durable_);
  if (!as_leader()) end = std::min(end, with_.matched);
  while (delivered_ < end) {
    const numbered next = undelivered_[0];
    undelivered_.pop_front();
    undelivered_bytes_ -= next.bytes;
    ++delivered_;
    senders_.deliver({next.sender, next.n, next.time_ns, {}}, delivered_);
    if (next.asked_by != 0) {
      answer_to(next.asked_by, {next.sender, next.n, 0, {}}, submit_status::ordered, delivered_);
    }
    effects_.deliver = delivered_;
  }
}

// --- messages ---------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::broadcast(const position& at, index_t last, bool wants_ack) {
  as_leader()->bound_told = bound_;
  for (const auto& each : as_leader()->peers) records_message(each.id, at, last).wants_ack = wants_ack;
}

template <core_log Log>
message& core<Log>::records_message(node_id to, const position& at, index_t last) {
  message& made = send(to, message_type::records);
  made.at = at;
  made.index = last;
  if (const leading* const lead = as_leader()) {
    made.start = lead->start;
    made.bound = bound_;
  }
  return made;
}

template <core_log Log>
message& core<Log>::send(node_id to, message_type type) {
  message& made = effects_.send.emplace_back();
  made.type = type;
  made.from = options_.id;
  made.to = to;
  made.epoch = hard_.epoch;
  return made;
}

// --- what is so -------------------------------------------------------------------------------------------------

template <core_log Log>
role core<Log>::role() const noexcept {
  if (std::holds_alternative<leading>(state_)) return role::leader;
  if (std::holds_alternative<taking_over>(state_)) return role::taking_over;
  return std::holds_alternative<retired>(state_) ? role::retired : role::follower;
}

template <core_log Log>
node_id core<Log>::leader() const noexcept {
  if (const following* const follower = std::get_if<following>(&state_)) return follower->leader;
  return std::holds_alternative<leading>(state_) ? options_.id : 0;
}

/// Whose log this one is compared with; 0: nobody's.
template <core_log Log>
node_id core<Log>::source() const noexcept {
  if (const following* const follower = std::get_if<following>(&state_)) return follower->leader;
  const taking_over* const takeover = std::get_if<taking_over>(&state_);
  return takeover && takeover->source != options_.id ? takeover->source : 0;
}

/// The last index that may be appended.
template <core_log Log>
index_t core<Log>::wanted() const noexcept {
  const taking_over* const takeover = std::get_if<taking_over>(&state_);
  return takeover ? takeover->target.index : std::numeric_limits<index_t>::max();
}

template <core_log Log>
index_t core<Log>::acked_by(node_id id) const noexcept {
  const leading* const lead = std::get_if<leading>(&state_);
  if (!lead) return 0;
  for (const auto& each : lead->peers) {
    if (each.id == id) return each.acked;
  }
  return 0;
}

template <core_log Log>
instant core<Log>::deadline() const noexcept {
  instant next = with_.ask_due && role() != role::retired ? *with_.ask_due : instant::max();
  if (const leading* const lead = std::get_if<leading>(&state_)) next = std::min(next, lead->heartbeat_due);
  if (const taking_over* const takeover = std::get_if<taking_over>(&state_)) {
    next = std::min(next, takeover->until);
    if (takeover->source == 0) next = std::min(next, takeover->ask_due);
  }
  return next;
}

template <core_log Log>
std::string core<Log>::broken_rule() const {
  const position last = log_.last();
  const index_t durable = position(log_.acked()).index;
  if (role() == role::retired) return {};
  if (delivered_ > durable) return "a message is delivered that is not durable";
  if (last.epoch > hard_.epoch) return "the log has a record of a later epoch than this node";
  if (hard_.accepted > hard_.epoch) return "an epoch is accepted that was not entered";
  if (undelivered_.size() != last.index - delivered_) return "the records that wait for delivery are counted wrong";
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < undelivered_.size(); ++i) {
    bytes += undelivered_[i].bytes;
    if (i != 0 && undelivered_[i].time_ns < undelivered_[i - 1].time_ns) return "log time goes back";
  }
  if (bytes != undelivered_bytes_) return "the bytes that wait for delivery are counted wrong";
  if (held_.bytes() > options_.holdback_bytes) return "more is held back than is allowed";
  if (with_.asked.size() > options_.fetches_in_flight) return "more is asked for at once than is allowed";
  const leading* const lead = std::get_if<leading>(&state_);
  if (!lead) return with_.matched > last.index ? "more is as the leader has it than the log holds" : "";
  if (hard_.leader != options_.id || hard_.accepted != hard_.epoch) return "a node leads an epoch that is not its own";
  if (last.index < lead->start.index) return "a leader has lost what it began with";
  if (last.index > lead->start.index && last.epoch != hard_.epoch) return "a leader has numbered in another's epoch";
  const index_t safe = options_.members.committed(
      [&](node_id id) { return std::optional<index_t>(id == options_.id ? durable : acked_by(id)); });
  if (options_.quorum_acks && bound_ > std::max(safe, delivered_)) return "more may be delivered than a majority has";
  return {};
}

// --- the log ----------------------------------------------------------------------------------------------------

/// The position of the record here, when there is one and it was not appended just now, but for the last one.
template <core_log Log>
std::optional<position> core<Log>::own(index_t index) {
  if (index == last_.index) return last_;
  if (index > last_.index || index < position(log_.base()).index) return std::nullopt;
  return log_.position_at(index);
}

template <core_log Log>
instant core<Log>::by_chance(instant wait) noexcept {
  // splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
  std::uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  const auto half = static_cast<std::uint64_t>(wait.count()) / 2 + 1;
  return wait + instant(static_cast<std::int64_t>((z ^ (z >> 31)) % half));
}

}  // namespace lockstep::sequencer

// core's decisions. See raft/core.hpp.
#pragma once

#include "lockstep/raft/core.hpp"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace lockstep::raft {

template <core_log Log>
core<Log>::core(const core_options& options, Log& log, stored_state stored, instant now)
    : options_(options),
      log_(log),
      hard_(stored.hard),
      stored_hard_(stored.hard),
      durable_(position(log.acked()).index),
      commit_(stored.commit),
      matched_(stored.commit),
      known_commit_(stored.commit),
      configurations_(std::move(stored.configurations)),
      now_(now),
      uncommitted_({std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::uint64_t>::max()}),
      random_state_(options.seed) {
  if (configurations_.empty()) configurations_.emplace_back();
  look_at_log();
  // Who held the lease of a leader knows nothing of it after a crash.
  if (options_.lease_drift > 0 && !mutated(mutant::forget_lease_at_start)) heard_leader_ = now_;
  reset_election_deadline();
}

// --- inputs -----------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::begin(instant now) {
  now_ = std::max(now_, now);
  effects_.clear();
  look_at_log();
}

template <core_log Log>
const effects& core<Log>::done() {
  if (hard_ != stored_hard_ && !(hard_.vote == 0 && mutated(mutant::skip_term_persist))) {
    effects_.persist = stored_hard_ = hard_;
    if (hard_.vote != 0 && mutated(mutant::skip_vote_persist)) effects_.persist->vote = 0;
  }
  return effects_;
}

template <core_log Log>
const effects& core<Log>::tick(instant now) {
  begin(now);
  if (is_quiet()) return done();
  if (leading* const lead = as_leader()) {
    if (lead->pace == leading::pace_t::waking) resume();
    const auto heard = [&](node_id id) -> std::optional<bool> {
      const peer* const other = find_peer(id);
      return !other || now_ - other->heard < options_.election_timeout;
    };
    const joint& voters = members().voters;
    const bool by_half = !voters.outgoing.empty() && mutated(mutant::check_new_half_only);
    const vote_result hears_quorum = by_half ? voters.incoming.vote(heard) : voters.vote(heard);
    if (hears_quorum != vote_result::won && !mutated(mutant::skip_check_quorum)) {
      become_follower(hard_.term, 0, "as leader it did not hear from a quorum");
    } else if (lead->disk_waits_since && now_ - *lead->disk_waits_since >= options_.disk_stall_timeout &&
               !mutated(mutant::skip_disk_stall_check)) {
      become_follower(hard_.term, 0, "as leader its disk stood still");
    } else {
      if (lead->transfer_to != 0 && now_ >= lead->transfer_until) lead->transfer_to = 0;
      if (now_ >= lead->heartbeat_due) {
        if (may_fall_quiet())
          fall_quiet();
        else
          begin_round();
      }
    }
  } else if (now_ >= election_deadline_) {
    if (role() == raft::role::follower) follow(0);
    if (may_stand())
      stand(!mutated(mutant::skip_pre_vote), false, "it did not hear from a leader");
    else
      reset_election_deadline();
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::receive(const message& of, instant now) {
  begin(now);
  if (of.type != message_type::heartbeat_response) wake();
  const bool from_leader =
      of.type == message_type::append || of.type == message_type::heartbeat || of.type == message_type::snapshot_offer;
  // A pre-vote speaks of a term that nobody has begun.
  const bool of_no_term =
      of.pre && (of.type == message_type::vote_request || of.granted) && !mutated(mutant::pre_vote_raises_term);
  if (of.term > hard_.term && !of_no_term) {
    const bool disturbs = of.type == message_type::vote_request && !of.transfer && hears_leader();
    if (disturbs) return done();
    become_follower(of.term, 0, "node " + std::to_string(of.from) + " is in a later term");
  } else if (of.term < hard_.term && !mutated(mutant::accept_older_term)) {
    // Whoever leads or stands in an earlier term learns of this one.
    if (from_leader) {
      reject_append(of);
    } else if (of.type == message_type::vote_request) {
      answer(of, message_type::vote_response).pre = of.pre;
    }
    return done();
  }
  switch (of.type) {
    case message_type::vote_request: on_vote_request(of); break;
    case message_type::vote_response: on_vote_response(of); break;
    case message_type::append: on_append(of); break;
    case message_type::append_response: on_append_response(of); break;
    case message_type::heartbeat: on_heartbeat(of); break;
    case message_type::heartbeat_response: on_heartbeat_response(of); break;
    case message_type::read_request: on_read_request(of); break;
    case message_type::read_response: on_read_response(of); break;
    case message_type::timeout_now: on_timeout_now(of); break;
    case message_type::snapshot_offer: on_snapshot_offer(of); break;
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::persisted(instant now) {
  begin(now);
  const index_t before = std::exchange(durable_, std::min(position(log_.acked()).index, last_index_));
  if (leading* const lead = as_leader()) {
    if (durable_ == last_index_)
      lead->disk_waits_since.reset();
    else if (durable_ != before)
      lead->disk_waits_since = now_;
    update_commit();
  } else {
    commit_what_is_known();
    if (leader() != 0 && acknowledgeable() > acknowledged_) acknowledge(leader());
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::propose(record_kind kind, bytes_view payload, std::error_code& ec) {
  begin(now_);
  const leading* const lead = as_leader();
  ec.clear();
  if (!lead) {
    ec = errc::not_leader;
  } else if ((lead->transfer_to != 0 && !mutated(mutant::propose_during_transfer)) ||
             (uncommitted_.bytes() != 0 && uncommitted_.bytes() + payload.size() > options_.max_uncommitted_bytes)) {
    ec = errc::overloaded;
  } else {
    add_own(kind, payload);
  }
  return done();
}

template <core_log Log>
bool core<Log>::may_change_members(std::error_code& ec, change_error& why) {
  ec.clear();
  why = change_error::none;
  const leading* const lead = as_leader();
  if (!lead) {
    ec = errc::not_leader;
  } else if (lead->transfer_to != 0 || (members_index() > commit_ && !mutated(mutant::change_members_while_changing)) ||
             (commit_ < lead->first_index && !mutated(mutant::change_members_before_first_commit))) {
    // Not before a record of this term is committed: another leader's change may still take effect until then
    // (Ongaro, "Bug in single-server membership changes", raft-dev, 2015).
    ec = errc::overloaded;
  }
  return !ec;
}

template <core_log Log>
const effects& core<Log>::change_members(const change_list& changes, std::error_code& ec, change_error& why) {
  begin(now_);
  if (!may_change_members(ec, why)) return done();
  change_result changed = apply(members(), changes);
  why = changed.error;
  if (changed && changed.config.witnesses.contains(options_.id))
    ec = errc::wrong_node;
  else if (changed)
    begin_configuration(std::move(changed.config));
  return done();
}

template <core_log Log>
const effects& core<Log>::leave_joint(std::error_code& ec, change_error& why) {
  begin(now_);
  if (!may_change_members(ec, why)) return done();
  change_result changed = raft::leave_joint(members());
  why = changed.error;
  if (changed) begin_configuration(std::move(changed.config));
  return done();
}

template <core_log Log>
const effects& core<Log>::read(std::uint64_t id, instant now, std::error_code& ec) {
  begin(now);
  ec.clear();
  wake();
  if (as_leader()) {
    add_read(id, 0);
  } else if (leader() == 0) {
    ec = errc::not_leader;
  } else {
    forwarded_reads_.push_back(id);
    send(leader(), message_type::read_request).round = id;
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::transfer(node_id to, instant now, std::error_code& ec) {
  begin(now);
  ec.clear();
  wake();
  leading* const lead = as_leader();
  if (!lead) {
    ec = errc::not_leader;
  } else if (!members().voters.contains(to) || members().witnesses.contains(to)) {
    ec = errc::wrong_node;
  } else if (peer* const target = find_peer(to)) {
    lead->transfer_to = to;
    lead->transfer_until = now_ + options_.election_timeout;
    send_timeout_now_if_ready(*target);
  }
  return done();
}

template <core_log Log>
const effects& core<Log>::resign(std::string why) {
  begin(now_);
  while (configurations_.size() > 1 && members_index() > last_index_) configurations_.pop_back();
  if (as_leader()) become_follower(hard_.term, 0, std::move(why));
  return done();
}

template <core_log Log>
const effects& core<Log>::adopt(index_t index, configuration config) {
  begin(now_);
  assert(index > members_index() && index <= last_index_);
  configurations_.push_back({index, std::move(config)});
  return done();
}

template <core_log Log>
const effects& core<Log>::installed(const position& at, configuration config, instant now) {
  begin(now);
  assert(at.index > commit_ && at.index >= matched_ && at.index == last_index_);
  // Whether it may stand, and with what, is another question now.
  if (std::holds_alternative<standing>(state_)) become_follower(hard_.term, 0, "it was given a snapshot");
  durable_ = commit_ = at.index;
  matched_ = std::max(matched_, commit_);
  known_commit_ = std::max(known_commit_, commit_);
  if (!mutated(mutant::installed_keeps_configurations)) configurations_.clear();
  configurations_.push_back({at.index, std::move(config)});
  if (leader() != 0) acknowledge(leader());
  return done();
}

template <core_log Log>
bool core<Log>::needs_snapshot(const position& at) {
  look_at_log();
  if (at.index <= commit_) return false;
  return at.index > last_index_ || term_at(at.index) != at.epoch || mutated(mutant::install_older_snapshot);
}

template <core_log Log>
const effects& core<Log>::disconnected(node_id other, instant now) {
  begin(now);
  if (peer* const target = find_peer(other)) {
    if (!mutated(mutant::keep_window_at_disconnect)) target->progress.become_probe();
    target->commit_sent = 0;
  }
  if (leading* const lead = as_leader()) {
    wake();
    std::erase_if(lead->reads, [other](const pending_read& each) { return each.from == other; });
  } else if (leader() == other) {
    refuse_reads();
    if (is_quiet()) reset_election_deadline();
    std::get<following>(state_).quiet = false;
  }
  return done();
}

// --- roles ------------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::become_follower(term_t term, node_id new_leader, std::string why) {
  assert(term >= hard_.term);
  if (role() != raft::role::follower) last_change_ = "term " + std::to_string(term) + ": " + std::move(why);
  if (term > hard_.term) enter_term({term, 0});
  refuse_reads();
  uncommitted_.clear();
  state_ = following{new_leader};
  reset_election_deadline();
}

// Another leader's log is another one.
template <core_log Log>
void core<Log>::enter_term(hard_state next) {
  hard_ = next;
  if (!mutated(mutant::keep_match_of_older_term)) matched_ = commit_;
  acknowledged_ = 0;
}

template <core_log Log>
void core<Log>::follow(node_id new_leader) {
  following& follower = std::get<following>(state_);
  if (follower.leader != new_leader) refuse_reads();
  follower = {new_leader};
}

template <core_log Log>
void core<Log>::stand(bool pre, bool transferred, std::string why) {
  assert(may_stand());
  refuse_reads();
  last_change_ = "term " + std::to_string(hard_.term + 1) + ": " + why;
  if (!pre) enter_term({hard_.term + 1, options_.id});
  state_ = standing{pre, {{options_.id, true}}};  // which counts for nothing unless it is a voter
  reset_election_deadline();
  members().voters.for_each([&](node_id voter) {
    if (voter == options_.id) return;
    message& request = send(voter, message_type::vote_request);
    request.term = pre ? hard_.term + 1 : hard_.term;
    request.at = {last_term_, last_index_, 0};
    request.pre = pre;
    request.transfer = transferred;
  });
  count_votes();
}

template <core_log Log>
void core<Log>::count_votes() {
  const standing& candidate = std::get<standing>(state_);
  const auto voted = [&](node_id id) -> std::optional<bool> {
    for (const auto& [voter, granted] : candidate.votes) {
      if (voter == id) return granted;
    }
    return std::nullopt;
  };
  const joint& voters = deciding().voters;
  const bool by_half = !voters.outgoing.empty() && mutated(mutant::elect_by_new_half_only);
  switch (by_half ? voters.incoming.vote(voted) : voters.vote(voted)) {
    case vote_result::pending: return;
    case vote_result::lost: return become_follower(hard_.term, 0, "it lost the election");
    case vote_result::won:
      if (candidate.pre)
        stand(false, false, last_change_.substr(last_change_.find(": ") + 2));
      else
        become_leader();
  }
}

template <core_log Log>
void core<Log>::become_leader() {
  leading& lead = state_.template emplace<leading>();
  lead.first_index = last_index_ + 1;
  uncommitted_.clear();
  update_peers();
  add_own(epoch_record, {});
  begin_round();
}

// A node that the last configuration leaves out may be needed to commit that configuration: nobody else may have it
// (dissertation, 4.2.2). So it stands as long as it does not know that it is not. One that any of them makes a witness
// may lack payloads already.
template <core_log Log>
bool core<Log>::may_stand() const {
  const auto any = [this](auto&& holds) { return std::any_of(configurations_.begin(), configurations_.end(), holds); };
  const bool is_voter = any([&](const auto& each) { return each.config.voters.contains(options_.id); });
  const bool is_witness = any([&](const auto& each) { return each.config.witnesses.contains(options_.id); });
  const bool lacks_records = durable_ < options_.must_refill && !mutated(mutant::stand_without_refill);
  return (is_voter || mutated(mutant::learner_stands)) && (!is_witness || mutated(mutant::witness_stands)) &&
         options_.priority != 0 && !lacks_records && hard_.term < max_epoch;
}

template <core_log Log>
bool core<Log>::hears_leader() const {
  return (as_leader() || is_quiet() || (heard_leader_ && now_ - *heard_leader_ < options_.election_timeout)) &&
         !mutated(mutant::ignore_stickiness);
}

// --- quiet groups -----------------------------------------------------------------------------------------------

template <core_log Log>
bool core<Log>::is_quiet() const noexcept {
  if (const leading* const lead = as_leader()) return lead->pace == leading::pace_t::quiet;
  const following* const follower = std::get_if<following>(&state_);
  return follower && follower->quiet;
}

template <core_log Log>
bool core<Log>::may_fall_quiet() const {
  const leading& lead = *as_leader();
  if (options_.quiesce_after == instant() || now_ - lead.active < options_.quiesce_after) return false;
  if (commit_ != last_index_ || durable_ != last_index_ || !lead.reads.empty() || lead.transfer_to != 0) return false;
  return std::all_of(lead.peers.begin(), lead.peers.end(), [&](const peer& each) {
    return each.progress.match() == last_index_ && each.round == lead.round;
  });
}

template <core_log Log>
void core<Log>::fall_quiet() {
  begin_round();
  for (message& each : effects_.send) each.quiet = each.type == message_type::heartbeat;
  as_leader()->pace = leading::pace_t::quiet;
}

// A follower trusts its leader once more, and that one hears of it if somebody has reason not to.
template <core_log Log>
void core<Log>::wake() {
  if (leading* const lead = as_leader()) {
    lead->active = now_;
    if (lead->pace == leading::pace_t::quiet) lead->pace = leading::pace_t::waking;
  } else if (is_quiet()) {
    std::get<following>(state_).quiet = false;
    heard_leader_ = now_;
    reset_election_deadline();
  }
}

// By a tick, since not every input knows the time.
template <core_log Log>
void core<Log>::resume() {
  leading& lead = *as_leader();
  lead.pace = leading::pace_t::beating;
  lead.active = now_;
  if (lead.disk_waits_since) lead.disk_waits_since = now_;
  for (peer& each : lead.peers) each.heard = now_;
  begin_round();
}

template <core_log Log>
void core<Log>::reset_election_deadline() {
  const auto timeout = static_cast<std::uint64_t>(options_.election_timeout.count());
  const std::uint64_t by_chance = mutated(mutant::same_timeout_everywhere) ? 0 : random() % (timeout / 2);
  const std::uint64_t by_priority = timeout / 100 * (100u - std::min<std::uint64_t>(options_.priority, 100));
  election_deadline_ = now_ + instant(static_cast<std::int64_t>(timeout + by_chance + by_priority));
}

// --- messages ---------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::on_vote_request(const message& of) {
  // Whoever has a leader does not help to replace it, unless the leader itself asks (dissertation, 4.2.3).
  const bool is_content = hears_leader() && !of.transfer;
  const bool is_free = of.pre
                           ? of.term > hard_.term
                           : hard_.vote == of.from || (hard_.vote == 0 && leader() == 0) || mutated(mutant::vote_twice);
  // Only whoever has all that may be committed (paper, 5.4.1).
  const term_t their_term = mutated(mutant::compare_last_index_only) ? last_term_ : of.at.epoch;
  const index_t their_index = mutated(mutant::compare_last_term_only) ? last_index_ : of.at.index;
  const bool is_up_to_date = std::pair(their_term, their_index) >= std::pair(last_term_, last_index_);
  message& response = answer(of, message_type::vote_response);
  response.pre = of.pre;
  response.granted = !is_content && is_free && is_up_to_date &&
                     (durable_ >= options_.must_refill || mutated(mutant::vote_without_refill));
  if (!response.granted) return;
  if (of.pre) {
    response.term = of.term;
  } else {
    hard_.vote = of.from;
    reset_election_deadline();
  }
}

template <core_log Log>
void core<Log>::on_vote_response(const message& of) {
  standing* const candidate = std::get_if<standing>(&state_);
  if (!candidate) return;
  const bool is_asked_for = candidate->pre == of.pre && (!of.pre || !of.granted || of.term == hard_.term + 1);
  if (!is_asked_for && !mutated(mutant::count_pre_votes_as_votes)) return;
  const auto already = std::find_if(candidate->votes.begin(), candidate->votes.end(),
                                    [&](const auto& each) { return each.first == of.from; });
  if (already != candidate->votes.end()) return;
  candidate->votes.emplace_back(of.from, of.granted);
  count_votes();
}

// Of a message that only the leader of this term sends.
template <core_log Log>
bool core<Log>::accept_leader(const message& of) {
  if (as_leader() || (leader() != 0 && leader() != of.from)) {
    effects_.broken = "nodes " + std::to_string(leader()) + " and " + std::to_string(of.from) + " both lead term " +
                      std::to_string(hard_.term);
    return false;
  }
  if (std::holds_alternative<standing>(state_)) become_follower(hard_.term, of.from, "another node won the election");
  follow(of.from);
  heard_leader_ = now_;
  reset_election_deadline();
  return true;
}

template <core_log Log>
void core<Log>::on_append(const message& of) {
  if (!accept_leader(of)) return;
  // What is committed here is in every leader's log.
  if (of.at.index > commit_) {
    if (of.at.index > last_index_ ||
        (term_at(of.at.index) != of.at.epoch && !mutated(mutant::skip_consistency_check))) {
      return reject_append(of);
    }
    if (!same_history(of.at)) return;
  }
  index_t end = of.at.index;  // up to where this log is as the leader's
  std::size_t known_bytes = 0;
  for (auto at = of.records.begin(); at != of.records.end(); ++at) {
    const record each = *at;
    if (each.index > last_index_) break;
    if (each.index > commit_) {
      if (term_at(each.index) != each.epoch || mutated(mutant::truncate_what_matches)) {
        take_back(each.index - 1);
        break;
      }
      if (!same_history(each.position())) return;
    }
    end = each.index;
    known_bytes += log_format::record_bytes(each.payload.size());
  }
  if (end < of.records.last() && !of.records.empty()) {
    effects_.append = of.records.without_front(known_bytes, end + 1);
    end = of.records.last();
  }
  matched_ = std::max({matched_, end, std::min(commit_, last_index_)});
  known_commit_ = std::max(known_commit_, of.commit);
  commit_what_is_known();
  if (effects_.append.empty()) acknowledge(of.from);
}

template <core_log Log>
void core<Log>::on_append_response(const message& of) {
  peer* const from = as_leader() ? find_peer(of.from) : nullptr;
  if (!from) return;
  from->heard = now_;
  if (of.rejected) {
    const index_t least = position(log_.base()).index;
    const index_t hint = last_possible_match(least, std::min(of.at.index, last_index_), of.at.epoch,
                                             [&](index_t index) { return term_at(index); });
    if (of.lost && !mutated(mutant::ignore_loss))
      from->progress.on_loss(hint);
    else
      (void)from->progress.on_reject(of.index, hint);
    return;
  }
  if (of.index > last_index_) return;  // no node that follows this one says that
  if (from->progress.on_ack(of.index)) match_rose(of.from);
}

template <core_log Log>
void core<Log>::match_rose(node_id follower) {
  update_commit();
  // The commit may have ended this node's leadership.
  const leading* const lead = as_leader();
  if (lead && lead->transfer_to == follower) send_timeout_now_if_ready(*find_peer(follower));
}

template <core_log Log>
void core<Log>::on_heartbeat(const message& of) {
  if (!accept_leader(of)) return;
  known_commit_ = std::max(known_commit_, of.commit);
  matched_ = std::max(matched_, std::min(of.commit, last_index_));
  commit_what_is_known();
  const bool has_everything = commit_ == of.commit && commit_ == last_index_ && durable_ == last_index_;
  std::get<following>(state_).quiet = of.quiet && has_everything;
  message& response = answer(of, message_type::heartbeat_response);
  response.round = of.round;
  // An acknowledgement may be lost with its connection, and what became durable while no leader was known has had none.
  if (!mutated(mutant::forget_to_acknowledge)) response.index = acknowledged_ = acknowledgeable();
}

template <core_log Log>
void core<Log>::on_heartbeat_response(const message& of) {
  peer* const from = find_peer(of.from);
  if (!from) return;
  from->heard = now_;
  from->round = std::max(from->round, of.round);
  confirm_rounds();
  if (of.index <= last_index_ && from->progress.on_heartbeat(of.index)) match_rose(of.from);
}

template <core_log Log>
void core<Log>::on_read_request(const message& of) {
  if (as_leader())
    add_read(of.round, of.from);
  else
    answer(of, message_type::read_response).round = of.round;
}

template <core_log Log>
void core<Log>::on_read_response(const message& of) {
  const auto asked = std::find(forwarded_reads_.begin(), forwarded_reads_.end(), of.round);
  if (asked == forwarded_reads_.end()) return;
  forwarded_reads_.erase(asked);
  effects_.reads.push_back({of.round, of.index});
}

template <core_log Log>
void core<Log>::on_timeout_now(const message& of) {
  if (as_leader() || !may_stand()) return;
  stand(false, true, "node " + std::to_string(of.from) + " asked it to lead");
}

template <core_log Log>
void core<Log>::on_snapshot_offer(const message& of) {
  if (!accept_leader(of)) return;
  if (needs_snapshot(of.at) && !mutated(mutant::take_offer_as_installed)) {
    effects_.offer_accepted = true;
    return;
  }
  matched_ = std::max({matched_, commit_, of.at.index});
  known_commit_ = std::max(known_commit_, of.at.index);
  commit_what_is_known();
  acknowledge(of.from);
}

// Two logs with a record of the same index and term are the same up to there (paper, 5.3). If their chains say that
// they are not, two nodes have led one term, or bytes that were synced have changed.
template <core_log Log>
bool core<Log>::same_history(const position& theirs) {
  const std::optional<position> mine = log_.position_at(theirs.index);
  if (!mine || mine->chain == theirs.chain || mine->chain == 0 || theirs.chain == 0) return true;
  effects_.broken = "record " + std::to_string(theirs.index) + " of term " + std::to_string(theirs.epoch) +
                    " is another one here than at the leader";
  return false;
}

template <core_log Log>
void core<Log>::take_back(index_t keep) {
  assert(keep >= commit_);
  last_term_ = term_at(keep);
  last_index_ = keep;
  effects_.truncate = keep;
  if (!mutated(mutant::keep_durable_index_when_truncating)) durable_ = std::min(durable_, keep);
  matched_ = std::min(matched_, keep);
  while (configurations_.size() > 1 && members_index() > keep && !mutated(mutant::keep_truncated_configuration)) {
    configurations_.pop_back();
  }
}

template <core_log Log>
void core<Log>::commit_what_is_known() {
  const index_t there = mutated(mutant::commit_before_durable) ? last_index_ : durable_;
  commit_to(std::min({known_commit_, mutated(mutant::commit_what_differs) ? there : matched_, there}));
}

template <core_log Log>
void core<Log>::acknowledge(node_id to) {
  send(to, message_type::append_response).index = acknowledged_ = acknowledgeable();
}

template <core_log Log>
index_t core<Log>::acknowledgeable() const {
  return mutated(mutant::acknowledge_before_durable) ? matched_ : std::min(matched_, durable_);
}

template <core_log Log>
void core<Log>::reject_append(const message& of) {
  message& response = answer(of, message_type::append_response);
  response.rejected = true;
  response.index = of.at.index;
  if (of.term < hard_.term) return;
  response.lost = durable_ < options_.must_refill;
  const index_t from = std::min(of.at.index - 1, last_index_);
  const index_t common = last_possible_match(commit_, from, of.at.epoch, [&](index_t index) { return term_at(index); });
  response.at = {term_at(common), common, 0};
}

template <core_log Log>
message& core<Log>::send(node_id to, message_type type) {
  message& sent = effects_.send.emplace_back();
  sent.type = type;
  sent.from = options_.id;
  sent.to = to;
  sent.term = hard_.term;
  return sent;
}

// --- a leader's affairs -----------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::add_own(record_kind kind, bytes_view payload) {
  effects_.append_own.push_back({kind, payload});
  ++last_index_;
  last_term_ = hard_.term;
  uncommitted_.add(last_index_, payload.size());
  wake();
  auto& disk_waits_since = as_leader()->disk_waits_since;
  if (!disk_waits_since) disk_waits_since = now_;
}

template <core_log Log>
void core<Log>::begin_configuration(configuration config) {
  config_bytes_.clear();
  encode_configuration(config_bytes_, config);
  add_own(config_record, config_bytes_.view());
  configurations_.push_back({last_index_, std::move(config)});
  update_peers();
}

template <core_log Log>
void core<Log>::update_peers() {
  leading& lead = *as_leader();
  std::vector<peer> before = std::exchange(lead.peers, {});
  members().for_each_member([&](node_id id) {
    if (id == options_.id) return;
    const auto known = std::find_if(before.begin(), before.end(), [id](const peer& each) { return each.id == id; });
    if (known != before.end()) {
      lead.peers.push_back(std::move(*known));
    } else {
      lead.peers.push_back({id, progress(last_index_ + 1, options_.in_flight), now_, 0, 0});
    }
    lead.peers.back().progress.learner = !members().voters.contains(id);
  });
  std::sort(lead.peers.begin(), lead.peers.end(), [](const peer& a, const peer& b) { return a.id < b.id; });
  if (lead.transfer_to != 0 && !find_peer(lead.transfer_to)) lead.transfer_to = 0;
}

template <core_log Log>
void core<Log>::update_commit() {
  const leading& lead = *as_leader();
  const auto durable_at = [&](node_id id) -> std::optional<index_t> {
    if (id == options_.id) return mutated(mutant::leader_counts_itself_before_durable) ? last_index_ : durable_;
    const peer* const other = find_peer(id);
    return other ? std::optional(other->progress.match()) : std::nullopt;
  };
  const joint& voters = deciding().voters;
  const bool by_half = !voters.outgoing.empty() && mutated(mutant::commit_by_new_half_only);
  const index_t of_quorum = by_half ? voters.incoming.committed(durable_at) : voters.committed(durable_at);
  // Records of earlier terms are committed by one of this term, never by being counted (paper, 5.4.2).
  if (of_quorum < lead.first_index && !mutated(mutant::commit_older_terms_by_counting)) return;
  commit_to(std::min(of_quorum, last_index_));
}

template <core_log Log>
void core<Log>::commit_to(index_t index) {
  if (index <= commit_) return;
  commit_ = index;
  while (configurations_.size() > 1 && configurations_[1].index <= commit_ &&
         !mutated(mutant::keep_superseded_configuration)) {
    configurations_.erase(configurations_.begin());
  }
  if (!as_leader()) return;
  if (!mutated(mutant::leak_uncommitted)) uncommitted_.release(commit_);
  release_reads();
  if (members_index() > commit_ && !mutated(mutant::leave_joint_before_commit)) return;
  if (members().auto_leave && !mutated(mutant::never_leave_joint)) {
    begin_configuration(raft::leave_joint(members()).config);
  } else if (!members().voters.contains(options_.id) && !mutated(mutant::removed_leader_goes_on)) {
    hand_over();
    become_follower(hard_.term, 0, "it is no voter any more");  // dissertation, 4.2.2
  }
}

template <core_log Log>
void core<Log>::begin_round() {
  leading& lead = *as_leader();
  lead.rounds.push_back({++lead.round, now_});
  lead.heartbeat_due = now_ + options_.heartbeat_interval;
  for (peer& each : lead.peers) {
    message& heartbeat = send(each.id, message_type::heartbeat);
    heartbeat.commit =
        mutated(mutant::heartbeat_commits_beyond_ack) ? commit_ : std::min(commit_, each.progress.match());
    heartbeat.round = lead.round;
  }
  confirm_rounds();
}

template <core_log Log>
void core<Log>::confirm_rounds() {
  leading& lead = *as_leader();
  const auto answered = [&](node_id id) -> std::optional<index_t> {
    if (id == options_.id) return lead.round;
    const peer* const other = find_peer(id);
    return other ? std::optional(other->round) : std::nullopt;
  };
  const joint& voters = members().voters;
  const bool by_half = !voters.outgoing.empty() && mutated(mutant::read_by_new_half_only);
  const index_t of_quorum = by_half ? voters.incoming.committed(answered) : voters.committed(answered);
  lead.confirmed = std::max(lead.confirmed, std::min(of_quorum, lead.round));
  const auto open = std::find_if(lead.rounds.begin(), lead.rounds.end(),
                                 [&](const sent_round& each) { return each.round > lead.confirmed; });
  if (open != lead.rounds.begin()) {
    lead.lease_from = mutated(mutant::lease_from_answer) ? now_ : std::prev(open)->at;
    lead.rounds.erase(lead.rounds.begin(), open);
  }
  release_reads();
  const bool waits_for_next = std::any_of(lead.reads.begin(), lead.reads.end(),
                                          [&](const pending_read& each) { return each.round > lead.round; });
  if (waits_for_next && lead.confirmed == lead.round) begin_round();
}

// Answers when this node has led after the read came, and has committed all that was committed then (dissertation,
// 6.4): only with a record of its own term does it know that.
template <core_log Log>
void core<Log>::add_read(std::uint64_t id, node_id from) {
  leading& lead = *as_leader();
  const index_t index = mutated(mutant::read_before_first_commit) ? commit_ : std::max(commit_, lead.first_index);
  const std::uint64_t next_round = lead.round + (mutated(mutant::read_by_older_round) ? 0 : 1);
  lead.reads.push_back({id, from, has_lease() ? lead.confirmed : next_round, index});
  if (has_lease())
    release_reads();
  else if (lead.confirmed == lead.round)
    begin_round();
}

template <core_log Log>
bool core<Log>::has_lease() const {
  const leading& lead = *as_leader();
  if (options_.lease_drift <= 0 || !lead.lease_from) return false;
  if (lead.gave_way && !mutated(mutant::lease_survives_transfer)) return false;
  const double drift = mutated(mutant::lease_ignores_drift) ? 0 : options_.lease_drift;
  const double part = (1 - drift) / (1 + drift);
  return static_cast<double>((now_ - *lead.lease_from).count()) <
         part * static_cast<double>(options_.election_timeout.count());
}

template <core_log Log>
void core<Log>::release_reads() {
  leading& lead = *as_leader();
  std::erase_if(lead.reads, [&](const pending_read& each) {
    if (each.round > lead.confirmed || each.index > commit_) return false;
    answer_read(each, mutated(mutant::read_one_too_low) ? each.index - 1 : each.index);
    return true;
  });
}

template <core_log Log>
void core<Log>::answer_read(const pending_read& read, index_t index) {
  if (read.from == 0) {
    effects_.reads.push_back({read.id, index});
  } else {
    message& response = send(read.from, message_type::read_response);
    response.round = read.id;
    response.index = index;
  }
}

template <core_log Log>
void core<Log>::refuse_reads() {
  for (const std::uint64_t id : std::exchange(forwarded_reads_, {})) {
    if (!mutated(mutant::forget_forwarded_reads)) effects_.reads.push_back({id, 0});
  }
  leading* const lead = as_leader();
  if (!lead || mutated(mutant::forget_reads_of_leader)) return;
  for (const pending_read& each : lead->reads) answer_read(each, 0);
  lead->reads.clear();
}

template <core_log Log>
void core<Log>::send_timeout_now_if_ready(const peer& to) {
  if (to.progress.match() != last_index_ && !mutated(mutant::transfer_to_who_lacks_records)) return;
  send(to.id, message_type::timeout_now);
  as_leader()->gave_way = true;
}

// To the voter who has most, so that nobody has to wait for an election timeout.
template <core_log Log>
void core<Log>::hand_over() {
  const peer* best = nullptr;
  for (const peer& each : as_leader()->peers) {
    const bool can_lead = members().voters.contains(each.id) && !members().witnesses.contains(each.id);
    if (can_lead && (!best || each.progress.match() > best->progress.match())) best = &each;
  }
  if (best) send(best->id, message_type::timeout_now);
}

template <core_log Log>
auto core<Log>::find_peer(node_id id) -> peer* {
  leading* const lead = as_leader();
  if (!lead) return nullptr;
  const auto at = std::lower_bound(lead->peers.begin(), lead->peers.end(), id,
                                   [](const peer& each, node_id wanted) { return each.id < wanted; });
  return at != lead->peers.end() && at->id == id ? &*at : nullptr;
}

// --- shipping ---------------------------------------------------------------------------------------------------

template <core_log Log>
append_plan core<Log>::next_append(node_id to) {
  append_plan plan;
  const peer* const target = find_peer(to);
  if (!target || target->progress.is_paused()) return plan;
  plan.next = target->progress.next();
  plan.commit = commit_;
  const bool is_witness = members().witnesses.contains(to);
  plan.last = is_witness && !mutated(mutant::witness_gets_ahead) ? durable_at_full_voters() : last_index_;
  // Until it has the configuration that makes it a witness, and that is committed, it may still have to lead.
  const placed_configuration& in_force = configurations_.front();
  plan.payloads =
      !is_witness || ((!in_force.config.witnesses.contains(to) || target->progress.match() < in_force.index) &&
                      !mutated(mutant::withhold_payloads_early));
  if (plan.next <= position(log_.base()).index) {
    plan.send = append_plan::what::snapshot;
  } else if (plan.next <= plan.last) {
    plan.send = append_plan::what::records;
  } else if (target->commit_sent < commit_ || target->progress.state() == progress::state_t::probe) {
    plan.send = append_plan::what::commit;
  }
  return plan;
}

// Whoever has less than a witness is not elected with its vote, and it does not stand itself. So it gets what a voter
// who can lead has durable, of each half that decides now, or decides again if the last change is not committed (the
// one before it is). Of who is no member any more this node knows nothing.
template <core_log Log>
index_t core<Log>::durable_at_full_voters() {
  index_t least = last_index_;
  const std::size_t count = configurations_.size();
  for (std::size_t i = count - std::min<std::size_t>(count, 2); i != count; ++i) {
    const configuration& each = configurations_[i].config;
    for (const majority* const half : {&each.voters.incoming, &each.voters.outgoing}) {
      std::optional<index_t> most;
      for (const node_id id : *half) {
        const peer* const other = find_peer(id);
        if (each.witnesses.contains(id) || (!other && id != options_.id)) continue;
        most = std::max(most.value_or(0), other ? other->progress.match() : durable_);
      }
      least = std::min(least, most.value_or(least));
    }
  }
  return least;
}

template <core_log Log>
void core<Log>::sent(node_id to, index_t last, std::uint64_t bytes, const append_plan& plan) {
  peer* const target = find_peer(to);
  if (!target) return;
  target->progress.on_sent(last, bytes);
  target->commit_sent = std::max(target->commit_sent, plan.commit);
}

template <core_log Log>
void core<Log>::snapshot_sent(node_id to, index_t index) {
  if (peer* const target = find_peer(to)) target->progress.become_snapshot(index);
}

template <core_log Log>
void core<Log>::snapshot_failed(node_id to) {
  if (peer* const target = find_peer(to)) target->progress.abort_snapshot();
}

// --- what is so -------------------------------------------------------------------------------------------------

template <core_log Log>
raft::role core<Log>::role() const noexcept {
  if (as_leader()) return role::leader;
  const standing* const candidate = std::get_if<standing>(&state_);
  if (!candidate) return role::follower;
  return candidate->pre ? role::pre_candidate : role::candidate;
}

template <core_log Log>
node_id core<Log>::leader() const noexcept {
  if (as_leader()) return options_.id;
  const following* const follower = std::get_if<following>(&state_);
  return follower ? follower->leader : 0;
}

template <core_log Log>
const configuration& core<Log>::members_at(index_t index) const {
  auto at = configurations_.rbegin();
  while (std::next(at) != configurations_.rend() && at->index > index) ++at;
  return at->config;
}

template <core_log Log>
instant core<Log>::deadline() const noexcept {
  if (is_quiet()) return instant::max();
  const leading* const lead = as_leader();
  if (!lead) return election_deadline_;
  return lead->pace == leading::pace_t::waking ? now_ : lead->heartbeat_due;
}

template <core_log Log>
core_status core<Log>::status() const {
  core_status of;
  of.id = options_.id;
  of.role = role();
  of.leader = leader();
  of.term = hard_.term;
  of.commit = commit_;
  of.applicable = applicable();
  of.last = position(log_.last()).index;
  of.quiet = is_quiet();
  of.members = members();
  of.members_index = members_index();
  of.quorum = members().voters.incoming.quorum();
  of.last_change = last_change_;
  const leading* const lead = as_leader();
  if (!lead) return of;
  for (const peer& each : lead->peers) {
    const bool heard = now_ - each.heard < options_.election_timeout;
    const progress& known = each.progress;
    of.peers.push_back({each.id, members().voters.contains(each.id), heard, known.state(), known.match(), known.next(),
                        of.last - std::min(of.last, known.match())});
  }
  return of;
}

template <core_log Log>
const progress* core<Log>::progress_of(node_id id) const {
  const peer* const found = const_cast<core*>(this)->find_peer(id);
  return found ? &found->progress : nullptr;
}

template <core_log Log>
std::string core<Log>::broken_rule() const {
  const position last = log_.last();
  if (commit_ > last.index) return "more is committed than the log holds";
  if (durable_ > last.index) return "more is durable than the log holds";
  if (last.epoch > hard_.term) return "the log has a record of a later term than this node";
  if (const auto broken = broken_invariant(members())) return std::string(*broken);
  for (std::size_t i = 1; i < configurations_.size(); ++i) {
    if (configurations_[i].index <= configurations_[i - 1].index) return "configurations are out of order";
    if (configurations_[i].index <= commit_) return "a superseded configuration is kept";
  }
  if (members_index() > last.index) return "a configuration counts that is not in the log";
  const leading* const lead = as_leader();
  if (!lead) {
    return uncommitted_.bytes() == 0 && uncommitted_.messages() == 0 ? "" : "a follower counts uncommitted proposals";
  }
  if (last.epoch != hard_.term || last.index < lead->first_index) return "a leader has no record of its term";
  if (members().witnesses.contains(options_.id)) return "a witness leads";
  const bool is_settled = members_index() <= commit_ && commit_ >= lead->first_index;
  if (is_settled && !members().voters.contains(options_.id)) return "a node leads that is no voter";
  if (uncommitted_.messages() != last.index - std::max(commit_, lead->first_index - 1)) {
    return "the number of uncommitted records is wrong";
  }
  for (const peer& each : lead->peers) {
    if (each.progress.match() > last.index) return "a follower has acknowledged more than its leader has";
    if (each.progress.next() <= each.progress.match()) return "a follower would be sent what it has";
  }
  return {};
}

// --- the log ----------------------------------------------------------------------------------------------------

template <core_log Log>
void core<Log>::look_at_log() {
  const position last = log_.last();
  last_index_ = last.index;
  last_term_ = last.epoch;
}

/// Of a record in [base, last].
template <core_log Log>
term_t core<Log>::term_at(index_t index) {
  if (index == last_index_) return last_term_;
  const std::optional<position> found = log_.position_at(index);
  assert(found);
  return found->epoch;
}

/// splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
template <core_log Log>
std::uint64_t core<Log>::random() noexcept {
  std::uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace lockstep::raft

// total_order: the rules of total order broadcast. Pure.
//
//   check::total_order order;
//   order.sent(sender, number, hash, now);                              // numbers rise per sender
//   order.delivered(node, sequence, sender, number, hash, now);         // sequences begin at 1
//   order.crashed(node); order.restarted(node, durable_sequence);
//   auto broken = order.finished();                                     // when everything is quiet
//
// Validity        a message of a sender that stayed correct is delivered in the end.
// Agreement       what one node delivers, all correct nodes deliver; uniform, so also what was delivered before a
// crash. Integrity       nothing is delivered that was not sent, changed, or twice. Total order     a sequence number
// names the same message at every node, and a node delivers them without gaps. FIFO            a sender's messages are
// ordered as it sent them, and none that it counts on is passed over. Rules and names: Défago, Schiper, Urbán, "Total
// order broadcast and multicast algorithms", 2004, section 2.
#pragma once

#include "lockstep/sim/check/violation.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace lockstep::sim::check {

/// See the top of this file. A rule that a message breaks is named in front of the sentence.
class total_order {
 public:
  using sequence = std::uint64_t;

  /// A node that delivers. It must deliver all from `from` on, by the end of the run, unless it is down then.
  /// Told before its first delivery; a node that was not told begins at 1.
  void joined(node_id node, sequence from = 1) { nodes_[node].next = from; }

  /// `sender` asked for its message `number` to be broadcast. Numbers rise, not necessarily by 1. Told before anybody
  /// delivers it.
  violation sent(node_id sender, std::uint64_t number, std::uint64_t hash, moment when) {
    std::vector<message>& all = senders_[sender].messages;
    if (!all.empty() && number <= all.back().number) {
      return "misuse: " + name(sender, number) + " was sent at time " + detail::text(when) + " behind message " +
             detail::text(all.back().number);
    }
    all.push_back({number, hash, when, 0, false});
    return std::nullopt;
  }

  /// The sender was told that its message may be lost, or stopped waiting: it is delivered later, or never.
  void given_up(node_id sender, std::uint64_t number) {
    if (message* const found = find(sender, number)) found->may_be_lost = true;
  }

  /// `node` handed message `number` of `sender` to its application as the one with this sequence number.
  violation delivered(node_id node, sequence at, node_id sender, std::uint64_t number, std::uint64_t hash,
                      moment when) {
    member& here = nodes_[node];
    const auto what = [&] {
      return detail::node(node) + " delivered " + name(sender, number) + " as sequence " + detail::text(at) +
             " at time " + detail::text(when);
    };
    if (here.down) return "integrity: " + what() + " while it was down";
    if (at < here.next) return "integrity: " + what() + ", which it had delivered already";
    if (at > here.next) return "gap: " + what() + ", but sequence " + detail::text(here.next) + " was next";

    message* const found = find(sender, number);
    if (!found) return "integrity: " + what() + ", but it was never sent";
    if (found->hash != hash) {
      return "integrity: " + what() + " with hash " + detail::hex(hash) + ", but it was sent with hash " +
             detail::hex(found->hash);
    }
    if (const auto taken = order_.find(at); taken != order_.end()) {
      const place& known = taken->second;
      if (known.sender != sender || known.number != number) {
        return "total order: " + what() + ", but " + detail::node(known.node) + " delivered " +
               name(known.sender, known.number) + " as that at time " + detail::text(known.when);
      }
    } else {
      if (found->at != 0) {
        return "integrity: " + what() + ", but it is sequence " + detail::text(found->at) + " already";
      }
      if (violation passed = take_place(sender, *found, at)) return "FIFO: " + what() + *passed;
      order_.emplace_hint(order_.end(), at, place{sender, number, node, when});
    }
    ++here.next;
    return std::nullopt;
  }

  /// `node` stopped: what it sent and nobody delivered so far may be lost.
  void crashed(node_id node) {
    nodes_[node].down = true;
    sender_state& from = senders_[node];
    for (std::size_t i = from.next; i < from.messages.size(); ++i) from.messages[i].may_be_lost = true;
  }

  /// `node` runs again and goes on behind `durable`: what it delivered behind that, it delivers again.
  violation restarted(node_id node, sequence durable) {
    member& here = nodes_[node];
    if (durable >= here.next) {
      return "gap: " + detail::node(node) + " restarted behind sequence " + detail::text(durable) +
             ", but it had delivered only up to " + detail::text(here.next - 1);
    }
    here.down = false;
    here.next = durable + 1;
    return std::nullopt;
  }

  /// `node` took over a state that contains everything up to `through`, and goes on behind it.
  violation installed(node_id node, sequence through) {
    if (!order_.empty() && through > order_.rbegin()->first) {
      return "integrity: " + detail::node(node) + " installed a state up to sequence " + detail::text(through) +
             ", but nobody delivered more than " + detail::text(order_.rbegin()->first);
    }
    member& here = nodes_[node];
    here.next = std::max(here.next, through + 1);
    return std::nullopt;
  }

  /// Asked when the run had time enough: agreement and validity.
  [[nodiscard]] violation finished() const {
    const sequence end = order_.empty() ? 0 : order_.rbegin()->first;
    for (const auto& [node, here] : nodes_) {
      if (here.down || here.next > end) continue;
      const auto missed = order_.lower_bound(here.next);
      const place& known = missed->second;
      return "agreement: " + detail::node(node) + " never delivered " + name(known.sender, known.number) +
             " (sequence " + detail::text(missed->first) + "), which " + detail::node(known.node) +
             " delivered at time " + detail::text(known.when);
    }
    for (const auto& [sender, from] : senders_) {
      for (const message& each : from.messages) {
        if (each.at != 0 || each.may_be_lost) continue;
        return "validity: " + name(sender, each.number) + ", sent at time " + detail::text(each.when) +
               ", was never delivered";
      }
    }
    return std::nullopt;
  }

 private:
  struct message {
    std::uint64_t number;
    std::uint64_t hash;
    moment when;
    sequence at;       // 0: nobody delivered it so far
    bool may_be_lost;  // its sender crashed or gave up before anybody delivered it
  };
  struct sender_state {
    std::vector<message> messages;  // numbers rise
    std::size_t next = 0;           // behind the last one that has a place in the order
  };
  struct place {
    node_id sender;
    std::uint64_t number;
    node_id node;  // who delivered it first, and when
    moment when;
  };
  struct member {
    sequence next = 1;
    bool down = false;
  };

  static std::string name(node_id sender, std::uint64_t number) {
    return "message " + detail::text(number) + " of sender " + detail::text(sender);
  }

  message* find(node_id sender, std::uint64_t number) {
    const auto from = senders_.find(sender);
    if (from == senders_.end()) return nullptr;
    std::vector<message>& all = from->second.messages;
    const auto found = std::lower_bound(all.begin(), all.end(), number,
                                        [](const message& each, std::uint64_t n) { return each.number < n; });
    return found != all.end() && found->number == number ? &*found : nullptr;
  }

  // Gives a message its place in the order, if it is its turn among those of its sender; else says why it is not.
  violation take_place(node_id sender, message& taken, sequence at) {
    sender_state& from = senders_[sender];
    const auto turn = static_cast<std::size_t>(&taken - from.messages.data());
    if (turn < from.next) return ", after its later message " + detail::text(from.messages[from.next - 1].number);
    for (std::size_t i = from.next; i < turn; ++i) {
      if (!from.messages[i].may_be_lost) return ", before its earlier message " + detail::text(from.messages[i].number);
    }
    from.next = turn + 1;
    taken.at = at;
    return std::nullopt;
  }

  std::map<node_id, sender_state> senders_;
  std::map<node_id, member> nodes_;
  std::map<sequence, place> order_;  // by sequence number, as delivered first
};

}  // namespace lockstep::sim::check

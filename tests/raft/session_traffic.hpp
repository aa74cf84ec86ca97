// Clients of sessions with a network that repeats, delays and reorders what they send, and what they are to be
// answered.
#pragma once

#include "lockstep/raft/session_command.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::raft::test {

inline byte_buffer encoded(const session_request& request) {
  byte_buffer bytes;
  encode_session_request(bytes, request);
  return bytes;
}

inline byte_buffer copy_of(bytes_view bytes) {
  byte_buffer copy;
  copy.append(bytes);
  return copy;
}

struct answer {
  std::optional<session_status> status;  // nothing: not a response
  std::string body;

  static answer decoded(bytes_view bytes) {
    const auto response = decode_session_response(bytes);
    if (!response) return {};
    return {response->status, std::string(as_text(response->body))};
  }
  friend bool operator==(const answer&, const answer&) = default;
};
inline void PrintTo(const answer& a, std::ostream* to) {
  *to << (a.status ? static_cast<int>(*a.status) : -1) << " '" << a.body << "'";
}
inline answer done(std::string body) { return {session_status::done, std::move(body)}; }
inline answer refused(session_status why) { return {why, ""}; }

constexpr session_limits small{.expiry_ns = 100, .max_sessions = 3, .window = 4, .max_response_bytes = 20};

/// What sessions promise, said again without any thought of speed: nothing is ever erased.
class session_model {
 public:
  /// @param machine  applies the command at an index, and answers.
  explicit session_model(std::function<std::string(index_t, bytes_view)> machine) : machine_(std::move(machine)) {}

  answer apply(index_t index, std::uint64_t time_ns, bytes_view payload) {
    const auto request = decode_session_request(payload);
    if (!request) return refused(session_status::malformed);
    now_ = std::max(now_, time_ns);
    for (auto& [id, each] : clients_) each.alive = each.alive && now_ - each.used_ns <= limits_.expiry_ns;
    if (const auto* const open = std::get_if<open_session>(&*request)) return apply(index, *open);
    if (const auto* const command = std::get_if<session_command>(&*request)) return apply(index, *command);
    if (const auto* const kept = std::get_if<keep_session_alive>(&*request)) {
      return use(index, kept->session, kept->acknowledged) ? done("") : refused(session_status::unknown_session);
    }
    client* const closed = use(index, std::get<close_session>(*request).session, 0);
    if (!closed) return refused(session_status::unknown_session);
    closed->alive = false;
    return done("");
  }

 private:
  struct client {
    bool alive = true;
    index_t used = 0;
    std::uint64_t used_ns = 0;
    std::uint64_t acknowledged = 0;
    std::map<std::uint64_t, std::string> answers;
  };

  client* use(index_t index, session_id id, std::uint64_t acknowledged) {
    const auto found = clients_.find(id);
    if (found == clients_.end() || !found->second.alive) return nullptr;
    found->second.used = index;
    found->second.used_ns = now_;
    found->second.acknowledged = std::max(found->second.acknowledged, acknowledged);
    return &found->second;
  }
  answer apply(index_t index, const open_session& open) {
    limits_ = open.limits;
    for (;;) {
      std::map<index_t, client*> alive;
      for (auto& [id, each] : clients_) {
        if (each.alive) alive[each.used] = &each;
      }
      if (alive.size() < limits_.max_sessions) break;
      alive.begin()->second->alive = false;
    }
    clients_[index].used = index;
    clients_[index].used_ns = now_;
    byte_buffer body;
    field_writer(body).number(index);
    return done(std::string(as_text(body.view())));
  }
  answer apply(index_t index, const session_command& command) {
    client* const by = use(index, command.session, command.acknowledged);
    if (!by) return refused(session_status::unknown_session);
    if (command.sequence <= by->acknowledged) return refused(session_status::forgotten);
    const auto known = by->answers.find(command.sequence);
    if (known != by->answers.end()) {
      const bool kept = known->second.size() <= limits_.max_response_bytes;
      return kept ? done(known->second) : refused(session_status::forgotten);
    }
    if (command.sequence > by->acknowledged + limits_.window) return refused(session_status::outside_window);
    return done(by->answers[command.sequence] = machine_(index, command.payload));
  }

  std::function<std::string(index_t, bytes_view)> machine_;
  std::uint64_t now_ = 0;
  session_limits limits_;
  std::map<session_id, client> clients_;
};

class session_traffic {
 public:
  /// @param random  64 bits of chance at each call; the same ones make the same traffic.
  explicit session_traffic(std::function<std::uint64_t()> random) : random_(std::move(random)) {}

  /// What the log gets next. The text of a command is its session's and its own number, and some filler.
  byte_buffer next() {
    if (chance(20) || clients_.empty()) return encoded(open_session{small});
    if (chance(100)) return encoded(close_session{any(clients_).session});
    if (chance(30)) return encoded(keep_session_alive{any(clients_).session, 0});
    if (chance(30)) return copy_of(as_bytes("no request"));
    if (!sent_.empty() && below(2) == 0) return copy_of(sent_[recent()].view());  // again, or late
    client& by = any(clients_);
    if (by.acknowledged < by.sequence && below(2) == 0) by.acknowledged += 1 + below(by.sequence - by.acknowledged);
    ++by.sequence;
    std::string what = std::to_string(by.session) + "/" + std::to_string(by.sequence);
    if (chance(10)) what.append(small.max_response_bytes, '.');
    sent_.push_back(encoded(session_command{by.session, by.sequence, by.acknowledged, as_bytes(what)}));
    if (chance(4)) return next();  // it is lost, for now
    return copy_of(sent_.back().view());
  }
  void opened(session_id session) {
    if (clients_.size() == 4) clients_.erase(clients_.begin());
    clients_.push_back({session});
  }
  std::uint64_t time() {
    now_ += below(small.expiry_ns / 10);
    if (chance(60)) now_ += small.expiry_ns;
    if (chance(15)) return now_ - std::min(now_, below(10 * small.expiry_ns));  // a leader whose clock is behind
    return now_;
  }
  std::uint64_t below(std::uint64_t end) { return random_() % end; }
  bool chance(std::uint64_t one_in) { return below(one_in) == 0; }

 private:
  struct client {
    session_id session = 0;
    std::uint64_t sequence = 0;
    std::uint64_t acknowledged = 0;
  };
  template <class T>
  T& any(std::vector<T>& of) {
    return of[below(of.size())];
  }
  std::size_t recent() {
    const std::size_t from = chance(5) ? 0 : sent_.size() - std::min<std::size_t>(sent_.size(), 12);
    return from + below(sent_.size() - from);
  }

  std::function<std::uint64_t()> random_;
  std::uint64_t now_ = 1'000'000;
  std::vector<client> clients_;
  std::vector<byte_buffer> sent_;
};

}  // namespace lockstep::raft::test

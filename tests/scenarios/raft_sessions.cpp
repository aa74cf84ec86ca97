// Two replicas of a key-value machine with sessions: one is steady, the other is begun anew, again and again, from
// snapshots that were written while it went on. They must answer as tests/raft/session_traffic.hpp says.
#include "scenarios.hpp"

#include "../raft/session_traffic.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/raft/sessions.hpp"
#include "raft_replication/kv.hpp"

#include <cstring>

namespace lockstep::scenarios {
namespace {

using namespace raft;
using namespace raft::test;

void must(bool holds, const std::string& text) { sim::simulation::require(holds, text); }

std::string text_of(const kv::result& result) {
  byte_buffer bytes;
  kv::encode(bytes, result);
  return std::string(as_text(bytes.view()));
}

/// Where a command's text is written. Every other key has a value that takes a snapshot several pieces.
struct written_text {
  std::string key;
  std::string value;

  explicit written_text(bytes_view command) : value(as_text(command)) {
    const std::uint64_t which = xxh3_64(command) % 12;
    key = "key" + std::to_string(which);
    if (which % 2 == 0) value.resize(30'000, '.');
  }
};

/// Answers each command with what it writes over.
struct overwriting {
  kv::machine keys;

  void apply(const entry& next, byte_buffer& result) {
    const written_text text(next.payload);
    kv::command look_up, write;
    look_up.key = write.key = text.key;
    write.op = kv::operation::put;
    write.value = text.value;
    byte_buffer command, written;
    kv::encode(command, look_up);
    keys.apply(entry{next.at, next.time_ns, command.view()}, result);
    command.clear();
    kv::encode(command, write);
    keys.apply(entry{next.at, next.time_ns, command.view()}, written);
  }
  awaitable<void> snapshot(snapshot_sink& to) { return keys.snapshot(to); }
  awaitable<void> restore(snapshot_source& from) { return keys.restore(from); }
};

/// The same, said again.
struct expected_texts {
  struct item {
    std::string value;
    index_t revision = 0;
  };
  std::map<std::string, item> items;

  std::string apply(index_t index, bytes_view command) {
    written_text text(command);
    kv::result was{kv::outcome::absent, 0, {}};
    const auto found = items.find(text.key);
    if (found != items.end()) was = {kv::outcome::ok, found->second.revision, found->second.value};
    std::string answered = text_of(was);
    items[text.key] = {std::move(text.value), index};
    return answered;
  }
};

struct replica {
  overwriting machine;
  raft::sessions<overwriting> sessions{machine};

  answer apply(index_t index, std::uint64_t time_ns, bytes_view payload) {
    byte_buffer result;
    sessions.apply(entry{{1, index, 0}, time_ns, payload}, result);
    return answer::decoded(result.view());
  }
};

struct logged_request {
  std::uint64_t time_ns = 0;
  byte_buffer payload;
  answer answered;
};

/// As slow as a disk.
class slow_sink final : public snapshot_sink {
 public:
  slow_sink(sim::env& on, duration slow) : on_(on), slow_(slow) {}

  awaitable<void> write(bytes_view bytes) override {
    co_await pause(on_, slow_);
    bytes_.append(bytes);
  }
  [[nodiscard]] bytes_view bytes() const { return bytes_.view(); }

 private:
  sim::env& on_;
  const duration slow_;
  byte_buffer bytes_;
};

class stored_source final : public snapshot_source {
 public:
  explicit stored_source(bytes_view bytes) : rest_(bytes) {}

  awaitable<std::size_t> read(mutable_bytes into) override {
    const std::size_t count = std::min(into.size(), rest_.size());
    if (count != 0) std::memcpy(into.data(), rest_.data(), count);
    rest_ = rest_.subspan(count);
    co_return count;
  }

 private:
  bytes_view rest_;
};

struct group {
  explicit group(sim::random_stream random) : clients([random]() mutable { return random(); }) {}

  session_traffic clients;
  expected_texts texts;
  session_model expected{[this](index_t index, bytes_view command) { return texts.apply(index, command); }};
  std::vector<logged_request> log;
  replica steady;
  std::unique_ptr<replica> restarting = std::make_unique<replica>();
  std::uint64_t restarts = 0;
  bool ended = false;

  void go_on() {
    logged_request& next = log.emplace_back();
    const index_t index = log.size();
    next.payload = clients.next();
    next.time_ns = clients.time();
    next.answered = expected.apply(index, next.time_ns, next.payload.view());
    const auto request = decode_session_request(next.payload.view());
    if (request && std::holds_alternative<open_session>(*request)) clients.opened(index);
    must_answer(steady, index);
    must_answer(*restarting, index);
  }

  void must_answer(replica& by, index_t index) {
    const logged_request& asked = log[index - 1];
    must(by.apply(index, asked.time_ns, asked.payload.view()) == asked.answered,
         "entry " + std::to_string(index) + " is answered as it should not be");
  }
};

awaitable<void> restart(sim::env& on, group& in) {
  const index_t upto = in.log.size();
  slow_sink written(on, std::chrono::milliseconds(in.clients.below(20)));
  co_await in.restarting->sessions.snapshot(written);
  auto again = std::make_unique<replica>();
  stored_source from(written.bytes());
  co_await again->sessions.restore(from);
  for (index_t i = upto + 1; i <= in.log.size(); ++i) in.must_answer(*again, i);
  in.restarting = std::move(again);
  ++in.restarts;
}

awaitable<void> restart_again_and_again(sim::env& on, group& in) {
  while (!in.ended) {
    co_await restart(on, in);
    co_await pause(on, std::chrono::milliseconds(in.clients.below(100)));
  }
}

awaitable<void> live(sim::env& on, group& in) {
  task_group running(on.get_executor());
  running.spawn(restart_again_and_again(on, in));
  for (int i = 0; i < 600; ++i) {
    in.go_on();
    co_await pause(on, 1ms);
  }
  in.ended = true;
  co_await running.join();
  slow_sink steady(on, 0ms), restarted(on, 0ms);
  co_await in.steady.sessions.snapshot(steady);
  co_await in.restarting->sessions.snapshot(restarted);
  must(equal(steady.bytes(), restarted.bytes()), "two replicas of one log differ");
}

void run(sim::simulation& of) {
  const auto in = std::make_shared<group>(of.random("traffic"));
  of.keep(in);
  sim::node& replicas = of.in().add_node("replicas");
  bool ended = false;
  replicas.on_end = [&ended](sim::node& of_them) {
    if (of_them.failure()) std::rethrow_exception(of_them.failure());
    ended = true;
  };
  replicas.start([&in = *in](sim::env& on) { return live(on, in); });
  must(of.in().run_until([&] { return ended; }, 60s), "a snapshot does not end");
  must(in->restarts >= 3, "no replica was begun anew");
}

}  // namespace

sim::scenario raft_sessions() {
  return {"raft_sessions", "sessions answer each command once, on every replica and after every snapshot", &run};
}

}  // namespace lockstep::scenarios

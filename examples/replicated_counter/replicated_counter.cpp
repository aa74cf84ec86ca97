// A counter that three processes agree on: `replicated_counter 1`, 2 and 3, in one folder. One of them may die.
#include <lockstep.hpp>

#include <asio/io_context.hpp>
#include <iostream>
using namespace lockstep;

struct counter {
  std::uint64_t sum = 0;

  void apply(const raft::entry& next, byte_buffer& result) {  // a function of the state and the entry alone
    sum += next.payload.size();
    field_writer(result).number(sum);
  }
  awaitable<void> snapshot(raft::snapshot_sink& to) {
    byte_buffer bytes;
    field_writer(bytes).number(sum);
    co_await to.write(bytes.view());
  }
  awaitable<void> restore(raft::snapshot_source& from) {
    std::array<std::byte, sizeof sum> bytes;
    co_await raft::read_whole(from, bytes);
    sum = load_le<std::uint64_t>(bytes.data());
  }
};

awaitable<void> count(real::env& env, raft::node<counter>& node) {
  real::env::timer timer(env);
  for (;;) {
    timer.expires_after(std::chrono::milliseconds(100));
    (void)co_await timer.wait();
    const raft::outcome done = co_await node.propose(as_bytes("x"), std::chrono::seconds(2));
    if (done.ok()) std::cout << load_le<std::uint64_t>(done.result.data()) << std::endl;  // only whoever leads
  }
}

awaitable<void> take_part(real::env& env, node_id id) {
  raft::node_options options;
  options.core.id = id;
  options.cluster = "counter";
  options.directory = "member" + std::to_string(id);
  options.members = {{1, "unix:1.socket"}, {2, "unix:2.socket"}, {3, "unix:3.socket"}};
  counter machine;
  const auto node = co_await raft::node<counter>::open(env, options, machine);
  server_options serving;
  serving.channel = node->hello();
  std::error_code ec;
  server members(env, env.listen(*address::parse(options.members[id]), ec), serving);
  if (ec) throw std::system_error(ec, options.members[id]);
  members.on(raft::raft_purpose, [&](channel& from) { return node->serve(from); });
  task_group running(env.get_executor());
  running.spawn(members.run());
  running.spawn(node->run());
  running.spawn(count(env, *node));
  co_await running.join();
}

int main(int, char** arguments) {
  asio::io_context io;
  real::env env(io.get_executor());
  asio::co_spawn(io, take_part(env, std::stoull(arguments[1])), [](std::exception_ptr e) {
    if (e) std::rethrow_exception(e);
  });
  io.run();
}

// Commands, answers, session tables and snapshots: whatever the bytes, they are refused or mean what their encoding
// says, and replicas that are shown the same log agree, also when one of them begins from a snapshot.
//
// Input: a byte that says which of the two, then the bytes to decode, or the entries of a log.
#include "lockstep/raft/sessions.hpp"

#include "raft_replication/kv.hpp"
#include "support/fuzz_input.hpp"
#include "support/snapshot_streams.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>

namespace {

using namespace lockstep;
using test::fuzz_input;

void check(bool holds, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "line %d does not hold\n", line);
  std::abort();
}

struct replica {
  raft::kv::machine keys;
  raft::sessions<raft::kv::machine> machine{keys};
};

template <class T>
void check_encoding(const T& decoded, bytes_view bytes) {
  byte_buffer again;
  encode(again, decoded);
  check(equal(again.view(), bytes));
}

void decode_all(bytes_view bytes) {
  byte_buffer again;
  if (const auto found = raft::decode_session_request(bytes)) {
    encode_session_request(again, *found);
    check(equal(again.view(), bytes));
  }
  again.clear();
  if (const auto found = raft::session_table::decode(bytes)) {
    found->encode(again);
    check(equal(again.view(), bytes));
  }
  if (const auto found = raft::kv::decode_command(bytes)) check_encoding(*found, bytes);
  if (const auto found = raft::kv::decode_result(bytes)) check_encoding(*found, bytes);
  if (const auto found = raft::decode_session_response(bytes)) {
    check(found->status == raft::session_status::done || found->body.empty());
    check(!raft::decode_opened_session(*found) || found->body.size() == sizeof(raft::session_id));
  }
  raft::kv::machine keys;
  if (!test::restore(keys, bytes, 100)) check(equal(test::snapshot_of(keys).view(), bytes));
  replica whole;
  if (!test::restore(whole.machine, bytes, 100)) check(equal(test::snapshot_of(whole.machine).view(), bytes));
}

raft::kv::command kv_command(fuzz_input& from) {
  const auto op = static_cast<raft::kv::operation>(1 + from.number(1) % 4);
  raft::kv::command made{op, as_text(from.take(1)), {}, {}};
  if (made.key.empty()) made.key = "k";
  if (op == raft::kv::operation::cas && from.number(1) % 2 != 0) made.expected = as_text(from.take(1));
  if (op == raft::kv::operation::cas || op == raft::kv::operation::put) made.value = as_text(from.take(from.number(1)));
  return made;
}

/// An entry's payload: mostly a request with numbers so small that they meet again.
byte_buffer payload(fuzz_input& from, index_t index) {
  byte_buffer made;
  const std::size_t kind = from.number(1);
  const std::uint64_t session = 1 + from.number(1) % index;
  const std::uint64_t number = from.number(1);
  if (kind % 8 == 0) {
    made.append(from.take(number));
  } else if (kind % 8 == 1) {
    const auto count = static_cast<std::uint32_t>(1 + number % 4);
    encode_session_request(made, raft::open_session{{number, count, count, static_cast<std::uint32_t>(number)}});
  } else if (kind % 8 == 2) {
    encode_session_request(made, raft::keep_session_alive{session, number});
  } else if (kind == 3) {
    encode_session_request(made, raft::close_session{session});
  } else {
    byte_buffer command;
    encode(command, kv_command(from));
    const std::uint64_t sequence = 1 + number % 16;
    encode_session_request(
        made,
        raft::session_command{session, sequence, std::min<std::uint64_t>(number / 16, sequence - 1), command.view()});
  }
  return made;
}

void run_log(fuzz_input& from) {
  replica steady;
  auto restarting = std::make_unique<replica>();
  std::map<std::pair<raft::session_id, std::uint64_t>, std::string> answers;
  for (index_t index = 1; !from.empty() && index < 256; ++index) {
    const std::size_t options = from.number(1);
    const byte_buffer command = payload(from, index);
    const raft::entry next{{1, index, 0}, options / 2, command.view()};
    byte_buffer one;
    byte_buffer other;
    steady.machine.apply(next, one);
    restarting->machine.apply(next, other);
    check(equal(one.view(), other.view()));
    const auto response = raft::decode_session_response(one.view());
    check(response.has_value());
    const auto request = raft::decode_session_request(command.view());
    check(request.has_value() == (response->status != raft::session_status::malformed));
    const auto* const told = request ? std::get_if<raft::session_command>(&*request) : nullptr;
    if (told && response->status == raft::session_status::done) {
      // A change that is made twice has two revisions.
      const std::string body(as_text(response->body));
      check(answers.try_emplace({told->session, told->sequence}, body).first->second == body);
    }
    if (options % 2 == 0) continue;
    auto restarted = std::make_unique<replica>();
    check(!test::restore(restarted->machine, test::snapshot_of(restarting->machine).view(), 64));
    restarting = std::move(restarted);
  }
  check(equal(test::snapshot_of(steady.machine).view(), test::snapshot_of(restarting->machine).view()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_input from(data, size);
  if (from.number(1) % 2 == 0) {
    decode_all(from.take(size));
  } else {
    run_log(from);
  }
  return 0;
}

// What leader and replica answer alike: reads, scans, watches.
#pragma once

#include "cityhall/protocol.hpp"
#include "cityhall/store.hpp"

#include <lockstep/core/mutant.hpp>
#include <lockstep/rpc/peer.hpp>

#include <string>
#include <vector>

namespace lockstep::cityhall {

template <class Request>
Request decode_or_refuse(bytes_view arguments) {
  const std::optional<Request> request = Request::decode(arguments);
  if (!request) throw rpc_error(refused_malformed, "malformed request");
  return *request;
}

/// Answers get, scan and watch from `store`, which outlives the service. get waits for its min_position.
template <environment Env>
void serve_reads(rpc_service& service, basic_store<Env>& store) {
  service.on(get_method, [&store](const rpc_request& in, rpc_reply& out) { return answer_get(store, in, out); });
  service.on_stream(scan_method,
                    [&store](const rpc_request& in, rpc_item_writer& out) { return answer_scan(store, in, out); });
  service.on_stream(watch_method,
                    [&store](const rpc_request& in, rpc_item_writer& out) { return answer_watch(store, in, out); });
}

template <environment Env>
awaitable<void> answer_get(basic_store<Env>& store, const rpc_request& in, rpc_reply& out) {
  const get_request request = decode_or_refuse<get_request>(in.arguments);
  std::error_code ec;
  if (!mutated(mutant::ignore_min_position)) ec = co_await store.holding(request.min_position);
  if (ec == errc::diverged) {
    const position& wanted = request.min_position;
    throw rpc_error(refused_lost, "the record of epoch " + std::to_string(wanted.epoch) + " at index " +
                                      std::to_string(wanted.index) +
                                      " is lost: the history goes on without it, at epoch " +
                                      std::to_string(store.state().at().epoch));
  }
  if (ec) throw std::system_error(ec);
  get_reply::encode(out.body(), store.state().at(), store.state().find(request.key));
}

// Page by page, since the state may change while the reader is slow.
template <environment Env>
awaitable<void> answer_scan(basic_store<Env>& store, const rpc_request& in, rpc_item_writer& out) {
  constexpr std::size_t page = 256;
  const scan_request request = decode_or_refuse<scan_request>(in.arguments);
  std::uint64_t left = request.limit == 0 ? UINT64_MAX : request.limit;
  std::string after;
  bool first = true;
  byte_buffer item;
  for (;;) {
    std::vector<std::pair<std::string, std::string>> pairs;
    store.state().scan(request.prefix, first ? nullptr : &after, [&](std::string_view key, std::string_view value) {
      if (pairs.size() == page || pairs.size() == left) return false;
      pairs.emplace_back(key, value);
      return true;
    });
    for (const auto& [key, value] : pairs) {
      change_item found;
      found.change.key = key;
      found.change.value = value;
      found.encode(item);
      co_await out.write(item.view());
    }
    left -= pairs.size();
    if (pairs.size() < page || left == 0) co_return;
    after = pairs.back().first;
    first = false;
  }
}

// Reads the log on from its end.
template <environment Env>
awaitable<void> answer_watch(basic_store<Env>& store, const rpc_request& in, rpc_item_writer& out) {
  const scan_request request = decode_or_refuse<scan_request>(in.arguments);
  const std::string prefix(request.prefix);
  basic_cursor<Env> reader(store.log(), store.log().acked().index + 1);
  std::vector<change_item> changes;
  byte_buffer item;
  for (;;) {
    const record_batch batch = co_await reader.next(std::size_t{256} << 10);
    for (const record each : batch) {
      if (each.kind != data_record) continue;
      const std::optional<segment_view> segment = segment_view::parse(each.payload);
      if (!segment) continue;
      changes.clear();
      segment->for_each([&](const entry& change) {
        if (change.key.starts_with(prefix)) changes.push_back({each.index, change});
      });
      for (const change_item& change : changes) {
        change.encode(item);
        co_await out.write(item.view());
      }
    }
  }
}

}  // namespace lockstep::cityhall

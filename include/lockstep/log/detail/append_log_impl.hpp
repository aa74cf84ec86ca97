// The bodies of log/append_log.hpp, in the order of a record's life: staged, flushed, acknowledged, read; then the
// changes of the ends, opening and closing.
#pragma once

#include "lockstep/log/append_log.hpp"

#include <algorithm>

namespace lockstep {

namespace detail {

/// What prewriting writes.
inline bytes_view zero_block() noexcept {
  static constexpr std::array<std::byte, 64 << 10> zeros{};
  return zeros;
}

}  // namespace detail

// --- staging
// ------------------------------------------------------------------------------------------------------------

template <environment Env>
[[gnu::always_inline]] inline detail::tail_chunk& basic_append_log<Env>::room_for(std::size_t bytes) {
  if (failure_ || closing_) throw_if_unusable();
  if (taking_back_) fail_append(errc::overloaded);
  if (!has_room_for(bytes)) fail_append(errc::overloaded);

  const std::uint64_t end = staged_offset_ + bytes;
  if (end > options_.segment_bytes && staged_offset_ > log_format::segment_header_bytes) {
    prepared_.push_back(prepare_file(log_format::segment_header_bytes + bytes));
    staged_offset_ = log_format::segment_header_bytes;
    if (tail_.back()) tail_.back()->last = staged_;
    return tail_.add(bytes, staged_offset_, staged_, true);
  }
  if (prepared_.empty()) {
    if (end > reserved_) reserve(*active_, reserved_, prewritten_, end);
  } else if (end > prepared_.back().reserved) {
    reserve(*prepared_.back().opened, prepared_.back().reserved, prepared_.back().prewritten, end);
  }
  detail::tail_chunk* const open = tail_.back();
  if (open && open->capacity - open->used >= bytes) return *open;
  if (open) {
    open->last = staged_;
    write_full_chunk(*open);
  }
  return tail_.add(bytes, staged_offset_, staged_, false);
}

template <environment Env>
template <std::size_t Parts>
position basic_append_log<Env>::append_parts(epoch_t epoch, std::span<const bytes_view, Parts> payload,
                                             record_kind kind) {
  std::size_t length = 0;
  for (const bytes_view part : payload) length += part.size();
  if ((epoch < staged_.epoch && !mutated(mutant::accept_stale_epoch)) || epoch > max_epoch) {
    fail_append(errc::stale_epoch);
  }
  if (length > options_.max_payload_bytes) fail_append(errc::record_too_large);
  const std::size_t bytes = log_format::record_bytes(length);
  detail::tail_chunk& chunk = room_for(bytes);
  const position next = log_codec::encode_parts(chunk.data.get() + chunk.used, staged_, epoch, kind, payload);
  // One by one: g++ 12 copies two of them at once, from where they were just stored apart, and the processor waits.
  staged_.epoch = next.epoch;
  staged_.index = next.index;
  staged_.chain = next.chain;
  added(chunk, bytes);
  return next;
}

// Where a write need not be synced, a full chunk is written at once, while the processor's cache still holds it.
template <environment Env>
void basic_append_log<Env>::write_full_chunk(detail::tail_chunk& chunk) {
  const bool oldest_unwritten = written_.index == chunk.before.index || chunk.written != 0;
  if (options_.sync == sync_policy::always || busy_ || chunk.opens_segment || !oldest_unwritten ||
      chunk.written == chunk.used) {
    return;
  }
  const bytes_view bytes(chunk.data.get() + chunk.written, chunk.used - chunk.written);
  std::error_code ec;
  active_->pwrite(chunk.offset + chunk.written, {&bytes, 1}, ec);
  if (ec) {
    fail(ec);
    throw_if_unusable();
  }
  wrote(chunk.offset + chunk.used, bytes.size(), chunk.last);
  chunk.written = chunk.used;
  acknowledge(chunk.last);
}

/// The active segment's file now holds everything up to `upto`, which ends at `end`.
template <environment Env>
void basic_append_log<Env>::wrote(std::uint64_t end, std::uint64_t bytes, const position& upto) {
  prewritten_ = std::max(prewritten_, end);
  segments_.back().end = end;
  written_ = upto;
  if (options_.sync == sync_policy::interval) {
    dirty_bytes_ += bytes;
  } else {
    unsynced_bytes_ -= bytes;
  }
}

template <environment Env>
void basic_append_log<Env>::added(detail::tail_chunk& chunk, std::size_t bytes) {
  chunk.used += bytes;
  staged_offset_ += bytes;
  unsynced_bytes_ += bytes;
  work_.notify_one();
  grown_staged_.notify_all();
}

// Space up to `end` is reserved before anything is staged, so that a full disk refuses an append and not a write (P4).
template <environment Env>
void basic_append_log<Env>::reserve(file& target, std::uint64_t& reserved, std::uint64_t& prewritten,
                                    std::uint64_t end) {
  std::error_code ec;
  std::uint64_t upto = std::max(end, std::min(reserved + options_.reserve_bytes, options_.segment_bytes));
  target.allocate(reserved, upto - reserved, ec);
  if (ec == std::errc::no_space_on_device && upto != end) {
    upto = end;
    target.allocate(reserved, upto - reserved, ec);
  }
  if (ec == std::errc::not_supported) {  // P3
    ec.clear();
    for (std::uint64_t at = std::max(reserved, prewritten); at < upto && !ec;) {
      const bytes_view zeros =
          detail::zero_block().first(std::min<std::uint64_t>(detail::zero_block().size(), upto - at));
      target.pwrite(at, {&zeros, 1}, ec);
      if (!ec) prewritten = at += zeros.size();
    }
    if (ec == std::errc::no_space_on_device && prewritten >= end) {
      ec.clear();
      upto = prewritten;
    }
  }
  if (ec && !mutated(mutant::ignore_full_disk)) fail_append(ec);
  reserved = upto;
}

template <environment Env>
auto basic_append_log<Env>::prepare_file(std::uint64_t end) -> prepared_file {
  prepared_file result;
  const std::string name = path(log_files::numbered(staged_.index + 1, log_files::temporary_suffix));
  std::error_code ec;
  if (!recycled_.empty()) {
    const std::string old = std::move(recycled_.back());
    recycled_.pop_back();
    env_.rename(path(old), name, ec);
    if (ec) fail_append(ec);
    result.recycled = true;
  }
  result.opened =
      std::make_shared<file>(env_.open(name, result.recycled ? open_mode::read_write : open_mode::truncate, ec));
  if (!ec && result.recycled) result.reserved = result.prewritten = result.opened->size(ec);
  if (ec) fail_append(ec);
  try {
    if (end > result.reserved) reserve(*result.opened, result.reserved, result.prewritten, end);
  } catch (const std::system_error&) {
    env_.remove(name, ec);
    throw;
  }
  return result;
}

template <environment Env>
log_codec::record_verdict basic_append_log<Env>::append_encoded(bytes_view& records) {
  while (!records.empty()) {
    record next;
    const log_codec::record_verdict verdict = log_codec::decode_record(records, staged_, next);
    if (verdict != log_codec::record_verdict::ok) return verdict;
    if (next.payload.size() > options_.max_payload_bytes) fail_append(errc::record_too_large);
    const std::size_t bytes = log_format::record_bytes(next.payload.size());
    detail::tail_chunk& chunk = room_for(bytes);
    std::memcpy(chunk.data.get() + chunk.used, records.data(), bytes);
    staged_ = next.position();
    added(chunk, bytes);
    records = records.subspan(bytes);
  }
  return log_codec::record_verdict::ok;
}

// --- flushing
// -----------------------------------------------------------------------------------------------------------

template <environment Env>
awaitable<void> basic_append_log<Env>::flush_staged() {
  for (;;) {
    while (!staged_anything() && !closing_ && !failure_) (void)co_await work_.wait_uncancellable();
    if (closing_ || failure_) co_return;
    {
      while (busy_) (void)co_await turn_.wait_uncancellable();
      const turn held(*this);
      const std::error_code ec = co_await flush();
      if (ec) fail(ec);
    }
    // Whoever was just acknowledged may append again before the next write: larger groups.
    co_await asio::post(env_.get_executor(), use_awaitable);
  }
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::flush() {
  std::error_code ec = failure_;
  const index_t upto = staged_.index;
  while (!ec && written_.index < upto) {
    const auto& chunks = tail_.chunks();
    const auto next =
        std::find_if(chunks.begin(), chunks.end(), [](const auto& chunk) { return chunk->written != chunk->used; });
    if ((*next)->opens_segment) {
      const detail::hot_tail::chunk_ptr opening = *next;
      ec = co_await open_next_segment(opening->before);
      if (ec) co_return ec;
      opening->opens_segment = false;
    }
    flight flying = take_off();
    if (mutated(mutant::watermark_before_sync)) record_synced(flying.upto);
    if (options_.sync == sync_policy::always && !mutated(mutant::skip_flush_sync) &&
        !mutated(mutant::ack_before_sync)) {
      ec = co_await flying.target->pwrite_datasync(flying.begin, flying.gather, options_.sync_where);
    } else {
      flying.target->pwrite(flying.begin, flying.gather, ec);
    }
    if (ec && mutated(mutant::retry_failed_sync)) ec = co_await flying.target->datasync(options_.sync_where);
    if (ec && mutated(mutant::ack_after_failed_sync)) ec.clear();
    if (!ec && mutated(mutant::ack_what_came_during_the_sync)) flying.upto = staged_;
    if (!ec) land(flying);
    if (!ec && mutated(mutant::ack_before_sync)) ec = co_await active_->datasync(options_.sync_where);
  }
  if (!ec && options_.sync == sync_policy::interval && dirty_bytes_ > options_.max_unsynced_bytes / 2) {
    ec = co_await sync_active();
  }
  co_return ec;
}

// Everything staged for the active segment.
template <environment Env>
auto basic_append_log<Env>::take_off() -> flight {
  flight flying = std::move(spare_flight_);
  flying.target = active_;
  flying.end = 0;
  for (const detail::hot_tail::chunk_ptr& chunk : tail_.chunks()) {
    if (chunk->written == chunk->used) continue;
    if (chunk->opens_segment) break;
    if (flying.chunks.empty()) flying.begin = flying.end = chunk->offset + chunk->written;
    flying.gather.push_back({chunk->data.get() + chunk->written, chunk->used - chunk->written});
    flying.end += chunk->used - chunk->written;
    flying.chunks.push_back(chunk);
  }
  detail::tail_chunk& last = *flying.chunks.back();
  if (&last == tail_.back()) last.last = staged_;
  flying.upto = last.last;
  flying.last_used = last.used;

  // A datasync of a file that grows costs half as much again: let it grow ahead, unless the write is large anyway.
  flying.size = flying.end;
  const std::uint64_t bytes = flying.end - flying.begin;
  if (syncs() && flying.end > prewritten_ && bytes * 16 <= options_.prewrite_bytes && prepared_.empty()) {
    const std::uint64_t zeros_end = std::min(flying.end + options_.prewrite_bytes, reserved_);
    while (flying.size < zeros_end) {
      flying.gather.push_back(
          detail::zero_block().first(std::min<std::uint64_t>(detail::zero_block().size(), zeros_end - flying.size)));
      flying.size += flying.gather.back().size();
    }
  }
  return flying;
}

/// The write has succeeded.
template <environment Env>
void basic_append_log<Env>::land(flight& landed) {
  prewritten_ = std::max(prewritten_, landed.size);
  for (const auto& chunk : landed.chunks) chunk->written = chunk->used;
  landed.chunks.back()->written = landed.last_used;
  wrote(landed.end, landed.end - landed.begin, landed.upto);
  if (options_.sync == sync_policy::always) record_synced(landed.upto);
  acknowledge(landed.upto);
  landed.target.reset();
  landed.chunks.clear();
  landed.gather.clear();
  spare_flight_ = std::move(landed);
}

// The active segment is full: everything staged before `base`'s successor is written. D1: the new file is complete and
// synced before it gets its name.
template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::open_next_segment(const position& base) {
  std::error_code ec;
  if (options_.sync == sync_policy::interval && !mutated(mutant::seal_before_sync)) ec = co_await sync_active();
  if (ec) co_return ec;
  // sync_policy::never: each closed segment holds its file open until it is synced, so a disk that is slower than the
  // writer slows the writer down.
  constexpr std::size_t most_closed_unsynced = 8;
  while (closed_unsynced_.size() >= most_closed_unsynced && !failure_) {
    (void)co_await closed_synced_.wait_uncancellable();
  }
  if (failure_) co_return failure_;

  // Appends may reserve more of the prepared file meanwhile: it stays in its place until it is complete.
  const std::shared_ptr<file> opened = prepared_.front().opened;
  const bool recycled = prepared_.front().recycled;
  segment added;
  added.header.flags = (syncs() ? log_format::predecessor_sealed : 0) |
                       (recycled && !mutated(mutant::forget_recycled_flag) ? log_format::recycled : 0);
  added.header.base = base;
  added.header.previous_first = segments_.back().header.first_index();
  added.header.predecessor_bytes = segments_.back().end;
  added.header.created_ns = static_cast<std::uint64_t>(env_.wall_now().time_since_epoch().count());
  added.header.in_flight_limit = segments_.back().header.in_flight_limit;
  added.end = log_format::segment_header_bytes;
  added.header.encode(header_page_);
  const bytes_view page(header_page_);
  if (syncs() && !mutated(mutant::skip_segment_header_sync)) {
    ec = co_await opened->pwrite_datasync(0, {&page, 1}, options_.sync_where);
  } else {
    opened->pwrite(0, {&page, 1}, ec);
  }
  if (!ec)
    env_.rename(path(log_files::numbered(base.index + 1, log_files::temporary_suffix)), path_of(added.header), ec);
  if (!ec && syncs() && !mutated(mutant::skip_roll_directory_sync)) {
    ec = co_await env_.sync_directory(directory_, options_.sync_where);
  }
  if (ec) co_return ec;

  if (!syncs()) {
    closed_unsynced_.emplace_back(active_, written_);
    if (closed_unsynced_.size() == 1) tasks_.spawn(sync_closed_segments());
  }
  active_ = opened;
  prewritten_ = std::max<std::uint64_t>(prepared_.front().prewritten, log_format::segment_header_bytes);
  reserved_ = prepared_.front().reserved;
  prepared_.pop_front();
  segments_.push_back(std::move(added));
  co_return ec;
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::sync_active() {
  if (synced_.index == written_.index) co_return std::error_code();
  const std::shared_ptr<file> target = active_;
  const position upto = written_;
  const std::uint64_t bytes = std::exchange(dirty_bytes_, 0);
  const std::error_code ec = co_await target->datasync(options_.sync_where);
  if (ec) co_return ec;
  unsynced_bytes_ -= bytes;
  record_synced(upto);
  co_return ec;
}

template <environment Env>
awaitable<void> basic_append_log<Env>::sync_regularly() {
  while (!closing_ && !failure_) {
    sync_timer_.expires_after(options_.sync_interval);
    (void)co_await sync_timer_.wait();
    const turn held = co_await take_turn();
    if (closing_ || failure_) co_return;
    const std::error_code ec = co_await sync_active();
    if (ec) fail(ec);
  }
}

// sync_policy::never: full segments, oldest first, so that what is scanned at the next open stays small.
template <environment Env>
awaitable<void> basic_append_log<Env>::sync_closed_segments() {
  while (!closed_unsynced_.empty() && !failure_) {
    const auto [target, upto] = closed_unsynced_.front();
    std::error_code ec = co_await target->datasync(sync_on::disk_thread);
    if (!ec) ec = co_await env_.sync_directory(directory_, sync_on::disk_thread);
    if (ec) fail(ec);
    // A rewind may have emptied the queue meanwhile.
    if (!ec && !closed_unsynced_.empty() && closed_unsynced_.front().first == target) {
      record_synced(upto);
      closed_unsynced_.pop_front();
    }
    closed_synced_.notify_all();
  }
}

template <environment Env>
void basic_append_log<Env>::record_synced(const position& upto) {
  if (upto.index > synced_.index) write_watermark(upto);
}

// The watermark is a lower bound: a write of it that fails or is lost leaves a lower one, which is as true.
template <environment Env>
void basic_append_log<Env>::write_watermark(const position& upto) {
  synced_ = upto;
  std::array<std::byte, log_format::watermark_bytes> bytes;
  log_codec::encode_watermark(bytes.data(), synced_);
  const bytes_view view(bytes);
  std::error_code ignored;
  watermark_file_.pwrite(0, {&view, 1}, ignored);
}

template <environment Env>
void basic_append_log<Env>::acknowledge(const position& upto) {
  acked_ = upto;
  for (const auto& chunk : tail_.chunks()) chunk->acked = chunk->written;
  tail_.trim(options_.hot_tail_bytes);
  acks_.notify_up_to(upto.index);
  grown_durable_.notify_all();
}

// F1: after a failed write or sync nobody knows what the disk holds, and asking again would not tell.
template <environment Env>
void basic_append_log<Env>::fail(std::error_code ec) {
  if (failure_) return;
  failure_ = ec;
  if (mutated(mutant::wake_waiters_of_failed_log_without_error)) acks_.notify_all();
  acks_.notify_all(errc::log_failed);
  grown_staged_.notify_all(errc::log_failed);
  grown_durable_.notify_all(errc::log_failed);
  taken_back_.notify_all();
  work_.notify_all();
  sync_timer_.cancel();
}

// Whoever was refused because records are being taken back waits for the end of that.
template <environment Env>
awaitable<void> basic_append_log<Env>::durable_and_taken_back(index_t index) {
  const visit inside(*this);
  if (acked_.index < index) co_await acks_.wait_as(ack_wait(*this, index));
  while (taking_back_ && !failure_) {
    wait_list::place waiting;
    co_await taken_back_.wait_at(waiting);
    if (is_cancelled(waiting.result())) throw std::system_error(waiting.result());
  }
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::flush_and_sync() {
  std::error_code ec = co_await flush();
  if (!ec && !syncs()) {
    while (!closed_unsynced_.empty() && !failure_) (void)co_await closed_synced_.wait_uncancellable();
    ec = failure_ ? failure_ : co_await env_.sync_directory(directory_, options_.sync_where);
  }
  if (!ec) ec = co_await sync_active();
  co_return ec;
}

template <environment Env>
awaitable<void> basic_append_log<Env>::sync_owned() {
  const turn held = co_await take_turn();
  throw_if_failed(co_await flush_and_sync());
}

template <environment Env>
awaitable<void> basic_append_log<Env>::sync() {
  throw_if_unusable();
  co_await run_owned(sync_owned());
}

// Under sync_policy::interval all can be acknowledged and the log still full.
template <environment Env>
awaitable<void> basic_append_log<Env>::make_room() {
  return acked().index >= last().index ? sync() : durable(last().index);
}

// --- reading
// ------------------------------------------------------------------------------------------------------------

template <environment Env>
std::size_t basic_append_log<Env>::number_of_segment(index_t index) const noexcept {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), index,
                                      [](index_t i, const segment& each) { return i <= each.header.base.index; });
  return static_cast<std::size_t>(after - segments_.begin()) - 1;
}

template <environment Env>
index_t basic_append_log<Env>::segment_of(index_t index) const noexcept {
  if (index <= base().index || index > written_.index) return 0;
  return segments_[number_of_segment(index)].header.first_index();
}

template <environment Env>
std::uint64_t basic_append_log<Env>::size_bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const segment& each : segments_) sum += each.end;
  return sum;
}

template <environment Env>
auto basic_append_log<Env>::reader_of(segment& of) -> std::shared_ptr<reader> {
  std::shared_ptr<reader> mapped = of.mapped.lock();
  if (mapped && mapped->bytes().size() >= of.end) return mapped;
  std::error_code ec;
  const bool growing = &of == &segments_.back();
  const std::string name = path_of(of.header);
  const file opened = env_.open(name, open_mode::read, ec);
  typename Env::mapping bytes;
  // The file being written is mapped as far as it may grow, and read only as far as it was written.
  if (!ec) bytes = opened.map(0, growing ? std::max(of.end, options_.segment_bytes) : of.end, ec);
  if (ec) throw std::system_error(ec, "cannot read " + name);
  mapped = std::make_shared<reader>(std::move(bytes), of.header.base);
  of.mapped = mapped;
  return mapped;
}

template <environment Env>
record_batch basic_append_log<Env>::read_from_tail(read_place& place, const detail::hot_tail::chunk_ptr& chunk,
                                                   std::size_t max_bytes, index_t end, visibility seen) {
  const bytes_view all(chunk->data.get(), seen == visibility::durable ? chunk->acked : chunk->used);
  if (place.source != chunk) {
    place.offset = walk_records(all, chunk->first_index(), place.next, all.size()).bytes;
    place.source = chunk;
    place.reader.reset();
  }
  const bytes_view rest = all.subspan(place.offset);
  record_walk walk;
  if (rest.size() <= max_bytes) {
    walk.bytes = rest.size();
    const bool newest = chunk == tail_.chunks().back() || mutated(mutant::tail_read_skips_later_chunks);
    walk.next = newest ? end : std::min(end, chunk->last.index + 1);
    walk.chain = walk.next == end ? (seen == visibility::durable ? acked_ : staged_).chain : chunk->last.chain;
  } else {
    walk = walk_records(rest, place.next, end, max_bytes);
  }
  record_batch batch(rest.first(walk.bytes), place.next, walk.next - 1, chunk);
  place.offset += walk.bytes;
  place.next = walk.next;
  place.chain = walk.chain;
  return batch;
}

template <environment Env>
record_batch basic_append_log<Env>::read(read_place& place, std::size_t max_bytes, visibility seen) {
  if (closed_) throw_if_unusable();
  if (mutated(mutant::read_staged_as_durable)) seen = visibility::staged;
  const index_t end = (seen == visibility::durable ? acked_ : staged_).index + 1;
  if (place.next > staged_.index + 1) throw std::system_error(errc::out_of_range, where("reading beyond the end of"));
  if (place.next <= base().index) throw std::system_error(errc::compacted, where("reading before the start of"));
  if (place.next >= end) return {};
  if (const auto* const chunk = tail_.find(place.next)) return read_from_tail(place, *chunk, max_bytes, end, seen);

  const std::size_t number = number_of_segment(place.next);
  segment& from = segments_[number];
  const index_t last_in_segment =
      number + 1 < segments_.size() ? segments_[number + 1].header.base.index : written_.index;
  const std::shared_ptr<reader> mapped = reader_of(from);
  if (place.reader != mapped) {
    place.offset = mapped->offset_of(place.next, from.end);
    place.reader = mapped;
    place.source = mapped;
  }
  record_walk walk;
  if (place.offset != 0) {
    const bytes_view rest = mapped->bytes().subspan(place.offset, from.end - place.offset);
    walk = walk_records(rest, place.next, std::min(end, last_in_segment + 1), max_bytes);
  }
  if (walk.bytes == 0) {
    place.reader.reset();
    place.source.reset();
    throw std::system_error(errc::corrupt, "record " + std::to_string(place.next) + " in " + path_of(from.header));
  }
  record_batch batch(mapped->bytes().subspan(place.offset, walk.bytes), place.next, walk.next - 1, mapped);
  place.offset += walk.bytes;
  place.next = walk.next;
  place.chain = walk.chain;
  if (walk.next == last_in_segment + 1 && walk.next < end && mutated(mutant::cursor_skips_record_at_segment_boundary)) {
    ++place.next;
  }
  return batch;
}

template <environment Env>
std::optional<position> basic_append_log<Env>::position_at(index_t index) {
  if (index == staged_.index) return staged_;
  if (index > staged_.index || index < base().index) return std::nullopt;
  for (const segment& each : segments_) {
    if (each.header.base.index == index) return each.header.base;
  }
  read_place place;
  place.next = index;
  return (*read(place, 1, visibility::staged).begin()).position();
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::readable(index_t index, visibility seen) {
  const visit inside(*this);
  const std::uint64_t rewinds = rewinds_;
  while (rewinds == rewinds_ && index > (seen == visibility::durable ? acked_ : staged_).index) {
    if (closing_) co_return errc::closed;
    if (failure_) co_return errc::log_failed;
    wait_list& joined = seen == visibility::durable ? grown_durable_ : grown_staged_;
    const std::error_code ec = co_await joined.wait();
    if (is_cancelled(ec)) co_return ec;
  }
  co_return std::error_code();
}

// --- changing the ends
// --------------------------------------------------------------------------------------------------

template <environment Env>
awaitable<void> basic_append_log<Env>::run_owned(awaitable<void> work) {
  struct outcome {
    bool ended = false;
    std::exception_ptr failure;
  };
  const auto shared = std::make_shared<outcome>();
  const visit inside(*this);
  tasks_.spawn([](basic_append_log& log, awaitable<void> owned, std::shared_ptr<outcome> into) -> awaitable<void> {
    try {
      co_await std::move(owned);
    } catch (...) {
      into->failure = std::current_exception();  // rethrown to whoever asked
    }
    into->ended = true;
    log.owned_ended_.notify_all();
  }(*this, std::move(work), shared));
  while (!shared->ended) {
    const std::error_code ec = co_await owned_ended_.wait();
    if (is_cancelled(ec)) throw std::system_error(ec);
  }
  if (shared->failure) std::rethrow_exception(shared->failure);
}

// A file with its final name is complete and durable when this returns (D1).
template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::write_new_file(std::string name, std::span<const bytes_view> content,
                                                                 std::shared_ptr<file>* opened) {
  const std::string temporary = path(name + std::string(log_files::temporary_suffix));
  std::error_code ec;
  auto target = std::make_shared<file>(env_.open(temporary, open_mode::truncate, ec));
  if (!ec && mutated(mutant::skip_rewrite_sync)) {
    target->pwrite(0, content, ec);
  } else if (!ec) {
    ec = co_await target->pwrite_datasync(0, content, options_.sync_where);
  }
  if (!ec) env_.rename(temporary, path(name), ec);
  if (!ec && !mutated(mutant::skip_rename_directory_sync)) {
    ec = co_await env_.sync_directory(directory_, options_.sync_where);
  }
  if (!ec && opened) *opened = std::move(target);
  co_return ec;
}

// Writes a new file with just these records for the segment that becomes the last. A file that it replaces stays as it
// is for whoever has it mapped.
template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::rewrite_segment(segment_header header, bytes_view records) {
  header.flags &= ~log_format::recycled;
  header.in_flight_limit = syncs() ? std::max<std::uint64_t>(options_.max_unsynced_bytes,
                                                             log_format::record_bytes(options_.max_payload_bytes))
                                   : 0;
  header.encode(header_page_);
  const std::array<bytes_view, 2> content{bytes_view(header_page_), records};
  std::shared_ptr<file> opened;
  const std::error_code ec = co_await write_new_file(log_files::segment_name(header.first_index()), content, &opened);
  if (ec) co_return ec;
  active_ = std::move(opened);
  segment rewritten;
  rewritten.header = header;
  rewritten.end = log_format::segment_header_bytes + records.size();
  segments_.push_back(std::move(rewritten));
  co_return ec;
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::remove_and_sync(std::string name) {
  std::error_code ec;
  env_.remove(path(name), ec);
  if (!ec && !mutated(mutant::skip_removal_directory_sync)) {
    ec = co_await env_.sync_directory(directory_, options_.sync_where);
  }
  co_return ec;
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::store_watermark(const position& upto) {
  std::error_code ec;
  std::array<std::byte, log_format::watermark_bytes> bytes;
  log_codec::encode_watermark(bytes.data(), upto);
  const bytes_view view(bytes);
  if (mutated(mutant::lower_watermark_unsynced)) {
    watermark_file_.pwrite(0, {&view, 1}, ec);
  } else {
    ec = co_await watermark_file_.pwrite_datasync(0, {&view, 1}, options_.sync_where);
  }
  co_return ec;
}

/// Readers and waiters see no record behind `last` any more.
template <environment Env>
void basic_append_log<Env>::take_back(const position& last) {
  staged_ = written_ = acked_ = last;
  if (synced_.index > last.index) synced_ = last;
  unsynced_bytes_ = dirty_bytes_ = 0;
  tail_.clear();
  ++rewinds_;
  grown_staged_.notify_all();
  grown_durable_.notify_all();
}

/// The log ends at `last`, all of it durable, in a segment file of `end` bytes.
template <environment Env>
void basic_append_log<Env>::begin_at(const position& last, std::uint64_t end) {
  staged_ = written_ = acked_ = last;
  write_watermark(last);
  staged_offset_ = reserved_ = prewritten_ = end;
}

// Everything is durable first, so that a record is taken back only after it was acknowledged, and so that the watermark
// may name the last record that is kept.
template <environment Env>
awaitable<void> basic_append_log<Env>::truncate_suffix_owned(index_t keep) {
  const turn held = co_await take_turn();
  const taking_back refusing_appends(*this);
  throw_if_failed(co_await flush_and_sync());
  if (keep >= staged_.index) co_return;
  if (keep < base().index) throw std::system_error(errc::compacted, where("truncating before the start of"));
  const std::optional<position> last = position_at(keep);
  const std::size_t number = keep == base().index ? 0 : number_of_segment(keep);
  const std::shared_ptr<reader> mapped = reader_of(segments_[number]);
  const segment_header header = segments_[number].header;
  std::uint64_t end =
      keep == header.base.index ? log_format::segment_header_bytes : mapped->offset_of(keep + 1, segments_[number].end);
  if (mutated(mutant::truncate_leaves_records)) end = segments_[number].end;
  if (end == 0) throw std::system_error(errc::corrupt, path_of(header));

  // Before records are taken back, the watermark must not name them any more.
  if (!mutated(mutant::keep_watermark_when_truncating)) throw_if_failed(co_await store_watermark(*last));
  take_back(*last);
  while (segments_.size() > number + 1) {
    const std::string gone = log_files::segment_name(segments_.back().header.first_index());
    if (!mutated(mutant::truncate_leaves_segments)) throw_if_failed(co_await remove_and_sync(gone));
    segments_.pop_back();
  }
  throw_if_failed(co_await rewrite_segment(
      header, mapped->bytes().subspan(log_format::segment_header_bytes, end - log_format::segment_header_bytes)));
  segments_.erase(segments_.end() - 2);
  begin_at(*last, end);
}

template <environment Env>
awaitable<void> basic_append_log<Env>::truncate_suffix(index_t keep) {
  throw_if_unusable();
  co_await run_owned(truncate_suffix_owned(keep));
}

// D3: oldest first, each removal durable before the next, so that a crash leaves no gap.
template <environment Env>
awaitable<void> basic_append_log<Env>::compact_prefix_owned(index_t first_kept) {
  const turn held = co_await take_turn();
  const std::size_t first_needed = mutated(mutant::compact_needed_segment) ? 0 : 1;
  // sync_policy::never: the header that the log is to begin with becomes durable with the first record behind it.
  const index_t unsynced_header = syncs() ? 0 : 1;
  while (segments_.size() > 1 && segments_[first_needed].header.base.index < first_kept &&
         segments_[1].header.base.index + unsynced_header <= synced_.index) {
    const segment oldest = std::move(segments_.front());
    segments_.pop_front();  // before its file goes: whoever reads meanwhile is told that it was compacted
    const std::string name = log_files::segment_name(oldest.header.first_index());
    std::error_code ec;
    // A file that somebody still reads must keep its bytes.
    if (recycled_.size() < options_.recycled_segments && oldest.mapped.expired()) {
      std::string kept = log_files::numbered(oldest.header.first_index(), log_files::recycled_suffix);
      env_.rename(path(name), path(kept), ec);
      if (!ec) ec = co_await env_.sync_directory(directory_, options_.sync_where);
      if (!ec) recycled_.push_back(std::move(kept));
    } else {
      ec = co_await remove_and_sync(name);
    }
    throw_if_failed(ec);
  }
}

template <environment Env>
awaitable<index_t> basic_append_log<Env>::compact_prefix(index_t first_kept) {
  throw_if_unusable();
  co_await run_owned(compact_prefix_owned(first_kept));
  co_return first_index();
}

template <environment Env>
awaitable<index_t> basic_append_log<Env>::apply_retention(retention limits, index_t replaceable) {
  std::uint64_t bytes = size_bytes();
  const auto now = env_.wall_now().time_since_epoch();
  index_t first_kept = first_index();
  for (std::size_t i = 0; i + 1 < segments_.size(); ++i) {
    // A segment is as old as its last record, which is older than its successor.
    const duration age = now - duration(static_cast<std::int64_t>(segments_[i + 1].header.created_ns));
    const bool too_many = limits.max_bytes != 0 && bytes > limits.max_bytes;
    const bool too_old = limits.max_age.count() != 0 && age > limits.max_age;
    if ((!too_many && !too_old) || segments_[i + 1].header.base.index > replaceable) break;
    bytes -= segments_[i].end;
    first_kept = segments_[i + 1].header.first_index();
  }
  co_return co_await compact_prefix(first_kept);
}

template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::begin_anew(position start) {
  std::error_code ec = co_await store_watermark(position{});
  if (ec) co_return ec;
  segment empty;
  empty.header.base = start;
  empty.header.created_ns = static_cast<std::uint64_t>(env_.wall_now().time_since_epoch().count());
  empty.end = log_format::segment_header_bytes;
  segments_.clear();
  segments_.push_back(empty);
  recycled_.clear();
  synced_ = position{};
  take_back(start);

  const std::vector<std::string> names = env_.list(directory_, ec);
  for (const std::string& name : names) {
    // Recycled files go too: their indexes need not be lower than the new ones (P2).
    const bool old = log_files::parse_segment_name(name) != 0 || name.ends_with(log_files::recycled_suffix) ||
                     name.ends_with(log_files::temporary_suffix);
    if (old && !ec) env_.remove(path(name), ec);
  }
  if (!ec) ec = co_await env_.sync_directory(directory_, options_.sync_where);
  if (!ec) ec = co_await rewrite_segment(empty.header, {});
  if (ec) co_return ec;
  segments_.pop_front();
  begin_at(start, log_format::segment_header_bytes);
  co_return ec;
}

template <environment Env>
awaitable<void> basic_append_log<Env>::reset_owned(position start) {
  const turn held = co_await take_turn();
  const taking_back refusing_appends(*this);
  throw_if_failed(co_await flush_and_sync());
  std::array<std::byte, log_format::watermark_bytes> bytes;
  log_codec::encode_watermark(bytes.data(), start);
  const bytes_view content(bytes);
  // The intent is durable first: a crash on the way is finished by the next open().
  if (mutated(mutant::reset_before_intent)) throw_if_failed(co_await begin_anew(start));
  throw_if_failed(co_await write_new_file(std::string(log_files::reset_intent), {&content, 1}, nullptr));
  throw_if_failed(co_await begin_anew(start));
  throw_if_failed(co_await remove_and_sync(std::string(log_files::reset_intent)));
}

template <environment Env>
awaitable<void> basic_append_log<Env>::reset(position start) {
  throw_if_unusable();
  co_await run_owned(reset_owned(start));
}

template <environment Env>
awaitable<void> basic_append_log<Env>::sync_watermark_owned() {
  const turn held = co_await take_turn();
  throw_if_failed(co_await store_watermark(synced_));
}

template <environment Env>
awaitable<void> basic_append_log<Env>::sync_watermark() {
  throw_if_unusable();
  co_await run_owned(sync_watermark_owned());
}

// --- opening and closing
// ------------------------------------------------------------------------------------------------

// F2: what open() read from the page cache need not be on the disk, since an earlier sync may have failed. The unsealed
// tail is written anew and synced before anything is acknowledged on top of it.
template <environment Env>
awaitable<std::error_code> basic_append_log<Env>::recover(const log_directory& found, const recovery_report& report) {
  std::error_code ec;
  for (const std::string& name : found.leftovers) {
    env_.remove(path(name), ec);
    if (ec) co_return ec;
  }
  const std::size_t first_unsealed = found.segments.size() - count_unsealed(found.segments, found.watermark);
  for (std::size_t i = 0; i < first_unsealed; ++i) {
    segment sealed;
    sealed.header = *found.segments[i].header;
    sealed.end = found.segments[i + 1].header->predecessor_bytes;
    segments_.push_back(std::move(sealed));
  }
  for (std::size_t count = found.segments.size(); count > report.kept_segments; --count) {
    ec = co_await remove_and_sync(found.segments[count - 1].file);
    if (ec) co_return ec;
  }
  for (std::size_t i = first_unsealed; i < report.kept_segments; ++i) {
    const segment_image& image = found.segments[i];
    segment_header header = *image.header;
    if (i > first_unsealed) {
      header.flags |= log_format::predecessor_sealed;
      header.predecessor_bytes = segments_.back().end;
    }
    if (mutated(mutant::trust_page_cache_at_open)) {
      segment trusted;
      trusted.header = header;
      trusted.end = image.scan->good_bytes;
      segments_.push_back(std::move(trusted));
      active_ = std::make_shared<file>(env_.open(path(image.file), open_mode::read_write, ec));
      if (ec) co_return ec;
      continue;
    }
    const file opened = env_.open(path(image.file), open_mode::read, ec);
    typename Env::mapping mapped;
    const std::uint64_t kept_bytes = mutated(mutant::keep_torn_tail) ? image.file_bytes : image.scan->good_bytes;
    if (!ec) mapped = opened.map(0, std::min(image.file_bytes, kept_bytes), ec);
    if (ec) co_return ec;
    const std::size_t page = std::min(mapped.bytes().size(), log_format::segment_header_bytes);
    ec = co_await rewrite_segment(header, mapped.bytes().subspan(page));
    if (ec) co_return ec;
  }
  begin_at(report.last_good, segments_.back().end);
  co_return ec;
}

template <environment Env>
auto basic_append_log<Env>::open(Env& env, std::string directory, log_options options) -> awaitable<open_result> {
  open_result result;
  std::error_code ec;
  (void)env.list(directory, ec);
  if (ec == std::errc::no_such_file_or_directory) env.create_directory(directory, ec);
  if (ec) throw std::system_error(ec, "cannot open log directory " + directory);

  auto log = std::make_unique<basic_append_log>(passkey(), env, directory, options);
  log->lock_ = env.lock(log->path(log_files::lock), ec);
  if (ec == errc::log_locked) {
    throw std::system_error(
        ec, "log directory " + directory + " is locked by pid " + std::to_string(log->lock_.holder_pid()));
  }
  if (ec) throw std::system_error(ec, "cannot lock log directory " + directory);

  log_directory found = log_directory::read(env, directory);
  const bool resetting = found.reset_intent.has_value() && !mutated(mutant::ignore_reset_intent);
  if (!resetting) {
    const bool begins_behind_it = found.segments.empty() && options.start.index >= options.known_durable;
    result.report = found.recover(env, directory, begins_behind_it ? 0 : options.known_durable);
    if (result.report.verdict == log_verdict::corrupt) co_return result;
  }
  // D2. Not only when this call made the directory: whoever did may have crashed before it was synced.
  if (found.segments.empty() && !mutated(mutant::skip_creation_directory_sync)) {
    ec = co_await env.sync_directory(log_files::parent(directory), options.sync_where);
  }
  if (!ec) log->watermark_file_ = env.open(log->path(log_files::watermark), open_mode::create, ec);
  if (!ec && resetting) {
    ec = co_await log->begin_anew(*found.reset_intent);
    if (!ec) ec = co_await log->remove_and_sync(std::string(log_files::reset_intent));
    result.report.last_good = *found.reset_intent;
  } else if (!ec && found.segments.empty()) {
    ec = co_await log->begin_anew(options.start);
    result.report.last_good = options.start;
  } else if (!ec) {
    log->recycled_ = found.recycled;
    ec = co_await log->recover(found, result.report);
  }
  if (ec) throw std::system_error(ec, "cannot recover log " + directory);
  log->tasks_.spawn(log->flush_staged());
  if (options.sync == sync_policy::interval) log->tasks_.spawn(log->sync_regularly());
  result.log = std::move(log);
  co_return result;
}

template <environment Env>
awaitable<void> basic_append_log<Env>::last_flush() {
  const turn held = co_await take_turn();
  if (failure_ && acked_.index == staged_.index) co_return;
  std::error_code ec = co_await flush();
  if (!ec && syncs()) ec = co_await sync_active();
  throw_if_failed(ec);
}

template <environment Env>
awaitable<void> basic_append_log<Env>::close() {
  if (closed_) co_return;
  const bool first = !std::exchange(closing_, true);
  work_.notify_all();
  sync_timer_.cancel();
  if (first) tasks_.spawn(last_flush());
  std::exception_ptr failure;
  try {
    co_await tasks_.join();
  } catch (...) {
    failure = std::current_exception();  // thrown below, when everything is released
  }
  closed_ = true;
  acks_.notify_all(errc::closed);
  grown_staged_.notify_all(errc::closed);
  grown_durable_.notify_all(errc::closed);
  active_.reset();
  prepared_.clear();
  watermark_file_ = file();
  lock_ = typename Env::file_lock();
  while (visits_ != 0) (void)co_await visits_ended_.wait_uncancellable();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace lockstep

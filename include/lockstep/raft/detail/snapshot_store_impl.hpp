// The bodies of raft/snapshot_store.hpp: the parts of a file, what is shared, the writer, the reader, the receiver, and
// the store.
#pragma once

#include "lockstep/raft/snapshot_store.hpp"

namespace lockstep::raft {

// --- the parts of a file ----------------------------------------------------------------------------------------

template <environment Env>
bool basic_snapshot_store<Env>::file_parts::load(std::uint64_t begin, std::uint64_t end) {
  skipped_ = 0;
  buffer_.resize(static_cast<std::size_t>(end - begin));
  std::error_code ec;
  const std::size_t got = file_->pread(begin, {buffer_.data(), buffer_.size()}, ec);
  if (ec) throw std::system_error(ec, "cannot read " + path_);
  return got == buffer_.size();
}

template <environment Env>
auto basic_snapshot_store<Env>::file_parts::load_header(std::uint64_t end, std::uint64_t file_bytes) -> verdict {
  if (end < snapshot_format::fixed_header_bytes) return verdict::incomplete;
  if (!load(0, snapshot_format::fixed_header_bytes)) return verdict::bad;
  const auto size = snapshot_format::header::size_of(buffer_.view());
  if (!size) return verdict::bad;
  if (*size > end) return verdict::incomplete;
  if (!load(0, *size)) return verdict::bad;
  auto found = snapshot_format::header::decode(buffer_.view());
  if (!found) return verdict::bad;
  header_ = std::move(*found);
  where_ = {*size, file_bytes, header_.block_bytes};
  return where_.possible() ? verdict::good : verdict::bad;
}

template <environment Env>
bool basic_snapshot_store<Env>::file_parts::load_block(std::uint64_t block) {
  if (!load(where_.begin_of(block) - snapshot_format::check_bytes, where_.end_of(block))) return false;
  skipped_ = snapshot_format::check_bytes;
  const auto previous = load_le<std::uint64_t>(buffer_.data());
  const bytes_view state = bytes().first(bytes().size() - snapshot_format::check_bytes);
  return check() == snapshot_format::block_check(previous, state) || mutated(mutant::skip_block_check);
}

template <environment Env>
std::optional<snapshot_format::trailer> basic_snapshot_store<Env>::file_parts::load_trailer(std::uint64_t file_bytes) {
  if (file_bytes < snapshot_format::trailer_bytes) return std::nullopt;
  if (!load(file_bytes - snapshot_format::trailer_bytes, file_bytes)) return std::nullopt;
  const auto found = snapshot_format::trailer::decode(buffer_.view());
  if (!found || found->file_bytes != file_bytes) return std::nullopt;
  return found;
}

template <environment Env>
index_t basic_snapshot_store<Env>::parse_name(std::string_view name, std::string_view of) noexcept {
  constexpr std::size_t digits = 20;
  if (name.size() != digits + of.size() || !name.ends_with(of)) return 0;
  index_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + digits, index);
  return error == std::errc{} && end == name.data() + digits ? index : 0;
}

/// What the file of the snapshot at `index` says. Its blocks are not looked at.
template <environment Env>
auto basic_snapshot_store<Env>::examine(file_parts& parts, index_t index) -> entry {
  entry found;
  found.index = index;
  std::error_code ec;
  const std::uint64_t size = parts.handle()->size(ec);
  if (ec) throw std::system_error(ec, "cannot read " + parts.path());
  const auto trailer = parts.load_trailer(size);
  if (!trailer) {
    found.damage = "its trailer is damaged";
  } else if (parts.load_header(size, size) != file_parts::verdict::good) {
    found.damage = "its header is damaged, or of another version";
  } else if (parts.header().at.index != index) {
    found.damage = "it holds the snapshot at index " + std::to_string(parts.header().at.index);
  } else if (parts.where().blocks() == 0 && parts.check() != trailer->checksum) {
    found.damage = "header and trailer do not belong together";
  } else {
    found.good = parts.info(trailer->checksum);
  }
  return found;
}

// --- what is shared ---------------------------------------------------------------------------------------------

template <environment Env>
void basic_snapshot_store<Env>::shared::throw_if_failed() const {
  if (!env) throw std::system_error(errc::closed, directory);
  if (failure) throw std::system_error(errc::log_failed, directory + " (" + failure.message() + ")");
}

template <environment Env>
void basic_snapshot_store<Env>::shared::remove_quietly(const std::string& name) noexcept {
  std::error_code ignored;
  if (env) env->remove(name, ignored);
}

// F1
template <environment Env>
awaitable<std::error_code> basic_snapshot_store<Env>::shared::sync(file_ptr of) {
  const std::error_code ec = co_await of->datasync(options.sync_where);
  if (ec && !mutated(mutant::go_on_after_failed_snapshot_sync)) failure = ec;
  co_return ec;
}

template <environment Env>
awaitable<std::error_code> basic_snapshot_store<Env>::shared::sync_directory() {
  if (!env) co_return errc::closed;
  const std::error_code ec = co_await env->sync_directory(directory, options.sync_where);
  if (ec) failure = ec;
  co_return ec;
}

/// D1. `of`, written under the name `from`, becomes the snapshot that `info` tells of.
template <environment Env>
awaitable<void> basic_snapshot_store<Env>::shared::publish(file_ptr of, std::string from, snapshot_info info) {
  const index_t index = info.id.at.index;
  // Once it has its name, it is seen through.
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  std::error_code ec;
  if (!mutated(mutant::publish_snapshot_before_sync)) ec = co_await sync(of);
  if (!ec && !env) ec = errc::closed;
  if (!ec) env->rename(from, path(index, suffix), ec);
  if (!ec && !mutated(mutant::skip_publish_directory_sync)) ec = co_await sync_directory();
  co_await this_coro::throw_if_cancelled(throws);
  if (ec) throw std::system_error(ec, "cannot make a snapshot of " + from);
  const auto behind =
      std::find_if(entries.begin(), entries.end(), [&](const entry& each) { return each.index >= index; });
  entry added;
  added.index = index;
  added.good = std::move(info);
  if (behind != entries.end() && behind->index == index) {
    *behind = std::move(added);
  } else {
    entries.insert(behind, std::move(added));
  }
}

// --- the writer -------------------------------------------------------------------------------------------------

template <environment Env>
basic_snapshot_store<Env>::writer::writer(passkey, std::shared_ptr<shared> of, position at, configuration config)
    : of_(std::move(of)),
      header_{of_->options.block_bytes, at, std::move(config)},
      path_(of_->path(at.index, log_files::temporary_suffix)) {
  assert(!of_->writing && at.index != 0);
  of_->writing = true;
}

template <environment Env>
void basic_snapshot_store<Env>::writer::begin() {
  std::error_code ec;
  file_ = std::make_shared<file>(of_->env->open(path_, open_mode::truncate, ec));
  if (ec) {
    file_.reset();
    throw std::system_error(ec, "cannot create " + path_);
  }
  byte_buffer encoded;
  header_.encode(encoded);
  check_ = load_le<std::uint64_t>(encoded.data() + encoded.size() - snapshot_format::check_bytes);
  const bytes_view whole = encoded.view();
  put({&whole, 1});
}

template <environment Env>
awaitable<void> basic_snapshot_store<Env>::writer::write(bytes_view state) {
  throw_if_over();
  const std::size_t block = header_.block_bytes;
  while (!state.empty()) {
    const std::size_t taken = std::min(block - pending_.size(), state.size());
    if (taken == block) {
      put_block(state.first(taken));
    } else {
      pending_.append(state.first(taken));
      if (pending_.size() == block) {
        put_block(pending_.view());
        pending_.clear();
      }
    }
    state = state.subspan(taken);
  }
  if (end_ - synced_ < of_->options.sync_bytes) co_return;
  const std::error_code ec = co_await of_->sync(file_);
  if (ec) throw std::system_error(ec, "cannot sync " + path_);
  synced_ = end_;
}

template <environment Env>
awaitable<snapshot_info> basic_snapshot_store<Env>::writer::finish() {
  throw_if_over();
  if (!pending_.empty()) put_block(pending_.view());
  const snapshot_format::trailer trailer{end_ + snapshot_format::trailer_bytes, check_};
  const auto encoded = trailer.encode();
  const bytes_view whole(encoded);
  put({&whole, 1});
  const snapshot_info info{{header_.at, end_, check_}, header_.config, state_bytes_};
  try {
    co_await of_->publish(file_, path_, info);
  } catch (...) {
    give_up();
    throw;
  }
  file_.reset();
  co_return info;
}

template <environment Env>
void basic_snapshot_store<Env>::writer::put_block(bytes_view state) {
  check_ = snapshot_format::block_check(check_, state);
  state_bytes_ += state.size();
  std::array<std::byte, snapshot_format::check_bytes> check;
  store_le(check.data(), check_);
  const std::array<bytes_view, 2> parts{state, bytes_view(check)};
  put(parts);
}

template <environment Env>
void basic_snapshot_store<Env>::writer::put(std::span<const bytes_view> parts) {
  std::error_code ec;
  file_->pwrite(end_, parts, ec);
  if (ec) {
    give_up();
    throw std::system_error(ec, "cannot write " + path_);
  }
  for (const bytes_view part : parts) end_ += part.size();
}

template <environment Env>
void basic_snapshot_store<Env>::writer::throw_if_over() const {
  of_->throw_if_failed();
  if (!file_) throw std::system_error(errc::closed, path_);
}

template <environment Env>
void basic_snapshot_store<Env>::writer::give_up() noexcept {
  if (!file_) return;
  file_.reset();
  of_->remove_quietly(path_);
}

// --- the reader -------------------------------------------------------------------------------------------------

template <environment Env>
bytes_view basic_snapshot_store<Env>::reader::load(std::uint64_t block) {
  if (loaded_ == block) return parts_.bytes();
  loaded_.reset();
  const bool is_good = parts_.load_block(block);
  const bool is_last = block + 1 == parts_.where().blocks();
  if (!is_good || (is_last && parts_.check() != info_.id.checksum)) {
    throw parts_.corrupt("the block at offset " + std::to_string(parts_.where().begin_of(block)) + " is damaged");
  }
  loaded_ = block;
  return parts_.bytes();
}

template <environment Env>
std::size_t basic_snapshot_store<Env>::reader::read(mutable_bytes into) {
  const std::size_t block_bytes = parts_.header().block_bytes;
  std::size_t done = 0;
  while (done < into.size() && read_ < info_.state_bytes) {
    const bytes_view encoded = load(read_ / block_bytes);
    const bytes_view state = encoded.first(encoded.size() - snapshot_format::check_bytes).subspan(read_ % block_bytes);
    const std::size_t taken = std::min(state.size(), into.size() - done);
    std::memcpy(into.data() + done, state.data(), taken);
    done += taken;
    read_ += taken;
  }
  return done;
}

template <environment Env>
bytes_view basic_snapshot_store<Env>::reader::chunk(std::uint64_t offset) {
  assert(offset < info_.id.bytes);
  const snapshot_format::geometry& where = parts_.where();
  if (offset >= where.trailer_begin()) {
    trailer_ = snapshot_format::trailer{info_.id.bytes, info_.id.checksum}.encode();
    return bytes_view(trailer_).subspan(offset - where.trailer_begin());
  }
  if (offset < where.header_bytes) {
    loaded_.reset();
    const auto found = parts_.load_header(info_.id.bytes, info_.id.bytes);
    if (found != file_parts::verdict::good) throw parts_.corrupt("its header is damaged");
    return parts_.bytes().subspan(offset);
  }
  const std::uint64_t block = where.block_at(offset);
  return load(block).subspan(offset - where.begin_of(block));
}

// --- the receiver -----------------------------------------------------------------------------------------------

template <environment Env>
basic_snapshot_store<Env>::receiver::receiver(passkey, std::shared_ptr<shared> of, const snapshot_id& id)
    : of_(std::move(of)),
      id_(id),
      path_(of_->path(id.at.index, part_suffix)),
      trailer_(snapshot_format::trailer{id.bytes, id.checksum}.encode()) {
  assert(!of_->receiving);
  of_->receiving = true;
}

// Opens what there is of it, or makes room for it. The trailer is there from the beginning: it says of what the rest
// is.
template <environment Env>
void basic_snapshot_store<Env>::receiver::begin() {
  std::error_code ec;
  const auto opened = std::make_shared<file>(of_->env->open(path_, open_mode::create, ec));
  if (ec) throw std::system_error(ec, "cannot open " + path_);
  parts_.emplace(opened, path_);
  try {
    const std::uint64_t size = opened->size(ec);
    if (ec) throw std::system_error(ec, "cannot read " + path_);
    const auto trailer = size == id_.bytes ? parts_->load_trailer(size) : std::nullopt;
    if (!trailer || (trailer->checksum != id_.checksum && !mutated(mutant::resume_another_snapshot))) {
      opened->truncate(0, ec);
      if (!ec) opened->allocate(0, id_.bytes, ec);
      if (ec == std::errc::not_supported) ec.clear();  // P3
      if (ec) throw std::system_error(ec, "cannot reserve " + path_);
    }
    put(trailer_begin(), trailer_);
  } catch (...) {
    give_up();
    throw;
  }
}

// F2. What a life before has written may be in the page cache only: what verifies is written once more.
template <environment Env>
awaitable<void> basic_snapshot_store<Env>::receiver::resume() {
  constexpr std::uint64_t at_once = 1u << 20;
  std::uint64_t paused = 0;
  for (;;) {
    try {
      const std::uint64_t begin = verified_;
      if (begin == trailer_begin() || verify_next(trailer_begin()) != file_parts::verdict::good) break;
      if (!mutated(mutant::resume_without_rewrite)) put(begin, parts_->bytes());
    } catch (...) {
      give_up();
      throw;
    }
    if (verified_ - paused < at_once) continue;
    paused = verified_;
    co_await asio::post(of_->env->get_executor(), use_awaitable);
    of_->throw_if_failed();
  }
  offset_ = verified_;
}

/// Verifies the part that follows, if it ends before `end`.
template <environment Env>
auto basic_snapshot_store<Env>::receiver::verify_next(std::uint64_t end) -> typename file_parts::verdict {
  using verdict = typename file_parts::verdict;
  std::uint64_t part_end = 0;
  if (verified_ == 0) {
    const verdict found = parts_->load_header(end, id_.bytes);
    if (found != verdict::good) return found;
    if (parts_->header().at != id_.at) return verdict::bad;
    part_end = parts_->where().header_bytes;
  } else {
    const std::uint64_t block = parts_->where().block_at(verified_);
    part_end = parts_->where().end_of(block);
    if (part_end > end) return verdict::incomplete;
    if (!parts_->load_block(block)) return verdict::bad;
  }
  if (part_end == trailer_begin() && parts_->check() != id_.checksum) return verdict::bad;
  verified_ = part_end;
  return verdict::good;
}

/// Verifies what is written up to `end`, as far as parts end there. @return false when something is not good.
template <environment Env>
bool basic_snapshot_store<Env>::receiver::verify(std::uint64_t end) {
  while (verified_ != end) {
    const auto found = verify_next(end);
    if (found == file_parts::verdict::incomplete) return end != trailer_begin();
    if (found == file_parts::verdict::bad) return false;
  }
  return true;
}

template <environment Env>
awaitable<void> basic_snapshot_store<Env>::receiver::write(std::uint64_t offset, bytes_view bytes) {
  throw_if_over();
  if (offset != offset_ || bytes.size() > id_.bytes - offset_) {
    throw std::system_error(errc::malformed, path_ + ": " + std::to_string(bytes.size()) + " bytes at " +
                                                 std::to_string(offset) + ", where those at " +
                                                 std::to_string(offset_) + " of " + std::to_string(id_.bytes) +
                                                 " were to follow");
  }
  const std::uint64_t before_trailer = trailer_begin() - std::min(offset, trailer_begin());
  const bytes_view parts = bytes.first(std::min<std::uint64_t>(bytes.size(), before_trailer));
  const bytes_view of_trailer = bytes.subspan(parts.size());
  bool good = true;
  try {
    if (!parts.empty()) put(offset, parts);
    offset_ += bytes.size();
    good = verify(std::min(offset_, trailer_begin()));
  } catch (...) {
    give_up();
    throw;
  }
  if (good && !of_trailer.empty()) {
    const std::uint64_t begin = offset_ - of_trailer.size() - trailer_begin();
    good = equal(of_trailer, bytes_view(trailer_).subspan(begin, of_trailer.size()));
  }
  if (!good) {
    offset_ = verified_;
    throw std::system_error(errc::corrupt, path_ + ": what arrived behind offset " + std::to_string(verified_) +
                                               " does not belong to the snapshot that was offered");
  }
  if (offset_ - std::min(synced_, offset_) < of_->options.sync_bytes) co_return;
  const file_ptr written = parts_->handle();
  const std::error_code ec = co_await of_->sync(written);
  if (ec) throw std::system_error(ec, "cannot sync " + path_);
  synced_ = offset_;
}

template <environment Env>
awaitable<snapshot_info> basic_snapshot_store<Env>::receiver::finish() {
  throw_if_over();
  assert(complete());
  const snapshot_info info = parts_->info(id_.checksum);
  const file_ptr written = parts_->handle();
  co_await of_->publish(written, path_, info);
  parts_.reset();
  co_return info;
}

template <environment Env>
void basic_snapshot_store<Env>::receiver::put(std::uint64_t offset, bytes_view bytes) {
  std::error_code ec;
  parts_->handle()->pwrite(offset, {&bytes, 1}, ec);
  if (ec) throw std::system_error(ec, "cannot write " + path_);
}

template <environment Env>
void basic_snapshot_store<Env>::receiver::throw_if_over() const {
  of_->throw_if_failed();
  if (!parts_) throw std::system_error(errc::closed, path_);
}

template <environment Env>
void basic_snapshot_store<Env>::receiver::give_up() noexcept {
  if (!parts_) return;
  parts_.reset();
  of_->remove_quietly(path_);
}

// --- the store --------------------------------------------------------------------------------------------------

template <environment Env>
auto basic_snapshot_store<Env>::open(Env& env, std::string directory, snapshot_options options)
    -> awaitable<std::unique_ptr<basic_snapshot_store>> {
  assert(options.block_bytes != 0 && options.block_bytes <= snapshot_format::max_block_bytes);
  auto store = std::make_unique<basic_snapshot_store>(passkey(), env, directory, options);
  std::vector<entry>& entries = store->shared_->entries;
  std::error_code ec;
  const std::vector<std::string> names = env.list(directory, ec);
  if (ec == std::errc::no_such_file_or_directory) env.create_directory(directory, ec);
  if (ec) throw std::system_error(ec, "cannot open snapshot directory " + directory);
  for (const std::string& name : names) {
    const index_t index = parse_name(name, suffix);
    if (index == 0) continue;
    const std::string path = log_files::join(directory, name);
    const auto opened = std::make_shared<file>(env.open(path, open_mode::read, ec));
    if (ec) throw std::system_error(ec, "cannot open " + path);
    file_parts parts(opened, path);
    entries.push_back(examine(parts, index));
  }
  std::sort(entries.begin(), entries.end(), [](const entry& a, const entry& b) { return a.index < b.index; });

  const bool damaged = std::any_of(entries.begin(), entries.end(), [](const entry& each) { return !each.good; });
  const index_t newest = entries.empty() ? 0 : entries.back().index;
  for (const std::string& name : names) {
    if (damaged) break;  // C7
    const index_t part = parse_name(name, part_suffix);
    const bool outdated = part != 0 && part <= newest;
    if (!outdated && parse_name(name, log_files::temporary_suffix) == 0) continue;
    env.remove(log_files::join(directory, name), ec);
    if (ec) throw std::system_error(ec, "cannot remove " + log_files::join(directory, name));
  }
  // D2; also when the directory was there: whoever made it may have died before.
  if (entries.empty() && !mutated(mutant::skip_snapshots_parent_sync)) {
    ec = co_await env.sync_directory(log_files::parent(directory), options.sync_where);
  }
  // F2. A name may be in the cache only.
  if (!ec && !mutated(mutant::trust_snapshot_names_at_open)) {
    ec = co_await env.sync_directory(directory, options.sync_where);
  }
  if (ec) throw std::system_error(ec, "cannot sync " + directory);
  co_return store;
}

template <environment Env>
std::optional<snapshot_info> basic_snapshot_store<Env>::newest_before(index_t index) const {
  const std::vector<entry>& entries = shared_->entries;
  const auto behind =
      std::find_if(entries.begin(), entries.end(), [&](const entry& each) { return each.index >= index; });
  if (behind == entries.begin()) return std::nullopt;
  const entry& found = *std::prev(behind);
  if (!found.good) {
    throw std::system_error(errc::corrupt,
                            shared_->path(found.index, suffix) + ": " + found.damage + "; nothing was changed");
  }
  return found.good;
}

template <environment Env>
auto basic_snapshot_store<Env>::begin(position at, configuration config) -> std::unique_ptr<writer> {
  shared_->throw_if_failed();
  auto result = std::make_unique<writer>(passkey(), shared_, at, std::move(config));
  result->begin();
  return result;
}

template <environment Env>
auto basic_snapshot_store<Env>::read(index_t index) const -> std::unique_ptr<reader> {
  const std::string path = shared_->path(index, suffix);
  std::error_code ec;
  const auto opened = std::make_shared<file>(shared_->env->open(path, open_mode::read, ec));
  if (ec) throw std::system_error(ec, "cannot open " + path);
  file_parts parts(opened, path);
  entry found = examine(parts, index);
  if (!found.good) throw parts.corrupt(found.damage);
  return std::make_unique<reader>(passkey(), std::move(parts), std::move(*found.good));
}

template <environment Env>
auto basic_snapshot_store<Env>::receive(snapshot_id id) -> awaitable<std::unique_ptr<receiver>> {
  shared_->throw_if_failed();
  if (id.at.index == 0 || id.bytes < snapshot_format::header_bytes(0) + snapshot_format::trailer_bytes) {
    throw std::system_error(errc::malformed, "a snapshot of " + std::to_string(id.bytes) + " bytes at index " +
                                                 std::to_string(id.at.index));
  }
  auto result = std::make_unique<receiver>(passkey(), shared_, id);
  std::error_code ec;
  for (const std::string& name : shared_->env->list(directory(), ec)) {
    const index_t index = parse_name(name, part_suffix);
    if (index == 0 || index == id.at.index) continue;
    shared_->env->remove(shared_->path(name), ec);
    if (ec) throw std::system_error(ec, "cannot remove " + shared_->path(name));
  }
  if (ec) throw std::system_error(ec, "cannot list " + directory());
  result->begin();
  co_await result->resume();
  co_return result;
}

template <environment Env>
awaitable<void> basic_snapshot_store<Env>::remove_older(std::size_t keep) {
  assert(keep != 0);
  shared_->throw_if_failed();
  std::vector<entry>& entries = shared_->entries;
  auto oldest_kept = entries.end();
  while (keep != 0 && oldest_kept != entries.begin()) {
    --oldest_kept;
    if (oldest_kept->good) --keep;
  }
  if (keep != 0 || oldest_kept == entries.begin()) co_return;
  for (const index_t end = oldest_kept->index; entries.front().index != end; entries.erase(entries.begin())) {
    const std::string path = shared_->path(entries.front().index, suffix);
    std::error_code ec;
    shared_->env->remove(path, ec);
    if (ec) throw std::system_error(ec, "cannot remove " + path);
  }
  const std::error_code ec = co_await shared_->sync_directory();
  if (ec) throw std::system_error(ec, "cannot sync " + directory());
}

}  // namespace lockstep::raft

// LevelDB's log writer, appending what lockstep appends in bench/log.cpp.
//
// The class is not in LevelDB's public interface: its static library has it, the shared one hides it.

#include <leveldb/env.h>
#include <leveldb/slice.h>
#include <leveldb/status.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "common.hpp"

// As declared in db/log_writer.h of LevelDB 1.23.
namespace leveldb::log {

enum record_type { max_record_type = 4 };

class Writer {
 public:
  explicit Writer(WritableFile* dest);
  ~Writer();
  Status AddRecord(const Slice& slice);

 private:
  [[maybe_unused]] WritableFile* dest_;
  [[maybe_unused]] int block_offset_;
  [[maybe_unused]] std::uint32_t type_crc_[max_record_type + 1];
};

}  // namespace leveldb::log

namespace lockstep::bench {
namespace {

void must(const leveldb::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

constexpr std::size_t warm_up_bytes = 8 << 20;
constexpr std::size_t timed_bytes = 48 << 20;

std::size_t records_in(std::size_t bytes, std::size_t payload_bytes) {
  return bytes / log_format::record_bytes(payload_bytes);
}

measurement leveldb_append(std::size_t payload_bytes) {
  const temporary file("leveldb.log");
  leveldb::WritableFile* opened = nullptr;
  must(leveldb::Env::Default()->NewWritableFile(file.path(), &opened));
  const std::unique_ptr<leveldb::WritableFile> to(opened);
  leveldb::log::Writer writer(to.get());
  payloads source(payload_bytes);
  const auto append = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const bytes_view payload = source.next();
      must(writer.AddRecord({reinterpret_cast<const char*>(payload.data()), payload.size()}));
    }
  };
  append(records_in(warm_up_bytes, payload_bytes) / 8);
  // It is so much slower that an eighth shows it.
  const std::size_t count = records_in(timed_bytes, payload_bytes) / 8;
  const stopwatch watch;
  append(count);
  const double seconds = watch.seconds();
  must(to->Close());
  return {seconds, count, 0};
}

measurement append(std::size_t payload_bytes) {
  const temporary directory("append-log");
  node on;
  log_options options;
  options.sync = sync_policy::never;
  std::unique_ptr<append_log> log;
  on.run(open_into(log, on.env, directory.path(), options));
  payloads source(payload_bytes);
  on.run(append_records(*log, source, payload_bytes, records_in(warm_up_bytes, payload_bytes)));
  const std::size_t count = records_in(timed_bytes, payload_bytes);
  const stopwatch watch;
  on.run(append_records(*log, source, payload_bytes, count));
  const double seconds = watch.seconds();
  on.run(log->close());
  return {seconds, count, 0};
}

const bool registered = [] {
  for (const record_size& size : record_sizes) {
    const std::string what = std::string("peers/leveldb/") + size.name;
    add(what + "/peer", 3, [size] { return leveldb_append(size.bytes); });
    add(what + "/lockstep", 5, [size] { return append(size.bytes); });
  }
  return true;
}();

}  // namespace
}  // namespace lockstep::bench

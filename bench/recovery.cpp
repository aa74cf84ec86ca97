// Finding out what a log directory holds, against the checksum of the same bytes and against bare reads of its headers.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/log/append_log.hpp"
#include "lockstep/log/directory.hpp"
#include "lockstep/log/verify.hpp"

namespace lockstep::bench {
namespace {

std::vector<std::string> segment_files(const std::string& directory) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() == ".seg") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::uint64_t bytes_in(const std::string& directory) {
  std::uint64_t sum = 0;
  for (const std::string& path : segment_files(directory)) sum += std::filesystem::file_size(path);
  return sum;
}

// --- Scan and verify -----------------------------------------------------------------------------------------------

constexpr std::uint64_t scanned_bytes = std::uint64_t{64} << 20;
constexpr std::uint64_t verified_bytes = std::uint64_t{256} << 20;

// One segment that is not sealed: all of it is scanned when the log is opened.
std::string log_with_long_tail(const record_size& size) {
  log_options options;
  options.sync = sync_policy::never;
  options.segment_bytes = 2 * scanned_bytes;
  return log_fixture(std::string("long-tail-") + size.name, size.bytes, scanned_bytes, options);
}

std::string log_with_segments(const record_size& size) {
  log_options options;
  options.sync = sync_policy::never;
  return log_fixture(std::string("segments-") + size.name, size.bytes, verified_bytes, options);
}

// XXH3 over each file, mapped as the log maps it.
measurement hash_files(const std::string& directory) {
  const std::vector<std::string> paths = segment_files(directory);
  const stopwatch watch;
  std::uint64_t bytes = 0;
  for (const std::string& path : paths) {
    const descriptor file(path, O_RDONLY);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) throw_errno("fstat");
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
    if (mapped == MAP_FAILED) throw_errno("mmap");
    benchmark::DoNotOptimize(xxh3_64({static_cast<const std::byte*>(mapped), size}));
    ::munmap(mapped, size);
    bytes += size;
  }
  return {watch.seconds(), 0, bytes};
}

measurement scan(const std::string& directory) {
  node on;
  const std::uint64_t bytes = bytes_in(directory);
  const stopwatch watch;
  log_directory found = log_directory::read(on.env, directory);
  const recovery_report report = found.recover(on.env, directory, 0);
  const double seconds = watch.seconds();
  if (report.verdict != log_verdict::clean || report.last_good.index == 0) throw std::runtime_error(report.reason);
  return {seconds, 0, bytes};
}

measurement verify(const std::string& directory) {
  node on;
  const std::uint64_t bytes = bytes_in(directory);
  const stopwatch watch;
  const verified_log found = verify_log(on.env, directory);
  const double seconds = watch.seconds();
  if (found.report.verdict != log_verdict::clean || found.bytes != bytes) throw std::runtime_error(found.report.reason);
  return {seconds, 0, bytes};
}

// --- Open ----------------------------------------------------------------------------------------------------------

// The segments' size should make no difference, so they are small.
std::string log_with_many_segments(std::size_t sealed) {
  log_options options;
  options.sync_where = sync_on::caller;
  options.segment_bytes = 64 << 10;
  options.prewrite_bytes = 0;
  const std::uint64_t in_segment = options.segment_bytes - log_format::segment_header_bytes;
  return log_fixture("many-segments-" + std::to_string(sealed), std::size_t{4} << 10, sealed * in_segment, options);
}

// What no way of opening can do without: list the directory, read each segment's header, and put a tail in place whose
// bytes are known to be on the disk.
measurement open_limit(const std::string& directory) {
  const temporary tail("open-limit");
  std::filesystem::create_directory(tail.path());
  const stopwatch watch;
  std::array<char, log_format::segment_header_used> header{};
  for (const std::string& path : segment_files(directory)) {
    const descriptor file(path, O_RDONLY);
    struct stat status {};
    if (::pread(file.get(), header.data(), header.size(), 0) < 0 || ::fstat(file.get(), &status) != 0) {
      throw_errno("read " + path);
    }
  }
  const std::string name = tail.path() + "/tail";
  const descriptor made(name + ".tmp", O_WRONLY | O_CREAT | O_TRUNC);
  const std::vector<char> bytes(log_format::segment_header_bytes + (4 << 10));
  write_all(made.get(), bytes.data(), bytes.size());
  if (::fdatasync(made.get()) != 0) throw_errno("fdatasync");
  std::filesystem::rename(name + ".tmp", name);
  const descriptor parent(tail.path(), O_RDONLY | O_DIRECTORY);
  if (::fsync(parent.get()) != 0) throw_errno("fsync");
  return {watch.seconds(), 1, 0};
}

measurement open_log(const std::string& directory) {
  node on;
  log_options options;
  options.sync_where = sync_on::caller;
  options.segment_bytes = 64 << 10;
  std::unique_ptr<append_log> log;
  const stopwatch watch;
  on.run(open_into(log, on.env, directory, options));
  const double seconds = watch.seconds();
  on.run(log->close());
  return {seconds, 1, 0};
}

const bool registered = [] {
  for (const record_size& size : record_sizes) {
    const std::string name = size.name;
    add("recovery/scan/" + name + "/limit", 5, [size] { return hash_files(log_with_long_tail(size)); });
    add("recovery/scan/" + name + "/lockstep", 5, [size] { return scan(log_with_long_tail(size)); });
    add("recovery/verify/" + name + "/limit", 3, [size] { return hash_files(log_with_segments(size)); });
    add("recovery/verify/" + name + "/lockstep", 3, [size] { return verify(log_with_segments(size)); });
  }
  for (const std::size_t sealed : {10, 100, 1000}) {
    const std::string what = "recovery/open/" + std::to_string(sealed) + "_sealed";
    add(what + "/limit", 15, [sealed] { return open_limit(log_with_many_segments(sealed)); });
    add(what + "/lockstep", 15, [sealed] { return open_log(log_with_many_segments(sealed)); });
  }
  return true;
}();

}  // namespace
}  // namespace lockstep::bench

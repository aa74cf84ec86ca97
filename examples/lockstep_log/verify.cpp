#include <chrono>
#include <optional>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "commands.hpp"
#include "common/progress.hpp"
#include "common/values.hpp"
#include "show.hpp"

namespace lockstep::examples {
namespace {

using clock = std::chrono::steady_clock;

/// A bar for work that turns out to be long.
class late_progress {
 public:
  void update(std::uint64_t done, std::uint64_t total) {
    if (!bar_ && clock::now() - start_ < patience) return;
    if (!bar_) bar_.emplace(options(total));
    bar_->update(done, total);
  }

 private:
  static constexpr auto patience = std::chrono::milliseconds(300);

  static progress_options options(std::uint64_t total) {
    progress_options result;
    result.label = "verifying";
    result.unit = progress_unit::bytes;
    result.total = total;
    result.log = [](const std::string& line) { spdlog::info(line); };
    return result;
  }

  clock::time_point start_ = clock::now();
  std::optional<progress> bar_;
};

}  // namespace

exit_code run_verify(const verify_arguments& arguments) {
  require_log_directory(arguments.directory);
  file_reader files;
  std::optional<late_progress> progress(std::in_place);
  verify_options options;
  options.depth = arguments.quick ? verify_depth::tail : verify_depth::all;
  options.known_durable = arguments.known_durable;
  options.threads = arguments.threads;
  options.progress = [&](std::uint64_t done, std::uint64_t total) { progress->update(done, total); };
  const auto start = clock::now();
  const verified_log log = verify_log(files.env, arguments.directory, options);
  const double seconds = std::chrono::duration<double>(clock::now() - start).count();
  progress.reset();
  spdlog::debug("verified {} in {:.3f} s, {}/s", format_size(static_cast<double>(log.bytes)), seconds,
                format_size(static_cast<double>(log.bytes) / seconds));

  const position& watermark = log.directory.watermark;
  report result;
  result.add("Directory", arguments.directory);
  result.add("Segments", log.directory.segments.size());
  result.add("Records", log.records);
  result.add("Bytes", log.bytes, fmt::format("{} ({})", log.bytes, format_size(static_cast<double>(log.bytes))));
  if (log.first) {
    result.add("First", json_of(*log.first), text_of(*log.first));
  } else {
    result.add("First", nullptr);
  }
  result.add("Last", json_of(log.report.last_good), text_of(log.report.last_good));
  if (watermark.index != 0) {
    result.add("Watermark", json_of(watermark), text_of(watermark));
  } else {
    result.add("Watermark", nullptr);
  }
  add_verdict(result, log);
  result.print(arguments.output);
  if (log.report.verdict == log_verdict::corrupt) throw corrupt_log(arguments.directory, log.report);
  return exit_code::ok;
}

}  // namespace lockstep::examples

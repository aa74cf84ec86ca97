#include <functional>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "commands.hpp"
#include "show.hpp"

namespace lockstep::examples {
namespace {

/// Prints what lies in the range and says where the printing ended.
class record_printer {
 public:
  explicit record_printer(const dump_arguments& arguments) : arguments_(arguments), next_(arguments.from.value_or(1)) {}

  /// @return false when nothing more is wanted.
  bool operator()(const record& found) {
    if (arguments_.output == output_format::json) {
      write_out(json_of(found, arguments_.payload).dump() + "\n");
    } else {
      write_out(text_of(found, arguments_.payload, arguments_.preview_bytes) + "\n");
    }
    next_ = found.index + 1;
    ++printed_;
    return printed_ != arguments_.limit && found.index != arguments_.to;
  }

  /// The index to go on with.
  [[nodiscard]] index_t next() const noexcept { return next_; }
  [[nodiscard]] std::uint64_t printed() const noexcept { return printed_; }

  /// The records up to `upto` are not kept any more.
  void skip(index_t upto) {
    if (next_ > upto) return;
    if (printed_ != 0 || arguments_.from) spdlog::warn("records {} to {} are not kept any more", next_, upto);
    next_ = upto + 1;
  }

 private:
  const dump_arguments& arguments_;
  index_t next_;
  std::uint64_t printed_ = 0;
};

void explain_end(const verified_log& log) {
  if (log.report.verdict != log_verdict::torn_tail) return;
  spdlog::warn("torn tail: opening the log cuts off from index {} ({})", *log.report.truncated_from, log.report.reason);
}

exit_error nothing_in_range(const log_reader& reader) {
  const index_t base = reader.base().index;
  const index_t last = reader.last().index;
  return {exit_code::negative, base == last ? "no such record: the log is empty"
                                            : fmt::format("no such record: the log holds {} to {}", base + 1, last)};
}

}  // namespace

exit_code run_dump(const dump_arguments& arguments) {
  if (arguments.from && arguments.to && *arguments.from > *arguments.to) {
    throw usage_error(fmt::format("--from {} lies behind --to {}", *arguments.from, *arguments.to));
  }
  require_log_directory(arguments.directory);
  file_reader files;
  record_printer printer(arguments);
  verify_options options;
  options.depth = verify_depth::tail;
  for (;;) {
    log_reader reader(files.env, arguments.directory, verify_log(files.env, arguments.directory, options));
    const recovery_report& known = reader.log().report;
    printer.skip(reader.base().index);
    if (arguments.to && printer.next() > *arguments.to) throw nothing_in_range(reader);
    try {
      const recovery_report read = reader.for_each(printer.next(), std::ref(printer));
      if (read.verdict == log_verdict::corrupt && known.verdict == log_verdict::corrupt) {
        throw corrupt_log(arguments.directory, known);
      }
      if (read.verdict != log_verdict::corrupt) {
        if (read.last_good == reader.last()) explain_end(reader.log());
        if (printer.printed() == 0 && arguments.from) throw nothing_in_range(reader);
        return exit_code::ok;
      }
      // Damage in a sealed segment, or a writer that changed it meanwhile: a full verification can tell.
      options.depth = verify_depth::all;
    } catch (const std::system_error& error) {
      if (error.code() != std::errc::no_such_file_or_directory) throw;  // compacted meanwhile
    }
  }
}

}  // namespace lockstep::examples

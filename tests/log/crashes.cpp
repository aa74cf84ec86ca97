// append_log: one story of a program, told again and again: it crashes at each of its operations, or the operation
// fails. Whatever the disk then holds, the log must be what was promised.
#include "lockstep/log/append_log.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

/// How much of the world a crash took.
enum class crash { of_the_process, of_the_machine };

/// What a program knows of its log: what it appended, and what it was promised.
struct knowledge {
  index_t begins_behind = 0;          ///< where the history begins
  strings records;                    ///< appended behind it
  index_t acknowledged = 0;           ///< durable() returned
  index_t synced = 0;                 ///< a sync of everything returned
  index_t compacted = 0;              ///< segments that hold only records up to here may be gone
  std::optional<index_t> cutting;     ///< a truncate_suffix() is under way
  std::optional<position> resetting;  ///< a reset() is under way
  int appends = 0;                    ///< so far, in all lives: no two records are equal

  [[nodiscard]] index_t last() const { return begins_behind + records.size(); }

  /// What is wrong with a log that holds `found` behind `base`; nothing when it is what was promised.
  [[nodiscard]] std::string objection(index_t base, const strings& found, index_t promised) const {
    if (resetting && base == resetting->index && found.empty()) return {};
    const index_t end = base + found.size();
    if (base < begins_behind) return "begins too early, behind " + std::to_string(base);
    if (base > begins_behind && base > compacted) return "begins too late, behind " + std::to_string(base);
    if (end > last()) return "has records up to " + std::to_string(end) + ", that nobody appended";
    for (index_t i = base + 1; i <= end; ++i) {
      const std::string& expected = records[i - begins_behind - 1];
      if (found[i - base - 1] != expected) return "record " + std::to_string(i) + " is not " + expected;
    }
    if (cutting) promised = std::min(promised, *cutting);
    if (end < promised) return "ends at " + std::to_string(end) + " of " + std::to_string(promised);
    return {};
  }

  /// The log was opened and holds this: it is all durable now.
  void adopt(index_t base, strings found) {
    begins_behind = base;
    records = std::move(found);
    acknowledged = synced = last();
    compacted = base;
    cutting.reset();
    resetting.reset();
  }
};

/// A program that keeps a log, and what it knows.
class program {
 public:
  program(faulty_disk& disk, const log_options& options, knowledge known = {})
      : disk_(disk), options_(options), known_(std::move(known)) {}

  [[nodiscard]] const knowledge& known() const { return known_; }
  [[nodiscard]] log_life& life() { return *life_; }

  using step = std::function<void(program&)>;

  /// Runs the steps until they end or the disk crashed. When a step fails otherwise, the next one follows, in a new
  /// life when the log has failed.
  void run(const std::vector<step>& steps) {
    for (const step& each : steps) {
      if (testing::Test::HasFatalFailure()) break;
      try {
        if (!life_ || !life_->log) open();
        if (testing::Test::HasFatalFailure()) break;
        each(*this);
      } catch (const std::system_error&) {
        if (disk_.crashed()) break;
        resolve();
      }
    }
    life_.reset();
  }

  /// The process was killed, or the machine lost power, when the last life ended.
  void after(crash what) {
    life_.reset();
    promised_ =
        what == crash::of_the_process || options_.sync == sync_policy::always ? known_.acknowledged : known_.synced;
  }

  void open() {
    life_.reset();
    life_ = std::make_unique<log_life>(disk_, options_);
    const recovery_report report = life_->open();
    ASSERT_TRUE(life_->log) << "rule " << testing::PrintToString(report.rule) << ": " << report.reason << "\n"
                            << disk_.story(60);
    const index_t base = life_->log->base().index;
    strings found;
    try {
      found = life_->contents();
    } catch (const std::system_error&) {
      life_.reset();  // killed
      throw;
    }
    const std::string objection = known_.objection(base, found, promised_.value_or(known_.acknowledged));
    ASSERT_EQ(objection, "") << testing::PrintToString(found) << " behind " << base << "\n" << disk_.story(60);
    ASSERT_EQ(report.last_good.index, life_->log->last().index);
    known_.adopt(base, std::move(found));
    promised_.reset();
  }

  std::string append() {
    const int serial = known_.appends++;
    const std::string payload =
        "record " + std::to_string(serial) + std::string(static_cast<std::size_t>(serial % 3 * 20), '.');
    // What was staged may be in the log from the moment of the call.
    known_.records.push_back(payload);
    try {
      life_->append(payload, std::max<epoch_t>(life_->log->last().epoch, 1));
    } catch (...) {
      known_.records.pop_back();
      throw;
    }
    return payload;
  }
  void burst(int count) {
    for (int i = 0; i < count; ++i) append();
    life_->durable();
    known_.acknowledged = known_.last();
  }
  void one_by_one(int count) {
    for (int i = 0; i < count; ++i) burst(1);
  }
  void together(int writers, int each) {
    std::vector<started<void>> running;
    for (int i = 0; i < writers; ++i) running.push_back(start(life_->io, write(each)));
    for (auto& writer : running) {
      ASSERT_TRUE(run_until(life_->io, [&] { return writer.done(); }));
    }
    for (auto& writer : running) writer.result();
  }
  void sync() {
    const index_t last = known_.last();
    life_->sync();
    known_.acknowledged = known_.synced = last;
  }
  void cut(index_t keep) {
    known_.cutting = keep;
    life_->truncate(keep);
    cut_was_made(keep);
  }
  void compact(index_t first_kept) {
    known_.compacted = std::max(known_.compacted, first_kept - 1);
    life_->compact(first_kept);
  }
  void reset(const position& begin) {
    known_.resetting = begin;
    life_->reset(begin);
    known_.adopt(begin.index, {});
  }
  void close() {
    const index_t last = known_.last();
    life_->close();
    known_.acknowledged = last;
    if (options_.sync != sync_policy::never) known_.synced = last;
    life_.reset();
  }

 private:
  awaitable<void> write(int count) {
    for (int i = 0; i < count; ++i) {
      append();
      const index_t mine = known_.last();
      co_await life_->log->durable(mine);
      known_.acknowledged = std::max(known_.acknowledged, mine);
    }
  }

  void cut_was_made(index_t keep) {
    known_.records.resize(keep - known_.begins_behind);
    known_.acknowledged = known_.synced = keep;
    known_.cutting.reset();
  }

  // A step failed. The log says what became of it, or a new life finds out.
  void resolve() {
    if (!life_ || !life_->log) return;
    if (life_->log->failure()) {
      (void)error_of([&] { test::run(life_->io, life_->log->close()); });
      life_.reset();
      return;
    }
    if (known_.cutting && life_->log->last().index == *known_.cutting) cut_was_made(*known_.cutting);
    known_.cutting.reset();
    known_.resetting.reset();
  }

  faulty_disk& disk_;
  log_options options_;
  knowledge known_;
  std::optional<index_t> promised_;  // by the life before, when it ended by a crash
  std::unique_ptr<log_life> life_;
};

/// Records of 40 to 88 bytes; a segment holds about six. Everything that a log can do is done once, and some of it into
/// files that are used again.
std::vector<program::step> story() {
  return {
      [](program& it) { it.burst(4); },          [](program& it) { it.together(3, 2); },
      [](program& it) { it.burst(9); },          [](program& it) { it.sync(); },
      [](program& it) { it.compact(14); },       [](program& it) { it.one_by_one(3); },
      [](program& it) { it.burst(8); },          [](program& it) { it.cut(it.known().last() - 9); },
      [](program& it) { it.burst(3); },          [](program& it) { it.close(); },
      [](program& it) { it.burst(5); },          [](program& it) { it.append(), it.append(); },
      [](program& it) { it.reset({2, 7, 99}); }, [](program& it) { it.burst(2); },
  };
}

/// The second half of the story, which begins with a log to recover.
std::vector<program::step> second_life() {
  return {
      [](program& it) { it.burst(2); },
      [](program& it) { it.close(); },
  };
}

struct crash_case {
  sync_policy policy;
  sync_on where;
  bool allocates;
};

struct append_log_crashes : testing::TestWithParam<crash_case> {
  [[nodiscard]] static log_options options() {
    log_options options = small_options(GetParam().policy, GetParam().where);
    options.recycled_segments = 1;
    return options;
  }
  static void prepare(faulty_disk& disk) {
    if (GetParam().allocates) return;
    disk.inject({.kinds = {op_kind::allocate},
                 .error = std::make_error_code(std::errc::not_supported),
                 .how_often = times::from_then_on});
  }
};

std::string name_of_case(const testing::TestParamInfo<crash_case>& info) {
  return testing::PrintToString(info.param.policy) + "_on_" + testing::PrintToString(info.param.where) +
         (info.param.allocates ? "" : "_without_allocate");
}

INSTANTIATE_TEST_SUITE_P(stories, append_log_crashes,
                         testing::Values(crash_case{sync_policy::always, sync_on::disk_thread, true},
                                         crash_case{sync_policy::always, sync_on::caller, false},
                                         crash_case{sync_policy::interval, sync_on::disk_thread, true},
                                         crash_case{sync_policy::interval, sync_on::caller, false},
                                         crash_case{sync_policy::never, sync_on::disk_thread, true},
                                         crash_case{sync_policy::never, sync_on::caller, false}),
                         name_of_case);

crash crash_of(const std::string& image) {
  return image == "process crash" ? crash::of_the_process : crash::of_the_machine;
}

TEST_P(append_log_crashes, the_story_ends_well_when_nothing_happens) {
  faulty_disk disk;
  prepare(disk);
  program it(disk, options());
  it.run(story());
  it.run(second_life());
  RecordProperty("operations", static_cast<int>(disk.operations()));
}

/// Tells the story with a crash at each operation, from `first` in steps of `step`, and shows each image of each crash.
template <class Check>
void for_each_crash_of_the_story(std::uint64_t first, std::uint64_t step, std::size_t images, std::uint64_t short_write,
                                 const Check& check) {
  for (std::uint64_t at = first;; at += step) {
    faulty_disk disk;
    append_log_crashes::prepare(disk);
    disk.crash_at(at, short_write);
    program it(disk, append_log_crashes::options());
    it.run(story());
    for_each_crash_image(disk, images, [&](faulty_disk& image, const std::string& which) {
      if (testing::Test::HasFatalFailure()) return;
      SCOPED_TRACE("crash at operation " + std::to_string(at) + ", " + which + "\n" + disk.story(12));
      check(it.known(), image, crash_of(which));
    });
    if (!disk.crashed() || testing::Test::HasFatalFailure()) return;
  }
}

TEST_P(append_log_crashes, at_every_operation_the_log_recovers_as_promised) {
  for_each_crash_of_the_story(0, 1, 16, 0, [](const knowledge& known, faulty_disk& image, crash what) {
    program next(image, options(), known);
    next.after(what);
    next.run(second_life());
    // And what the second life was promised is there for the third.
    program third(image, options(), next.known());
    third.after(crash::of_the_process);
    third.run({[](program&) {}});
  });
}

TEST_P(append_log_crashes, also_when_the_last_write_was_torn) {
  for (const std::uint64_t torn : std::initializer_list<std::uint64_t>{1, 47, 600}) {
    for_each_crash_of_the_story(torn % 3, 3, 6, torn, [](const knowledge& known, faulty_disk& image, crash what) {
      program next(image, options(), known);
      next.after(what);
      next.run(second_life());
    });
  }
}

TEST_P(append_log_crashes, also_when_the_recovery_crashes_in_turn) {
  for_each_crash_of_the_story(2, 11, 3, 0, [](const knowledge& known, faulty_disk& image, crash what) {
    for (std::uint64_t at = 0;; ++at) {
      faulty_disk again = image.process_crash();  // a copy
      again.crash_at(at);
      program next(again, options(), known);
      next.after(what);
      next.run(second_life());
      ASSERT_FALSE(testing::Test::HasFatalFailure());
      for_each_crash_image(again, 3, [&](faulty_disk& image_of_both, const std::string& which) {
        if (testing::Test::HasFatalFailure()) return;
        SCOPED_TRACE("then at operation " + std::to_string(at) + " of the recovery, " + which + "\n" + again.story());
        program last(image_of_both, options(), next.known());
        // Before open() returned, the promises are those of the first life.
        last.after(what == crash::of_the_machine ? what : crash_of(which));
        last.run(second_life());
      });
      if (!again.crashed()) break;
    }
  });
}

TEST_P(append_log_crashes, an_operation_that_fails_breaks_no_promise) {
  for (const int error : {EIO, ENOSPC}) {
    for (std::uint64_t at = 0;; ++at) {
      faulty_disk disk;
      prepare(disk);
      disk.fail_operation(at, error);
      program it(disk, options());
      {
        SCOPED_TRACE("operation " + std::to_string(at) + " fails");
        it.run(story());
      }
      ASSERT_FALSE(HasFatalFailure());
      for_each_crash_image(disk, 3, [&](faulty_disk& image, const std::string& which) {
        if (HasFatalFailure()) return;
        SCOPED_TRACE("operation " + std::to_string(at) + " fails, then " + which);
        program next(image, options(), it.known());
        next.after(crash_of(which));
        next.run(second_life());
      });
      ASSERT_FALSE(HasFatalFailure());
      if (at >= disk.operations()) break;  // not reached
    }
  }
}

TEST_P(append_log_crashes, an_operation_that_fails_and_a_crash_soon_after_break_no_promise) {
  for (std::uint64_t at = 1;; at += 5) {
    faulty_disk disk;
    prepare(disk);
    disk.fail_operation(at, EIO);
    disk.crash_at(at + 1 + at % 7);
    program it(disk, options());
    it.run(story());
    ASSERT_FALSE(HasFatalFailure());
    for_each_crash_image(disk, 5, [&](faulty_disk& image, const std::string& which) {
      if (HasFatalFailure()) return;
      SCOPED_TRACE("operation " + std::to_string(at) + " fails, then crash, " + which);
      program next(image, options(), it.known());
      next.after(crash_of(which));
      next.run(second_life());
    });
    ASSERT_FALSE(HasFatalFailure());
    if (!disk.crashed()) break;
  }
}

}  // namespace
}  // namespace lockstep::test

// lockstep-log, the real program, on log directories made by the library; and log/verify.hpp under a writer that
// changes files at the worst moment.
#include "lockstep/log/verify.hpp"

#include "lockstep/frame/codec.hpp"
#include "lockstep/frame/hello.hpp"
#include "lockstep/log.hpp"
#include "run.hpp"
#include "support/process.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::e2e {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// Ten records of 104 bytes each fill a segment.
constexpr std::size_t payload_size = 104 - log_format::record_header_bytes;
constexpr std::size_t per_segment = 10;

log_options small_segments() {
  log_options options;
  options.segment_bytes = log_format::segment_header_bytes + per_segment * 104;
  options.sync_where = sync_on::caller;
  options.reserve_bytes = 0;
  options.prewrite_bytes = 0;
  return options;
}

std::string payload(index_t index) {
  std::string text = "payload " + std::to_string(index) + " ";
  text.resize(payload_size, '.');
  return text;
}

/// A log that a test writes step by step.
class writer {
 public:
  explicit writer(const std::string& directory, const log_options& options = small_segments()) {
    auto opened = test::run(io_, append_log::open(env_, directory, options));
    report = opened.report;
    log_ = std::move(opened.log);
  }
  writer(const writer&) = delete;
  ~writer() { close(); }

  writer& append(std::size_t count, epoch_t epoch = 1) {
    for (std::size_t i = 0; i < count; ++i) log_->append(epoch, as_bytes(payload(log_->last().index + 1)));
    return *this;
  }
  writer& append(std::string_view bytes, record_kind kind = data_record, epoch_t epoch = 1) {
    log_->append(epoch, as_bytes(bytes), kind);
    return *this;
  }
  writer& durable() {
    test::run(io_, log_->durable(log_->last().index));
    return *this;
  }
  writer& sync() {
    test::run(io_, log_->sync());
    return *this;
  }
  writer& compact(index_t first_kept) {
    (void)test::run(io_, log_->compact_prefix(first_kept));
    return *this;
  }
  writer& truncate(index_t keep) {
    test::run(io_, log_->truncate_suffix(keep));
    return *this;
  }
  position close() {
    if (!log_) return {};
    test::run(io_, log_->close());
    const position last = log_->last();
    log_.reset();
    return last;
  }

  [[nodiscard]] append_log& log() { return *log_; }

  recovery_report report;

 private:
  asio::io_context io_;
  real::env env_{io_.get_executor()};
  std::unique_ptr<append_log> log_;
};

position make_log(const std::string& directory, std::size_t records) {
  return writer(directory).append(records).close();
}

run_result lockstep_log(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), std::string(LOCKSTEP_BIN_DIR) + "/lockstep-log");
  return run(std::move(arguments));
}

std::string text_of(const position& at) {
  std::array<char, 80> text;
  std::snprintf(text.data(), text.size(), "epoch %llu, index %llu, chain %016llx",
                static_cast<unsigned long long>(at.epoch), static_cast<unsigned long long>(at.index),
                static_cast<unsigned long long>(at.chain));
  return text.data();
}

std::string hex_chain(const position& at) { return text_of(at).substr(text_of(at).size() - 16); }

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// --- files ---------------------------------------------------------------------------------------------------------

std::string segment(const std::string& directory, index_t first) {
  return log_files::join(directory, log_files::segment_name(first));
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void flip_byte(const std::string& path, std::size_t offset) {
  std::string bytes = read_file(path);
  bytes.at(offset) = static_cast<char>(bytes.at(offset) ^ 1);
  write_file(path, bytes);
}

/// Where record `index` of make_log() stands in its segment.
std::size_t offset_of(index_t index) { return log_format::segment_header_bytes + (index - 1) % per_segment * 104; }

void flip_payload_byte(const std::string& directory, index_t index) {
  flip_byte(segment(directory, (index - 1) / per_segment * per_segment + 1), offset_of(index) + 40);
}

/// The first bytes of the record that would follow `last`.
std::string half_a_record(const position& last, std::size_t bytes = 50) {
  const std::string text = payload(last.index + 1);
  const bytes_view view = as_bytes(text);
  std::string encoded(log_format::record_bytes(text.size()), '\0');
  log_codec::encode_record(reinterpret_cast<std::byte*>(encoded.data()), last, last.epoch, data_record, {&view, 1});
  return encoded.substr(0, bytes);
}

void append_to_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::app) << bytes;
}

std::string watermark_bytes(const position& at) {
  std::string bytes(log_format::watermark_bytes, '\0');
  log_codec::encode_watermark(reinterpret_cast<std::byte*>(bytes.data()), at);
  return bytes;
}

/// Every file with its content.
std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& each : std::filesystem::directory_iterator(directory)) {
    files[each.path().filename().string()] = read_file(each.path().string());
  }
  return files;
}

// --- the examples of docs/formats.md -------------------------------------------------------------------------------

std::string hex(bytes_view bytes) {
  std::string text;
  for (const std::byte each : bytes) {
    std::array<char, 4> two;
    std::snprintf(two.data(), two.size(), "%02x", static_cast<unsigned>(each));
    text += two.data();
  }
  return text;
}

TEST(formats, AreAsTheDocumentSays) {
  const bytes_view hello_text = as_bytes("hello");
  std::array<std::byte, 40> bytes;
  const position at = log_codec::encode_record(bytes.data(), {}, 1, data_record, {&hello_text, 1});
  EXPECT_EQ(hex(bytes),
            "0500000081be77ec01000000000000000001000000000000c20552773b17a940"
            "68656c6c6f000000");

  segment_header header;
  header.flags = log_format::predecessor_sealed;
  header.base = at;
  header.previous_first = 1;
  header.predecessor_bytes = log_format::segment_header_bytes + bytes.size();
  header.created_ns = 1'700'000'000'000'000'000;
  header.in_flight_limit = 16 << 20;
  std::array<std::byte, log_format::segment_header_bytes> page;
  header.encode(page);
  EXPECT_EQ(hex(bytes_view(page).first(80)),
            "4c4f434b534547310100000001000000"
            "01000000000000000100000000000000"
            "c20552773b17a9400100000000000000"
            "281000000000000000002a36fe9c9717"
            "00000001000000006057eb1bab2f83d5");

  std::array<std::byte, frame_header_bytes> frame;
  encode_frame_header(frame.data(), {4, frame_flag::none, 7}, 5, xxh3_64(hello_text));
  EXPECT_EQ(hex(frame), "05000000040000000700000000000000c13a167560be4f1f");
  encode_frame_header(frame.data(), {22, frame_flag::self_checked, 7}, 40, 0);
  EXPECT_EQ(hex(frame), "2800000016010000070000000000000039f8f5c8b531d896");

  hello offer;
  offer.node = 2;
  offer.cluster = "orders";
  byte_buffer encoded;
  encode_hello(encoded, offer);
  EXPECT_EQ(hex(encoded.view()),
            "6c6f636b737465700100310001000000"
            "02000000000000000000000000000000"
            "066f72646572730000a115d40d4c18d09f");
}

// --- the command line ----------------------------------------------------------------------------------------------

TEST(lockstep_log_cli, HelpBeginsWithExamplesAndEndsWithExitCodes) {
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{}, {"verify"}, {"dump"}, {"diff"}, {"segments"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    const run_result result = lockstep_log(arguments);
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.out, StartsWith("Examples:\n  # "));
    EXPECT_THAT(result.out, HasSubstr("\n  lockstep-log " + (command.empty() ? "verify" : command.front())));
    EXPECT_THAT(result.out, HasSubstr("Exit codes:"));
    EXPECT_EQ(result.err, "");
  }
}

TEST(lockstep_log_cli, SaysItsVersion) {
  const run_result result = lockstep_log({"--version"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, StartsWith("lockstep-log "));
}

TEST(lockstep_log_cli, WrongArgumentsAreNamedAndExitWith2) {
  const temp_dir dir;
  make_log(dir / "log", 1);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases{
      {{}, "a command is missing"},
      {{"frobnicate"}, "frobnicate"},
      {{"verify"}, "DIR"},
      {{"verify", dir / "log", "--frobnicate"}, "--frobnicate"},
      {{"verify", dir / "log", "--threads", "0"}, "'0': expected a number from 1 to 256"},
      {{"verify", dir / "log", "-o", "yaml"}, "'yaml': expected text or json"},
      {{"dump", dir / "log", "--from", "0"}, "'0': expected an index, from 1 on"},
      {{"dump", dir / "log", "--from", "-1"}, "'-1': expected an index, from 1 on"},
      {{"dump", dir / "log", "--payload", "xml"}, "'xml': expected none, text or hex"},
      {{"dump", dir / "log", "--from", "9", "--to", "8"}, "--from 9 lies behind --to 8"},
      {{"diff", dir / "log"}, "SECOND"},
  };
  for (const auto& [arguments, text] : cases) {
    const run_result result = lockstep_log(arguments);
    EXPECT_EQ(result.code, 2) << text;
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, StartsWith("lockstep-log: error: "));
    EXPECT_THAT(result.err, HasSubstr(text));
  }
}

TEST(lockstep_log_cli, WhatIsNoLogDirectoryIsAWrongArgument) {
  const temp_dir dir;
  make_log(dir / "log", 1);
  write_file(dir / "file", "text");
  for (const std::string command : {"verify", "dump", "segments"}) {
    EXPECT_EQ(lockstep_log({command, dir / "missing"}).code, 2);
    EXPECT_THAT(lockstep_log({command, dir / "missing"}).err, HasSubstr("there is no directory " + (dir / "missing")));
    EXPECT_EQ(lockstep_log({command, dir / "file"}).code, 2);
    EXPECT_THAT(lockstep_log({command, dir / "file"}).err, HasSubstr("is not a directory"));
    const run_result above = lockstep_log({command, dir.path().string()});
    EXPECT_EQ(above.code, 2);
    EXPECT_THAT(above.err, HasSubstr("is not a log directory: it holds no segment; " + (dir / "log") + " does"));
  }
  EXPECT_EQ(lockstep_log({"diff", dir / "log", dir / "missing"}).code, 2);
  EXPECT_EQ(lockstep_log({"diff", dir / "missing", dir / "log"}).code, 2);
}

// --- verify --------------------------------------------------------------------------------------------------------

TEST(lockstep_log_verify, ACleanLogIsGood) {
  const temp_dir dir;
  const position last = make_log(dir / "log", 35);
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  EXPECT_THAT(result.out, HasSubstr("Segments:  4\n"));
  EXPECT_THAT(result.out, HasSubstr("Records:   35\n"));
  EXPECT_THAT(result.out, HasSubstr("Bytes:     " + std::to_string(4 * 4096 + 35 * 104) + " (19.6 KiB)\n"));
  EXPECT_THAT(result.out, HasSubstr("First:     epoch 1, index 1, chain "));
  EXPECT_THAT(result.out, HasSubstr("Last:      " + text_of(last) + "\n"));
  EXPECT_THAT(result.out, HasSubstr("Watermark: " + text_of(last) + "\n"));
  EXPECT_THAT(result.out, HasSubstr("Verdict:   clean\n"));
}

TEST(lockstep_log_verify, AnEmptyLogIsGood) {
  const temp_dir dir;
  make_log(dir / "log", 0);
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("Records:   0\n"));
  EXPECT_THAT(result.out, HasSubstr("First:     -\n"));
}

TEST(lockstep_log_verify, TakesNoLockAndChangesNoFileWhileAWriterHoldsTheDirectory) {
  const temp_dir dir;
  writer held(dir / "log");
  held.append(35).durable().compact(21);
  const auto before = contents(dir / "log");
  for (const char* command : {"verify", "dump", "segments"}) {
    const run_result result = lockstep_log({command, dir / "log"});
    EXPECT_EQ(result.code, 0) << result.err;
  }
  EXPECT_EQ(lockstep_log({"diff", dir / "log", dir / "log"}).code, 0);
  EXPECT_EQ(contents(dir / "log"), before);
}

TEST(lockstep_log_verify, RecycledFilesAreGood) {
  const temp_dir dir;
  {
    writer log(dir / "log");
    log.append(31).durable();
    for (int i = 0; i < 14; ++i) log.append(3).durable().compact(log.log().last().index - 12);
  }
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("Verdict:   clean\n"));
  EXPECT_THAT(lockstep_log({"segments", dir / "log"}).out, HasSubstr("open, recycled file"));
}

TEST(lockstep_log_verify, ATornTailIsNoCorruptionAndEndsWhereOpeningCutsOff) {
  const temp_dir dir;
  const position last = make_log(dir / "log", 35);
  append_to_file(segment(dir / "log", 31), half_a_record(last));
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("torn tail: opening the log cuts off from index 36\n"));
  EXPECT_THAT(result.out, HasSubstr(log_files::segment_name(31)));
  EXPECT_THAT(result.out, HasSubstr(std::to_string(offset_of(36)) + "\n"));
  EXPECT_THAT(result.out, HasSubstr("record 36: cut off\n"));
  EXPECT_THAT(result.out, HasSubstr(text_of(last)));
  EXPECT_EQ(writer(dir / "log").report.truncated_from, 36);
  EXPECT_THAT(lockstep_log({"verify", dir / "log"}).out, HasSubstr("Verdict:   clean\n"));
}

struct damage {
  std::string name;
  std::function<void(const std::string& directory)> inflict;
  std::vector<std::string> says;
};

void PrintTo(const damage& each, std::ostream* out) { *out << each.name; }

class lockstep_log_damage : public testing::TestWithParam<damage> {};

TEST_P(lockstep_log_damage, IsCorruptionThatIsNamed) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  GetParam().inflict(dir / "log");
  const auto before = contents(dir / "log");
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 7) << result.out;
  for (const std::string& text : GetParam().says) EXPECT_THAT(result.out, HasSubstr(text));
  EXPECT_THAT(result.err, StartsWith("lockstep-log: error: " + (dir / "log") + " is corrupt: "));
  EXPECT_EQ(contents(dir / "log"), before);

  const run_result as_json = lockstep_log({"verify", dir / "log", "-o", "json"});
  EXPECT_EQ(as_json.code, 7);
  const json parsed = json::parse(as_json.out);
  EXPECT_EQ(parsed.at("verdict"), "corrupt");
  EXPECT_LE(parsed.at("first_bad"), parsed.at("last_bad"));
  EXPECT_LT(parsed.at("last").at("index"), parsed.at("first_bad")) << as_json.out;

  const run_result dump = lockstep_log({"dump", dir / "log"});
  EXPECT_EQ(dump.code, 7);
  EXPECT_EQ(lines_of(dump.out).size(), parsed.at("last").at("index")) << dump.out;
}

const std::vector<damage> damages{
    {"PayloadInASealedSegment",
     [](const std::string& log) { flip_payload_byte(log, 13); },
     {"CORRUPT: records 13 to 20\n", "C1: ", "00000000000000000011.seg\n", "Offset:    4304\n", "checksum mismatch"}},
    {"RecordHeaderInASealedSegment",
     [](const std::string& log) { flip_byte(segment(log, 11), offset_of(20) + 3); },
     {"CORRUPT: record 20\n", "C1: ", "header check mismatch"}},
    {"ChainInASealedSegment",
     [](const std::string& log) { flip_byte(segment(log, 1), offset_of(10) + 24); },
     {"CORRUPT: record 10\n", "C1: ", "checksum mismatch"}},
    {"PayloadInTheTailBelowTheWatermark",
     [](const std::string& log) { flip_payload_byte(log, 33); },
     {"CORRUPT: records 33 to 35\n", "C2: ", "00000000000000000031.seg\n", "the watermark says that 35 was durable"}},
    {"MissingMiddleSegment",
     [](const std::string& log) { std::filesystem::remove(segment(log, 11)); },
     {"CORRUPT: records 11 to 20\n", "structure: ", "missing"}},
    {"MissingLastSegment",
     [](const std::string& log) { std::filesystem::remove(segment(log, 31)); },
     {"CORRUPT: records 31 to 35\n", "C2: "}},
    {"SealedSegmentCutShort",
     [](const std::string& log) { std::filesystem::resize_file(segment(log, 21), offset_of(25) + 60); },
     {"C1: ", "00000000000000000021.seg\n"}},
    {"SegmentHeader",
     [](const std::string& log) { flip_byte(segment(log, 21), 17); },
     {"structure: ", "00000000000000000021.seg\n", "header is unreadable"}},
    {"RenamedSegment",
     [](const std::string& log) { std::filesystem::rename(segment(log, 31), segment(log, 32)); },
     {"structure: ", "00000000000000000032.seg\n", "header is that of another segment"}},
};

INSTANTIATE_TEST_SUITE_P(kinds, lockstep_log_damage, testing::ValuesIn(damages),
                         [](const auto& each) { return each.param.name; });

TEST(lockstep_log_verify, ASegmentOfAnotherHistoryIsFound) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  writer(dir / "other").append(12).append(23, 2).close();
  std::filesystem::copy_file(segment(dir / "other", 11), segment(dir / "log", 11),
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(lockstep_log({"verify", dir / "log", "--quick"}).code, 0);  // its first record follows, and its size fits
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 7) << result.out;
}

TEST(lockstep_log_verify, AWatermarkOfAnotherHistoryIsFound) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  const position other = writer(dir / "other").append(32, 2).close();
  write_file((dir / "log") + "/watermark", watermark_bytes(other));
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 7) << result.out;
  EXPECT_THAT(result.out, HasSubstr("C2: "));
  EXPECT_THAT(result.out, HasSubstr("record 32: the watermark names another record than stands here"));
}

TEST(lockstep_log_verify, WhatIsKnownDurableFromElsewhereMustBeThere) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  EXPECT_EQ(lockstep_log({"verify", dir / "log", "--known-durable", "35"}).code, 0);
  const run_result result = lockstep_log({"verify", dir / "log", "--known-durable", "36"});
  EXPECT_EQ(result.code, 7);
  EXPECT_THAT(result.out, HasSubstr("C3: "));
  EXPECT_THAT(result.out, HasSubstr("CORRUPT: record 36\n"));
}

TEST(lockstep_log_verify, MoreThanCanHaveBeenInFlightIsCorruption) {
  const temp_dir dir;
  log_options options = small_segments();
  options.max_unsynced_bytes = 200;
  options.max_payload_bytes = 100;
  {
    writer log(dir / "log", options);
    for (int i = 0; i < 8; ++i) log.append(1).durable();
  }
  std::filesystem::remove((dir / "log") + "/watermark");
  flip_payload_byte(dir / "log", 8);
  EXPECT_EQ(lockstep_log({"verify", dir / "log"}).code, 0);  // could be a torn write
  flip_payload_byte(dir / "log", 3);
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 7);
  EXPECT_THAT(result.out, HasSubstr("C4: "));
}

TEST(lockstep_log_verify, QuickReadsWhatOpeningReads) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  flip_payload_byte(dir / "log", 13);
  const run_result quick = lockstep_log({"verify", dir / "log", "--quick"});
  EXPECT_EQ(quick.code, 0);
  EXPECT_THAT(quick.out, HasSubstr("Records:   35\n"));
  flip_payload_byte(dir / "log", 33);
  EXPECT_EQ(lockstep_log({"verify", dir / "log", "--quick"}).code, 7);
}

TEST(lockstep_log_verify, ACompactedLogIsGood) {
  const temp_dir dir;
  writer(dir / "log").append(35).durable().compact(21);
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("Records:   15\n"));
  EXPECT_THAT(result.out, HasSubstr("First:     epoch 1, index 21, chain "));
}

TEST(lockstep_log_verify, AResetThatWasCutShortIsAnnounced) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  const position to{4, 100, 0xabc};
  write_file((dir / "log") + "/reset", watermark_bytes(to));
  std::filesystem::remove(segment(dir / "log", 11));
  const run_result result = lockstep_log({"verify", dir / "log"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr(text_of(to) + ": a reset is under way or was cut short"));
  EXPECT_EQ(writer(dir / "log").log().last(), to);
}

TEST(lockstep_log_verify, AnyNumberOfThreadsFindsTheSame) {
  const temp_dir dir;
  make_log(dir / "log", 995);
  const std::string one = lockstep_log({"verify", dir / "log", "--threads", "1"}).out;
  EXPECT_THAT(one, HasSubstr("Records:   995\n"));
  EXPECT_EQ(lockstep_log({"verify", dir / "log", "--threads", "7"}).out, one);
  flip_payload_byte(dir / "log", 555);
  flip_payload_byte(dir / "log", 777);
  for (const char* threads : {"1", "7"}) {
    const run_result result = lockstep_log({"verify", dir / "log", "--threads", threads});
    EXPECT_EQ(result.code, 7);
    EXPECT_THAT(result.out, HasSubstr("CORRUPT: records 555 to 560\n"));
  }
}

TEST(lockstep_log_verify, JsonSaysTheSame) {
  const temp_dir dir;
  const position last = make_log(dir / "log", 35);
  const json clean = json::parse(lockstep_log({"verify", dir / "log", "-o", "json"}).out);
  EXPECT_EQ(clean.at("directory"), dir / "log");
  EXPECT_EQ(clean.at("segments"), 4);
  EXPECT_EQ(clean.at("records"), 35);
  EXPECT_EQ(clean.at("first").at("index"), 1);
  EXPECT_EQ(clean.at("last"), (json{{"epoch", 1}, {"index", 35}, {"chain", hex_chain(last)}}));
  EXPECT_EQ(clean.at("watermark"), clean.at("last"));
  EXPECT_EQ(clean.at("verdict"), "clean");

  append_to_file(segment(dir / "log", 31), half_a_record(last));
  const json torn = json::parse(lockstep_log({"verify", dir / "log", "-o", "json"}).out);
  EXPECT_EQ(torn.at("verdict"), "torn_tail");
  EXPECT_EQ(torn.at("truncated_from"), 36);
  EXPECT_EQ(torn.at("offset"), offset_of(36));
}

TEST(lockstep_log_verify, AFileThatCannotBeReadEndsItWithAMessage) {
  const temp_dir dir;
  log_options options;
  options.sync_where = sync_on::caller;
  {
    writer log(dir / "log", options);
    for (int i = 0; i < 4000; ++i) log.append(std::string(1000, 'x'));
  }
  // The reader waits on a full pipe while the file under its mapping shrinks.
  const std::string script = "set -o pipefail; '" + std::string(LOCKSTEP_BIN_DIR) + "/lockstep-log' dump '" +
                             (dir / "log") + "' --preview 0 | { head -c 1000 >/dev/null; truncate -s 8192 '" +
                             segment(dir / "log", 1) + "'; cat >/dev/null; }";
  const run_result result = run({"bash", "-c", script});
  EXPECT_EQ(result.code, 70);
  EXPECT_THAT(result.err, HasSubstr("lockstep-log: error: cannot read a file of the log"));
}

// --- dump ----------------------------------------------------------------------------------------------------------

TEST(lockstep_log_dump, PrintsOneLineARecord) {
  const temp_dir dir;
  writer log(dir / "log");
  log.append("first").append("two\nlines\\", record_kind{16}).append(std::string_view("\x00\xff", 2), data_record, 3);
  log.append("", epoch_record, 4).append("caf\xc3\xa9", data_record, 4).durable();
  const std::vector<std::string> lines = lines_of(lockstep_log({"dump", dir / "log"}).out);
  ASSERT_EQ(lines.size(), 5);
  const auto chain = [&](index_t index) { return hex_chain(*log.log().position_at(index)); };
  EXPECT_EQ(lines[0], "       1    1 data        5 " + chain(1) + " first");
  EXPECT_EQ(lines[1], "       2    1 16         10 " + chain(2) + " two\\x0alines\\\\");
  EXPECT_EQ(lines[2], "       3    3 data        2 " + chain(3) + " \\x00\\xff");
  EXPECT_EQ(lines[3], "       4    4 epoch       0 " + chain(4) + " ");
  EXPECT_EQ(lines[4], "       5    4 data        5 " + chain(5) + " caf\xc3\xa9");
}

TEST(lockstep_log_dump, PrintsPayloadsAsAsked) {
  const temp_dir dir;
  const std::string hundred(100, 'x');
  writer(dir / "log").append(hundred).append("ab").append(std::string(63, '.') + "\xc3\xa9").close();
  const auto last_words = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"dump", dir / "log"});
    std::vector<std::string> words;
    for (const std::string& line : lines_of(lockstep_log(arguments).out))
      words.push_back(line.substr(line.rfind(' ') + 1));
    return words;
  };
  EXPECT_EQ(last_words({})[0], std::string(64, 'x') + "...");
  EXPECT_EQ(last_words({})[2], std::string(63, '.') + "...");  // not half a character
  EXPECT_EQ(last_words({"--preview", "3"})[0], "xxx...");
  EXPECT_EQ(last_words({"--preview", "0"})[0], hundred);
  EXPECT_EQ(last_words({"--payload", "hex"})[1], "6162");
  EXPECT_EQ(last_words({"--payload", "none"})[1].size(), 16);  // the chain
}

TEST(lockstep_log_dump, PrintsTheRangeThatWasAskedFor) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  const auto indexes = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"dump", dir / "log", "-o", "json", "--payload", "none"});
    const run_result result = lockstep_log(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<index_t> found;
    for (const std::string& line : lines_of(result.out)) found.push_back(json::parse(line).at("index"));
    return found;
  };
  using list = std::vector<index_t>;
  EXPECT_EQ(indexes({}).size(), 35);
  EXPECT_EQ(indexes({"--from", "19", "--to", "22"}), (list{19, 20, 21, 22}));
  EXPECT_EQ(indexes({"--from", "34"}), (list{34, 35}));
  EXPECT_EQ(indexes({"--to", "2"}), (list{1, 2}));
  EXPECT_EQ(indexes({"--from", "11", "--limit", "1"}), (list{11}));
  EXPECT_EQ(indexes({"--limit", "3"}), (list{1, 2, 3}));

  const run_result beyond = lockstep_log({"dump", dir / "log", "--from", "36"});
  EXPECT_EQ(beyond.code, 1);
  EXPECT_THAT(beyond.err, HasSubstr("no such record: the log holds 1 to 35"));
}

TEST(lockstep_log_dump, JsonLinesHoldWholePayloads) {
  const temp_dir dir;
  const std::string long_text(5000, 'x');
  writer log(dir / "log");
  log.append(long_text).append("\"quoted\"\n", record_kind{20}).append(std::string_view("\x00\xff", 2), data_record, 3);
  log.durable();
  const std::vector<std::string> lines = lines_of(lockstep_log({"dump", dir / "log", "-o", "json"}).out);
  ASSERT_EQ(lines.size(), 3);
  EXPECT_EQ(json::parse(lines[0]).at("payload"), long_text);
  EXPECT_EQ(json::parse(lines[1]), (json{{"index", 2},
                                         {"epoch", 1},
                                         {"kind", 20},
                                         {"length", 9},
                                         {"chain", hex_chain(*log.log().position_at(2))},
                                         {"payload", "\"quoted\"\n"}}));
  EXPECT_EQ(json::parse(lines[2]).at("payload"), (json{{"hex", "00ff"}}));
}

TEST(lockstep_log_dump, PrintsWhatIsGoodBeforeDamageAndThenFails) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  flip_payload_byte(dir / "log", 13);
  const run_result result = lockstep_log({"dump", dir / "log"});
  EXPECT_EQ(result.code, 7);
  EXPECT_EQ(lines_of(result.out).size(), 12);
  EXPECT_THAT(result.err, HasSubstr("is corrupt: record 13: checksum mismatch"));
  EXPECT_EQ(lockstep_log({"dump", dir / "log", "--to", "12"}).code, 0);
  EXPECT_EQ(lockstep_log({"dump", dir / "log", "--from", "21"}).code, 0);
}

TEST(lockstep_log_dump, EndsAtATornTailWithAWarning) {
  const temp_dir dir;
  const position last = make_log(dir / "log", 35);
  append_to_file(segment(dir / "log", 31), half_a_record(last));
  const run_result result = lockstep_log({"dump", dir / "log"});
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(lines_of(result.out).size(), 35);
  EXPECT_THAT(result.err, HasSubstr("torn tail: opening the log cuts off from index 36 (record 36: cut off)"));
  EXPECT_EQ(lockstep_log({"dump", dir / "log", "--limit", "35"}).err, "");
}

TEST(lockstep_log_dump, SaysWhatIsNotKeptAnyMore) {
  const temp_dir dir;
  writer(dir / "log").append(35).durable().compact(21);
  EXPECT_EQ(lines_of(lockstep_log({"dump", dir / "log"}).out).size(), 15);
  EXPECT_EQ(lockstep_log({"dump", dir / "log"}).err, "");
  const run_result result = lockstep_log({"dump", dir / "log", "--from", "15"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("records 15 to 20 are not kept any more"));
  EXPECT_THAT(lines_of(result.out).at(0), StartsWith("      21 "));
}

// --- diff ----------------------------------------------------------------------------------------------------------

TEST(lockstep_log_diff, TheSameHistoryInOtherSegmentsIsEqual) {
  const temp_dir dir;
  log_options large = small_segments();
  large.segment_bytes = 1 << 20;
  const position last = make_log(dir / "a", 35);
  writer(dir / "b", large).append(35).close();
  writer(dir / "c").append(35).durable().compact(21);
  for (const std::string other : {"a", "b", "c"}) {
    const run_result result = lockstep_log({"diff", dir / "a", dir / other});
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out, HasSubstr("Verdict:        equal\n"));
    EXPECT_THAT(result.out, HasSubstr("Last Common:    " + text_of(last) + "\n"));
  }
}

TEST(lockstep_log_diff, APrefixIsSaidToBeOne) {
  const temp_dir dir;
  make_log(dir / "a", 35);
  const position end = make_log(dir / "b", 34);
  make_log(dir / "empty", 0);
  const run_result shorter = lockstep_log({"diff", dir / "a", dir / "b"});
  EXPECT_EQ(shorter.code, 1);
  EXPECT_THAT(shorter.out, HasSubstr("the second is a prefix: the first goes on for 1 record\n"));
  EXPECT_THAT(shorter.out, HasSubstr("Last Common:    " + text_of(end) + "\n"));
  EXPECT_THAT(shorter.out, HasSubstr("Next In First:  35 "));
  EXPECT_THAT(shorter.out, HasSubstr("Next In Second: -\n"));
  const run_result longer = lockstep_log({"diff", dir / "empty", dir / "a"});
  EXPECT_EQ(longer.code, 1);
  EXPECT_THAT(longer.out, HasSubstr("the first is a prefix: the second goes on for 35 records\n"));
  EXPECT_THAT(longer.out, HasSubstr("empty (no records)\n"));
}

TEST(lockstep_log_diff, FindsTheFirstDifferingIndexWhereverItLies) {
  const temp_dir dir;
  log_options large = small_segments();
  large.segment_bytes = log_format::segment_header_bytes + 17 * 104;
  make_log(dir / "a", 35);
  for (const index_t common : std::vector<index_t>{0, 1, 9, 10, 11, 19, 20, 22, 30, 33, 34}) {
    const std::string other = dir / ("b" + std::to_string(common));
    const std::size_t rest = 40 - common;
    const position last_common = [&] {
      writer log(other, large);
      log.append(common).durable();
      const position last = log.log().last();
      log.append(rest, 2);
      return last;
    }();
    const run_result result = lockstep_log({"diff", dir / "a", other});
    const std::string next = std::to_string(common + 1);
    EXPECT_EQ(result.code, 1) << result.err;
    EXPECT_THAT(result.out, HasSubstr("Verdict:         different from index " + next + " on\n"));
    EXPECT_THAT(result.out, HasSubstr("First Differing: " + next + "\n"));
    EXPECT_THAT(result.out, HasSubstr("Last Common:     " + text_of(last_common) + "\n"));
    EXPECT_THAT(result.out, HasSubstr("Next In First:   " + next + "    1 data"));
    EXPECT_THAT(result.out, HasSubstr("Next In Second:  " + next + "    2 data"));
  }
}

TEST(lockstep_log_diff, SaysWhenNoCommonPositionIsKept) {
  const temp_dir dir;
  make_log(dir / "a", 15);
  writer(dir / "b").append(5, 2).append(30, 2).durable().compact(11);
  writer(dir / "c").append(35).durable().compact(31);
  const run_result before = lockstep_log({"diff", dir / "a", dir / "b"});
  EXPECT_EQ(before.code, 1);
  EXPECT_THAT(before.out, HasSubstr("different at index 10, before which they keep nothing to compare\n"));
  EXPECT_THAT(before.out, HasSubstr("Last Common:     -\n"));
  const run_result apart = lockstep_log({"diff", dir / "a", dir / "c"});
  EXPECT_EQ(apart.code, 1);
  EXPECT_THAT(apart.out, HasSubstr("not comparable: one ends before the other begins to keep records\n"));
}

TEST(lockstep_log_diff, ReadsNoPayloadsFarFromTheDifference) {
  const temp_dir dir;
  make_log(dir / "a", 95);
  writer(dir / "b").append(63).append(32, 2).close();
  flip_payload_byte(dir / "a", 5);
  EXPECT_THAT(lockstep_log({"diff", dir / "a", dir / "b"}).out, HasSubstr("different from index 64 on\n"));
  const run_result verified = lockstep_log({"diff", dir / "a", dir / "b", "--verify"});
  EXPECT_EQ(verified.code, 7);
  EXPECT_EQ(verified.out, "");
  EXPECT_THAT(verified.err, HasSubstr((dir / "a") + " is corrupt: record 5: checksum mismatch"));
}

TEST(lockstep_log_diff, DamageIsNotTakenForADifference) {
  const temp_dir dir;
  make_log(dir / "a", 95);
  make_log(dir / "longer", 96);
  writer(dir / "b").append(63).append(32, 2).close();
  // A damaged chain that the bisection may or may not meet must not show as the first difference.
  for (const index_t damaged :
       std::vector<index_t>{1, 2, 10, 11, 24, 30, 47, 48, 55, 59, 60, 61, 62, 63, 64, 65, 66, 70, 71, 90}) {
    const std::size_t chain = offset_of(damaged) + 24;
    const std::string file = segment(dir / "a", (damaged - 1) / per_segment * per_segment + 1);
    flip_byte(file, chain);
    const run_result different = lockstep_log({"diff", dir / "b", dir / "a"});
    if (different.code == 1) {
      EXPECT_THAT(different.out, HasSubstr("different from index 64 on\n")) << damaged;
    } else {
      EXPECT_EQ(different.code, 7) << damaged;
      EXPECT_THAT(different.err, HasSubstr("record " + std::to_string(damaged) + ": ")) << damaged;
    }
    flip_byte(file, chain);
  }
  flip_payload_byte(dir / "a", 93);
  EXPECT_EQ(lockstep_log({"diff", dir / "a", dir / "longer"}).code, 7);
}

TEST(lockstep_log_diff, JsonSaysTheSame) {
  const temp_dir dir;
  make_log(dir / "a", 35);
  writer(dir / "b").append(21).append(3, 2).close();
  const json different = json::parse(lockstep_log({"diff", dir / "a", dir / "b", "-o", "json"}).out);
  EXPECT_EQ(different.at("verdict"), "diverged");
  EXPECT_EQ(different.at("first_differing"), 22);
  EXPECT_EQ(different.at("last_common").at("index"), 21);
  EXPECT_EQ(different.at("next_in_first").at("payload"), payload(22));
  EXPECT_EQ(different.at("next_in_first").at("epoch"), 1);
  EXPECT_EQ(different.at("next_in_second").at("epoch"), 2);
  EXPECT_EQ(different.at("first").at("last").at("index"), 35);
  const json equal = json::parse(lockstep_log({"diff", dir / "a", dir / "a", "-o", "json"}).out);
  EXPECT_EQ(equal.at("verdict"), "equal");
  EXPECT_TRUE(equal.at("next_in_first").is_null());
}

// --- segments ------------------------------------------------------------------------------------------------------

TEST(lockstep_log_segments, ListsEachFileWithItsRange) {
  const temp_dir dir;
  make_log(dir / "log", 35);
  const std::vector<std::string> lines = lines_of(lockstep_log({"segments", dir / "log"}).out);
  ASSERT_EQ(lines.size(), 5);
  EXPECT_THAT(lines[2], StartsWith("00000000000000000011.seg         11         20         5136"));
  EXPECT_THAT(lines[2], HasSubstr("sealed"));
  EXPECT_THAT(lines[4], HasSubstr("open"));
  const std::vector<std::string> as_json = lines_of(lockstep_log({"segments", dir / "log", "-o", "json"}).out);
  ASSERT_EQ(as_json.size(), 4);
  EXPECT_EQ(json::parse(as_json[3]).at("last"), 35);
  EXPECT_EQ(json::parse(as_json[1]).at("base").at("index"), 10);
}

// --- beside a running writer ---------------------------------------------------------------------------------------

/// Appends, seals, compacts, recycles and perhaps takes back, until destroyed.
class busy_writer {
 public:
  busy_writer(const std::string& directory, sync_policy policy, bool takes_back) : log_(directory, options(policy)) {
    log_.append(50).durable();
    thread_ = std::jthread([this, takes_back](const std::stop_token& stop) {
      for (epoch_t round = 2; !stop.stop_requested(); ++round) {
        log_.append(23, round).durable();
        if (round % 5 == 0) log_.sync();  // only what is synced is compacted
        if (takes_back && round % 3 == 0) log_.truncate(log_.log().last().index - 17);
        log_.compact(log_.log().last().index - std::min<index_t>(log_.log().last().index, 200));
        rounds = round;
      }
    });
  }
  std::atomic<epoch_t> rounds = 0;

 private:
  static log_options options(sync_policy policy) {
    log_options result = small_segments();
    result.sync = policy;
    return result;
  }

  writer log_;
  std::jthread thread_;
};

class lockstep_log_beside_a_writer : public testing::TestWithParam<std::tuple<sync_policy, bool>> {};

TEST_P(lockstep_log_beside_a_writer, NeverMistakesItsWorkForDamage) {
  const temp_dir dir;
  const busy_writer writer(dir / "log", std::get<0>(GetParam()), std::get<1>(GetParam()));
  while (writer.rounds < 15) std::this_thread::yield();
  for (int i = 0; i < 25 || writer.rounds < 40; ++i) {
    const run_result verify = lockstep_log({"verify", dir / "log"});
    EXPECT_EQ(verify.code, 0) << verify.out << verify.err;
    EXPECT_THAT(verify.out, HasSubstr("clean"));
    const run_result dump = lockstep_log({"dump", dir / "log"});
    EXPECT_EQ(dump.code, 0) << dump.err;
    EXPECT_THAT(lines_of(dump.out).size(), testing::Ge(50));
    const run_result diff = lockstep_log({"diff", dir / "log", dir / "log"});
    EXPECT_LE(diff.code, 1) << diff.out << diff.err;
    EXPECT_EQ(lockstep_log({"segments", dir / "log"}).code, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(that, lockstep_log_beside_a_writer,
                         testing::Combine(testing::Values(sync_policy::always, sync_policy::never), testing::Bool()),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param) == sync_policy::always ? "SyncsAlways"
                                                                                             : "SyncsNever") +
                                  (std::get<1>(each.param) ? "AndTakesBack" : "");
                         });

// --- log/verify.hpp, with something happening between two of its steps ---------------------------------------------

/// Calls `before_open(name)` before a file is opened.
class meddled_env : public real::env {
 public:
  using real::env::env;
  std::function<void(const std::string& name)> before_open = [](const std::string&) {};

  file open(const std::string& path, open_mode mode, std::error_code& ec) {
    before_open(path.substr(path.rfind('/') + 1));
    return real::env::open(path, mode, ec);
  }
};

class verify_beside_a_change : public testing::Test {
 protected:
  /// Runs `change` before the `nth` opening of `name`.
  void at_open(const std::string& name, int nth, std::function<void()> change) {
    env.before_open = [name, left = nth, change = std::move(change)](const std::string& opened) mutable {
      if (opened == name && --left == 0) change();
    };
  }

  temp_dir dir;
  const std::string log = dir / "log";
  asio::io_context io;
  meddled_env env{io.get_executor()};
  int opened_first = 0;
};

TEST_F(verify_beside_a_change, ASegmentCompactedAfterItWasListedIsNoDamage) {
  writer log_writer(log);
  log_writer.append(35).durable();
  for (const int nth : {1, 2}) {  // for its header, and for its records
    const index_t oldest = log_writer.log().first_index();
    at_open(log_files::segment_name(oldest), nth, [&] { log_writer.compact(oldest + per_segment); });
    const verified_log found = verify_log(env, log);
    EXPECT_EQ(found.report.verdict, log_verdict::clean) << found.report.reason;
    EXPECT_EQ(found.base.index, oldest + per_segment - 1);
    EXPECT_EQ(found.report.last_good, log_writer.log().last());
  }
}

TEST_F(verify_beside_a_change, RecordsSyncedAfterTheFilesWereListedAreNotMissed) {
  writer log_writer(log);
  log_writer.append(35).durable();
  int readings = 0;
  env.before_open = [&](const std::string& name) {
    if (name != log_files::segment_name(1)) return;
    if (++readings == 1) log_writer.append(25).durable();
  };
  verify_options tail;
  tail.depth = verify_depth::tail;  // opens the first segment for its header, and for its first record
  const verified_log found = verify_log(env, log, tail);
  EXPECT_EQ(found.report.verdict, log_verdict::clean) << found.report.reason;
  EXPECT_EQ(readings, 2);  // not even for a moment
}

TEST_F(verify_beside_a_change, ATailThatIsBeingWrittenIsNotTorn) {
  const position last = make_log(log, 35);
  const std::string next = half_a_record(last, 104);
  append_to_file(segment(log, 31), next.substr(0, 60));
  // The second opening reads the records; the third begins the second reading.
  at_open(log_files::segment_name(31), 3,
          [&] { append_to_file(segment(log, 31), next.substr(60) + next.substr(0, 20)); });
  const verified_log found = verify_log(env, log);
  EXPECT_EQ(found.report.verdict, log_verdict::clean) << found.report.reason;
  EXPECT_TRUE(found.being_written);
  EXPECT_EQ(found.report.last_good.index, 36);
}

TEST_F(verify_beside_a_change, RecordsTakenBackAndWrittenAnewAreNoDamage) {
  writer log_writer(log);
  for (const int nth : {1, 2}) {
    const auto epoch = static_cast<epoch_t>(nth);
    log_writer.append(40 - log_writer.log().last().index, epoch).durable();
    at_open(log_files::segment_name(31), nth, [&] { log_writer.truncate(15).append(18, epoch + 1).durable(); });
    const verified_log found = verify_log(env, log);
    EXPECT_EQ(found.report.verdict, log_verdict::clean) << found.report.reason;
    EXPECT_EQ(found.report.last_good, log_writer.log().last());
  }
}

TEST_F(verify_beside_a_change, FilesThatNeverHoldStillAreReported) {
  make_log(log, 35);
  index_t damaged = 31;
  env.before_open = [&](const std::string& name) {
    if (name != log_files::watermark) return;
    flip_payload_byte(log, damaged);
    damaged = damaged == 35 ? 31 : damaged + 1;
    flip_payload_byte(log, damaged);
  };
  flip_payload_byte(log, damaged);
  EXPECT_EQ(test::error_of([&] { verify_log(env, log); }), std::errc::resource_unavailable_try_again);
}

TEST_F(verify_beside_a_change, AComparisonOutlivesCompaction) {
  writer a(log);
  a.append(95).durable();
  writer(dir / "b").append(3).append(92, 2).close();
  // Both were verified when the bisection opens a sealed segment of one.
  bool compacted = false;
  env.before_open = [&](const std::string& name) {
    if (name != log_files::segment_name(1) || compacted || ++opened_first < 3) return;
    compacted = true;
    a.compact(11);
  };
  verify_options tail;
  tail.depth = verify_depth::tail;
  const log_comparison found = compare_logs(env, log, dir / "b", tail);
  EXPECT_TRUE(compacted);
  EXPECT_EQ(found.relation, log_relation::diverged);
  EXPECT_EQ(found.last_common, std::nullopt);
  EXPECT_EQ(found.first_differing, 10);
}

TEST(verify_log_progress, EndsWithAllOfIt) {
  const temp_dir dir;
  make_log(dir / "log", 95);
  asio::io_context io;
  real::env env(io.get_executor());
  std::vector<std::uint64_t> seen;
  std::uint64_t all = 0;
  verify_options options;
  options.threads = 3;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    seen.push_back(done);
    all = total;
  };
  verify_log(env, dir / "log", options);
  ASSERT_EQ(seen.size(), 10);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), all);
  EXPECT_EQ(all, 10 * 4096 + 95 * 104);
}

}  // namespace
}  // namespace lockstep::e2e

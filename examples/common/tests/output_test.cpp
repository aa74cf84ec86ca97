#include "common/output.hpp"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <stdexcept>
#include <system_error>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/exit_codes.hpp"

namespace lockstep::examples {
namespace {

using namespace std::string_literals;

TEST(escape, KeepsPrintableText) {
  EXPECT_EQ(escape("Nairobi 42 !\"'"), "Nairobi 42 !\"'");
  EXPECT_EQ(escape("Zürich, 東京, 🦀"), "Zürich, 東京, 🦀");
  EXPECT_EQ(escape(""), "");
}

TEST(escape, ShowsControlCharactersAndBackslashes) {
  EXPECT_EQ(escape("a\tb\nc\x1b[31m"), "a\\x09b\\x0ac\\x1b[31m");
  EXPECT_EQ(escape("nul\0end"s), "nul\\x00end");
  EXPECT_EQ(escape("\x7f"), "\\x7f");
  EXPECT_EQ(escape("C:\\x41"), "C:\\\\x41");
  EXPECT_EQ(escape("\xc2\x9b"), "\\xc2\\x9b") << "the one-character escape sequence";
}

TEST(escape, ShowsCharactersThatHideOrReorderText) {
  EXPECT_EQ(escape("a\u202eb"), "a\\xe2\\x80\\xaeb");
  EXPECT_EQ(escape("a\u200bb"), "a\\xe2\\x80\\x8bb");
  EXPECT_EQ(escape("\ufeff"), "\\xef\\xbb\\xbf");
}

TEST(escape, ShowsInvalidUtf8ByteByByte) {
  EXPECT_EQ(escape("\xff\xfe"), "\\xff\\xfe");
  EXPECT_EQ(escape("ok\x80ok"), "ok\\x80ok");
  EXPECT_EQ(escape("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(escape("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(escape("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "surrogate";
  EXPECT_EQ(escape("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(escape("\xe6\x9d"), "\\xe6\\x9d") << "cut short";
  EXPECT_EQ(escape("\xe6\x9d"
                   "A"),
            "\\xe6\\x9d"
            "A")
      << "cut short";
}

TEST(escape, IsUndoneByUnescape) {
  std::string every_byte;
  for (int b = 0; b < 256; ++b) every_byte += static_cast<char>(b);
  for (const std::string& bytes : {every_byte, "Zürich \\x41"s, ""s, "\\"s}) {
    EXPECT_EQ(unescape(escape(bytes)), bytes);
  }
}

TEST(unescape, RejectsOtherBackslashes) {
  for (const char* text : {"\\", "a\\n", "\\x", "\\x4", "\\xg0", "\\x0g"}) {
    EXPECT_THROW((void)unescape(text), std::invalid_argument) << text;
  }
}

TEST(shown, IsExactWhenRaw) {
  EXPECT_EQ(shown("\x01", true), "\x01");
  EXPECT_EQ(shown("\x01", false), "\\x01");
}

TEST(json_bytes, IsTextWhenItCanBe) {
  EXPECT_EQ(json_bytes("Zürich\n").dump(), "\"Zürich\\n\"");
  EXPECT_EQ(json_bytes("\xff\x01").dump(), R"({"hex":"ff01"})");
}

TEST(report, AlignsLabelsAndValues) {
  report r;
  r.add("Last Synced Segment", 3).add("Total Entries", 42).add("Health", "ok");
  EXPECT_EQ(r.text(),
            "Last Synced Segment: 3\n"
            "Total Entries:       42\n"
            "Health:              ok\n");
}

TEST(report, HasSnakeCaseKeysInOrder) {
  report r;
  r.add("Last Synced Segment", 3).add("Lag (ms)", nullptr).add("Log Size", 2048, "2.0 KiB");
  EXPECT_EQ(r.object().dump(), R"({"last_synced_segment":3,"lag_ms":null,"log_size":2048})");
  EXPECT_NE(r.text().find("2.0 KiB"), std::string::npos);
  EXPECT_NE(r.text().find("-"), std::string::npos);
}

TEST(report, EscapesTextButNotJson) {
  report r;
  r.add("Key", "a\nb");
  EXPECT_EQ(r.text(), "Key: a\\x0ab\n");
  EXPECT_EQ(r.object().dump(), R"({"key":"a\nb"})");
}

TEST(report, PrintsTheChosenFormat) {
  report r;
  r.add("Total Entries", 1);
  testing::internal::CaptureStdout();
  r.print(output_format::text);
  r.print(output_format::json);
  flush_out();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "Total Entries: 1\n{\n  \"total_entries\": 1\n}\n");
}

TEST(parse_output_format, KnowsTextAndJson) {
  EXPECT_EQ(parse_output_format("text"), output_format::text);
  EXPECT_EQ(parse_output_format("json"), output_format::json);
  EXPECT_THROW((void)parse_output_format("xml"), std::invalid_argument);
}

/// In a process of its own: write to a standard output that is `fd`, and exit with what came of it.
[[noreturn]] void write_to(int fd) {
  std::signal(SIGPIPE, SIG_IGN);
  ::dup2(fd, STDOUT_FILENO);
  try {
    write_out("result\n");
    flush_out();
  } catch (const exit_error& error) {
    ::_exit(error.code() == exit_code::ok && std::string_view(error.what()).empty() ? 10 : 11);
  } catch (const std::system_error& error) {
    ::_exit(error.code() == std::errc::no_space_on_device ? 20 : 21);
  }
  ::_exit(0);
}

TEST(write_out, EndsQuietlyWhenTheReaderHasGone) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  EXPECT_EXIT(write_to(ends[1]), testing::ExitedWithCode(10), "");
  ::close(ends[1]);
}

TEST(write_out, ReportsAFullDisk) {
  const int full = ::open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  EXPECT_EXIT(write_to(full), testing::ExitedWithCode(20), "");
  ::close(full);
}

}  // namespace
}  // namespace lockstep::examples

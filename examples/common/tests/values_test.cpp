#include "common/values.hpp"

#include <stdexcept>

#include <gtest/gtest.h>

namespace lockstep::examples {
namespace {

using namespace std::chrono_literals;

/// The message of the std::invalid_argument that `parse(text)` throws.
template <typename Parse>
std::string rejection(Parse parse, std::string_view text) {
  try {
    (void)parse(text);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(parse_duration, ReadsEveryUnit) {
  EXPECT_EQ(parse_duration("7ns"), 7ns);
  EXPECT_EQ(parse_duration("7us"), 7us);
  EXPECT_EQ(parse_duration("800ms"), 800ms);
  EXPECT_EQ(parse_duration("2s"), 2s);
  EXPECT_EQ(parse_duration("1m"), 1min);
  EXPECT_EQ(parse_duration("36h"), 36h);
  EXPECT_EQ(parse_duration("2d"), 48h);
  EXPECT_EQ(parse_duration("0"), 0s);
  EXPECT_EQ(parse_duration("0s"), 0s);
}

TEST(parse_duration, ReadsDecimals) {
  EXPECT_EQ(parse_duration("1.5s"), 1500ms);
  EXPECT_EQ(parse_duration("0.001s"), 1ms);
  EXPECT_EQ(parse_duration("2.25h"), 135min);
}

TEST(parse_duration, RejectsAndQuotesTheText) {
  for (const std::string_view text :
       {"", "s", "5", "-1s", "1.s", "1.2345s", "1parsec", "1s2", "1 s s", ".5s", "1e3s"}) {
    EXPECT_TRUE(rejection(parse_duration, text).starts_with("'" + std::string(text) + "': expected"))
        << rejection(parse_duration, text);
  }
  EXPECT_EQ(rejection(parse_duration, "9223372037s"), "'9223372037s': too large");
  EXPECT_EQ(rejection(parse_duration, "99999999999999999999s"), "'99999999999999999999s': too large");
  EXPECT_EQ(parse_duration("9223372036s"), 9223372036s);
}

TEST(parse_size, CountsIn1024sUnlessTheUnitIsDecimal) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("512"), 512U);
  EXPECT_EQ(parse_size("512B"), 512U);
  EXPECT_EQ(parse_size("64k"), 64U << 10U);
  EXPECT_EQ(parse_size("64MiB"), 64U << 20U);
  EXPECT_EQ(parse_size("64 MiB"), 64U << 20U);
  EXPECT_EQ(parse_size("1G"), 1U << 30U);
  EXPECT_EQ(parse_size("2TiB"), std::uint64_t{2} << 40U);
  EXPECT_EQ(parse_size("10MB"), 10'000'000U);
  EXPECT_EQ(parse_size("1.5mib"), (1U << 20U) + (1U << 19U));
  EXPECT_EQ(parse_size("0.1k"), 102U);
}

TEST(parse_size, RejectsAndQuotesTheText) {
  for (const std::string_view text : {"", "MiB", "-1", "1XiB", "1.k", "0x10", "1,5k"}) {
    EXPECT_TRUE(rejection(parse_size, text).starts_with("'" + std::string(text) + "': expected"))
        << rejection(parse_size, text);
  }
  EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
  EXPECT_EQ(rejection(parse_size, "18446744073709551616"), "'18446744073709551616': too large");
  EXPECT_EQ(rejection(parse_size, "16777216T"), "'16777216T': too large");
}

TEST(parse_port, AcceptsZeroTo65535) {
  EXPECT_EQ(parse_port("0"), 0);
  EXPECT_EQ(parse_port("65535"), 65535);
  for (const std::string_view text : {"", "65536", "-1", "80a", " 80", "99999999999999999999"}) {
    EXPECT_EQ(rejection(parse_port, text), "'" + std::string(text) + "': expected a port from 0 to 65535");
  }
}

TEST(parse_address, ReadsNamesAndBothIpVersions) {
  EXPECT_EQ(parse_address("127.0.0.1:7878"), address("127.0.0.1", 7878));
  EXPECT_EQ(parse_address("[::1]:7878"), address("::1", 7878));
  EXPECT_EQ(parse_address("leader.example:0"), address("leader.example", 0));
  EXPECT_EQ(parse_address("unix:/tmp/socket"), address::unix_socket("/tmp/socket"));
}

TEST(parse_address, SaysWhatIsWrongWithTheText) {
  const auto why = [](std::string_view text) { return rejection(parse_address, text); };
  EXPECT_EQ(why("localhost"),
            "'localhost': the port is missing; expected HOST:PORT, as in 127.0.0.1:7878 or [::1]:7878");
  EXPECT_TRUE(contains(why("localhost:"), "the port is missing"));
  EXPECT_TRUE(contains(why("[::1]"), "the port is missing"));
  EXPECT_TRUE(contains(why(":7878"), "the host is missing"));
  EXPECT_TRUE(contains(why(""), "the port is missing"));
  EXPECT_TRUE(contains(why("::1:7878"), "an IPv6 host needs brackets"));
  EXPECT_TRUE(contains(why("localhost:http"), "the port is not a number"));
  EXPECT_TRUE(contains(why("localhost:70000"), "the port must be at most 65535"));
  EXPECT_TRUE(contains(why("a b:1"), "'a b:1': expected HOST:PORT"));
  EXPECT_TRUE(contains(why("[::1:1"), "'[::1:1'"));
  EXPECT_TRUE(contains(why("[]:1"), "'[]:1'"));
  EXPECT_TRUE(contains(why("unix:"), "the socket's path is missing"));
}

TEST(format_duration, ChoosesAUnitThatReadsWell) {
  EXPECT_EQ(format_duration(0s), "0s");
  EXPECT_EQ(format_duration(999ns), "999ns");
  EXPECT_EQ(format_duration(1500us), "1.5ms");
  EXPECT_EQ(format_duration(800ms), "800ms");
  EXPECT_EQ(format_duration(1250ms), "1.25s");
  EXPECT_EQ(format_duration(90s), "90s");
  EXPECT_EQ(format_duration(120s), "2m");
  EXPECT_EQ(format_duration(3600s), "1h");
  EXPECT_EQ(format_duration(-2s), "-2s");
}

TEST(format_duration, IsReadBack) {
  for (const std::chrono::nanoseconds d :
       std::initializer_list<std::chrono::nanoseconds>{1ns, 1500ns, 10ms, 1234ms, 61s, 3h, 24h, 25h}) {
    EXPECT_EQ(parse_duration(format_duration(d)), d) << format_duration(d);
  }
}

TEST(format_size, ChoosesABinaryUnit) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1.0 KiB");
  EXPECT_EQ(format_size(1536), "1.5 KiB");
  EXPECT_EQ(format_size(1024.0 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(format_size(64.0 * 1024 * 1024), "64.0 MiB");
}

}  // namespace
}  // namespace lockstep::examples

#include "lockstep/sim/trace.hpp"

#include "lockstep/sim/simulation.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

timeline_entry note(duration at, std::string node, std::string text) {
  timeline_entry entry;
  entry.at = at;
  entry.node = std::move(node);
  entry.kind = "note";
  entry.text = std::move(text);
  return entry;
}

timeline_entry message(duration at, std::string from, std::string to, duration until) {
  timeline_entry entry = note(at, std::move(from), "44 bytes");
  entry.kind = "message";
  entry.to = std::move(to);
  entry.until = until;
  return entry;
}

std::string text_of(const std::vector<timeline_entry>& timeline, std::size_t most_lines = 60) {
  std::ostringstream out;
  text_trace_options options;
  options.most_lines = most_lines;
  write_text_trace(out, timeline, options);
  return out.str();
}

std::string json_of(const std::vector<timeline_entry>& timeline) {
  std::ostringstream out;
  write_json_trace(out, timeline);
  return out.str();
}

std::string svg_of(const std::vector<timeline_entry>& timeline, const std::vector<std::string>& nodes,
                   const svg_trace_options& options = {}) {
  std::ostringstream out;
  write_svg_trace(out, timeline, nodes, options);
  return out.str();
}

std::size_t count(const std::string& in, std::string_view what) {
  std::size_t found = 0;
  for (std::size_t at = in.find(what); at != std::string::npos; at = in.find(what, at + 1)) ++found;
  return found;
}

TEST(sim_trace, TextStandsInColumnsInTheOrderOfTime) {
  const std::vector<timeline_entry> timeline = {note(12s, "server", "is full"), message(2s, "a", "server", 2s + 1500us),
                                                note(3s, "", "nothing")};
  EXPECT_EQ(text_of(timeline),
            " 2.000000 s  a       -> server: 44 bytes, 1.500 ms\n"
            " 3.000000 s          nothing\n"
            "12.000000 s  server  is full\n");
}

TEST(sim_trace, TextKeepsTheLastLinesAndSaysHowManyItLeavesOut) {
  EXPECT_EQ(text_of({note(1s, "a", "one"), note(2s, "a", "two"), note(3s, "a", "three")}, 1),
            "(2 earlier lines are left out)\n3.000000 s  a  three\n");
}

TEST(sim_trace, JsonHasAnObjectALine) {
  EXPECT_EQ(
      json_of({note(1s, "a", "x"), message(1500ns, "a", "b", 2700ns)}),
      "{\"at_ns\":1500,\"node\":\"a\",\"kind\":\"message\",\"text\":\"44 bytes\",\"to\":\"b\",\"until_ns\":2700}\n"
      "{\"at_ns\":1000000000,\"node\":\"a\",\"kind\":\"note\",\"text\":\"x\"}\n");
}

TEST(sim_trace, JsonEscapesWhatItMust) {
  EXPECT_THAT(json_of({note(1s, "a", "\"q\" \\ \n\t\x01 \x7f")}),
              HasSubstr("\\\"q\\\" \\\\ \\u000a\\u0009\\u0001 \x7f\""));
  EXPECT_THAT(json_of({note(1s, "a", "größer €  \xf0\x9f\x98\x80")}), HasSubstr("größer €  \xf0\x9f\x98\x80"));
}

TEST(sim_trace, WhatIsNotUtf8IsReplaced) {
  const std::string_view replacement = detail::replacement_character;
  for (const std::string bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_THAT(json_of({note(1s, "a", bad + "!")}), HasSubstr(std::string(replacement) + "!\"}"));
    EXPECT_THAT(json_of({note(1s, "a", bad + "!")}), Not(HasSubstr(bad)));
    EXPECT_THAT(detail::xml_escaped(bad), Not(HasSubstr(bad)));
  }
}

TEST(sim_trace, XmlEscapesMarkupAndReplacesControlCharacters) {
  EXPECT_EQ(detail::xml_escaped("<a b=\"c\">&\n"), "&lt;a b=&quot;c&quot;&gt;&amp; ");
  EXPECT_EQ(detail::xml_escaped("\x01"), detail::replacement_character);
}

TEST(sim_trace, ThePictureHasNodesArrowsAndNotes) {
  const std::string svg = svg_of({message(1s, "a", "b", 1s + 1ms), note(2s, "b", "x < y")}, {"a", "b"});
  EXPECT_THAT(svg, HasSubstr("font-weight=\"bold\">a</text>"));
  EXPECT_THAT(svg, HasSubstr("font-weight=\"bold\">b</text>"));
  EXPECT_THAT(svg, HasSubstr(">44 bytes</text>"));
  EXPECT_THAT(svg, HasSubstr(">x &lt; y</text>"));
  EXPECT_THAT(svg, HasSubstr("… 999 ms …"));  // nothing happens meanwhile
}

TEST(sim_trace, ThePictureKeepsTheLastMessagesAndSaysWhatItLeavesOut) {
  std::vector<timeline_entry> timeline = {note(1ms, "a", "early")};
  for (int i = 1; i <= 10; ++i) timeline.push_back(message(i * 1s, "a", "b", i * 1s + 1ms));
  svg_trace_options options;
  options.most_messages = 4;
  const std::string svg = svg_of(timeline, {"a", "b"}, options);
  EXPECT_EQ(count(svg, "Z\" fill=\"#555\"/>"), 4u);  // the heads of the arrows
  EXPECT_THAT(svg, HasSubstr("Left out before this: 6 messages and 1 other events."));
  EXPECT_THAT(svg, Not(HasSubstr("early")));
}

TEST(sim_trace, TallPicturesRepeatTheNames) {
  std::vector<timeline_entry> timeline;
  for (int i = 1; i <= 200; ++i) timeline.push_back(note(i * 1ms, "a", "tick"));
  EXPECT_GT(count(svg_of(timeline, {"a"}), "font-weight=\"bold\">a</text>"), 1u);
}

awaitable<void> idle(env& on) {
  env::timer timer(on);
  timer.expires_after(1h);
  (void)co_await timer.wait();
}

TEST(sim_trace, CrashesAndPausesOfARunAreMarked) {
  world in(1);
  in.keep_timeline = true;
  node& a = in.add_node("a");
  a.start(idle);
  in.run_for(1s);
  a.pause();
  in.run_for(1s);
  a.resume();
  in.run_for(1s);
  const std::string before = svg_of(in.timeline(), {"a"});
  EXPECT_EQ(count(before, "fill=\"url(#hatched)\""), 1u);
  EXPECT_EQ(count(before, "class=\"crash\""), 0u);
  EXPECT_EQ(count(before, "stroke-width=\"2\"/>"), 1u);  // its line
  a.crash();
  in.run_for(1s);
  a.start();
  in.run_for(1s);
  a.lose_power(power_cut::seeded(1));
  const std::string after = svg_of(in.timeline(), {"a"});
  EXPECT_EQ(count(after, "class=\"crash\""), 2u);
  EXPECT_EQ(count(after, "stroke-width=\"2\"/>"), 2u);  // with a gap
}

}  // namespace
}  // namespace lockstep::sim

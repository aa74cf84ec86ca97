// lockstep-log: prints, verifies and compares the directories of lockstep's logs.
#include "commands.hpp"

#include <algorithm>
#include <thread>

#include "common/cli.hpp"

using namespace lockstep::examples;

int main(int argc, char** argv) {
  explain_unreadable_mappings();

  program p("lockstep-log",
            "Print, verify and compare log directories. Takes no lock and changes no file, so that a writer may run.",
            {{"is every record intact?", "lockstep-log verify /var/lib/me/log"},
             {"the first ten records", "lockstep-log dump /var/lib/me/log --limit 10"},
             {"where did two replicas part?", "lockstep-log diff leader/log replica/log"}});

  verify_arguments verifying;
  verifying.threads = std::max(1U, std::thread::hardware_concurrency());
  auto& verify = p.add_command(p.root(), "verify", "Read every record and say whether the log is good.",
                               {{"everything, on all cores", "lockstep-log verify /var/lib/me/log"},
                                {"only what opening the log reads", "lockstep-log verify /var/lib/me/log --quick"},
                                {"for a script", "lockstep-log verify /var/lib/me/log -o json"}},
                               [&] { return run_verify(verifying); });
  verify.add_option("DIR", verifying.directory, "The log's directory")->required();
  verify.add_flag("--quick", verifying.quick, "Read the headers and the unsealed tail only, as opening the log does");
  add_parsed(verify, "--known-durable", verifying.known_durable, parse_index, "INDEX",
             "A log that ends before INDEX is corrupt");
  add_parsed(verify, "--threads", verifying.threads, parse_threads, "N", "Segments to read at once")
      ->default_str(std::to_string(verifying.threads));
  add_output(verify, verifying.output);

  dump_arguments dumping;
  auto& dump = p.add_command(p.root(), "dump",
                             "Print records, one a line: index, epoch, kind, length, chain, payload. Verifies them.",
                             {{"all of it", "lockstep-log dump /var/lib/me/log"},
                              {"a range, payloads whole", "lockstep-log dump D --from 100 --to 120 --preview 0"},
                              {"for a script", "lockstep-log dump D -o json | jq .index"}},
                             [&] { return run_dump(dumping); });
  dump.add_option("DIR", dumping.directory, "The log's directory")->required();
  add_parsed(dump, "--from", dumping.from, parse_index, "INDEX", "The first record to print");
  add_parsed(dump, "--to", dumping.to, parse_index, "INDEX", "The last record to print");
  add_parsed(dump, "--limit", dumping.limit, parse_count, "N", "Print at most N records");
  add_parsed(dump, "--payload", dumping.payload, parse_payload_style, "{none,text,hex}", "How to print payloads")
      ->default_str("text");
  add_size(dump, "--preview", dumping.preview_bytes,
           "How much of a payload a line of text shows, 0 for all [64]. JSON shows all");
  add_output(dump, dumping.output);

  diff_arguments comparing;
  auto& diff = p.add_command(p.root(), "diff", "Find the first index at which two logs differ, by their chains.",
                             {{"a leader and its replica", "lockstep-log diff leader/log replica/log"},
                              {"also read every record of both", "lockstep-log diff leader/log replica/log --verify"}},
                             [&] { return run_diff(comparing); });
  diff.add_option("FIRST", comparing.first, "One log's directory")->required();
  diff.add_option("SECOND", comparing.second, "The other's")->required();
  diff.add_flag("--verify", comparing.verify, "Verify every record of both logs first");
  add_output(diff, comparing.output);

  segments_arguments listing;
  auto& segments = p.add_command(p.root(), "segments", "List the segment files, by their headers.",
                                 {{"what is there", "lockstep-log segments /var/lib/me/log"}},
                                 [&] { return run_segments(listing); });
  segments.add_option("DIR", listing.directory, "The log's directory")->required();
  add_output(segments, listing.output);

  return p.run(argc, argv);
}

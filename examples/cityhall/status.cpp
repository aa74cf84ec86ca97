#include "cityhall/status.hpp"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace lockstep::cityhall {

std::string replica_note::to_json() const {
  nlohmann::ordered_json json;
  json["id"] = id;
  json["leader"] = leader;
  json["pid"] = pid;
  json["running"] = running;
  json["health"] = health;
  json["last_sync_ns"] = last_sync_ns;
  return json.dump(2) + "\n";
}

std::optional<replica_note> replica_note::from_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  replica_note note;
  note.id = json.value("id", std::uint64_t{0});
  note.leader = json.value("leader", "");
  note.pid = json.value("pid", 0L);
  note.running = json.value("running", false);
  note.health = json.value("health", "");
  note.last_sync_ns = json.value("last_sync_ns", std::int64_t{0});
  return note;
}

std::optional<replica_note> read_note(const std::string& directory) {
  std::ifstream file(status_path(directory));
  if (!file) return std::nullopt;
  std::stringstream text;
  text << file.rdbuf();
  return replica_note::from_json(text.str());
}

void write_note(const std::string& directory, const replica_note& note) {
  const std::string path = status_path(directory);
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << note.to_json();
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    throw std::system_error(errno, std::system_category(), "cannot write " + path);
  }
}

directory_contents read_contents(real::env& env, const std::string& directory) {
  directory_contents contents;
  std::error_code ec;
  const real::file snapshot = env.open(snapshot_path(directory), open_mode::read, ec);
  if (!ec) {
    const std::uint64_t size = snapshot.size(ec);
    const real::mapping mapped = snapshot.map(0, size, ec);
    if (ec) throw std::system_error(ec, "cannot read " + snapshot_path(directory));
    const auto summary = read_snapshot_summary(mapped.bytes());
    if (!summary) throw store_corrupt(snapshot_path(directory) + " is damaged");
    contents.at = summary->at;
    contents.counts = summary->counts;
  } else if (ec != std::errc::no_such_file_or_directory) {
    throw std::system_error(ec, "cannot read " + snapshot_path(directory));
  }
  if (!std::filesystem::exists(log_path(directory))) return contents;
  verify_options options;
  options.depth = verify_depth::tail;
  verified_log log = verify_log(env, log_path(directory), options);
  contents.report = log.report;
  if (log.report.verdict == log_verdict::corrupt) return contents;
  log_reader reader(env, log_path(directory), std::move(log));
  if (reader.last().index <= contents.at.index) return contents;
  const recovery_report counted = reader.for_each(contents.at.index + 1, [&](const record& each) {
    if (each.kind == data_record) {
      const auto segment = segment_view::parse(each.payload);
      contents.counts.segments += 1;
      contents.counts.entries += segment ? segment->count() : 0;
    }
    contents.at = each.position();
    return true;
  });
  if (counted.verdict == log_verdict::corrupt) contents.report = counted;
  return contents;
}

}  // namespace lockstep::cityhall

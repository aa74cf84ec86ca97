// What a data directory says of its replica, whether that runs or not.
#pragma once

#include "cityhall/store.hpp"

#include <lockstep/log/verify.hpp>

#include <optional>
#include <string>

namespace lockstep::cityhall {

inline std::string status_path(const std::string& directory) { return directory + "/status.json"; }

/// What only a running replica knows. It keeps it in status.json, rewritten about once a second and when its health
/// changes; after kill -9 the file is as old as that.
struct replica_note {
  std::uint64_t id = 0;
  std::string leader;
  long pid = 0;
  std::string health;
  std::int64_t last_sync_ns = 0;  ///< wall clock, of the last word from the leader; 0: never
  bool running = false;

  [[nodiscard]] std::string to_json() const;
  /// @return nothing when `text` is none.
  static std::optional<replica_note> from_json(const std::string& text);
};

/// What the directory's snapshot and log hold, nothing if no node ever started there: counted from the records,
/// whatever the note says.
struct directory_contents {
  recovery_report report;
  position at;
  totals counts;
};

/// Takes no lock and changes nothing; a replica may be writing meanwhile.
/// @throws system_error when the directory can't be read, store_corrupt when the snapshot is damaged.
directory_contents read_contents(real::env& env, const std::string& directory);

/// @return nothing when there is none.
std::optional<replica_note> read_note(const std::string& directory);

/// By a temporary file and a rename; not synced.
void write_note(const std::string& directory, const replica_note& note);

}  // namespace lockstep::cityhall

#!/bin/sh
# Sources that documents show are compiled: what is shown must be what is there. Also: the links between documents
# resolve.
# Usage: check_readme.sh SOURCE_DIR
set -eu
cd "$1"

shown=$(mktemp)
trap 'rm -f "$shown"' EXIT
shows() { # DOCUMENT SOURCE MOST_LINES
  awk -v mark="<!-- $2, kept equal by a test -->" '
    $0 == mark { found = 1 }
    found && /^```cpp$/ { inside = 1; next }
    inside && /^```$/ { exit }
    inside' "$1" >"$shown"
  if ! diff -u "$2" "$shown"; then
    echo "$1 does not show $2 as it is" >&2
    exit 1
  fi
  lines=$(wc -l <"$shown")
  if [ "$lines" -gt "$3" ]; then
    echo "$2 has $lines lines, more than $3" >&2
    exit 1
  fi
}
shows README.md examples/quickstart/quickstart.cpp 25
shows docs/simulation.md examples/tickets/tickets.hpp 60
shows docs/simulation.md examples/tickets/simulated_tickets.cpp 40
shows docs/raft.md examples/replicated_counter/replicated_counter.cpp 70

# Documents say that this state machine takes less than 150 lines.
lines=$(wc -l <examples/raft_replication/kv.hpp)
if [ "$lines" -ge 150 ]; then
  echo "examples/raft_replication/kv.hpp has $lines lines, not less than 150" >&2
  exit 1
fi

status=0
for document in $(git ls-files '*.md' 2>/dev/null || find . -name '*.md' -not -path './build/*'); do
  # Links hold no blanks; code, where a lambda looks like one, holds none.
  # shellcheck disable=SC2013
  for link in $(awk '/^```/ { code = !code } !code' "$document" | grep -o ']([^)#:]*[)#]' | sed 's/^](//; s/[)#]$//'); do
    if [ ! -e "$(dirname "$document")/$link" ]; then
      echo "$document links to $link, which does not exist" >&2
      status=1
    fi
  done
done
exit $status

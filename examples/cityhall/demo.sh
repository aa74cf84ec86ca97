#!/bin/sh
# The CityHall demo: a leader ships its log to a replica that is stopped, and then killed, and misses nothing.
# Usage: demo.sh BIN_DIR. Uses free ports and a temporary directory, and ends only what it started.
set -eu

cityhall=$1/cityhall
[ -x "$cityhall" ] || { echo "demo: no program at $cityhall" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/cityhall-demo.XXXXXX")
leader_pid=
replica_pid=

finish() {
  status=$?
  trap - EXIT INT TERM
  for pid in $replica_pid $leader_pid; do
    kill -9 "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
  if [ "$status" != 0 ] && [ -d "$work" ]; then
    echo "demo: FAILED; the programs' logs:" >&2
    cat "$work"/*.log >&2 || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { printf '\n== %s\n' "$*"; }
proves() { printf '   proves: %s\n' "$*"; }
show() { printf '   $ cityhall %s\n' "$*"; "$cityhall" "$@" | sed 's/^/   /'; }
fail() { echo "demo: $*" >&2; exit 1; }

# Waits until FILE has a line matching PATTERN; the process that writes it is PID.
wait_for() {
  pattern=$1 file=$2 pid=$3
  tries=0
  until grep -q "$pattern" "$file" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || fail "a program ended before it said '$pattern'"
    tries=$((tries + 1))
    [ "$tries" -lt 1000 ] || fail "nobody said '$pattern' in time"
    sleep 0.02
  done
}

start_replica() {
  "$cityhall" replica --leader "$replication" --data-dir "$work/replica1" >"$work/replica.out" 2>"$work/replica.log" &
  replica_pid=$!
  wait_for 'caught up' "$work/replica.log" "$replica_pid"
  sed 's/^/   replica | /' "$work/replica.log"
}
field() { "$cityhall" replica status --data-dir "$work/replica1" | sed -n "s/^$1: *//p"; }
expect() {
  found=$(field "$1")
  [ "$found" = "$2" ] || fail "$1 is $found, not $2"
}
# The replica's directory holds N entries, waiting for it.
wait_for_entries() {
  tries=0
  until [ "$(field 'Total Entries')" = "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || fail "the replica never had $1 entries"
    sleep 0.02
  done
}

step "Start a leader"
"$cityhall" leader --port 0 --replication-port 0 --data-dir "$work/leader" >"$work/leader.out" 2>"$work/leader.log" &
leader_pid=$!
wait_for '^ready:' "$work/leader.out" "$leader_pid"
sed 's/^/   leader | /' "$work/leader.out"
clients=$(sed -n 's/^ready:.* clients=\([^ ]*\).*/\1/p' "$work/leader.out")
replication=$(sed -n 's/^ready:.* replication=\([^ ]*\).*/\1/p' "$work/leader.out")

step "Start a replica of the empty leader"
start_replica
expect 'Total Entries' 0
proves "a replica of an empty leader is caught up"

step "Write one key"
show client --addr "$clients" put city Nairobi
wait_for_entries 1
show replica status --data-dir "$work/replica1"
expect 'Last Synced Segment' 1
proves "the segment reached the replica's own log: both totals rose"

step "Stop the replica (Ctrl+C), write two more keys, start it again"
kill -INT "$replica_pid"
wait "$replica_pid" || fail "the replica did not stop cleanly"
show client --addr "$clients" put country Kenya
show client --addr "$clients" put event RustAfrica
start_replica
grep -q 'behind by 2' "$work/replica.log" || fail "the replica did not say that it was behind"
wait_for_entries 3
proves "offline catch-up: it knew that it was behind, and got exactly what it missed"

step "Kill the replica (kill -9) while 200 keys are written, start it again"
kill -9 "$replica_pid"
wait "$replica_pid" 2>/dev/null || true
i=0
while [ "$i" -lt 200 ]; do
  "$cityhall" client --addr "$clients" put "key$i" "value$i" >/dev/null
  i=$((i + 1))
done
"$cityhall" replica --leader "$replication" --data-dir "$work/replica1" >"$work/replica.out" 2>"$work/replica.log" &
replica_pid=$!
wait_for 'caught up' "$work/replica.log" "$replica_pid"
wait_for_entries 203
show replica status --data-dir "$work/replica1"
proves "203 writes, 203 entries: nothing lost, nothing counted twice"

step "Kill the leader (kill -9) and start it again on the same directory"
kill -9 "$leader_pid"
wait "$leader_pid" 2>/dev/null || true
"$cityhall" leader --port "${clients##*:}" --replication-port "${replication##*:}" --data-dir "$work/leader" \
  >"$work/leader.out" 2>"$work/leader.log" &
leader_pid=$!
wait_for '^ready:' "$work/leader.out" "$leader_pid"
show client --addr "$clients" get city
show client --addr "$clients" put motto 'it is all in the log'
wait_for_entries 204
proves "the replica reconnected by itself; acknowledged writes survived the leader's death"

step "Stop both and compare their histories"
kill -INT "$replica_pid" "$leader_pid"
wait "$replica_pid" || fail "the replica did not stop cleanly"
wait "$leader_pid" || fail "the leader did not stop cleanly"
show verify "$work/leader" "$work/replica1"
"$cityhall" verify "$work/leader" "$work/replica1" >/dev/null || fail "the directories differ"
proves "one checksum over the whole history is the same on both sides"

printf '\nThe demo is over; everything held.\n'

#!/bin/sh
# The office on a real disk and socket: its numbers go on after kill -9, and none comes twice. Under the simulator: no
# seed fails, and an office that does not wait for its disk is found out, as the guide shows it.
# Usage: check.sh TICKETS SIMULATED_TICKETS GUIDE
set -eu
tickets=$1
simulated=$2
guide=$3
scratch=$(mktemp -d)
office=
trap '[ -z "$office" ] || kill -9 "$office" 2>/dev/null || true; rm -rf "$scratch"' EXIT
where=unix:$scratch/office

for _ in first second; do
  rm -f "$scratch/office"
  "$tickets" office "$scratch/log" "$where" &
  office=$!
  until "$tickets" visit "$where" 3 >>"$scratch/numbers" 2>"$scratch/refused"; do
    kill -0 "$office" || {
      cat "$scratch/refused" >&2
      exit 1
    }
  done
  kill -9 "$office"
  wait "$office" 2>/dev/null || true
  office=
done
printf '%s\n' 1 2 3 4 5 6 | diff - "$scratch/numbers"

"$simulated" >"$scratch/correct" || {
  cat "$scratch/correct" >&2
  exit 1
}
grep -q '^200 seeds, 0 failed' "$scratch/correct"
if "$simulated" careless >"$scratch/careless"; then
  echo "a careless office was not found out" >&2
  exit 1
fi
awk '/^\$ simulated_tickets careless$/ { shown = 1; next } /^```$/ { shown = 0 } shown' "$guide" >"$scratch/shown"
diff -u "$scratch/shown" "$scratch/careless" || {
  echo "$guide does not show what simulated_tickets careless prints" >&2
  exit 1
}

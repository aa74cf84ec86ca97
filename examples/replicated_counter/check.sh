#!/bin/sh
# Three counters count together, go on without the one that led, and count on from where they were when all begin anew.
# Usage: check.sh REPLICATED_COUNTER
set -eu
counter=$1
scratch=$(mktemp -d)
trap 'kill -9 $(cat "$scratch"/*.pid) 2>/dev/null || true; rm -rf "$scratch"' EXIT
cd "$scratch"

begin() { # ID
  rm -f "$1.socket"
  "$counter" "$1" >>"$1.out" 2>>errors &
  echo $! >"$1.pid"
}
# The highest number that any of them has printed.
highest() { cat ./*.out | sort -n | tail -n 1; }
# Waits, for a minute at most, until more than that is printed.
wait_beyond() { # NUMBER
  tries=0
  until [ "$(highest)" -gt "$1" ] 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -gt 600 ]; then
      echo "nobody counts beyond $1" >&2
      cat errors >&2
      exit 1
    fi
    sleep 0.1
  done
}
end() { # ID
  kill -9 "$(cat "$1.pid")"
}

for id in 1 2 3; do begin $id; done
wait_beyond 5
leader=$(for id in 1 2 3; do [ ! -s $id.out ] || echo $id; done | tail -n 1)
before=$(highest)
end "$leader"
wait_beyond $((before + 5))
before=$(highest)
for id in 1 2 3; do [ $id = "$leader" ] || end $id; done
for id in 1 2 3; do begin $id; done
wait_beyond $((before + 5))

# What was printed was applied: no number comes twice.
twice=$(cat ./*.out | sort -n | uniq -d)
if [ -n "$twice" ]; then
  echo "counted twice: $twice" >&2
  exit 1
fi

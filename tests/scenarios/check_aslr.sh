#!/bin/sh
# A seed's run must not depend on where memory lies: with and without address space layout randomization, the traces of
# a few seeds of each scenario are the same.
set -u
sim_run=$1
seeds=${2:-5}
skipped=77

setarch -R true 2>/dev/null || {
  echo "skipped: setarch -R is not permitted here"
  exit $skipped
}
# SCENARIO COMMAND-PREFIX...: its trace hash
trace() {
  scenario=$1
  shift
  "$@" "$sim_run" --scenario "$scenario" --seeds "$seeds" --jobs 1 --json --keep-going 2>/dev/null |
    sed -n 's/.*"trace_hash": "\([0-9a-f]*\)".*/\1/p'
}
wrong=0
for scenario in $("$sim_run" --list | cut -d ' ' -f 1); do
  fixed=$(trace "$scenario" setarch -R)
  for run in 1 2; do
    random=$(trace "$scenario" env)
    [ -n "$fixed" ] && [ "$fixed" = "$random" ] && continue
    echo "$scenario: trace '$random' with random addresses, '$fixed' with fixed ones" >&2
    wrong=1
  done
done
exit $wrong

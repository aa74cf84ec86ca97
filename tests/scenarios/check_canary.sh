#!/bin/sh
# The canary must fail, be shrunk to a tenth of its faults or fewer, and fail again in the same words by the command that
# is printed.
set -u
sim_run=$1
fail() { # WHAT OUTPUT
  printf '%s\n%s\n' "$1" "$2" >&2
  exit 1
}

first=$("$sim_run" --scenario canary)
[ $? = 1 ] || fail "the canary does not fail:" "$first"
command=$(printf '%s\n' "$first" | tail -n 1)
case $command in
  "$sim_run --scenario canary --from "*" --seeds 1 --only "*) ;;
  *) fail "the last line is not the command that replays the failure:" "$first" ;;
esac
printf '%s\n' "$first" | awk '/^[0-9]+ of [0-9]+ faults(: [0-9, ]+)?$/ { ok = $1 * 10 <= $3 } END { exit !ok }' ||
  fail "the failure is not shrunk to a tenth of its faults:" "$first"

again=$(sh -c "$command")
[ $? = 1 ] || fail "the printed command does not fail:" "$again"
# From "canary, seed 2 failed at …" on, everything is the same: what failed, when, the timeline and the command.
story() { printf '%s\n' "$1" | sed -n '/^canary, seed /,$p'; }
if [ -z "$(story "$first")" ] || [ "$(story "$first")" != "$(story "$again")" ]; then
  fail "the printed command fails in another way:" "$first

$again"
fi

#!/bin/sh
# sim_run's exit codes, what it says to wrong command lines, and what --json prints.
set -u
sim_run=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
wrong=0

run() { # STATUS ARGUMENT...
  expected=$1
  shift
  "$sim_run" "$@" >"$scratch/out" 2>"$scratch/err"
  status=$?
  [ "$status" = "$expected" ] && return
  echo "sim_run $*: exit $status, expected $expected" >&2
  cat "$scratch/out" "$scratch/err" >&2
  wrong=1
}
says() { # FILE TEXT
  grep -qF -e "$2" "$scratch/$1" && return
  echo "'$2' is missing in:" >&2
  cat "$scratch/$1" >&2
  wrong=1
}

run 0 --list
says out canary
run 0 --help
says out Examples:
run 2
says err --list
run 2 --scenario no_such
says err no_such
says err canary
run 2 --scenario canary --without no_such
says err no_such
says err power_loss
run 2 --scenario canary --mutant no_such
says err no_such
says err log-skip-flush-sync
run 2 --scenario canary --only 3,x
says err "'3,x'"
run 2 --scenario canary --seeds 0
says err "'0'"
run 2 --scenario canary --twice 101
says err 101
run 2 --scenario canary --no-such
says err --no-such

run 0 --scenario canary --seeds 20 --without power_loss --json
says out '"failures": 0'
says out '"trace_hash": "'
head -n 1 "$scratch/out" | grep -qx '{' || wrong=1
tail -n 1 "$scratch/out" | grep -qx '}' || wrong=1
run 1 --scenario canary --json
says out '"replay": "'
says out '"failure": "counted to '
run 0 --scenario canary --from 1 --seeds 1 --only none
run 0 --scenario canary --seeds 20 --without power_loss --twice 100 --json
says out '"reruns": 20'
says out '"different": []'
run 0 --scenario canary --seeds 20 --without power_loss --twice 0
says out '; 0 run twice, 0 of them different;'
run 1 --scenario canary --trace "$scratch/traces"
for kind in jsonl svg; do
  set -- "$scratch"/traces/canary-*."$kind"
  [ -s "$1" ] || {
    echo "no $kind trace" >&2
    wrong=1
  }
done
exit $wrong

#!/usr/bin/env bash
# Checks of the public headers; each prints what is wrong and exits 1.
#
#   check.sh alone COMPILER      every header compiles alone, twice included, without a warning
#   check.sh two_units COMPILER  two translation units that include everything link (but sim/guard.hpp, which is for one)
#   check.sh pure                the headers of pure.txt include no Asio
#   check.sh floors              a header includes nothing from a floor above its own (floors.txt)
#   check.sh asio_version        only core/asio_compat.hpp knows Asio's versions
#
# Exits 77 where the compiler is not installed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
include=$(cd "$here/../../include" && pwd)
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
flags=(-std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I "$include"
  -DASIO_STANDALONE -DASIO_HAS_CO_AWAIT=1 -DASIO_HAS_STD_COROUTINE=1 -pthread)

fail() {
  echo "$*" >&2
  exit 1
}

need_compiler() {
  command -v "$1" >/dev/null || {
    echo "skipped: $1 is not installed"
    exit 77
  }
}

# The headers, one a line, relative to include/.
headers() { (cd "$include" && find . -name '*.hpp' -type f | sed 's|^\./||' | LC_ALL=C sort); }

count_headers() {
  local count
  count=$(headers | wc -l)
  [ "$count" -gt 0 ] || fail "no headers under $include"
  echo "$count"
}

compile_alone() {  # COMPILER HEADER
  printf '#include "%s"\n#include "%s"\n' "$2" "$2" | "$1" "${flags[@]}" -fsyntax-only -x c++ - || {
    echo "$1: $2 does not compile alone" >&2
    return 1
  }
}

check_alone() {
  need_compiler "$1"
  local count
  count=$(count_headers)
  headers | xargs -P "$jobs" -I{} "$BASH" "$here/check.sh" compile_alone "$1" {} || fail "failed with $1"
  echo "$count headers compile alone with $1"
}

check_two_units() {
  need_compiler "$1"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  local for_one_unit=lockstep/sim/guard.hpp
  headers | grep -vxF "$for_one_unit" | sed 's/.*/#include "&"/' >"$scratch/everything.hpp"
  printf '#include "everything.hpp"\nint other() { return 0; }\n' >"$scratch/other.cpp"
  printf '#include "%s"\n#include "everything.hpp"\nint other();\nint main() { return other(); }\n' "$for_one_unit" \
    >"$scratch/main.cpp"
  printf '%s\n' main other |
    xargs -P "$jobs" -I{} "$1" "${flags[@]}" -c "$scratch/{}.cpp" -o "$scratch/{}.o" || fail "a unit does not compile"
  "$1" "$scratch/main.o" "$scratch/other.o" -pthread -o "$scratch/program" || fail "two units do not link"
  "$scratch/program" || fail "the program of two units does not run"
  echo "two units that include every header link with $1"
}

# The headers named by the patterns of pure.txt.
pure_headers() {
  local pattern matches
  while read -r pattern; do
    case $pattern in '' | '#'*) continue ;; esac
    matches=$(cd "$include" && compgen -G "$pattern") || fail "pure.txt: no header matches $pattern"
    echo "$matches"
  done <"$here/pure.txt"
}

check_pure() {
  need_compiler g++
  local pure header dependencies asio count=0 bad=0
  pure=$(pure_headers)
  for header in $pure; do
    dependencies=$(g++ "${flags[@]}" -M -x c++ "$include/$header" 2>/dev/null) || fail "$header does not compile"
    if asio=$(grep -Eo -m 1 '[^ ]*/asio(\.hpp|/[^ ]*)' <<<"$dependencies"); then
      echo "$header includes Asio: ${asio%%$'\n'*}" >&2
      bad=1
    fi
    count=$((count + 1))
  done
  [ "$count" -gt 0 ] || fail "pure.txt names no header"
  [ "$bad" = 0 ] || exit 1
  echo "$count headers include no Asio"
}

check_floors() {
  local count
  count=$(count_headers)
  headers | (cd "$include" && xargs awk -f "$here/floors.awk" "$here/floors.txt") || fail "the floors do not hold"
  echo "$count headers keep to their floors"
}

check_asio_version() {
  local count bad=0 header
  count=$(count_headers)
  while read -r header; do
    [ "$header" != lockstep/core/asio_compat.hpp ] || continue
    if grep -Hn 'ASIO_VERSION\|asio/version\.hpp' "$include/$header"; then bad=1; fi
  done < <(headers)
  [ "$bad" = 0 ] || fail "only core/asio_compat.hpp may know Asio's versions"
  echo "$count headers leave Asio's versions to core/asio_compat.hpp"
}

case $#:${1:-} in
  2:alone | 2:two_units) "check_$1" "$2" ;;
  1:pure | 1:floors | 1:asio_version) "check_$1" ;;
  3:compile_alone) compile_alone "$2" "$3" ;;
  *) fail "usage: $0 alone|two_units COMPILER, or $0 pure|floors|asio_version" ;;
esac

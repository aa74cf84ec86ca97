#!/usr/bin/env bash
# Consumes lockstep as another project would, and runs the result.
#
#   check.sh install WORK           installs to a prefix, then moves it to WORK/moved
#   check.sh find_package WORK      from WORK/moved
#   check.sh pkg_config WORK        from WORK/moved
#   check.sh add_subdirectory WORK  from the source tree
#   check.sh fetch_content WORK     from the source tree, through find_package
#
# CXX chooses the compiler (default c++).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
CXX=${CXX:-c++}
export CXX

fail() {
  echo "$*" >&2
  exit 1
}

run_consumer() {  # PROGRAM
  local output
  output=$("$1") || fail "$1 failed: $output"
  echo "$output"
  [[ $output == "lockstep works in both units"* ]] || fail "$1 said something else"
}

check_install() {
  rm -rf "$work/source" "$work/build" "$work/first" "$work/moved"
  # A copy that is gone afterwards: the installed package must not need its source.
  mkdir "$work/source"
  cp -r "$source/CMakeLists.txt" "$source/LICENSE" "$source/cmake" "$source/include" "$work/source"
  find "$work/source" -type d -empty -delete
  cmake -G Ninja -S "$work/source" -B "$work/build" -DCMAKE_INSTALL_PREFIX="$work/first" \
    -DLOCKSTEP_BUILD_TESTS=OFF -DLOCKSTEP_BUILD_EXAMPLES=OFF -DLOCKSTEP_BUILD_BENCHMARKS=OFF
  cmake --install "$work/build"
  diff -r "$work/source/include" "$work/first/include" || fail "the installed headers differ from the source's"
  mv "$work/first" "$work/moved"
  rm -rf "$work/source" "$work/build"
  if grep -rnF -e "$work" "$work/moved"; then
    fail "the installed files name the place where they were built"
  fi
}

consume_with_cmake() {  # VIA [CMAKE ARGUMENT...]
  local via=$1 build=$work/$1
  shift
  rm -rf "$build"
  cmake -G Ninja -S "$here/consumer" -B "$build" -DCMAKE_BUILD_TYPE=Release -DLOCKSTEP_VIA="$via" "$@"
  cmake --build "$build"
  run_consumer "$build/consumer"
}

check_find_package() {
  consume_with_cmake find_package -DCMAKE_PREFIX_PATH="$work/moved"
  grep -q "lockstep_DIR:PATH=$work/moved/" "$work/find_package/CMakeCache.txt" || fail "another lockstep was found"
}

check_add_subdirectory() { consume_with_cmake add_subdirectory -DLOCKSTEP_SOURCE_DIR="$source"; }

check_fetch_content() {
  consume_with_cmake fetch_content -DLOCKSTEP_SOURCE_DIR="$source" -DFETCHCONTENT_FULLY_DISCONNECTED=ON
}

check_pkg_config() {
  local build=$work/pkg_config cflags libs unit
  export PKG_CONFIG_PATH=$work/moved/share/pkgconfig
  pkg-config --validate lockstep
  pkg-config --exists 'lockstep >= 0.1.0' || fail "pkg-config does not find lockstep 0.1.0 or newer"
  read -ra cflags <<<"$(pkg-config --cflags lockstep)"
  read -ra libs <<<"$(pkg-config --libs lockstep)"
  echo "cflags: ${cflags[*]}; libs: ${libs[*]}"
  rm -rf "$build"
  mkdir -p "$build"
  for unit in main other; do
    "$CXX" -std=c++20 -O1 "${cflags[@]}" -c "$here/consumer/$unit.cpp" -o "$build/$unit.o"
  done
  "$CXX" "$build/main.o" "$build/other.o" "${libs[@]}" -o "$build/consumer"
  run_consumer "$build/consumer"
}

case $#:${1:-} in
  2:install | 2:find_package | 2:pkg_config | 2:add_subdirectory | 2:fetch_content)
    mkdir -p "$2"
    work=$(cd "$2" && pwd)
    "check_$1"
    ;;
  *) fail "usage: $0 install|find_package|pkg_config|add_subdirectory|fetch_content WORK" ;;
esac

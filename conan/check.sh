#!/usr/bin/env bash
# Creates and tests the Conan package with a private Conan, against the system's Asio and xxHash.
# Exits 77 (skipped) where PyPI or the tools to reach it are missing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

skip() {
  echo "skipped: $*"
  exit 77
}

python3 -m venv "$scratch/venv" >"$scratch/venv.log" 2>&1 || skip "python3 cannot make a virtual environment (Debian: python3-venv)"
if ! "$scratch/venv/bin/pip" --disable-pip-version-check install --quiet --retries 1 --timeout 60 'conan>=2.0.9,<3' \
  >"$scratch/pip.log" 2>&1; then
  tail -n 3 "$scratch/pip.log"
  skip "pip cannot install conan (PyPI is not reachable?)"
fi
export CONAN_HOME=$scratch/home
conan=$scratch/venv/bin/conan
"$conan" --version

# The versions that the system's headers state.
macro() { # HEADER MACRO
  printf '#include <%s>\nvalue: %s\n' "$1" "$2" | "${CXX:-c++}" -E -P -x c++ - | sed -n 's/^value: //p'
}
asio_number=$(($(macro asio/version.hpp ASIO_VERSION)))
xxhash_number=$(($(macro xxhash.h XXH_VERSION_NUMBER)))
asio=$((asio_number / 100000)).$((asio_number / 100 % 1000)).$((asio_number % 100))
xxhash=$((xxhash_number / 10000)).$((xxhash_number / 100 % 100)).$((xxhash_number % 100))
echo "system packages: asio/$asio xxhash/$xxhash"
"$conan" profile detect --name system
cat >>"$CONAN_HOME/profiles/system" <<PROFILE

[platform_requires]
asio/$asio
xxhash/$xxhash
PROFILE
sed -i 's/^compiler.cppstd=.*/compiler.cppstd=20/' "$CONAN_HOME/profiles/system"
"$conan" profile show --profile:all system
"$conan" remote remove conancenter # nothing is downloaded: every requirement is the platform's

# From a copy, since Conan builds the test package beside its source.
mkdir "$scratch/lockstep"
cp -r "$here" "$here/../include" "$here/../CMakeLists.txt" "$here/../LICENSE" "$scratch/lockstep"
recipe=$scratch/lockstep/conan

"$conan" create "$recipe" --profile:all system

# C++17 must be refused, by name.
refusal='Current cppstd (17) is lower than the required C++ standard (20)'
if "$conan" create "$recipe" --profile:all system --settings:all compiler.cppstd=17 >"$scratch/cxx17.log" 2>&1; then
  echo "C++17 was accepted" >&2
  exit 1
fi
grep -qF "$refusal" "$scratch/cxx17.log" || {
  cat "$scratch/cxx17.log"
  echo "C++17 was refused for another reason than its version" >&2
  exit 1
}
echo "conan create succeeded, C++17 is refused"

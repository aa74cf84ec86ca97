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
header=$(mktemp -p "$scratch" --suffix=.cpp)
printf '#include <asio/version.hpp>\n#include <xxhash.h>\nasio ASIO_VERSION\nxxhash XXH_VERSION_MAJOR.XXH_VERSION_MINOR.XXH_VERSION_RELEASE\n' >"$header"
versions=$("${CXX:-c++}" -E -P "$header" | grep -E '^(asio|xxhash) ' || true)
asio=$(awk '$1 == "asio" { print int($2 / 100000) "." int($2 / 100) % 1000 "." $2 % 100 }' <<<"$versions")
xxhash=$(awk '$1 == "xxhash" { print $2 $3 $4 }' <<<"$versions")
echo "system packages: asio/$asio xxhash/$xxhash"
[[ -n $asio && -n $xxhash ]] || {
  echo "cannot tell the versions of the system's Asio and xxHash" >&2
  exit 1
}

"$conan" profile detect --name system
cat >>"$CONAN_HOME/profiles/system" <<PROFILE

[platform_requires]
asio/$asio
xxhash/$xxhash
PROFILE
sed -i 's/^compiler.cppstd=.*/compiler.cppstd=20/' "$CONAN_HOME/profiles/system"
"$conan" profile show --profile:all system
"$conan" remote remove conancenter # nothing is downloaded: every requirement is the platform's

"$conan" create "$here" --profile:all system --build=missing

# C++17 must be refused, by name.
if "$conan" create "$here" --profile:all system --settings:all compiler.cppstd=17 --test-folder= >"$scratch/cxx17.log" 2>&1; then
  echo "C++17 was accepted" >&2
  exit 1
fi
grep -q "higher C++ standard\|C++ standard (17)\|cppstd" "$scratch/cxx17.log" || {
  cat "$scratch/cxx17.log"
  exit 1
}
echo "conan create succeeded, C++17 is refused"

#!/usr/bin/env bash
# The version stands in CMakeLists.txt; every other place that needs it in its own file must say the same.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^ *VERSION \([0-9][0-9.]*\)$/\1/p' CMakeLists.txt | head -n 1)
[ -n "$version" ] || {
  echo "no version in CMakeLists.txt" >&2
  exit 1
}
bad=0
same() {  # PLACE VALUE
  if [ "$2" != "$version" ]; then
    echo "$1 says ${2:-nothing}, CMakeLists.txt says $version" >&2
    bad=1
  fi
}
same vcpkg/ports/lockstep/vcpkg.json "$(sed -n 's/^ *"version": "\(.*\)",$/\1/p' vcpkg/ports/lockstep/vcpkg.json)"
grep -q "^## \[\($version\|Unreleased\)\]" CHANGELOG.md || same CHANGELOG.md ""
[ "$bad" = 0 ] || exit 1
echo "version $version everywhere"

#!/bin/sh
# README's first example is a source that is compiled: the two must be equal. Also: the links between documents resolve.
# Usage: check_readme.sh SOURCE_DIR
set -eu
cd "$1"

shown=$(mktemp)
trap 'rm -f "$shown"' EXIT
awk '/^```cpp$/ { inside = 1; next } /^```$/ { if (inside) exit } inside' README.md >"$shown"
if ! diff -u examples/quickstart/quickstart.cpp "$shown"; then
  echo "README.md's first example differs from examples/quickstart/quickstart.cpp" >&2
  exit 1
fi
lines=$(wc -l <"$shown")
if [ "$lines" -gt 25 ]; then
  echo "README.md's first example has $lines lines, more than 25" >&2
  exit 1
fi

status=0
for document in $(git ls-files '*.md' 2>/dev/null || find . -name '*.md' -not -path './build/*'); do
  # Links hold no blanks.
  # shellcheck disable=SC2013
  for link in $(grep -o ']([^)#:]*[)#]' "$document" | sed 's/^](//; s/[)#]$//'); do
    if [ ! -e "$(dirname "$document")/$link" ]; then
      echo "$document links to $link, which does not exist" >&2
      status=1
    fi
  done
done
exit $status

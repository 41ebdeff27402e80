#!/usr/bin/env bash
# Puts a built program where people look for it: scripts/place_binary.sh [--static] BUILT PLACE
# --static strips it and checks that nothing but libc's own libraries is wanted at run time.
set -euo pipefail
cd "$(dirname "$0")/.."
static=0
if [[ "$1" == --static ]]; then
  static=1
  shift
fi
built=$1
place=$2

mkdir -p "$(dirname "$place")"
cp "$built" "$place.tmp"
if ((static)); then
  strip "$place.tmp"
  # Not ldd: it would follow libraries of libraries too, and runs the program.
  wanted=$(objdump -p "$place.tmp" | sed -n 's/^ *NEEDED *//p')
  foreign=$(grep -v -x -E 'lib(c|m|dl|rt|pthread)\.so\.[0-9]+|ld-linux-x86-64\.so\.2' <<<"$wanted" || true)
  if [[ -n "$foreign" ]]; then
    rm -f "$place.tmp"
    echo "release: the program still wants $(tr '\n' ' ' <<<"$foreign"); see cmake/dependencies.cmake" >&2
    exit 1
  fi
  echo "release: wants only $(tr '\n' ' ' <<<"$wanted")"
fi
mv "$place.tmp" "$place"
echo "$place: $(stat -c %s "$place" | numfmt --to=iec-i --suffix=B), $("$place" --version 2>/dev/null | head -1)"

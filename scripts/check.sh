#!/usr/bin/env bash
# Checks of the sources that need no build: include rules, tests reached, style, format.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
for check in check_includes check_tests_reached check_style; do
  python3 "scripts/$check.py" || status=1
done
if ! command -v clang-format-14 >/dev/null; then
  echo "check_format: clang-format-14 is not installed, so the format is not checked"
else
  mapfile -t sources < <(find src apps tests bench \( -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort)
  unformatted=$({ clang-format-14 --dry-run -Werror "${sources[@]}" 2>&1 || true; } | sed -n 's/^\([^:]*\):.*clang-format-violations.*/\1/p' | sort -u)
  if [[ -n "$unformatted" ]]; then
    echo "$unformatted" | sed 's/^/check_format: needs make format: /'
    status=1
  else
    echo "check_format: ${#sources[@]} files are formatted"
  fi
fi
python3 scripts/check_gpu_hash.py
exit $status

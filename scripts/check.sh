#!/usr/bin/env bash
# Checks that run no test: format, lint, types, import layers, spelling. With --fix, repairs first what can be repaired
# automatically. The tools and their versions are those of requirements-test.lock.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
for tool in ruff clang-format basedpyright lint-imports codespell; do
  [ -x $bin/$tool ] || { echo "$bin/$tool is not installed: run bash scripts/setup.sh --tests" >&2; exit 1; }
done
python_code="vkbackend server tests scripts shaders"
# No name has a space. Headers are left out, as they are generated.
native_code=($(find shaders vkbackend -name '*.comp' -o -name '*.glsl' -o -name '*.cpp'))
case "${1:-}" in
  "") ;;
  --fix)
    $bin/ruff check -q --fix --exit-zero $python_code
    $bin/ruff format -q $python_code
    $bin/clang-format -i "${native_code[@]}"
    ;;
  *)
    echo "usage: scripts/check.sh [--fix]" >&2
    exit 2
    ;;
esac
failed=0
step() {  # name, command...: prints the command's output only if it fails
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf '%-14s ok\n' "$name"
  else
    printf '%-14s FAILED\n%s\n' "$name" "$output"
    failed=1
  fi
}
step format $bin/ruff format --check $python_code
step lint $bin/ruff check $python_code
step clang-format $bin/clang-format --dry-run -Werror "${native_code[@]}"
step types $bin/basedpyright
step imports $bin/lint-imports
step spelling $bin/codespell
exit $failed

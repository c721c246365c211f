#!/usr/bin/env bash
# Sets up what is missing, then runs all tests; with --quick only those that need no device, model or server and are
# fast. Arguments go to pytest. With CI=1 a missing driver, layer, model or recording is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
quick=()
case "${1:-}" in
  -h | --help)
    echo "usage: scripts/test.sh [--quick] [PYTEST_ARGUMENT...]"
    exit 0
    ;;
  --quick)
    shift
    quick=(-m "not (device or model or live or registry or clients or soak or slow)")
    quick+=(-W error::pytest.PytestUnraisableExceptionWarning)
    ;;
esac
bash scripts/setup.sh --tests
exec .venv/bin/python -m pytest "${quick[@]}" "$@"

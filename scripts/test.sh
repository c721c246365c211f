#!/usr/bin/env bash
# Sets up what is missing, then runs all tests. Arguments go to pytest. With CI=1 whatever is missing (drivers, layers, models, recordings) is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh --tests
exec .venv/bin/python -m pytest "$@"

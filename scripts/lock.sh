#!/usr/bin/env bash
# Writes the lock files that scripts/setup.sh installs from pyproject.toml (uv is in .venv after
# scripts/setup.sh --tests):
#   requirements.lock         what vkbackend needs to run, and what it and kp are built with
#   requirements-test.lock    the same, and what the tests and scripts/check.sh need
# Versions that still fit are kept; arguments go to uv:
#   scripts/lock.sh                          after a change of the dependencies in pyproject.toml
#   scripts/lock.sh --upgrade                takes the newest version of everything
#   scripts/lock.sh --upgrade-package NAME   takes the newest version of one package
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_CUSTOM_COMPILE_COMMAND="bash scripts/lock.sh"

# kp is not locked: no wheel is published, and setup.sh builds it without build isolation, with the setuptools and wheel
# named here.
build_requirements() {
  .venv/bin/python -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
  printf '%s\n' "setuptools<80" wheel
}
# output, arguments: one file serves every Python from 3.11 on and every platform; it names no package index.
compile() {
  local output=$1
  shift
  build_requirements | .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-package kp --no-emit-index-url --no-emit-find-links --output-file "$output" pyproject.toml - "$@"
}
compile requirements.lock "$@"
compile requirements-test.lock --constraint requirements.lock --extra test --extra dev "$@"

#!/usr/bin/env bash
# Writes the table of docs/models.md: tiny models of each architecture, on the CPU and on both software drivers, compared
# with recorded answers (10 minutes; needs the recorded data beside the repository).
#   scripts/models_table.sh
set -euo pipefail
cd "$(dirname "$0")/.."
OLLAMA_VULKAN=1 PYTHONPATH=tests/support .venv/bin/python tests/support/oracle_table.py ../shared/oracles/text docs/models.md

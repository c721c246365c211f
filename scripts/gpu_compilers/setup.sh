#!/usr/bin/env bash
# setup.sh WORK: builds vkstats and, unless --vkstats-only follows, Mesa's drm-shim for Intel (17 files of Debian's mesa
# source package, gcc alone, 15 s). Needs mesa-vulkan-drivers, libvulkan-dev, gcc, dpkg-dev.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: setup.sh WORK [--vkstats-only]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$1
mkdir -p "$work/shim/obj" "$work/shim/gen" "$work/apt/lists" "$work/apt/parts" && cd "$work"
gcc -O1 -o vkstats "$here/vkstats.c" -lvulkan
[ "${2:-}" != --vkstats-only ] || exit 0
for file in /etc/apt/sources.list.d/*.sources; do
  sed 's/^Types:.*/Types: deb-src/' "$file" >"apt/parts/$(basename "$file")"
done
[ -s /etc/apt/sources.list ] && sed 's/^deb /deb-src /' /etc/apt/sources.list >apt/parts/main.list || true
apt=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/parts")
apt+=(-o "Dir::State::lists=$PWD/apt/lists" -o APT::Sandbox::User=root)
apt-get "${apt[@]}" update -q >/dev/null
[ -e mesa ] || {
  apt-get "${apt[@]}" source -q --download-only mesa >/dev/null &&
    mkdir mesa && tar -xf mesa_*.orig.tar.* -C mesa --strip-components 1
}
[ -e drm ] || { apt-get download -q -o APT::Sandbox::User=root libdrm-dev >/dev/null && dpkg -x libdrm-dev_*.deb drm; }
M=$PWD/mesa H=$PWD/drm
flags="-O1 -fPIC -std=gnu11 -fvisibility=hidden -D_GNU_SOURCE -DHAVE_PTHREAD -DHAVE_STRUCT_TIMESPEC
 -DHAVE_FUNC_ATTRIBUTE_PACKED -DHAVE___BUILTIN_CLZ -DHAVE___BUILTIN_FFS -DHAVE___BUILTIN_FFSLL -DHAVE___BUILTIN_CLZLL
 -DHAVE___BUILTIN_POPCOUNT -DHAVE___BUILTIN_POPCOUNTLL -DHAVE___BUILTIN_EXPECT -DHAVE___BUILTIN_UNREACHABLE
 -DHAVE_MKOSTEMP -DHAVE_MEMFD_CREATE -DHAVE_SECURE_GETENV -DHAVE_DLFCN_H -DHAVE_TIMESPEC_GET -DUSE_GCC_ATOMIC_BUILTINS
 -DHAVE_PROGRAM_INVOCATION_NAME -DHAVE_DL_ITERATE_PHDR -DUTIL_ARCH_LITTLE_ENDIAN=1 -DUTIL_ARCH_BIG_ENDIAN=0
 -DDETECT_OS_UNIX=1 -DNDEBUG -w -Ishim/gen -I$M/src -I$M/include -I$M/src/intel -I$M/src/util -I$M/src/mapi
 -I$M/src/mesa -I$M/src/gallium/include -I$M/src/gallium/auxiliary -I$H/usr/include -I$H/usr/include/libdrm"
echo '#define MESA_GIT_SHA1 ""' >shim/gen/git_sha1.h
for f in drm-shim/device drm-shim/drm_shim intel/tools/intel_noop_drm_shim intel/dev/intel_device_info \
  intel/dev/intel_hwconfig intel/common/intel_gem intel/common/intel_engine util/hash_table util/set \
  util/ralloc util/u_debug util/vma util/log util/os_misc util/u_process util/os_file \
  util/fast_urem_by_const util/rand_xor; do
  [ -e "$M/src/$f.c" ] && gcc $flags -c "$M/src/$f.c" -o "shim/obj/${f//\//_}.o"
done
gcc -O1 -fPIC -c "$here/stub.c" -o shim/obj/stub.o
gcc -shared -o shim/libintel_noop_drm_shim.so shim/obj/*.o -Wl,--no-undefined -l:libdrm.so.2 -ldl -lpthread -lm
echo "ready: $PWD"

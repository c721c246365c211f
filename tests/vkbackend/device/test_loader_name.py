"""The Vulkan loader is looked for under the name that it has on each platform."""

import sys

import cffi
import pytest

from vkbackend.device import vulkan
from vkbackend.errors import NoDevice


@pytest.mark.parametrize(
    "platform, names",
    [
        ("linux", ["libvulkan.so.1"]),
        ("win32", ["vulkan-1.dll"]),
        ("darwin", ["libvulkan.dylib", "libvulkan.1.dylib", "libMoltenVK.dylib"]),
    ],
)
def test_every_name_of_the_platform_is_tried(platform, names, monkeypatch):
    tried = []

    def refuse(_, name):
        tried.append(name)
        raise OSError(f"no {name}")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(cffi.FFI, "dlopen", refuse)
    with pytest.raises(NoDevice, match=f"the Vulkan loader {names[0]} cannot be opened .no {names[0]}"):
        vulkan.load.__wrapped__()
    assert tried == names

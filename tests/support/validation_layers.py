"""Synchronization validation by either of two versions of the Khronos layer, with its messages in a file.

`LAYERS`: Debian's (1.3.239), and the newer one in Debian's chromium-common. They differ: the older does not see
write-after-write between dispatches, the newer does. A layer is chosen by environment, so the program that it
watches is a subprocess.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from vulkan_drivers import chromium_folder, missing

MANIFEST_FOLDERS = (
    "/usr/share/vulkan/explicit_layer.d",
    "/usr/local/share/vulkan/explicit_layer.d",
    "/etc/vulkan/explicit_layer.d",
)
NAME = "VK_LAYER_KHRONOS_validation"
COMMON = {
    "debug_action": "VK_DBG_LAYER_ACTION_LOG_MSG",
    "report_flags": "error,warn,perf",
    "enable_message_limit": "false",
}


@dataclass(frozen=True)
class Layer:
    """library: None where the manifest's own is meant. settings: how this version is told to watch synchronization."""

    name: str
    library: Path | None
    settings: dict[str, str]
    hint: str

    def environment(self, folder: Path) -> dict[str, str]:
        """Variables that put a process under this layer; its messages go to `messages(folder)`. Skips the test where
        it is missing.
        """
        manifest = next(
            (
                Path(each) / "VkLayer_khronos_validation.json"
                for each in MANIFEST_FOLDERS
                if (Path(each) / "VkLayer_khronos_validation.json").exists()
            ),
            None,
        )
        if manifest is None or self.library and not self.library.exists():
            missing(f"{self.name} validation layer is not installed ({self.hint})")
        folder.mkdir(parents=True, exist_ok=True)
        rows = COMMON | self.settings | {"log_filename": str(_log(folder))}
        (folder / "vk_layer_settings.txt").write_text(
            "".join(f"khronos_validation.{key} = {value}\n" for key, value in rows.items())
        )
        variables = {"VK_INSTANCE_LAYERS": NAME, "VK_LAYER_SETTINGS_PATH": str(folder)}
        if self.library:
            described = json.loads(manifest.read_text())
            described["layer"]["library_path"] = str(self.library)
            (folder / manifest.name).write_text(json.dumps(described))
            variables["VK_LAYER_PATH"] = str(folder)
        return variables

    def is_among(self, libraries: list[str]) -> bool:
        """Whether a process that mapped these libraries ran under this layer and no other version of it."""
        found = [Path(path) for path in libraries if "khronos_validation" in path]
        return len(found) == 1 and (self.library is None) == (found[0].parent != chromium_folder())


def _log(folder: Path) -> Path:
    return folder / "messages.txt"


def messages(folder: Path) -> str:
    """What the layer had to say."""
    return _log(folder).read_text() if _log(folder).exists() else ""


DEBIAN = Layer(
    "debian",
    None,
    {"enables": "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT"},
    "Debian: apt-get install vulkan-validationlayers",
)
CHROMIUM = Layer(
    "chromium",
    chromium_folder() / "libVkLayer_khronos_validation.so",
    {"validate_sync": "true", "syncval_shader_accesses_heuristic": "true", "syncval_full_validation": "true"},
    "scripts/setup.sh fetches it",
)
LAYERS = (DEBIAN, CHROMIUM)

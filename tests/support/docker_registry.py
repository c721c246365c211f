"""Debian's docker-registry on a loopback port, with a folder of its own.

with DockerRegistry(folder) as registry: pull(store, f"http://{registry.host}/library/m", ...)
"""

import subprocess
from pathlib import Path

from live_server import free_port, wait_for_port
from vulkan_drivers import missing

from vkbackend import settings

CONFIGURATION = """version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: FOLDER}, delete: {enabled: true}}
http: {addr: "127.0.0.1:PORT", secret: not-much-of-one}
"""


def program() -> Path:
    """Skips where it is missing."""
    path = settings.cache_folder() / "docker-registry" / "usr" / "bin" / "docker-registry"
    if not path.exists():
        missing("docker-registry is not there (scripts/setup.sh --tests fetches it)")
    return path


class DockerRegistry:
    """host: `127.0.0.1:PORT`."""

    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.host = f"127.0.0.1:{self.port}"

    def __enter__(self):
        command = program()
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "config.yml"
        configuration.write_text(
            CONFIGURATION.replace("FOLDER", str(self.folder / "data")).replace("PORT", str(self.port))
        )
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen([command, "serve", configuration], stdout=log, stderr=log)
        try:
            wait_for_port(self.port, self.process)
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)

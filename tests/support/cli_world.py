"""Commands in this process, and the results that they should have."""

from vulkan_drivers import missing

from vkbackend.device.discover import list_devices
from vkbackend.errors import NoDevice

NO_DRIVER = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}


def ok(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def some_device():
    try:
        return list_devices()[0]
    except NoDevice as error:
        missing(f"no Vulkan device: {error}")

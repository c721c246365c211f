"""GGUF language models on any Vulkan device. For shader-level work:

    devices(), open_device(index)      list the devices; open one (`device.context.Device`)
    run_shader(device, glsl, ...)      run any compute shader on numpy arrays
    run_op(device, "rope", ...)        run one op on numpy arrays; reference("rope", ...) is its numpy reference
    Session(path, device)              open a model: logits, log-probabilities, one layer, intermediates, timings
    open_engine(path)                  open a model to generate text, as the server does

Names are imported on first use, so that `vkbackend.devices()` works without kp.
"""

import importlib
from typing import Any

_WHERE = {
    "devices": ("device.discover", "list_devices"),
    "open_device": ("device.selection", "open_device"),
    "run_shader": ("device.run_shader", "run_shader"),
    "run_op": ("ops.run", "run"),
    "reference": ("ops.run", "reference"),
    "Session": ("session", "Session"),
    "open_engine": ("placement.opening", "open_engine"),
}
__all__ = sorted(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]: __getattr__ provides them


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vkbackend' has no attribute {name!r}; there are: {', '.join(__all__)}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)

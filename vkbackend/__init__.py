"""GGUF language models on any Vulkan device. For shader-level work:

    devices(), open_device(index)      what is there; an open `device.context.Device`
    run_shader(device, glsl, ...)      any compute shader on numpy arrays
    run_op(device, "rope", ...)        one op of this package on numpy arrays; reference("rope", ...) is its numpy twin
    Session(path, device)              a model: logits, log-probabilities, one layer, intermediates, timings
    open_engine(path)                  a model that generates text, as the server uses it

Names are imported on first use, so that `vkbackend.devices()` works where kp is not installed.
"""

import importlib

_WHERE = {
    "devices": ("device.discover", "list_devices"),
    "open_device": ("device.selection", "open_device"),
    "run_shader": ("device.run_shader", "run_shader"),
    "run_op": ("ops.run", "run"),
    "reference": ("ops.run", "reference"),
    "Session": ("session", "Session"),
    "open_engine": ("placement.opening", "open_engine"),
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module 'vkbackend' has no attribute {name!r}; there are: {', '.join(__all__)}")
    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(f".{module}", __name__), attribute)

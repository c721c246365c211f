"""`vkbackend bench`: how fast a model and its kernels run here, and how far that is from what the device can do.

`bench(path, device)` measures a model (`model.py`), `device_speed.py` the device itself, `kernels.measure(device)`
single kernels.
"""

from .model import bench

__all__ = ["bench"]

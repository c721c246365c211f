"""`vkbackend bench`: how fast a model and its kernels run on this machine, and how close that is to the device's peak.

`bench(path, device)` measures a model (`model.py`), `device_speed.py` the device itself, `kernels.measure(device)`
single kernels.
"""

from .model import bench

__all__ = ["bench"]

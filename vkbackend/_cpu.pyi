"""Types of the extension module that vkbackend/cpu/module.cpp builds."""

import numpy as np

ENTRY: int
MAX_HEAD_DIM: int
VARIANTS: tuple[str, ...]  # that this CPU can run, the fastest last, which is chosen

class Call:
    @property
    def address(self) -> int: ...
    def run(self, tasks: int = 1) -> None: ...

Array = np.ndarray
Optional = np.ndarray | None

def choose_variant(name: str) -> None: ...  # for calls that are made later
def rms_norm(x: Array, weight: Array, residual: Optional, y: Array, eps: float) -> Call: ...
def layer_norm(
    x: Array, weight: Array, bias: Optional, residual: Optional, y: Array, eps: float, padding: int
) -> Call: ...
def activation(x: Array, y: Array, kind: str) -> Call: ...
def finish(x: Array, bias: Optional, residual: Optional, y: Array, gate: str) -> Call: ...
def gate(gate: Array, up: Array, y: Array, kind: str) -> Call: ...
def softcap(x: Array, y: Array, cap: float) -> Call: ...
def gather(x: Array, rows: Array, y: Array) -> Call: ...
def rotation(positions: Array, axes: Optional, turns: Array, y: Array) -> Call: ...
def split_heads(
    x: Array,
    rotation: Array,
    q_norm: Optional,
    k_norm: Optional,
    positions: Array,
    sequences: Array,
    page_table: Array,
    k_data: Array,
    k_scales: Optional,
    v_data: Array,
    v_scales: Optional,
    q: Array,
    adjacent: bool,
    eps: float,
    norm_last: bool,
) -> Call: ...
def attention(
    q: Array,
    positions: Array,
    sequences: Array,
    page_table: Array,
    limits: Optional,
    sinks: Optional,
    k_data: Array,
    k_scales: Optional,
    v_data: Array,
    v_scales: Optional,
    y: Array,
    scale: float,
    window: int,
    softcap: float,
) -> Call: ...
def strips(logits: Array, strips: Array) -> Call: ...
def candidates(
    logits: Array, strips: Array, stats: Array, counts: Array, ids: Array, values: Array, k: int
) -> Call: ...
def has_product(type: int) -> bool: ...
def group_size(type: int) -> int: ...
def num_code_bytes(type: int, rows: int, k: int) -> int: ...
def quantize(x: Array, type: int, codes: Array) -> Call: ...
def product(weights: Array, type: int, codes: Array, k: int, y: Array) -> Call: ...

"""Chooses the type of each tensor of a quantized model: the requested one for most, a better one for important ones.

In: the file type's name ("Q4_K_M") and a model's tensors. Out: {tensor name: type}. The rules are llama.cpp's for
dense models without an importance matrix (llama-quant.cpp: llama_tensor_get_type), by layer number; Ollama 0.12.11
has the same rules for its types.
"""

import re
from collections.abc import Sequence

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vkbackend.gguf.reader import VISION_PREFIXES

from .source import Tensor

_T = GGMLQuantizationType
# Small but important matrices, which keep their type.
KEPT = re.compile(
    r"_norm\.weight$|ffn_gate_inp|^position_embd|^token_types|ssm_conv1d|shortconv\.conv|attn_rel_b"
    r"|per_layer_token_embd"
)
# For rows that are not a multiple of the K types' 256 elements: a type of similar size in blocks of 32.
FALLBACK = {_T.Q2_K: _T.Q4_0, _T.Q3_K: _T.Q4_0, _T.Q4_K: _T.Q5_0, _T.Q5_K: _T.Q5_1, _T.Q6_K: _T.Q8_0}
OUTPUT = "output.weight"
EMBEDDING = "token_embd.weight"


def types(file_type: str, tensors: Sequence[Tensor]) -> dict[str, GGMLQuantizationType]:
    """New types of the tensors that change, by name. Quantized tensors do not change."""
    plain = _plain_type(file_type)
    names = {tensor.name for tensor in tensors}
    layers = 1 + max((_layer(name) for name in names), default=0)
    heads_per_kv = _heads_per_kv(tensors)
    chosen = {}
    for tensor in tensors:
        is_weight_matrix = len(tensor.shape) > 1 and tensor.name.endswith("weight")
        if not tensor.is_float or not is_weight_matrix or _is_kept(tensor.name):
            continue
        kind = plain
        if block_size(plain) > 1:
            if tensor.name == OUTPUT or tensor.name == EMBEDDING and OUTPUT not in names:
                kind = _of_output(plain, tensor)
            else:
                kind = _of_layer(file_type, plain, tensor.name, layers, heads_per_kv)
            kind = fitting(kind, tensor.width)
        if kind is not tensor.type:
            chosen[tensor.name] = kind
    return chosen


def _is_kept(name: str) -> bool:
    """Whether a matrix keeps its type: a small but important one, or one of the image encoder."""
    return name.startswith(VISION_PREFIXES) or KEPT.search(name) is not None


def block_size(kind: GGMLQuantizationType) -> int:
    """Elements per block."""
    return GGML_QUANT_SIZES[kind][0]


def fitting(kind: GGMLQuantizationType, width: int) -> GGMLQuantizationType:
    """The type itself if rows of `width` elements have whole blocks, otherwise the next best type."""
    if width % block_size(kind):
        kind = FALLBACK.get(kind, kind)
    return kind if width % block_size(kind) == 0 else _T.F16


def _plain_type(file_type: str) -> GGMLQuantizationType:
    return _T[re.sub(r"_K_[SML]$", "_K", file_type)]


def _of_output(plain: GGMLQuantizationType, tensor: Tensor) -> GGMLQuantizationType:
    """Type of the output matrix: at least 6 bits."""
    if plain is _T.Q8_0 or tensor.width % block_size(plain):
        return _T.Q8_0
    return _T.Q6_K


def _of_layer(
    file_type: str, plain: GGMLQuantizationType, name: str, layers: int, heads_per_kv: int
) -> GGMLQuantizationType:
    layer = _layer(name)
    # The first and last eighth of the layers, and every third one in between.
    gets_more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    match name.split(".")[-2], file_type:
        case "attn_v", "Q2_K":
            return _T.Q4_K if heads_per_kv >= 4 else _T.Q3_K
        case "attn_v", "Q3_K_M":
            return _T.Q5_K if layer < 2 else _T.Q4_K
        case "attn_v", "Q4_K_S":
            return _T.Q5_K if layer < 4 else plain
        case "ffn_down", "Q3_K_M":
            return _T.Q5_K if layer < layers // 16 else _T.Q4_K
        case "ffn_down", "Q4_K_S":
            return _T.Q5_K if layer < layers // 8 else plain
        case "attn_v" | "ffn_down", "Q4_K_M" | "Q5_K_M":
            return _T.Q6_K if gets_more else plain
        case "attn_output" | "ffn_down", "Q2_K":
            return _T.Q3_K
        case "attn_output", "Q3_K_M":
            return _T.Q4_K
        case "attn_v" | "attn_output" | "ffn_down", "Q3_K_L":
            return _T.Q5_K
    return plain


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _heads_per_kv(tensors: Sequence[Tensor]) -> int:
    """Query heads per KV head, from the rows of q and k in the first layer."""
    rows = {tensor.name: tensor.num_rows for tensor in tensors}
    return rows.get("blk.0.attn_q.weight", 1) // rows.get("blk.0.attn_k.weight", 1)

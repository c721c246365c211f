"""Ollama's names of GGUF file types (`general.file_type`, shown as quantization level) and tensor types.

Numbers: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml.h. Types without a name in Ollama are
`unknown`.
"""

from gguf import GGMLQuantizationType, LlamaFileType

from vkbackend.gguf.reader import Metadata

UNKNOWN = "unknown"
_MXFP4_FILE_TYPE = 4  # formerly MOSTLY_Q4_1_SOME_F16, which no file uses any more
_NAMED_FILE_TYPES = (
    "F16",
    "Q4_0",
    "Q4_1",
    "Q8_0",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q2_K_S",
    "BF16",
)
FILE_TYPES = {0: "F32", _MXFP4_FILE_TYPE: "MXFP4"} | {
    int(LlamaFileType[f"MOSTLY_{name}"]): name for name in _NAMED_FILE_TYPES
}
_NAMED_TENSOR_TYPES = (
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "F64",
    "BF16",
)
_MXFP4_TENSOR_TYPES = (4, 39)  # Ollama's own number before ggml had one, and ggml's
TENSOR_TYPES = {int(GGMLQuantizationType[name]): name for name in _NAMED_TENSOR_TYPES} | dict.fromkeys(
    _MXFP4_TENSOR_TYPES, "MXFP4"
)
FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
CAN_QUANTIZE_TO = "F32, F16, Q4_K_S, Q4_K_M, Q8_0"
_PARSED = {
    "F32": "F32",
    "F16": "F16",
    "Q8_0": "Q8_0",
    "Q4_K_S": "Q4_K_S",
    "Q4_K_M": "Q4_K_M",
    "Q4_K": "Q4_K_M",
    "BF16": "BF16",
}


def file_type_name(number: int) -> str:
    """Name of a `general.file_type`."""
    return FILE_TYPES.get(number, UNKNOWN)


def quantization_level(metadata: Metadata) -> str:
    """Quantization level of a GGUF. File type 0 is unknown: converters write it if they do not know."""
    number = metadata.get("general.file_type", None, 0)
    return file_type_name(number) if isinstance(number, int) and number > 0 else UNKNOWN


def tensor_type_name(number: int) -> str:
    """Name of a tensor's type."""
    return TENSOR_TYPES.get(number, UNKNOWN)


def parse_file_type(text: str) -> str:
    """Full name of a type that Ollama can quantize to. Raises ValueError, in Ollama's words, for others."""
    if text not in _PARSED:
        raise ValueError(f"unsupported quantization type {text} - supported types are {CAN_QUANTIZE_TO}")
    return _PARSED[text]


# Further types for `quantize`, which Ollama 0.12.11 does not have. Short names are those of llama.cpp.
_FURTHER = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q5_K_S", "Q5_K_M", "Q6_K")
_SHORT = {"Q3_K": "Q3_K_M", "Q5_K": "Q5_K_M"}
CAN_BE_QUANTIZED = ("F32", "F16", "BF16")


def quantize_target(text: str) -> str:
    """Full name of the file type that `quantize` asks for, in any case. Raises ValueError like `parse_file_type`."""
    text = _SHORT.get(text.upper(), text.upper())
    return text if text in _FURTHER else parse_file_type(text)

"""Metadata of a GGUF file: values by key, decoded when they are used."""

import mmap
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from ..errors import GGUFError

REQUIRED = object()
LENGTH = struct.Struct("<Q")

MetadataValue = str | bool | int | float | np.ndarray | list[str] | list[bool]
Decoder = Callable[[], MetadataValue]
Kind = TypeVar("Kind")
Default = TypeVar("Default")


class Metadata:
    """Values by key. Each use decodes an array again."""

    def __init__(self, path: Path, decoders: dict[str, Decoder]):
        self._path = path
        self._decoders = decoders

    def __getitem__(self, key: str) -> MetadataValue:
        return self._decoders[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoders)

    def __len__(self) -> int:
        return len(self._decoders)

    def __contains__(self, key: object) -> bool:
        return key in self._decoders

    def array_length(self, key: str) -> int | None:
        """The number of elements of an array, without decoding it; None if the value is not an array."""
        decoder = self._decoders[key]
        return decoder.length if isinstance(decoder, Numbers | Strings) else None

    @overload
    def get(self, key: str, kind: type[list]) -> list[Any] | np.ndarray: ...

    @overload
    def get(self, key: str, kind: type[list], default: Default) -> list[Any] | np.ndarray | Default: ...

    @overload
    def get(self, key: str, kind: type[Kind]) -> Kind: ...

    @overload
    def get(self, key: str, kind: type[Kind], default: Default) -> Kind | Default: ...

    @overload
    def get(self, key: str, kind: None, default: object) -> Any: ...

    def get(self, key: str, kind: type | None, default: object = REQUIRED) -> Any:
        """The value of `key`, which must be of `kind`: int, float, str, bool, list, or None for any. An int is
        accepted as a float; a list of numbers is a numpy array.

        Raises GGUFError if the key is missing and there is no default, or if the value is of another type.
        """
        if key not in self._decoders:
            if default is REQUIRED:
                raise self._missing(key)
            return default
        value = self[key]
        if kind is None or isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        if kind is float and isinstance(value, int):
            return float(value)
        if kind is list and isinstance(value, np.ndarray):
            return value
        raise self._mistyped(key, kind.__name__)

    def strings(self, key: str) -> list[bytes]:
        """The strings of the array `key` as stored in the file (UTF-8 by specification). Raises GGUFError as `get`."""
        if key not in self._decoders:
            raise self._missing(key)
        decoder = self._decoders[key]
        if not isinstance(decoder, Strings):
            raise self._mistyped(key, "an array of strings")
        return decoder.pieces()

    def mentioned(self, key: str, texts: Iterable[bytes]) -> set[bytes]:
        """Those of `texts` that are a part of one of the strings of the array `key`, none if it is not an array of
        strings. Much faster than `strings`.
        """
        decoder = self._decoders.get(key)
        if not isinstance(decoder, Strings):
            return set()
        whole = decoder.contents()
        return {text for text in texts if text in whole}

    def _missing(self, key: str) -> GGUFError:
        return GGUFError(
            f"{self._path}: metadata key {key} is missing; convert the model again with a current converter"
        )

    def _mistyped(self, key: str, wanted: str) -> GGUFError:
        return GGUFError(
            f"{self._path}: metadata key {key} is {type(self[key]).__name__}, not {wanted}; the file is damaged or "
            f"badly converted"
        )


class Numbers:
    """Decodes an array of numbers or bools."""

    def __init__(self, numbers: np.ndarray, is_bool: bool):
        self._numbers = numbers
        self._is_bool = is_bool
        self.length = len(numbers)

    def __call__(self) -> np.ndarray | list[bool]:
        return self._numbers.astype(bool).tolist() if self._is_bool else self._numbers


class Strings:
    """Decodes an array of strings: bytes `start` to `end` of `data`, which the reader has checked. Each string follows
    its length in eight bytes.
    """

    def __init__(self, data: mmap.mmap, start: int, end: int, length: int):
        self._data = data
        self._start = start
        self._end = end
        self.length = length

    def __call__(self) -> list[str]:
        return [piece.decode("utf-8", "replace") for piece in self.pieces()]

    def contents(self) -> bytes:
        """The bytes of all strings and their lengths, as in the file."""
        return self._data[self._start : self._end]

    def pieces(self) -> list[bytes]:
        """The bytes of all strings, in order, not decoded."""
        unpack, whole = LENGTH.unpack_from, self.contents()
        at, pieces = 0, []
        for _ in range(self.length):
            end = at + 8 + unpack(whole, at)[0]
            pieces.append(whole[at + 8 : end])
            at = end
        return pieces

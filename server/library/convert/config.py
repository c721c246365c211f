"""config.json of a Hugging Face model: values are looked up with their types and bounds checked.

In: the parsed file. Out: `Config`. A missing or invalid value raises an error that names the key.
"""

from collections.abc import Iterator
from typing import Any

from .source import CannotConvert

MAX_INTEGER = (1 << 32) - 1
# Upper bounds for values that drive allocation before the weights can contradict them; far above any model's.
MAX_OF = {"num_hidden_layers": 10_000, "hidden_size": 1 << 20, "head_dim": 1 << 16}
MIN_FLOAT = 1e-37
MAX_FLOAT = 3e38


class Config:
    """An object of config.json or another file; `path`: prefix of its keys in error messages, "" for the whole file.

    architecture: the first name in `architectures` of config.json, "" for nested objects and other files.
    """

    def __init__(self, values: dict[str, Any], path: str = "", file: str = "config.json"):
        self._values = values
        self._path = path
        self._file = file
        self.architecture = ""
        if path or file != "config.json":
            return
        names = values.get("architectures")
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise CannotConvert(
                'unknown architecture: config.json has none under "architectures"; provide the model\'s own config.json'
            )
        self.architecture = names[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default` if it is missing or null."""
        value = self._values.get(key)
        return default if value is None else value

    def part(self, key: str) -> "Config | None":
        """The nested object at `key`, or None."""
        value = self._values.get(key)
        return Config(value, f"{self._path}{key}.", self._file) if isinstance(value, dict) else None

    def whole(self, key: str, default: int | None = None) -> int:
        """An integer from 1 to the bound of MAX_OF, or 32 bits. Raises CannotConvert."""
        value = self.get(key, default)
        largest = MAX_OF.get(key, MAX_INTEGER)
        if type(value) is not int or not 1 <= value <= largest:
            raise self._wrong(key, value, f"an integer from 1 to {largest}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number within float32. Raises CannotConvert."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not MIN_FLOAT < value < MAX_FLOAT:
            raise self._wrong(key, value, "a positive number")
        return float(value)

    def _wrong(self, key: str, value: Any, wanted: str) -> CannotConvert:
        return CannotConvert(
            f"{self._file}: {self._path}{key} is {str(value)[:80]}, not {wanted}; provide the model's own {self._file}"
        )

    def rope(self, kind: str | None = None) -> tuple[float | None, "Config | None"]:
        """(base, scaling): from `rope_theta` and `rope_scaling`, or from `rope_parameters`, maybe per layer `kind`."""
        together = self.part("rope_parameters")
        if together is not None and kind is not None and together.part(kind) is not None:
            together = together.part(kind)
        source = together if together is not None and "rope_theta" in together else self
        scaling = self.part("rope_scaling") or together
        if scaling is not None and scaling.rope_type() in ("", "default"):
            scaling = None
        return (source.number("rope_theta") if "rope_theta" in source else None), scaling

    def rope_type(self) -> str:
        """Kind of rope scaling, "" if not given."""
        return str(self.get("rope_type", self.get("type", "")))

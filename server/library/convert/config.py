"""config.json of a Hugging Face model: numbers looked up with their types and bounds checked.

In: the parsed file. Out: `Config`. What is missing or no number is an error that names the key.
"""

from .source import CannotConvert

LARGEST = (1 << 32) - 1
# Of what is counted or made room for before the weights could tell that it is wrong; far more than any model has.
LARGEST_OF = {"num_hidden_layers": 10_000, "hidden_size": 1 << 20, "head_dim": 1 << 16}
SMALLEST_FLOAT, LARGEST_FLOAT = 1e-37, 3e38


class Config:
    """`architecture`: the first name of `architectures`. `path`: where in config.json this object stands, for
    errors.
    """

    def __init__(self, values: dict, path: str = ""):
        self._values, self._path = values, path
        names = values.get("architectures")
        if not path and not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise CannotConvert(
                'unknown architecture: config.json names none under "architectures"; give the model\'s own config.json'
            )
        self.architecture = "" if path else names[0]

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def get(self, key: str, default=None):
        value = self._values.get(key)
        return default if value is None else value

    def part(self, key: str) -> "Config | None":
        """An object within, None where there is none."""
        value = self._values.get(key)
        return Config(value, f"{self._path}{key}.") if isinstance(value, dict) else None

    def whole(self, key: str, default: int | None = None) -> int:
        """A number from 1 on that fits into 32 bits, and is no larger than LARGEST_OF allows. Raises CannotConvert."""
        value, largest = self.get(key, default), LARGEST_OF.get(key, LARGEST)
        if type(value) is not int or not 1 <= value <= largest:
            raise self._wrong(key, value, f"a whole number from 1 to {largest}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0 that a float32 holds. Raises CannotConvert."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not SMALLEST_FLOAT < value < LARGEST_FLOAT:
            raise self._wrong(key, value, "a number above 0")
        return float(value)

    def _wrong(self, key: str, value, wanted: str) -> CannotConvert:
        return CannotConvert(
            f"config.json: {self._path}{key} is {str(value)[:80]}, not {wanted}; give the model's own config.json"
        )

    def rope(self, kind: str | None = None) -> tuple[float | None, "Config | None"]:
        """-> (base, scaling). They stand in `rope_theta` and `rope_scaling`, or together in `rope_parameters`, there
        perhaps one for each `kind` of layer.
        """
        together = self.part("rope_parameters")
        if together is not None and kind is not None and together.part(kind) is not None:
            together = together.part(kind)
        source = together if together is not None and "rope_theta" in together else self
        scaling = self.part("rope_scaling") or together
        if scaling is not None and scaling.rope_type() in ("", "default"):
            scaling = None
        return (source.number("rope_theta") if "rope_theta" in source else None), scaling

    def rope_type(self) -> str:
        return str(self.get("rope_type", self.get("type", "")))

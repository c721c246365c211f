"""How tool calls look in a model's answers, as far as its template tells. In: a template. Out: `CallFormat`."""

from dataclasses import dataclass
from enum import Enum, auto


class CallShape(Enum):
    """How a call's name and arguments are written."""

    JSON = auto()  # an object that holds both: {"name": "f", "arguments": {"a": 1}}
    NAMED_JSON = auto()  # the name, then an object: f[ARGS]{"a": 1}
    ELEMENTS = auto()  # the name, then an element for each argument: <function=f><parameter=a>1</parameter>
    PYTHON = auto()  # a list of calls in Python: [f(a=1)]


@dataclass(frozen=True)
class CallFormat:
    """The marks around calls. White space at the ends of a mark, and its amount inside, do not matter.

    tag: begins the first call of an answer. name_key, arguments_key: their keys in a JSON call.
    The other marks are for shapes other than JSON:
    opening, closing: around each call; the name follows the opening.
    after_name: between the name and its arguments. section_closing: after the last call.
    key_opening, after_key, value_closing: around the key and value of an element.
    content_opening: replaces the name before content that is not a call ("all" in ">>>all\\n").
    names_in_ids: histories show the name of a call only in its id, `functions.NAME:NUMBER`.
    """

    tag: str = "{"
    shape: CallShape = CallShape.JSON
    name_key: str = "name"
    arguments_key: str = "arguments"
    opening: str = ""
    after_name: str = ""
    closing: str = ""
    section_closing: str = ""
    key_opening: str = ""
    after_key: str = ""
    value_closing: str = ""
    content_opening: str = ""
    names_in_ids: bool = False

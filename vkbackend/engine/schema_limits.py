"""Limits on what a JSON schema may cost to compile: llguidance cannot be interrupted, and its own limits do not cover
everything that takes it time or stack.

In: a schema as `schema.cleaned` returns it. Measured on one core with llguidance 1.9: a schema within these limits
compiles in at most about three seconds.
"""

import time
from collections.abc import Iterator

from .schema_addresses import InvalidSchema

MAX_PARTS = 6000  # objects in the schema; time grows with the square of their number
MULTIPLE_PARTS = 20  # `multipleOf` costs as much as this many other parts
MAX_NAME_PATTERNS = 100  # of one `patternProperties`; llguidance checks each against all others: 400 take minutes
MAX_DEPTH = 10_000  # nesting of all definitions together: llguidance follows references recursively
STACK_BYTES = 256 << 20  # for MAX_DEPTH: llguidance takes about 10 KB for each level
MAX_SECONDS = 5.0  # CPU time for a format, checked between calls of llguidance


class Budget:
    """CPU time of the calling thread, so that a busy machine does not change which schemas are accepted."""

    def __init__(self) -> None:
        self._start = time.thread_time()

    def check(self) -> None:
        """Raises InvalidSchema if MAX_SECONDS are used up."""
        if time.thread_time() - self._start > MAX_SECONDS:
            raise InvalidSchema(f"it takes more than {MAX_SECONDS:.0f} seconds to compile")


def check_size(schema: dict) -> None:
    """Raises InvalidSchema if a schema is too large or too deeply nested to compile."""
    parts = 0
    for node in _objects(schema):
        parts += MULTIPLE_PARTS if isinstance(node.get("multipleOf"), (int, float)) else 1
        patterns = node.get("patternProperties")
        if isinstance(patterns, dict) and len(patterns) > MAX_NAME_PATTERNS:
            raise InvalidSchema(
                f"it has {len(patterns)} patternProperties; at most {MAX_NAME_PATTERNS} can be compiled"
            )
        if parts > MAX_PARTS:
            raise InvalidSchema(f"it has more than {MAX_PARTS} parts")
    root = {name: value for name, value in schema.items() if name != "$defs"}
    depth = sum(map(_depth, (root, *schema.get("$defs", {}).values())))
    if depth > MAX_DEPTH:
        raise InvalidSchema(f"its definitions are nested {depth} deep; at most {MAX_DEPTH} levels can be compiled")


def _objects(schema: object) -> Iterator[dict]:
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _depth(schema: object) -> int:
    """Levels of objects and lists."""
    depth = 0
    level = [schema]
    while level:
        depth += 1
        inner: list[object] = []
        for node in level:
            if isinstance(node, dict):
                inner += node.values()
            elif isinstance(node, list):
                inner += node
        level = [part for part in inner if isinstance(part, (dict, list))]
    return depth

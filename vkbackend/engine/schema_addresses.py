"""Resolves the references of a JSON schema: JSON pointers, anchors and ids within one document."""

from urllib.parse import unquote, urljoin

LONGEST_REFERENCE = 80  # logged characters of a reference


class InvalidSchema(ValueError):
    """A schema cannot be used: it has an unknown type, a reference to nothing, or is too large. The text is for the
    log."""


class Addresses:
    """The places of one document that references can name."""

    def __init__(self, root: dict):
        self._root = root
        self._bases: dict[int, str] = {}  # id of each object in the document -> base address of its references
        self._named: dict[str, dict] = {"": root}  # address, with or without an anchor -> object
        waiting: list[tuple[object, str]] = [(root, "")]
        while waiting:
            node, base = waiting.pop()
            if isinstance(node, dict):
                base = self._note(node, base)
                waiting += [(part, base) for part in node.values()]
            elif isinstance(node, list):
                waiting += [(part, base) for part in node]

    def _note(self, node: dict, base: str) -> str:
        identifier, anchor = node.get("$id", node.get("id")), node.get("$anchor")
        if isinstance(identifier, str):
            address, _, fragment = identifier.partition("#")
            base = _join(base, address)
            self._named.setdefault(f"{base}#{fragment}" if fragment else base, node)
        if isinstance(anchor, str):
            self._named.setdefault(f"{base}#{anchor}", node)
        self._bases[id(node)] = base
        return base

    def find(self, reference: str, node: dict) -> dict | bool | None:
        """The schema that `reference` in `node` refers to; None if it is in another document.

        Raises InvalidSchema if the document has no such place.
        """
        address, _, fragment = reference.partition("#")
        address = _join(self._bases[id(node)], address)
        resource = self._named.get(address)
        if resource is None and not reference.startswith("#"):
            return None
        if not fragment:
            return resource if resource is not None else self._root
        starts = [start for start in (resource, self._root) if start is not None]
        for start in starts:
            place = self._place(start, fragment, address)
            if isinstance(place, (dict, bool)):
                return place
        raise InvalidSchema(f"$ref {reference[:LONGEST_REFERENCE]!r} does not refer to a schema")

    def _place(self, start: object, fragment: str, address: str) -> object:
        if not fragment.startswith("/"):
            return self._named.get(f"{address}#{fragment}", self._named.get(f"{address}#{unquote(fragment)}"))
        for part in fragment.split("/")[1:]:
            if isinstance(start, dict):
                written = (part, _unescaped(part), _unescaped(unquote(part)))
                start = next((start[name] for name in written if name in start), None)
            elif isinstance(start, list):
                start = start[int(part)] if part.isdecimal() and len(part) < 10 and int(part) < len(start) else None
            else:
                return None
        return start


def _join(base: str, address: str) -> str:
    try:
        return urljoin(base, address) if address else base
    except ValueError:
        return address


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")

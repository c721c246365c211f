"""Model names: `[[host/]namespace/]model[:tag]`.

In: text from a user or client. Out: `ModelName` with its four parts, its shortest form, and its path below
`manifests/`. Rules of Ollama's types/model/name.go: a missing part takes its default; an empty part after or before a
separator (`m:`) makes the name invalid.
"""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ..go.folding import fold

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
_MISSING = "!MISSING!"  # an empty part next to a separator; never valid
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class ModelName:
    """The four parts of a name; "" for a part that is not given."""

    host: str = ""
    namespace: str = ""
    model: str = ""
    tag: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether all four parts are there and safe in a path."""
        parts = (_HOST, self.host), (_NAMESPACE, self.namespace), (_PART, self.model), (_PART, self.tag)
        return all(pattern.fullmatch(part) for pattern, part in parts)

    def with_defaults(self) -> "ModelName":
        """The name with missing parts filled in, except the model."""
        return replace(
            self,
            host=self.host or DEFAULT_HOST,
            namespace=self.namespace or DEFAULT_NAMESPACE,
            tag=self.tag or DEFAULT_TAG,
        )

    def __str__(self) -> str:
        """All given parts: `registry.ollama.ai/library/m:latest`."""
        text = "".join(part + "/" for part in (self.host, self.namespace) if part) + self.model
        return f"{text}:{self.tag}" if self.tag else text

    @property
    def shortest(self) -> str:
        """The name without default host and namespace: `m:latest`, `ns/m:latest`."""
        if fold(self.host) != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if fold(self.namespace) != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def file_path(self) -> PurePosixPath:
        """Path below `manifests/`. Raises ValueError for an invalid name, which never becomes a path."""
        if not self.is_valid:
            raise ValueError(f"{self} is not a valid model name")
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, str, str, str]:
        """The parts folded, equal for names that differ only in case."""
        return fold(self.host), fold(self.namespace), fold(self.model), fold(self.tag)

    def written_as(self, known: "list[ModelName]") -> "ModelName":
        """The name with each part in the case that a known name has it in, if there is one."""

        def written(part: str) -> str:
            own = getattr(self, part)
            alike = [getattr(name, part) for name in known if fold(getattr(name, part)) == fold(own)]
            return own if own in alike or not alike else alike[0]

        return ModelName(*map(written, ("host", "namespace", "model", "tag")))


def parse_bare(text: str) -> ModelName:
    """The parts given in `text`, without defaults."""
    tag = ""
    if text.rfind(":") > text.rfind("/"):
        text, _, tag = _cut_last(text, ":")
    text, promised, model = _cut_last(text, "/")
    if not promised:
        return ModelName(model=text, tag=tag)
    text, promised, namespace = _cut_last(text, "/")
    if not promised:
        return ModelName(namespace=text, model=model, tag=tag)
    scheme, separator, host = text.partition("://")
    return ModelName(host if separator else scheme, namespace, model, tag)


def _cut_last(text: str, separator: str) -> tuple[str, bool, str]:
    before, found, after = text.rpartition(separator)
    return (before or _MISSING, True, after or _MISSING) if found else (text, False, "")


def parse_name(text: str) -> ModelName:
    """The name with defaults filled in; check `.is_valid` before use."""
    return parse_bare(text).with_defaults()


def from_file_path(path: str) -> ModelName | None:
    """Name of the path `host/namespace/model/tag`, or None if that is not the path of a valid name."""
    parts = path.split("/")
    name = ModelName(*parts) if len(parts) == 4 else ModelName()
    return name if name.is_valid else None


def scheme(text: str) -> str:
    """`http` of `http://host/namespace/model`, or "". Not part of the name: only the protocol of the registry."""
    before, separator, _ = text.partition("://")
    return before.lower() if separator else ""

"""Model names: `[[host/]namespace/]model[:tag]`.

In: what a user or client writes. Out: `ModelName` with its four parts, the shortest way to write it, and its place
below `manifests/`. Rules of Ollama's types/model/name.go: an absent part takes its default; a promised part that is
empty (`m:`) makes the name invalid.
"""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from ..go.folding import fold

DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
_MISSING = "!MISSING!"  # a part that a separator promised; never valid
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class ModelName:
    host: str = ""
    namespace: str = ""
    model: str = ""
    tag: str = ""

    @property
    def is_valid(self) -> bool:
        """All four parts are there and hold only what a path may hold."""
        return all(
            pattern.fullmatch(part)
            for pattern, part in (
                (_HOST, self.host),
                (_NAMESPACE, self.namespace),
                (_PART, self.model),
                (_PART, self.tag),
            )
        )

    def with_defaults(self) -> "ModelName":
        return replace(
            self,
            host=self.host or DEFAULT_HOST,
            namespace=self.namespace or DEFAULT_NAMESPACE,
            tag=self.tag or DEFAULT_TAG,
        )

    def __str__(self) -> str:
        """The parts that are there: `registry.ollama.ai/library/m:latest`."""
        text = "".join(part + "/" for part in (self.host, self.namespace) if part) + self.model
        return f"{text}:{self.tag}" if self.tag else text

    @property
    def shortest(self) -> str:
        """Without the default host and namespace: `m:latest`, `ns/m:latest`."""
        if fold(self.host) != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if fold(self.namespace) != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def file_path(self) -> PurePosixPath:
        """Below `manifests/`. Raises ValueError for a name that is not valid: such a name never becomes a path."""
        if not self.is_valid:
            raise ValueError(f"{self} is not a valid model name")
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, str, str, str]:
        """Equal for names that differ only in case."""
        return fold(self.host), fold(self.namespace), fold(self.model), fold(self.tag)

    def written_as(self, known: "list[ModelName]") -> "ModelName":
        """Each part in the case in which one of the known names has it, if any does."""

        def written(part: str) -> str:
            own = getattr(self, part)
            alike = [getattr(name, part) for name in known if fold(getattr(name, part)) == fold(own)]
            return own if own in alike or not alike else alike[0]

        return ModelName(*map(written, ("host", "namespace", "model", "tag")))


def parse_bare(text: str) -> ModelName:
    """The parts written in `text`, nothing filled in."""
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


def parse(text: str) -> ModelName:
    """The name with defaults filled in; ask `.is_valid` before use."""
    return parse_bare(text).with_defaults()


def from_file_path(path: str) -> ModelName | None:
    """`host/namespace/model/tag` -> the name, or None where the path is no valid name's."""
    parts = path.split("/")
    name = ModelName(*parts) if len(parts) == 4 else ModelName()
    return name if name.is_valid else None


def scheme(text: str) -> str:
    """`http` of `http://host/namespace/model`, nothing where none is written. No part of a name: it tells only how a
    registry is spoken to.
    """
    before, separator, _ = text.partition("://")
    return before.lower() if separator else ""

"""Addresses of a model's registry: a name as a user writes it -> base URL and the URLs below it.

The host is `registry.ollama.ai` unless the name has one (`hf.co/user/model:Q4_K_M`,
`http://127.0.0.1:5000/library/m`). VKBACKEND_REGISTRY_URLS gives hosts another base URL.
"""

from dataclasses import dataclass

from yarl import URL

from vkbackend import settings

from .. import names
from ..names import ModelName
from ..store import InvalidName
from .errors import RegistryError


@dataclass(frozen=True)
class Endpoint:
    """A model in a registry. verifies: whether certificates are checked."""

    name: ModelName
    base: URL
    verifies: bool = True

    @property
    def repository(self) -> str:
        """The model without its tag, as in URLs."""
        return f"{self.name.namespace}/{self.name.model}"

    def _below(self, path: str) -> URL:
        # encoded: a valid name needs no escapes.
        return URL(f"{str(self.base).rstrip('/')}/v2/{self.repository}/{path}", encoded=True)

    @property
    def manifest_url(self) -> URL:
        """URL of the manifest."""
        return self._below(f"manifests/{self.name.tag}")

    @property
    def uploads_url(self) -> URL:
        """URL at which uploads of blobs start."""
        return self._below("blobs/uploads/")

    def blob_url(self, digest: str) -> URL:
        """URL of a blob."""
        return self._below(f"blobs/{digest}")


def resolve(text: str, insecure: bool) -> Endpoint:
    """The endpoint of a name.

    insecure: use http if the name has no scheme, allow http://, and accept any certificate for https://. Raises
    InvalidName and RegistryError.
    """
    name = names.parse_name(text)
    scheme = names.scheme(text)
    if not name.is_valid:
        raise InvalidName("invalid model name")
    if scheme not in ("", "http", "https"):
        raise RegistryError(f"unsupported scheme {scheme}, use https or http: {text}")
    if scheme == "http" and not insecure:
        raise RegistryError(
            f"insecure protocol http: {text}; write https://, or allow it with --insecure (`insecure` in a request)"
        )
    base = _mirrors().get(name.host.lower()) if not scheme else None
    base = base or f"{scheme or ('http' if insecure else 'https')}://{name.host}"
    try:
        return Endpoint(name, URL(base), verifies=not insecure)
    except ValueError as error:
        raise RegistryError(f"{name.host} is not a valid host of a registry ({error})") from None


def _mirrors() -> dict[str, str]:
    """Host -> base URL; setting the variable allows http for its URLs."""
    text = settings.get("VKBACKEND_REGISTRY_URLS")
    entries = [entry.strip().partition("=") for entry in text.split(",") if entry.strip()]
    if not all(host and url.startswith(("http://", "https://")) for host, _, url in entries):
        raise RegistryError(
            f"invalid VKBACKEND_REGISTRY_URLS={text} (expected host=url, such as hf.co=http://127.0.0.1:5000)"
        )
    return {host.lower(): url for host, _, url in entries}

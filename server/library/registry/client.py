"""HTTP client of a registry: redirects, tokens, proxies, retries.

In: an `Endpoint`. Out: responses with a status below 400. Raises TemporaryFailure for failures worth a retry
(`retried` retries them), RegistryError for others. Authorization is sent to the registry itself only, not to the
targets of its redirects.
"""

import asyncio
import json
import logging
import os
import platform
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TypeAlias, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ...go.text import is_text
from ...version import OLLAMA_VERSION, version
from . import authorization
from .endpoint import Endpoint
from .errors import Refused, RegistryError, TemporaryFailure
from .limits import TransferLimits

log = logging.getLogger(__name__)

MAX_REDIRECTS = 10
MAX_ERROR_BYTES = 4096  # read from the body of an error
MAX_TOKEN_BYTES = 1 << 20  # read from the answer of a token server
T = TypeVar("T")
Response: TypeAlias = aiohttp.ClientResponse


@dataclass(frozen=True)
class Credentials:
    """For a registry that asks for a username and password."""

    username: str = ""
    password: str = ""


class Unreachable(TemporaryFailure):
    """No connection to the server."""


class RegistryClient:
    """An async context manager; belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials, limits: TransferLimits):
        self.endpoint = endpoint
        self.limits = limits
        self._credentials = credentials
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()
        self._ssl = endpoint.verifies  # True: check against the system's certificates

    async def __aenter__(self) -> "RegistryClient":
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.limits.connect_seconds, sock_read=self.limits.stall_seconds
        )
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent(), "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: URL,
        headers: dict[str, str] | None = None,
        body: Callable[[], AsyncIterable[bytes]] | bytes | None = None,
    ) -> AsyncIterator[Response]:
        """Context with the response to one attempt, whose body is read inside.

        body: bytes, or a function that gives them in pieces, called again if the request is repeated.
        """
        try:
            response = await self._answer(method, url, headers or {}, body)
            async with response:
                yield response
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise RegistryError(
                f"the certificate of {url.host} is not trusted ({error}); --insecure skips the check"
            ) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise RegistryError(f"cannot send a request to {url} ({error})") from None
        except aiohttp.ClientConnectorError as error:
            # The error's host, not `url`'s: it may be a token server or the target of a redirect.
            raise Unreachable(f"could not connect to {error.host}:{error.port} ({_reason(error.os_error)})") from None
        except TimeoutError:
            raise TemporaryFailure(f"{url.host} sent nothing for {self.limits.stall_seconds:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise TemporaryFailure(f"lost the connection to {url.host} ({error or type(error).__name__})") from None

    async def _answer(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        body: Callable[[], AsyncIterable[bytes]] | bytes | None,
    ) -> Response:
        """Follow up to MAX_REDIRECTS redirects, and authorize once on a 401."""
        has_authorized = False
        for _ in range(MAX_REDIRECTS):
            is_ours = url.origin() == self.endpoint.base.origin()
            sent = self._authorization if is_ours else None
            response = await self._session.request(
                method,
                url,
                headers=headers | ({"Authorization": sent} if sent else {}),
                data=body() if callable(body) else body,
                allow_redirects=False,
                proxy=proxy_of(url),
                ssl=self._ssl,
            )
            if response.status == 401 and is_ours and not has_authorized:
                has_authorized = True
                challenge = response.headers.get("WWW-Authenticate", "")
                response.release()
                await self._authorize(challenge, sent)
            elif response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                response.release()
                url = self._redirected(method, url, response)
            elif response.status >= 400:
                async with response:
                    raise await failure_of(response, method, url)
            else:
                return response
        raise RegistryError(f"{self.endpoint.base.host} redirects more than {MAX_REDIRECTS} times")

    def _redirected(self, method: str, url: URL, response: Response) -> URL:
        """Target of a redirect. Raises RegistryError for one that must not be followed."""
        if response.status < 307 and method not in ("GET", "HEAD"):
            raise RegistryError(
                f"{url.host} redirects {method} {url.path} with status {response.status}, which is invalid for {method}"
            )
        target = url.join(URL(response.headers["Location"], encoded=True))
        if target.scheme not in ("http", "https") or not target.host:
            raise RegistryError(f"{url.host} redirects to {str(target)[:200]!r}, which is not a valid address")
        if url.scheme == "https" and target.scheme == "http" and self.endpoint.verifies:
            raise RegistryError(
                f"{url.host} redirects to {target.scheme}://{target.host}, which is insecure; --insecure allows it"
            )
        return target

    async def _authorize(self, header: str, refused: str | None) -> None:
        """Get a new Authorization value, unless another request has done so since `refused` was sent."""
        async with self._authorizing:
            if self._authorization is not None and self._authorization != refused:
                return
            challenge = authorization.parse_challenge(header)
            if challenge.scheme == "basic" and self._credentials.username:
                self._authorization = authorization.basic(self._credentials.username, self._credentials.password)
            elif challenge.scheme == "bearer":
                self._authorization = f"Bearer {await self._token(challenge)}"
            else:
                raise Refused(
                    401,
                    f"unauthorized: {self.endpoint.base.host} requires {challenge.scheme or 'unknown'} authorization; "
                    "provide username and password in the request",
                )

    async def _token(self, challenge: authorization.Challenge) -> str:
        url, headers = authorization.token_request(
            challenge, self.endpoint.base, self._credentials.username, self._credentials.password
        )
        async with self._session.get(
            url, headers=headers, allow_redirects=False, proxy=proxy_of(url), ssl=self._ssl
        ) as response:
            if response.status != 200:
                raise await failure_of(response, "GET", url)
            contents = await read_at_most(response, MAX_TOKEN_BYTES)
        try:
            answer = json.loads(contents)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{url.host} sent no usable token")
        return token

    async def retried(
        self, attempt: Callable[[], Awaitable[T]], progress: Callable[[], int] = lambda: 0, is_first: bool = False
    ) -> T:
        """Result of `attempt()`, repeated on temporary failures, up to `limits.tries` times without progress.

        `progress()` increases with progress. is_first: do not retry if the server cannot be reached. Raises
        RegistryError.
        """
        failures = 0
        furthest = progress()
        while True:
            try:
                return await attempt()
            except TemporaryFailure as error:
                failures = 1 if progress() > furthest else failures + 1
                furthest = max(progress(), furthest)
                if failures >= self.limits.tries or is_first and isinstance(error, Unreachable):
                    raise RegistryError(f"{error}; tried {failures} times" if failures > 1 else str(error)) from None
                seconds = self.limits.wait_seconds(failures, error.after_seconds)
                log.info("%s; retrying in %.1f s", error, seconds)
                await asyncio.sleep(seconds)


async def failure_of(response: Response, method: str, url: URL) -> TemporaryFailure | Refused:
    """The exception for a response with an error status."""
    message = error_message(await read_at_most(response, MAX_ERROR_BYTES))
    text = f"{url.host} answers {method} {url.path} with status {response.status}" + (f": {message}" if message else "")
    if response.status in (408, 425, 429) or response.status >= 500:
        return TemporaryFailure(text, retry_after(response.headers.get("Retry-After")))
    return Refused(response.status, f"unauthorized: {text}" if response.status == 401 else text)


def _reason(error: OSError) -> str:
    """The system's error text, instead of asyncio's."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def read_at_most(response: Response, num_bytes: int) -> bytes:
    """The first `num_bytes` bytes of a body."""
    contents = b""
    async for piece in response.content.iter_any():
        contents += piece
        if len(contents) >= num_bytes:
            break
    return contents[:num_bytes]


def error_message(contents: bytes) -> str:
    """Message in the body of an error: `{"errors": [{"message", "detail"}]}`, `{"error": ...}`, or a short text.

    Control characters, which terminals interpret, become spaces.
    """
    text = contents.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
        entry = document["errors"][0] if document.get("errors") else document
        found = entry.get("message") or entry.get("error") or entry.get("code")
        message = str(found) if found else text[:200]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        message = "" if text.startswith("<") else text[:200]  # not an HTML page
    return "".join(character if is_text(character) else " " for character in message).strip()


def retry_after(text: str | None) -> float | None:
    """Seconds in a Retry-After header, which has seconds or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def proxy_of(url: URL) -> str | None:
    """Proxy for `url` from HTTPS_PROXY, HTTP_PROXY and NO_PROXY; none for this machine."""
    proxy = getproxies().get(url.scheme)
    if not proxy or is_loopback(url.host or "") or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def user_agent() -> str:
    """Ollama's User-Agent, whose version decides which models registries serve, followed by our own."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"ollama/{OLLAMA_VERSION} ({machine} {platform.system().lower()}) vkbackend/{version()}"

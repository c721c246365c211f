"""HTTP with a registry: redirects, tokens, proxies, and what is tried again.

In: an `Endpoint`. Out: answers below status 400. `Passing` is raised for what may be gone at the next try (`retried`
gives it those), RegistryError for the rest. Authorization goes to the registry itself only, never to where it
redirects.
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
from importlib import metadata
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from ...go.text import is_text
from ...version import OLLAMA_VERSION
from . import authorization
from .endpoint import Endpoint
from .errors import Passing, Refused, RegistryError
from .limits import Limits

log = logging.getLogger(__name__)

MOST_REDIRECTS = 10
ERROR_BYTES, TOKEN_BYTES = 4096, 1 << 20  # what is read of such answers


@dataclass(frozen=True)
class Credentials:
    username: str = ""
    password: str = ""


class Unreachable(Passing):
    """Nobody answers at the address."""


class Client:
    """An async context manager; belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials, limits: Limits):
        self.endpoint, self.limits, self._credentials = endpoint, limits, credentials
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()
        self._ssl = endpoint.verifies  # True: the system's certificates

    async def __aenter__(self) -> "Client":
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

    async def __aexit__(self, *_):
        await self._session.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: URL,
        headers: dict | None = None,
        body: Callable[[], AsyncIterable[bytes]] | bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try; the answer's body is read inside of the block. body: a function where it is sent in pieces,
        called again where it must be.
        """
        try:
            response = await self._answer(method, url, headers or {}, body)
            async with response:
                yield response
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise RegistryError(
                f"{url.host} has no certificate that is trusted here ({error}); --insecure takes any"
            ) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            raise RegistryError(f"{url} cannot be asked ({error})") from None
        except aiohttp.ClientConnectorError as error:
            # Of the error, not of `url`: it may be a token server, or where the registry redirects to.
            raise Unreachable(f"could not connect to {error.host}:{error.port} ({_reason(error.os_error)})") from None
        except TimeoutError:
            raise Passing(f"{url.host} fell silent for {self.limits.stall_seconds:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Passing(f"the connection to {url.host} broke off ({error or type(error).__name__})") from None

    async def _answer(self, method, url, headers, body) -> aiohttp.ClientResponse:
        """Follows redirects and answers a 401, each as often as makes sense."""
        was_asked = False
        for _ in range(MOST_REDIRECTS):
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
            if response.status == 401 and is_ours and not was_asked:
                was_asked = True
                challenge = response.headers.get("WWW-Authenticate", "")
                response.release()
                await self._authorize(challenge, sent)
            elif response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                if response.status < 307 and method not in ("GET", "HEAD"):
                    response.release()
                    raise RegistryError(
                        f"{url.host} redirects {method} {url.path} with status {response.status}, which no registry "
                        f"should"
                    )
                target = url.join(URL(response.headers["Location"], encoded=True))
                response.release()
                if target.scheme not in ("http", "https") or not target.host:
                    raise RegistryError(
                        f"{url.host} redirects to {str(target)[:200]!r}, which is no address of a registry"
                    )
                if url.scheme == "https" and target.scheme == "http" and self.endpoint.verifies:
                    raise RegistryError(
                        f"{url.host} redirects to {target.scheme}://{target.host}, which is not safe; --insecure "
                        f"follows it"
                    )
                url = target
            elif response.status >= 400:
                async with response:
                    await self._refuse(response, method, url)
            else:
                return response
        raise RegistryError(f"{self.endpoint.base.host} redirects more than {MOST_REDIRECTS} times")

    async def _authorize(self, header: str, refused: str | None) -> None:
        """A new value for Authorization, unless another request has got one since `refused` was sent."""
        async with self._authorizing:
            if self._authorization is not None and self._authorization != refused:
                return
            challenge = authorization.parse(header)
            if challenge.scheme == "basic" and self._credentials.username:
                self._authorization = authorization.basic(self._credentials.username, self._credentials.password)
            elif challenge.scheme == "bearer":
                self._authorization = f"Bearer {await self._token(challenge)}"
            else:
                raise Refused(
                    401,
                    f"unauthorized: {self.endpoint.base.host} asks for {challenge.scheme or 'something'} that we do "
                    f"not have; "
                    "give username and password in the request",
                )

    async def _token(self, challenge: authorization.Challenge) -> str:
        url, headers = authorization.token_request(
            challenge, self.endpoint.base, self._credentials.username, self._credentials.password
        )
        async with self._session.get(
            url, headers=headers, allow_redirects=False, proxy=proxy_of(url), ssl=self._ssl
        ) as response:
            if response.status != 200:
                await self._refuse(response, "GET", url)
            contents = await read_at_most(response, TOKEN_BYTES)
        try:
            answer = json.loads(contents)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{url.host} gave no token that can be used")
        return token

    async def _refuse(self, response, method, url):
        """Raises what an answer without success stands for."""
        told = told_error(await read_at_most(response, ERROR_BYTES))
        said = f"{url.host} answers {method} {url.path} with status {response.status}" + (f": {told}" if told else "")
        if response.status in (408, 425, 429) or response.status >= 500:
            raise Passing(said, retry_after(response.headers.get("Retry-After")))
        if response.status == 401:
            said = f"unauthorized: {said}"
        raise Refused(response.status, said)

    async def retried(
        self, attempt: Callable[[], Awaitable], progress: Callable[[], int] = lambda: 0, is_first: bool = False
    ):
        """The result of `attempt()`, tried again while it fails in passing: `limits.tries` times without getting
        further. `progress()` counts up while it gets further. is_first: where nobody is there, nobody is waited for.
        Raises RegistryError.
        """
        failures, furthest = 0, progress()
        while True:
            try:
                return await attempt()
            except Passing as error:
                failures, furthest = (1 if progress() > furthest else failures + 1), max(progress(), furthest)
                if failures >= self.limits.tries or is_first and isinstance(error, Unreachable):
                    raise RegistryError(f"{error}; tried {failures} times" if failures > 1 else str(error)) from None
                seconds = self.limits.wait_seconds(failures, error.after_seconds)
                log.info("%s; trying again in %.1f s", error, seconds)
                await asyncio.sleep(seconds)


def _reason(error: OSError) -> str:
    """The system's words; asyncio has others."""
    return os.strerror(error.errno) if (error.errno or 0) > 0 else error.strerror or str(error)


async def read_at_most(response: aiohttp.ClientResponse, num_bytes: int) -> bytes:
    """The beginning of a body; the rest is left."""
    contents = b""
    async for piece in response.content.iter_any():
        contents += piece
        if len(contents) >= num_bytes:
            break
    return contents[:num_bytes]


def told_error(contents: bytes) -> str:
    """What the body of an error says: `{"errors": [{"message", "detail"}]}`, `{"error": ...}`, or short text; on one
    line, for it is shown in terminals, which take control characters for commands.
    """
    text = contents.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
        entry = document["errors"][0] if document.get("errors") else document
        found = entry.get("message") or entry.get("error") or entry.get("code")
        told = str(found) if found else text[:200]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError, RecursionError):
        told = "" if text.startswith("<") else text[:200]  # a page for browsers
    return "".join(character if is_text(character) else " " for character in told).strip()


def retry_after(text: str | None) -> float | None:
    """Seconds from now; the header has them, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def proxy_of(url: URL) -> str | None:
    """HTTPS_PROXY and HTTP_PROXY, less NO_PROXY; this machine is always spoken to directly."""
    proxy = getproxies().get(url.scheme)
    if not proxy or is_loopback(url.host) or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def user_agent() -> str:
    """As Ollama's, whose version decides what registries give, with our own behind it."""
    try:
        own = metadata.version("vkbackend")
    except metadata.PackageNotFoundError:  # not installed, only imported
        own = "unknown"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return f"ollama/{OLLAMA_VERSION} ({machine} {platform.system().lower()}) vkbackend/{own}"

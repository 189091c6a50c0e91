"""Who may call, and what is logged: plain ASGI middleware, before any route is looked for.

Logs and metrics hold the method, one of our own routes, the status and the time; nothing that came with the request.
"""

import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from chexjax.serve.metrics import Metrics

LOG: Final = logging.getLogger("chexjax.serve")
OPEN: Final = ("/", "/healthz", "/healthz/live", "/healthz/ready")  # needs no token: nothing of any film is there
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_METHODS: Final = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """Wraps an application; with a token, only who knows it gets past `OPEN`.

    Without one only this machine's own names are answered, so that no web page elsewhere can have its name mean this
    machine (DNS rebinding); and a page of another origin is never answered.
    """

    def __init__(self, application: Application, token: str, routes: Collection[str], metrics: Metrics) -> None:
        """`token` may be "", `routes` are those that are named in logs."""
        self._application, self._token, self._routes, self._metrics = application, token.encode(), routes, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        began = time.perf_counter()
        status = 499  # the client left before it was answered

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await _refuse(answer, *refusal)
            else:
                await self._application(scope, receive, answer)
        except Exception as error:  # its text, and a traceback's, may quote the film's header
            LOG.error("%s", kind_and_line(error))
            if status == 499:
                await _refuse(answer, 500, "the service failed on this request")
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = time.perf_counter() - began
            self._metrics.observe_request(route, status, seconds)
            level = logging.DEBUG if route.startswith(("/healthz", "/metrics")) else logging.INFO
            LOG.log(level, "%s %s %d %.0f ms", method, route, status, 1000 * seconds)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin", "")
        if not self._token and _name_of(f"//{host}") not in LOOPBACK:
            return 421, "this service answers to localhost alone"
        if origin and origin.partition("://")[2] != host:
            return 403, "pages of other sites are not answered"
        if self._token and scope["path"] not in OPEN:
            kind, _, given = headers.get(b"authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._token):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


def kind_and_line(error: BaseException) -> str:
    """An exception's kind and where it was raised; not its text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _name_of(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = f'{{"detail":"{detail}"}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

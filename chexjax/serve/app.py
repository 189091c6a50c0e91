"""The routes. What takes time happens in threads: the loop only reads bodies and sends answers."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeVar

import chexjax
from chexjax.errors import DataError, printable_lines
from chexjax.serve import page
from chexjax.serve.answers import Answer, Trouble
from chexjax.serve.dicomweb import response_of
from chexjax.serve.guard import Application, Guard
from chexjax.serve.instances import Instances
from chexjax.serve.multipart import kind_of, read_parts
from chexjax.serve.service import Busy, Late, Service

RETRY: Final = "1"  # seconds after which who was refused may come again
_FILM: Final = {"schema": {"type": "string", "format": "binary"}}
_FORM: Final = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}}
_PREDICT_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "One film: the file itself, or one file of a form.",
        "content": {"image/png": _FILM, "image/jpeg": _FILM, "application/dicom": _FILM, "multipart/form-data": _FORM},
    }
}
_STOW_BODY: Final = {
    "requestBody": {"required": True, "content": {'multipart/related; type="application/dicom"': _FILM}}
}
_Result = TypeVar("_Result")


class _Refusal(Exception):
    """An answer without a film: a status, and the reason."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def create_app(service: Service, instances: Instances, token: str = "") -> Application:
    """The service as an ASGI application.

    Args:
      service: what predicts.
      instances: what takes DICOM films for archives; without a target there is no `/studies`.
      token: what callers must know; "" for none.
    """
    from fastapi import FastAPI, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    app = FastAPI(
        title="chexjax",
        version=chexjax.__version__,
        description="Findings on chest films, with probabilities, thresholds and maps. Not a medical device.",
        docs_url=None,
        redoc_url=None,
    )
    threads = ThreadPoolExecutor(service.limits.queue, "film")
    troubles: dict[int | str, dict[str, Any]] = {
        status: {"model": Trouble, "description": about}
        for status, about in {
            401: "no token, or another one",
            408: "the body did not come in time",
            413: "the body is too large",
            422: "no film, or one that cannot be read",
            429: "too many requests are under way; see Retry-After",
            503: "not ready, or not in time; see Retry-After",
        }.items()
    }

    @app.exception_handler(_Refusal)
    async def refuse(request: Request, refusal: _Refusal) -> Response:
        headers = {"Retry-After": RETRY} if refusal.status in (429, 503) else {}
        if refusal.status in (408, 413):
            headers["Connection"] = "close"  # the rest of the body is not waited for
        return JSONResponse({"detail": refusal.detail}, refusal.status, headers)

    async def admitted(request: Request, work: Callable[[bytes], _Result]) -> _Result:
        """Reads the body and does the work in a thread, as one of the requests under way."""
        if not service.is_ready:
            raise _Refusal(503, "the service is not ready")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > service.limits.body:
            raise _Refusal(413, f"a body of {int(declared[:20])} bytes; at most {service.limits.body} are taken")
        try:
            leave = service.enter()
        except Busy as error:
            raise _Refusal(429, str(error)) from None
        try:
            body = await _read_body(request.stream(), service.limits.body, service.limits.timeout)
            started = threads.submit(work, body)
        except BaseException:
            leave()
            raise
        started.add_done_callback(lambda _: leave())
        try:
            return await asyncio.wrap_future(started)
        except DataError as error:
            raise _Refusal(422, printable_lines(error)) from None
        except Late as error:
            raise _Refusal(503, str(error)) from None

    @app.post(
        "/predict", summary="The findings of a film", responses={200: {"model": Answer}, **troubles},
        openapi_extra=_PREDICT_BODY,
    )  # fmt: skip
    async def predict(
        request: Request,
        maps: Annotated[bool, Query(description="adds boxes, and overlays as PNG in base64")] = False,
    ) -> Response:
        """A PNG, JPEG or DICOM film as the body, or as the one file of a form; its kind is told by its first bytes."""
        kind = request.headers.get("content-type", "")
        answer = await admitted(request, functools.partial(_answer, service, kind, maps))
        return JSONResponse(answer)

    if instances.targets:

        @app.post("/studies", summary="STOW-RS: films in, their results to the archive", openapi_extra=_STOW_BODY)
        async def store(request: Request) -> Response:
            """Stores no film: predicts each, sends its results to the archives, and answers when they are there."""
            kind = request.headers.get("content-type", "")
            if kind_of(kind) != "multipart/related":
                raise _Refusal(415, 'POST /studies takes multipart/related; type="application/dicom"')
            outcomes = await admitted(request, functools.partial(_store, instances, kind))
            status, dataset = response_of(outcomes)
            return JSONResponse(dataset, status, media_type="application/dicom+json")

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        text, policy = page.film_page(service.classifier.findings)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        text, policy = page.api_page(app.openapi())
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.get("/healthz/live", summary="200 while the device computes")
    async def live() -> Response:
        return _health(service.is_sound, "sound", "the device fails")

    @app.get("/healthz/ready", summary="200 when films are taken")
    @app.get("/healthz", include_in_schema=False)
    async def ready() -> Response:
        return _health(service.is_ready and service.is_sound, "ready", "not ready")

    def _health(is_well: bool, well: str, ill: str) -> Response:
        return JSONResponse({"status": well if is_well else ill}, 200 if is_well else 503)

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(service.is_ready), media_type=service.metrics.content_type)

    routes = {route.path for route in app.routes if hasattr(route, "path")}
    return Guard(app, token, routes, service.metrics)


async def _read_body(stream: Any, limit: int, timeout: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in stream:
                body += chunk
                if len(body) > limit:
                    raise _Refusal(413, f"a body of more than {limit} bytes")
    except TimeoutError:
        raise _Refusal(408, f"the body did not come within {timeout:g} s") from None
    return bytes(body)


def _answer(service: Service, kind: str, maps: bool, body: bytes) -> dict[str, Any]:
    """In a thread: the JSON of a film."""
    film = body
    if kind_of(kind) == "multipart/form-data":
        films = [part.content for part in read_parts(body, kind)]
        if len(films) != 1:
            raise DataError(f"a form with {len(films)} parts; it takes one film")
        (film,) = films
    if not film:
        raise DataError("no film: the body is empty")
    return asdict(service.answer(service.predict(film, maps, "http"), maps))


def _store(instances: Instances, kind: str, body: bytes) -> list[Any]:
    """In a thread: what became of each part. As many go on at once as fit in a batch."""
    films = [part.content for part in read_parts(body, kind)]
    if not films:
        raise DataError("a store request without a part")

    def handle(film: bytes) -> Any:
        return instances.handle(film, "stow")

    with ThreadPoolExecutor(min(len(films), instances.service.limits.batch)) as threads:
        return list(threads.map(handle, films))

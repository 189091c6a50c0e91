"""The command line, and the life of the process: flags, checkpoint, sockets, warm-up, requests, SIGTERM.

Libraries are loaded after the flags are read: `--help` and a mistyped flag are answered at once.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from absl import flags

from chexjax.errors import ChexjaxError, ConfigError, Interrupted, command, fail, printable, usage, warn
from chexjax.runtime import parse

if TYPE_CHECKING:
    from chexjax.serve.dicom_port import PortContext, StorePort
    from chexjax.serve.instances import Target
    from chexjax.serve.service import Limits, Service

TOKEN: Final = "CHEXJAX_TOKEN"
LIBRARIES: Final = ("fastapi", "uvicorn", "prometheus_client", "pynetdicom", "highdicom", "pydicom")
_LEAST_TOKEN: Final = 16  # characters
_CONNECTIONS: Final = 512  # open at once, idle ones among them
_SILENT: Final = 10.0  # seconds for a new connection's first request

ABOUT: Final = """A service: films in over HTTP or DICOM, findings out.

    chexjax serve --checkpoint=WORKDIR --port=8000
    curl --data-binary @film.png http://localhost:8000/predict

POST /predict takes a PNG, JPEG or DICOM film and answers in JSON; /predict?maps=1 adds boxes and overlays. / is a page
to drop a film on, /docs describes the routes, /healthz and /metrics are for machines. With --stow-to or --dicom-to,
POST /studies (STOW-RS) and --dicom-port (C-STORE) take DICOM films, and DICOM results of each are sent there.

It answers only this machine. --host opens it to others and requires a token, from --token-file or from the variable
CHEXJAX_TOKEN. DICOM has no tokens: --dicom-ca requires certificates of its callers. Nothing is written to disk; logs
hold no names and no header text. SIGTERM finishes what is under way.

Exit status: 0 ended by SIGTERM, 1 the device fails, 64 usage or checkpoint, 130 interrupted.
"""


def define_flags(values: flags.FlagValues) -> None:
    """The flags of the command."""

    def text(name: str, default: str | None, about: str) -> None:
        flags.DEFINE_string(name, default, about, flag_values=values)

    def number(name: str, default: float, least: float, about: str) -> None:
        flags.DEFINE_float(name, default, about, lower_bound=least, flag_values=values)

    def count(name: str, default: int | None, least: int, about: str, most: int | None = None) -> None:
        flags.DEFINE_integer(name, default, about, lower_bound=least, upper_bound=most, flag_values=values)

    text("checkpoint", None, "The workdir of a training run, or imported weights.")
    text("network", "ensemble", "One network (net1, ...); by default all, averaged.")
    text("maps", "cam", "As for chexjax.predict.")
    flags.DEFINE_boolean("raw", False, "Leaves out the calibration that the run fitted.", flag_values=values)
    text("prevalence", None, "As for chexjax.predict.")
    flags.DEFINE_boolean("strict", False, "Refuses doubtful films: they get no findings.", flag_values=values)
    text("host", "localhost", "The address to listen at; any but this machine's own asks for a token.")
    count("port", 8000, 0, "The port; 0 takes a free one and prints it.", 2**16 - 1)
    text("token-file", None, f"A file with the token that callers must know; else the variable {TOKEN}.")
    text("tls-cert", None, "The certificate chain, PEM; with it, HTTP and DICOM are encrypted.")
    text("tls-key", None, "Its key, PEM.")
    text("dicom-ca", None, "CA certificates, PEM: callers of the DICOM port must present a certificate signed by one.")
    count("max-batch", 8, 1, "Films that go through the networks at once.")
    number("max-wait-ms", 5.0, 0.0, "Milliseconds that a film waits for others, at most.")
    count("queue", 64, 1, "Requests under way, at most; more are answered 429.")
    number("max-body-mb", 64.0, 0.001, "Megabytes of a request, at most.")
    number("timeout", 30.0, 0.001, "Seconds for a body to arrive, and again for its film to be scored.")
    text("stow-to", None, "The address of an archive's studies, for DICOM results by STOW-RS.")
    text("dicom-to", None, "AE_TITLE@HOST:PORT, for DICOM results by C-STORE.")
    count("dicom-port", None, 0, "A port that takes DICOM films by C-STORE; 0 takes a free one.", 2**16 - 1)
    text("ae-title", "CHEXJAX", "Its AE title, which callers must call it by.")
    flags.DEFINE_list("calling", [], "The AE titles of those who may call, with commas.", flag_values=values)


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    define_flags(values)
    with usage():
        addresses = ("stow-to", "dicom-to", "calling", "ae-title", "host")
        rest = parse(sys.argv, values, ABOUT, addresses)
        if rest or not values.checkpoint:
            raise ConfigError("usage: chexjax serve --checkpoint=WORKDIR [--port=8000]; --help says more")
        check_installed()
        token, context = read_token(values), tls_of(values, ssl.SSLContext)
        listener = listen(values.host, values.port)
        service, targets, port = _load(values)
    if not is_loopback(values.host):
        if context is None:
            warn("without --tls-cert films and token cross the network as they are; put a proxy in front that encrypts")
        if port and not values["dicom-ca"].value:
            warn("without --dicom-ca whoever knows an AE title of --calling can send films; AE titles are no secret")
    _log()
    with contextlib.ExitStack() as resources:
        resources.callback(service.close)
        status = _run(values, service, targets, port, token, context, listener)
    if status:
        raise SystemExit(status)


def check_installed() -> None:
    """Raises ConfigError where a library of the extra is missing; called before anything is loaded."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise ConfigError(f"the service needs {', '.join(missing)}; pip install 'chexjax[serve]'")


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(values: flags.FlagValues) -> str:
    """The token that callers must know; "" for none.

    Raises:
      ConfigError: it cannot be read or is too short; or there is none, and others than this machine may call.
    """
    file = values["token-file"].value
    try:
        token = Path(file).expanduser().read_text(encoding="ascii").strip() if file else os.environ.get(TOKEN, "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no ASCII text"
        raise ConfigError(f"--token-file={printable(file)} cannot be read: {reason}") from None
    if not token and (file or not is_loopback(values.host)):
        raise ConfigError(
            f"--host={printable(values.host)} opens the service to other machines, and there is no token\n"
            f"put one into --token-file=FILE or the variable {TOKEN}, such as `openssl rand -hex 32` makes"
            if not file
            else f"--token-file={printable(file)} is empty"
        )
    if token and (len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError(f"the token must have at least {_LEAST_TOKEN} printable ASCII characters and no spaces")
    return token


_Context = TypeVar("_Context", bound=ssl.SSLContext)


def tls_of(values: flags.FlagValues, kind: type[_Context]) -> _Context | None:
    """What encrypts; None where it was not asked for.

    Raises:
      ConfigError: one of certificate and key is missing, or they cannot be used.
    """
    cert, key = values["tls-cert"].value, values["tls-key"].value
    if not cert and not key:
        return None
    if not cert or not key:
        raise ConfigError("--tls-cert and --tls-key go together")
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(Path(cert).expanduser(), Path(key).expanduser(), password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else "the key has a password"
        raise ConfigError(f"--tls-cert and --tls-key cannot be used: {reason}") from None
    return context


def dicom_tls_of(values: flags.FlagValues) -> "PortContext | None":
    """What encrypts the DICOM port, and knows its callers by their certificates where --dicom-ca is given.

    Raises:
      ConfigError: as `tls_of`; or the authorities cannot be read, or they have no DICOM port
        that encrypts.
    """
    from chexjax.serve.dicom_port import PortContext

    context, authorities = tls_of(values, PortContext), values["dicom-ca"].value
    if authorities:
        if context is None or values["dicom-port"].value is None:
            raise ConfigError("--dicom-ca goes with --dicom-port, --tls-cert and --tls-key")
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(Path(authorities).expanduser())
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or type(error).__name__
            raise ConfigError(f"--dicom-ca={printable(authorities)} cannot be used: {reason}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      ConfigError: there is no such address, or its port is taken.
    """
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        # asyncio sets TCP_NODELAY where the protocol is named; without it each answer waits 40 ms for the client's ACK.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise ConfigError(f"cannot listen at {printable(host)}, port {port}: {reason}") from None
    return listener


def limits_of(values: flags.FlagValues) -> "Limits":
    """The limits that the flags name."""
    from chexjax.serve.service import Limits

    given = values.flag_values_dict()
    return Limits(
        batch=given["max-batch"],
        wait=given["max-wait-ms"] / 1000,
        queue=given["queue"],
        body=int(given["max-body-mb"] * 1e6),
        timeout=given["timeout"],
    )


def _load(values: flags.FlagValues) -> "tuple[Service, list[Target], StorePort | None]":
    """The classifier with its service, the archives, and the DICOM port where there is one."""
    from chexjax.devices import find_devices
    from chexjax.predict.classifier import Classifier
    from chexjax.serve.dicom_port import StorePort, StoreTarget, check_title, read_peer
    from chexjax.serve.dicomweb import StowTarget
    from chexjax.serve.instances import Instances
    from chexjax.serve.metrics import Metrics
    from chexjax.serve.service import Service
    from chexjax.trust.calibration import read_prevalence

    limits, context = limits_of(values), dicom_tls_of(values)
    title = check_title(str(values["ae-title"].value), "--ae-title")
    calling = [check_title(name, "--calling") for name in values.calling]
    targets: list[Target] = []
    if stow := values["stow-to"].value:
        targets.append(StowTarget(stow, limits.timeout))
    if peer := values["dicom-to"].value:
        targets.append(StoreTarget(read_peer(peer), title, limits.timeout))
    takes = values["dicom-port"].value is not None
    if takes and not targets:
        raise ConfigError("--dicom-port takes films whose results go to --stow-to or --dicom-to; neither is given")
    if takes and not calling:
        raise ConfigError("--dicom-port needs --calling, the AE titles of those who may send")
    find_devices()
    prevalence = read_prevalence(Path(values.prevalence).expanduser()) if values.prevalence else None
    classifier = Classifier.from_checkpoint(
        values.checkpoint, values.maps, limits.batch, values.network, values.raw, prevalence
    )
    service = Service(classifier, limits, Metrics(limits.batch), values.strict)
    return service, targets, StorePort(Instances(service, targets), title, calling, context) if takes else None


def _run(
    values: flags.FlagValues,
    service: "Service",
    targets: "list[Target]",
    port: "StorePort | None",
    token: str,
    context: ssl.SSLContext | None,
    listener: socket.socket,
) -> int:
    """Serves until SIGTERM, and returns the exit status."""
    from chexjax.serve.app import create_app
    from chexjax.serve.guard import kind_and_line
    from chexjax.serve.instances import Instances

    server = create_server(create_app(service, Instances(service, targets), token), service.limits, context)
    number = listener.getsockname()[1]
    shown = f"[{values.host.strip('[]')}]" if ":" in values.host else values.host
    troubles: list[str] = []

    def warm_up() -> None:
        try:
            service.warm_up()
            if service.is_ready:
                if port:
                    taken = port.listen(values.host.strip("[]"), values.flag_values_dict()["dicom-port"])
                    print(
                        f"C-STORE{' (TLS)' if context else ''}: {values['ae-title'].value} at port {taken}", flush=True
                    )
                print(f"ready: http{'s' if context else ''}://{shown}:{number}/", flush=True)
        except ChexjaxError as error:
            troubles.append(str(error))
            server.should_exit = True
        except Exception as error:  # the device's own
            troubles.append(f"the networks cannot be run: {kind_and_line(error)}")
            server.should_exit = True

    warming = threading.Thread(target=warm_up, name="warm-up")
    warming.start()
    ended: list[int] = []
    with _signals(server, service, ended):
        asyncio.run(server.serve(sockets=[listener]))
    service.is_closing = True
    warming.join()
    if port:
        port.close(service.limits.timeout)
    if troubles:
        fail(troubles[0])
    if signal.SIGINT in ended:
        raise Interrupted("interrupted")
    return 0


def create_server(app: Any, limits: "Limits", context: ssl.SSLContext | None) -> Any:
    """A uvicorn server of the application; `context` encrypts."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Closes connections on which a request's head is not complete in time; uvicorn has no limit for it."""

        head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def _watch(self) -> None:
            """Starts the clock with the first byte after an answer, and stops it with a head's last."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self.head_timer:
                    self.head_timer.cancel()
                self.head_timer = None
            elif self.head_timer is None:
                self.head_timer = self.loop.call_later(_SILENT, self._end_silence)

        def _end_silence(self) -> None:
            self.head_timer = None
            if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
                self.transport.close()

    class Server(uvicorn.Server):
        """Leaves the signals to us: uvicorn would end the process by the signal, and not with status 0."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max(_CONNECTIONS, 2 * limits.queue),
        timeout_graceful_shutdown=int(2 * limits.timeout) + 1,
    )
    config.load()
    config.ssl = context
    return Server(config)


@contextlib.contextmanager
def _signals(server: Any, service: "Service", ended: list[int]) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the service when what is under way is done; a second Ctrl-C at once."""

    def end(number: int, frame: Any) -> None:
        service.is_ready = False
        server.force_exit = number == signal.SIGINT and bool(ended)
        server.should_exit = True
        ended.append(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _WithoutTraceback(logging.Formatter):
    """An exception's kind and place; its text may quote a film's header."""

    def formatException(self, ei: Any) -> str:  # logging's own name
        from chexjax.serve.guard import kind_and_line

        return kind_and_line(ei[1])


def _log() -> None:
    """Our lines and the server's warnings, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutTraceback("%(asctime)s %(levelname)s %(message)s"))
    for name, level in {"chexjax.serve": logging.INFO, "uvicorn": logging.WARNING, "asyncio": logging.ERROR}.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)

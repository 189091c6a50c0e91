"""C-STORE, both ways: a port that takes films from the application entities it knows, and results sent to a peer.

Source: DICOM PS3.4, annex B (Storage Service Class), PS3.7, 9.1.1, and PS3.15, annex B (TLS).
"""

import io
import logging
import re
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

from chexjax.errors import ConfigError, printable
from chexjax.serve.instances import FILMS, LOG, DeliveryError, Instances, Outcome
from chexjax.serve.service import Busy

_VERIFICATION: Final = "1.2.840.10008.1.1"
_RESULTS: Final = (  # Comprehensive SR, greyscale softcopy presentation state, secondary capture
    "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.7",
)  # fmt: skip
_PLAIN: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")  # explicit and implicit little endian
# What films are read in: plain, deflated, big endian, RLE, JPEG, JPEG-LS, JPEG 2000.
_SYNTAXES: Final = (
    *_PLAIN, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
)  # fmt: skip
_ANSWER: Final = 0.2  # seconds for the last answers to be sent before associations end
_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")  # VR AE: no backslash, no control characters


def check_title(text: str, flag: str) -> str:
    """An application entity's title, without blanks around it.

    Raises:
      ConfigError: it is none.
    """
    title = text.strip()
    if not _TITLE.fullmatch(title):
        raise ConfigError(f"{flag}={printable(text)}; an AE title has 1 to 16 characters of ASCII")
    return title


def read_peer(text: str) -> tuple[str, str, int]:
    """`AE@HOST:PORT` as (title, host, port).

    Raises:
      ConfigError: it is not of that form.
    """
    title, _, address = text.rpartition("@")
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise ConfigError(f"--dicom-to={printable(text)}; it takes AE_TITLE@HOST:PORT")
    return check_title(title, "--dicom-to"), host.strip("[]"), int(port)


def silence() -> None:
    """pynetdicom's messages quote what passes; nobody hears them."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


class PortContext(ssl.SSLContext):
    """TLS for a `StorePort`.

    pynetdicom shakes hands in the thread that accepts callers, where one that says nothing would keep out all others.
    Here the handshake is left to the caller's own thread, which does it as it first reads.
    """

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **options | {"do_handshake_on_connect": False})


class StorePort:
    """A storage SCP. Films of several associations go through the networks together."""

    def __init__(
        self, instances: Instances, title: str, calling: Sequence[str], context: PortContext | None = None
    ) -> None:
        """`title` is its own; `calling` are those of the peers that it answers; `context` encrypts."""
        self._instances, self._title, self._calling = instances, title, list(calling)
        self._context = context
        self._server: Any = None
        self._received: dict[Any, int] = {}  # bytes of the message that an association is sending
        self._under_way: set[Any] = set()

    def listen(self, host: str, port: int) -> int:
        """Listens, and returns the port, which is chosen where it is 0.

        Raises:
          ConfigError: the port is taken or not allowed.
        """
        from pynetdicom import AE, evt

        silence()
        limits = self._instances.service.limits
        entity = AE(self._title)
        entity.require_called_aet = True
        entity.require_calling_aet = self._calling
        entity.maximum_associations = limits.queue + 16  # some send nothing at the moment
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = limits.timeout
        entity.add_supported_context(_VERIFICATION)
        for film in FILMS:
            entity.add_supported_context(film, list(_SYNTAXES))
        handlers: list[Any] = [
            # A read that gets nothing in this time ends the association: pynetdicom itself would wait for ever.
            (evt.EVT_CONN_OPEN, lambda event: event.assoc.dul.socket.socket.settimeout(limits.timeout)),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._bound),
            (evt.EVT_ACCEPTED, lambda event: self._received.pop(event.assoc, None)),
            (evt.EVT_DIMSE_RECV, lambda event: self._received.pop(event.assoc, None)),
            (evt.EVT_CONN_CLOSE, lambda event: self._received.pop(event.assoc, None)),
        ]
        try:
            self._server = entity.start_server(
                (host, port), block=False, evt_handlers=handlers, ssl_context=self._context
            )
        except OSError as error:
            raise ConfigError(f"--dicom-port={port} at {host}: {error.strerror or type(error).__name__}") from None
        return int(self._server.server_address[1])

    def close(self, seconds: float) -> None:
        """Takes no new associations, lets the others finish what is under way, and ends."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        until = time.monotonic() + seconds
        while (self._under_way or self._received) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(_ANSWER)
        for association in server.active_associations:
            association.abort()

    def _store(self, event: Any) -> int:
        service = self._instances.service
        began = time.perf_counter()
        outcome = Outcome.BUSY
        self._under_way.add(event.assoc)
        try:
            leave = service.enter() if service.is_ready else None
        except Busy:
            leave = None
        if leave is not None:
            try:
                _, outcome = self._instances.handle(event.encoded_dataset(), "c-store")
            except Exception as error:  # its text may quote the header
                LOG.error("C-STORE: %s", type(error).__name__)
                outcome = Outcome.FAILED
            finally:
                leave()
        self._under_way.discard(event.assoc)
        LOG.info("C-STORE %s %.0f ms", outcome.name.lower(), 1000 * (time.perf_counter() - began))
        return outcome.value

    def _bound(self, event: Any) -> None:
        """Ends an association whose film grows beyond the limit: pynetdicom keeps it in memory until it is whole."""
        received = self._received[event.assoc] = self._received.get(event.assoc, 0) + len(event.data)
        if received > self._instances.service.limits.body + 2**16:
            self._received.pop(event.assoc, None)
            LOG.warning("C-STORE: a film of more than %d bytes: ended", self._instances.service.limits.body)
            event.assoc.dul.socket.close()  # an abort would wait for the thread that this is


class StoreTarget:
    """A peer that takes results by C-STORE."""

    name = "c-store"

    def __init__(self, peer: tuple[str, str, int], title: str, timeout: float) -> None:
        """`peer` as `read_peer` gives it; `title` is our own."""
        self._peer, self._title, self._timeout = peer, title, timeout

    def send(self, files: Sequence[bytes]) -> None:
        """Sends the files over one association.

        Raises:
          DeliveryError: the peer cannot be reached, or does not take them all.
        """
        import pydicom
        from pynetdicom import AE

        silence()
        entity = AE(self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = self._timeout
        for result in _RESULTS:
            entity.add_requested_context(result, list(_PLAIN))
        title, host, port = self._peer
        association = entity.associate(host, port, ae_title=title)
        if not association.is_established:
            raise DeliveryError("the peer does not answer, or refuses the association")
        try:
            for file in files:
                status = association.send_c_store(pydicom.dcmread(io.BytesIO(file)))
                # 0xB000 and its kind are warnings: it is stored.
                if "Status" not in status or (status.Status != 0 and status.Status >> 12 != 0xB):
                    answer = f"{status.Status:#06x}" if "Status" in status else "nothing"
                    raise DeliveryError(f"the peer answers {answer}")
        except (ValueError, RuntimeError) as error:  # a kind of object that it does not take; an aborted association
            raise DeliveryError(f"the peer does not take the results ({type(error).__name__})") from None
        finally:
            if association.is_established:
                association.release()

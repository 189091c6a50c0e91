"""A DICOM film in, its results to every archive that is named; whoever sent it learns of it when they are there.

Nothing is kept, so success is said only after delivery: a sender that hears of a failure still has the film, and sends
it again. A film that the gate refuses, or that cannot be read, would fail again; its answer tells the sender not to.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from chexjax.data.dicom_header import Identity, read_identity
from chexjax.errors import ChexjaxError, DataError
from chexjax.serve.service import Late, Service

LOG: Final = logging.getLogger("chexjax.serve")
# Computed and digital radiography, the latter for presentation and for processing. No secondary captures: our own
# overlays are such, and an archive that forwards what it gets would send them back for ever.
FILMS: Final = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1.1")


class Outcome(Enum):
    """What became of a film, as the status or reason that DICOM has for it (PS3.4, B.2.3; PS3.18, 10.5.3)."""

    DELIVERED = 0x0000
    REFUSED = 0xB007  # a warning: the gate refuses it, so it has no results
    UNREADABLE = 0xC000
    NO_FILM = 0x0122  # SOP class not supported
    BUSY = 0xA700  # out of resources
    FAILED = 0x0110  # processing failure: no archive, or not all, has the results


class DeliveryError(ChexjaxError):
    """An archive did not take the results. The message quotes nothing of them."""


class Target(Protocol):
    """An archive."""

    name: str  # of its kind, as it stands in metrics

    def send(self, files: Sequence[bytes]) -> None:
        """Sends DICOM files; raises DeliveryError where one is not taken."""


@dataclass(frozen=True)
class Instances:
    """Films of either DICOM door."""

    service: Service
    targets: Sequence[Target]

    def handle(self, film: bytes, door: str) -> tuple[Identity, Outcome]:
        """Predicts a film and sends its results to every target. Has its place among the requests already."""
        try:
            identity = read_identity(film, "a film")
        except DataError:
            return Identity(), Outcome.UNREADABLE
        if identity.sop_class not in FILMS:
            self.service.metrics.count_film(door, "no film")
            return identity, Outcome.NO_FILM
        try:
            found = self.service.predict(film, maps=True, door=door)
            files = self.service.results(film, found)
        except DataError:
            return identity, Outcome.UNREADABLE
        except Late:
            return identity, Outcome.BUSY
        if not files:
            return identity, Outcome.REFUSED
        sent = [self._send(target, files) for target in self.targets]
        return identity, Outcome.DELIVERED if all(sent) else Outcome.FAILED

    def _send(self, target: Target, files: Sequence[bytes]) -> bool:
        try:
            target.send(files)
        except DeliveryError as error:
            LOG.warning("%s: %s", target.name, error)
            self.service.metrics.count_delivery(target.name, "failed")
            return False
        self.service.metrics.count_delivery(target.name, "delivered")
        return True

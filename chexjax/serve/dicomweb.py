"""STOW-RS, both ways: what comes by `POST /studies` is answered, and results are posted to an archive.

Source: DICOM PS3.18, 10.5 (Store Transaction), and PS3.18, F.2 (DICOM JSON).
"""

import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from chexjax.data.dicom_header import Identity
from chexjax.errors import ConfigError
from chexjax.serve.instances import DeliveryError, Outcome

AUTHORIZATION: Final = "CHEXJAX_STOW_AUTHORIZATION"  # the environment's word for the archive's door
_TRIES: Final = 3
_PAUSE: Final = 0.5  # seconds before the second try; twice that before the third
_MOST: Final = 2**20  # bytes of an archive's answer


# In


def response_of(outcomes: Sequence[tuple[Identity, Outcome]]) -> tuple[int, dict[str, Any]]:
    """The status of a store transaction, and its dataset as DICOM JSON."""
    stored, failed = [], []
    for identity, outcome in outcomes:
        item = _uid("00081150", identity.sop_class) | _uid("00081155", identity.instance)
        if outcome is Outcome.DELIVERED:
            stored.append(item)
        elif outcome is Outcome.REFUSED:
            stored.append(item | _reason("00081196", outcome))
        else:
            failed.append(item | _reason("00081197", outcome))
    dataset: dict[str, Any] = {}
    if stored:
        dataset["00081199"] = {"vr": "SQ", "Value": stored}  # Referenced SOP Sequence
    if failed:
        dataset["00081198"] = {"vr": "SQ", "Value": failed}  # Failed SOP Sequence
    if failed:
        return (202 if stored else 409), dataset
    return (202 if any(outcome is Outcome.REFUSED for _, outcome in outcomes) else 200), dataset


def _uid(tag: str, uid: str) -> dict[str, Any]:
    return {tag: {"vr": "UI", "Value": [uid]} if uid else {"vr": "UI"}}


def _reason(tag: str, outcome: Outcome) -> dict[str, Any]:
    return {tag: {"vr": "US", "Value": [outcome.value]}}


# Out


class StowTarget:
    """An archive with a STOW-RS service: `https://HOST/dicom-web/studies`."""

    name = "stow"

    def __init__(self, url: str, timeout: float) -> None:
        """The archive's credentials, if it asks for any, are the value of CHEXJAX_STOW_AUTHORIZATION: `Bearer ...`.

        Raises:
          ConfigError: that is no address of a STOW-RS service.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
            raise ConfigError(
                "--stow-to takes the address of an archive's studies, as https://HOST/dicom-web/studies; a password "
                f"goes into {AUTHORIZATION}, as Basic or Bearer and its text"
            )
        self._secure, self._host, self._port, self._path = parts.scheme == "https", host, port, parts.path or "/studies"
        self._timeout = timeout
        self._authorization = os.environ.get(AUTHORIZATION, "")

    def send(self, files: Sequence[bytes]) -> None:
        """Posts all files at once; tries again where the archive cannot be reached, or says that it is at fault.

        Raises:
          DeliveryError: it does not take them all.
        """
        trouble = ""
        for number in range(_TRIES):
            if number:
                time.sleep(_PAUSE * 2 ** (number - 1))
            try:
                status, answer = self._post(files)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"the archive cannot be reached ({type(error).__name__})"
                continue
            if status == 200 or (status == 202 and not _failures(answer)):
                return
            trouble = f"the archive answers {status}"
            if status < 500 and status != 429:
                break
        raise DeliveryError(trouble)

    def _post(self, files: Sequence[bytes]) -> tuple[int, bytes]:
        boundary = secrets.token_hex(16)
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(part for file in files for part in (head, file, b"\r\n")) + f"--{boundary}--\r\n".encode()
        connection: http.client.HTTPConnection
        if self._secure:
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(_MOST)
        finally:
            connection.close()


def _failures(answer: bytes) -> bool:
    """Whether a store response names failed instances, or cannot be read."""
    try:
        return bool(json.loads(answer).get("00081198", {}).get("Value"))
    except (ValueError, AttributeError, RecursionError):
        return True

"""Bodies of several parts, in memory: Starlette's own parser would spool large ones to disk."""

from dataclasses import dataclass
from email.message import Message
from typing import Final

from chexjax.errors import DataError

MOST: Final = 256  # parts


@dataclass(frozen=True)
class Part:
    """A part's content; `kind` is its Content-Type without parameters, `name` its form field, each "" without one."""

    kind: str
    name: str
    content: bytes


def kind_of(content_type: str) -> str:
    """A Content-Type without its parameters, in small letters."""
    return content_type.partition(";")[0].strip().lower()


def read_parts(body: bytes, content_type: str) -> list[Part]:
    """The parts of a body, in their order. Source: RFC 2046, 5.1.1.

    Raises:
      DataError: the Content-Type names no boundary, the body does not hold to it, or has more than 256 parts.
    """
    boundary = _parameter(content_type, "content-type", "boundary").encode("latin-1", "replace")
    if not boundary:
        raise DataError("a multipart body whose Content-Type names no boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, MOST + 2)
    parts: list[Part] = []
    for piece in pieces[1:]:
        if piece.startswith(b"--"):
            return parts
        if len(parts) == MOST:
            raise DataError(f"a multipart body of more than {MOST} parts")
        padding, found, rest = piece.partition(b"\r\n")
        if padding.strip(b" \t") or not found:
            raise DataError("a multipart body that does not hold to its boundary")
        head, found, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if not found:
            raise DataError("a multipart body with a part that has no content")
        parts.append(_part(head, content))
    raise DataError("a multipart body that is cut short: its last boundary is missing")


def _part(head: bytes, content: bytes) -> Part:
    fields = {}
    for line in head.decode("latin-1").replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n"):
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    kind, disposition = fields.get("content-type", ""), fields.get("content-disposition", "")
    return Part(kind_of(kind), _parameter(disposition, "content-disposition", "name"), content)


def _parameter(value: str, header: str, name: str) -> str:
    message = Message()
    message[header] = value
    found = message.get_param(name, "", header)
    return found if isinstance(found, str) else ""

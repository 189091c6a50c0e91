"""Parts as Python's own email parser finds them; whatever comes, parts or our own error."""

import email
import email.policy

import httpx
import numpy as np
import pytest

from chexjax.errors import DataError
from chexjax.serve.multipart import Part, kind_of, read_parts
from tests.fuzz.mutate import damage


def form(**files: bytes) -> tuple[bytes, str]:
    """A form as httpx writes it."""
    request = httpx.Request("POST", "http://localhost", files={k: (f"{k}.png", v) for k, v in files.items()})
    return request.read(), request.headers["content-type"]


def test_a_form_of_another_client() -> None:
    contents = {"file": b"\r\n--\r\n\x00--x", "more": b"", "last": bytes(range(256))}
    assert read_parts(*form(**contents)) == [Part("image/png", name, content) for name, content in contents.items()]


@pytest.mark.parametrize("boundary", ["abc", '"a b"', '"=_\'()+,./:?"'])
def test_it_agrees_with_pythons_own_parser(boundary: str) -> None:
    line = boundary.strip('"')
    body = (
        f"preamble\r\n--{line}  \r\nContent-Type: application/dicom;\r\n transfer-syntax=1\r\n\r\none\r\ntwo\r\n"
        f"--{line}\r\n\r\n\r\n--{line}\r\nCONTENT-TYPE: image/png\r\n\r\n\r\n\r\n--{line}--\r\nepilogue --{line}"
    ).encode()
    kind = f"multipart/related; boundary={boundary}; type=application/dicom"
    expected = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    found = read_parts(body, kind)
    assert [part.content for part in found] == [part.get_payload(decode=True) for part in expected.iter_parts()]
    assert [part.kind for part in found] == ["application/dicom", "", "image/png"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [(b"--x\r\n\r\na\r\n--x--", "multipart/form-data", "no boundary"),
     (b"--x\r\n\r\na\r\n--x", "multipart/form-data; boundary=x", "does not hold"),
     (b"--x\r\n\r\na\r\n", "multipart/form-data; boundary=x", "cut short"),
     (b"nothing", "multipart/form-data; boundary=x", "cut short"),
     (b"--x\r\nName: a\r\n--x--", "multipart/form-data; boundary=x", "no content"),
     (b"--xy\r\n\r\na\r\n--x--", "multipart/form-data; boundary=x", "does not hold"),
     (b"--x\r\n\r\na\r\n" * 257 + b"--x--", "multipart/form-data; boundary=x", "more than 256 parts")],
)  # fmt: skip
def test_what_does_not_hold_to_its_boundary_is_refused(body: bytes, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_parts(body, kind)


def test_as_many_parts_as_are_taken() -> None:
    assert len(read_parts(b"--x\r\n\r\na\r\n" * 256 + b"--x--", "multipart/form-data; boundary=x")) == 256


def test_kinds() -> None:
    assert kind_of('Multipart/Related ; type="application/dicom"') == "multipart/related"
    assert kind_of("") == ""


def test_damaged_bodies() -> None:
    whole, kind = form(file=b"content", other=b"\r\n\r\n")
    read = refused = 0
    for number in range(2000):
        random = np.random.default_rng(number)
        body, head = damage(random, whole, [whole]), damage(random, kind.encode(), [kind.encode()]).decode("latin-1")
        try:
            parts = read_parts(body, head if number % 4 == 0 else kind)
            assert sum(len(part.content) for part in parts) <= len(body)
            read += 1
        except DataError:
            refused += 1
    assert min(read, refused) > 100

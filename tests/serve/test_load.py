"""Good and hostile requests at once: none is lost, none gets another's answer, and the service stays sound."""

import os
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks import serve
from chexjax.predict import Classifier
from chexjax.serve.service import Limits
from tests.dicom_files import write_dicom
from tests.fuzz.mutate import TEXTS
from tests.fuzz.test_readers import images
from tests.serve.conftest import encoded, film_of, serving

COUNT = 20_000 if os.environ.get("CHEXJAX_SOAK") else 400


def test_no_loss_and_no_wrong_pairing(classifier: Classifier, tmp_path: Path) -> None:
    films = [encoded(film_of(number, 64 + number), kind) for number, kind in enumerate(["PNG", "JPEG"] * 20)]
    levels = film_of(0, 128).astype(np.uint16) * 16
    films += [write_dicom(tmp_path / "film.dcm", levels[k:], BitsStored=12).read_bytes() for k in range(0, 40, 8)]
    expected = serve.probabilities_of(classifier, films)
    with serving(classifier, Limits(batch=4)) as (client, service):
        found = serve.mixed(str(client.base_url), films, expected, COUNT, [*films, *images()])
        assert service.is_sound
        assert service.metrics.under_way._value.get() == 0
        text = client.get("/metrics").text
    assert found["lost"] == found["wrong"] == found["failed"] == 0, found
    assert found["answered"] == COUNT
    assert found["right"] > COUNT / 2
    assert min(found["damaged and read"], found["damaged and refused"]) > COUNT / 50
    batches = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:1] != "#"}
    assert batches["chexjax_batch_films_count"] < batches["chexjax_batch_films_sum"]


@pytest.mark.parametrize("kind", ["", "multipart/form-data; boundary=x", 'multipart/related; boundary="x"'])
def test_texts_that_are_no_films(kind: str, client: httpx.Client) -> None:
    for text in TEXTS:
        data = text.encode("utf-8", "surrogatepass")
        for body in (data, b"--x\r\n" + data + b"\r\n\r\n" + data + b"\r\n--x--"):
            response = client.post("/predict", content=body, headers={"content-type": kind})
            assert response.status_code == 422
            assert len(response.json()["detail"]) < 1000


def test_hostile_heads(client: httpx.Client) -> None:
    """Addresses, methods and headers out of the fuzzers' texts: an answer of ours, or the connection ends."""
    import http.client

    answered = 0
    for text in TEXTS:
        value = text.encode("utf-8", "surrogatepass")[:20_000]
        for head in (
            b"GET /" + value + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /predict?maps=" + value + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + value + b"\r\nContent-Length: 0\r\n\r\n",
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + value + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: " + value + b"\r\nOrigin: " + value + b"\r\n\r\n",
        ):
            connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=0.5)
            connection.connect()
            try:
                connection.sock.sendall(head)
                answer = connection.sock.recv(100)
                assert answer.startswith(b"HTTP/1.1 "), (head[:80], answer)
                assert answer[9:10] in (b"2", b"4"), (head[:80], answer)
                answered += 1
            except (TimeoutError, ConnectionError):
                pass  # it waits for a body that does not come; or took the head for none
            finally:
                connection.close()
    assert answered > 150
    assert client.get("/healthz").status_code == 200

"""`POST /predict` says what the Classifier says in this process; what is no film is refused."""

import base64
import io
import socket
import threading
import time
from pathlib import Path

import httpx
import jax
import numpy as np
import pytest
from PIL import Image

from chexjax.explain import overlay
from chexjax.predict import Classifier
from chexjax.runtime import COMPILED
from chexjax.serve.service import Limits
from tests.dicom_files import SECRET, write_dicom
from tests.serve.conftest import THRESHOLDS, encoded, film_of, serving, wait_until


def dicom(folder: Path, number: int = 0, **fields: object) -> bytes:
    levels = film_of(number, 128).astype(np.uint16) * 16
    return write_dicom(folder / "film.dcm", levels, **({"BitsStored": 12, "Modality": "CR"} | fields)).read_bytes()


def check(answer: dict, classifier: Classifier, film: bytes | np.ndarray) -> None:
    """The answer is the Classifier's own."""
    (expected,) = classifier.predict([film])
    assert answer["status"] == expected.verdict.status
    assert answer["reasons"] == list(expected.verdict.reasons)
    assert (answer["height"], answer["width"]) == expected.film.shape
    assert [each["finding"] for each in answer["findings"]] == expected.ranked
    for each in answer["findings"]:
        assert each["probability"] == pytest.approx(expected.probability(each["finding"]), abs=1e-6)
        known = each["finding"] in THRESHOLDS
        assert each["threshold"] == (pytest.approx(THRESHOLDS[each["finding"]]["youden"]) if known else None)
        assert each["called"] is (each["finding"] in expected.called if known else None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "DICOM"])
@pytest.mark.parametrize("form", [False, True])
def test_a_film_of_each_kind(
    kind: str, form: bool, client: httpx.Client, classifier: Classifier, tmp_path: Path
) -> None:
    film = dicom(tmp_path) if kind == "DICOM" else encoded(film_of(1), kind)
    body = {"files": {"file": (f"{SECRET}.png", film)}} if form else {"content": film}
    response = client.post("/predict", **body)
    assert response.status_code == 200, response.text
    check(response.json(), classifier, film)
    assert not response.json()["overlays"]
    about = response.json()["model"]
    assert about["checkpoint"] == classifier.restored.digest
    assert about["calibrated"] is False
    assert response.headers["cache-control"] == "no-store"


def test_curl_sends_a_film_as_if_it_were_a_form(client: httpx.Client, classifier: Classifier) -> None:
    """`curl --data-binary` says application/x-www-form-urlencoded."""
    film = encoded(film_of(2))
    headers = {"content-type": "application/x-www-form-urlencoded"}
    check(client.post("/predict", content=film, headers=headers).json(), classifier, film)


def test_maps_come_as_boxes_and_pictures(client: httpx.Client, classifier: Classifier) -> None:
    film = film_of(3, 700)
    answer = client.post("/predict?maps=1", content=encoded(film)).json()
    (expected,) = classifier.predict([film])
    check(answer, classifier, film)
    assert expected.called
    for each in answer["findings"]:
        boxes = (
            [list(box[:4]) for box in expected.boxes(each["finding"])] if each["finding"] in expected.called else None
        )
        assert (each["boxes"] and [list(box.values()) for box in each["boxes"]]) == boxes
    assert [each["finding"] for each in answer["overlays"]] == expected.called[:3]
    for each in answer["overlays"]:
        picture = Image.open(io.BytesIO(base64.b64decode(each["png"])))
        assert picture.format == "PNG"
        assert max(picture.size) > 640
        assert np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=-1).max() > 50  # it has colours


def test_maps_that_were_not_shown_to_point_come_with_a_warning(
    client: httpx.Client, checked: Classifier, monkeypatch
) -> None:
    """In the JSON, over the picture, and in none of them where the map was shown to point or never checked."""
    film = encoded(film_of(3))
    drawn = []
    annotate = overlay.annotate
    monkeypatch.setattr(overlay, "annotate", lambda *a, **b: (drawn.append(a[3]), annotate(*a, **b))[1])
    with serving(checked, Limits(batch=4)) as (warned, _):
        answer = warned.post("/predict?maps=1", content=film).json()
        assert all(each["map_note"] is None for each in warned.post("/predict", content=film).json()["findings"])
    notes = {each["finding"]: each["map_note"] for each in answer["findings"]}
    assert notes.pop("Mass") is None
    assert "48% of 25 boxes hit, by the centre 48%" in notes.pop("Edema")
    assert set(notes.values()) == {"map not tested: too few boxes of this finding"}
    assert len(drawn) == len(answer["overlays"]) > 0
    for title, each in zip(drawn, answer["overlays"], strict=True):
        assert ("place unproven" in title) is (each["finding"] != "Mass")
    unchecked = client.post("/predict?maps=1", content=film).json()
    assert all(each["map_note"] is None for each in unchecked["findings"])


def test_a_refused_film_has_no_findings(client: httpx.Client, classifier: Classifier, tmp_path: Path) -> None:
    answer = client.post("/predict?maps=1", content=dicom(tmp_path, Modality="CT")).json()
    assert answer["status"] == "refused"
    assert answer["reasons"]
    assert answer["findings"] == answer["overlays"] == []
    dark = (film_of(4) // 8).astype(np.uint8)
    with serving(classifier, Limits(), strict=True) as (strict, _):
        for service, status in ((client, "doubtful"), (strict, "refused")):
            answer = service.post("/predict", content=encoded(dark)).json()
            assert answer["status"] == status
            assert bool(answer["findings"]) is (status == "doubtful")


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"", "the body is empty"), (b"GIF89a", "not an image"), (encoded(film_of(0))[:200], "cannot be read"),
     (encoded(np.zeros((64, 64), np.uint8)), "grey levels from 0 to 0")],
)  # fmt: skip
def test_what_is_no_film_is_refused_in_a_line(body: bytes, message: str, client: httpx.Client) -> None:
    response = client.post("/predict", content=body)
    assert response.status_code == 422
    assert message in response.json()["detail"]


def test_a_form_holds_one_film(client: httpx.Client) -> None:
    two = [("file", ("a.png", encoded(film_of(0)))), ("file", ("b.png", encoded(film_of(1))))]
    assert "2 parts" in client.post("/predict", files=two).json()["detail"]
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        response = client.post("/predict", content=b"--y\r\n\r\n--y--", headers={"content-type": kind})
        assert response.status_code == 422


def test_a_header_is_quoted_nowhere(client: httpx.Client, tmp_path: Path, capfd, caplog) -> None:
    whole = dicom(tmp_path)
    for film in (whole, whole[:400], whole.replace(b"MONOCHROME2 ", b"Lastnamington")):
        response = client.post("/predict?maps=1", content=film)
        assert SECRET not in response.text + "".join(capfd.readouterr()) + caplog.text
    assert SECRET not in client.get("/metrics").text


# Limits


def test_a_body_that_is_too_large_is_refused_before_it_is_read(classifier: Classifier) -> None:
    with serving(classifier, Limits(body=10_000)) as (client, _):
        assert client.post("/predict", content=encoded(film_of(0, 64))).status_code == 200
        response = client.post("/predict", content=b"\0" * 10_001)
        assert response.status_code == 413
        assert response.json()["detail"] == "a body of 10001 bytes; at most 10000 are taken"
        chunks = (b"\0" * 4096 for _ in range(10))  # of unknown length
        assert client.post("/predict", content=chunks).status_code == 413


def test_a_film_of_too_many_pixels_is_refused(client: httpx.Client, monkeypatch) -> None:
    monkeypatch.setenv("CHEXJAX_MAX_PIXELS", "5000")
    response = client.post("/predict", content=encoded(film_of(0)))
    assert (response.status_code, "88 x 96 pixels" in response.json()["detail"]) == (422, True)


def test_a_body_that_does_not_come_is_not_waited_for(classifier: Classifier) -> None:
    with serving(classifier, Limits(timeout=0.3)) as (client, service):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
            assert b" 408 " in slow.recv(1000)
        assert service.metrics.under_way._value.get() == 0


def test_beyond_the_queue_is_429_and_nothing_is_lost(classifier: Classifier) -> None:
    with serving(classifier, Limits(queue=2, timeout=60)) as (client, service):
        entered = [service.enter(), service.enter()]
        response = client.post("/predict", content=encoded(film_of(0)))
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        for leave in entered:
            leave()
            leave()  # the second call gives back nothing
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 200
        entered = [service.enter(), service.enter()]
        with pytest.raises(Exception, match="2 requests are under way"):
            service.enter()


def test_a_film_whose_turn_does_not_come_is_503_and_is_not_computed(classifier: Classifier, monkeypatch) -> None:
    with serving(classifier, Limits(batch=1, timeout=0.5)) as (client, service):
        go, runs = threading.Event(), []
        sized = service._batcher._classifiers[1]
        score = sized.score
        monkeypatch.setattr(sized, "score", lambda films: (runs.append(1), go.wait(20), score(films))[2])
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{client.base_url}/predict", content=encoded(film_of(0)), timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [503] * 3
        assert answers[0].headers["retry-after"] == "1"
        go.set()
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 200
        assert len(runs) == 2  # the first of the three, and the last of all


def test_before_it_is_ready_it_says_so(classifier: Classifier) -> None:
    with serving(classifier, Limits(), ready=False) as (client, service):
        assert client.get("/healthz/live").status_code == 200
        assert client.get("/healthz").status_code == client.get("/healthz/ready").status_code == 503
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 503
        service.warm_up()
        assert client.get("/healthz").json() == {"status": "ready"}
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 200


def test_a_device_that_fails_is_told_to_who_restarts_it(classifier: Classifier, monkeypatch, caplog) -> None:
    with serving(classifier, Limits(batch=1)) as (client, service):

        def fail(films: object) -> None:
            raise RuntimeError(SECRET)

        with monkeypatch.context() as broken:
            broken.setattr(service._batcher._classifiers[1], "score", fail)
            for _ in range(3):
                response = client.post("/predict", content=encoded(film_of(0)))
                assert response.status_code == 500
                assert SECRET not in response.text + caplog.text
        assert "RuntimeError at test_predict.py" in caplog.text
        assert client.get("/healthz/live").status_code == 503
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 200
        assert client.get("/healthz/live").status_code == 200


# What it does with the device


def test_nothing_is_compiled_once_it_is_ready(workdir: Path) -> None:
    compiled: list[str] = []
    listening = True

    def listen(name: str, seconds: float, **_: object) -> None:
        if listening and name == COMPILED:
            compiled.append(name)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    with serving(Classifier.from_checkpoint(workdir), Limits(batch=4, wait=0.2)) as (client, _):
        assert len(compiled) >= 6  # three sizes, with maps and without
        compiled.clear()
        for together in (1, 2, 3, 4):
            for maps in ("", "?maps=1"):
                threads = [
                    threading.Thread(
                        target=httpx.post, args=(f"{client.base_url}/predict{maps}",),
                        kwargs={"content": encoded(film_of(k, 64 + 16 * k)), "timeout": 60},
                    )
                    for k in range(together)
                ]  # fmt: skip
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        text = client.get("/metrics").text
    listening = False
    assert not compiled
    assert 'chexjax_films_total{door="http",status="ok"}' in text or "doubtful" in text
    sizes = {
        line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith("chexjax_batch_films_")
    }
    assert sizes["chexjax_batch_films_sum"] == 20
    assert sizes["chexjax_batch_films_count"] < 20  # some went together


def test_the_metrics_count_what_was_asked(classifier: Classifier) -> None:
    with serving(classifier, Limits()) as (client, _):
        client.post("/predict", content=encoded(film_of(0)))
        client.post("/predict", content=b"no film")
        client.get(f"/{SECRET}")
        text = client.get("/metrics").text
    assert 'chexjax_requests_total{route="/predict",status="200"} 1.0' in text
    assert 'chexjax_requests_total{route="/predict",status="422"} 1.0' in text
    assert 'chexjax_requests_total{route="other",status="404"} 1.0' in text
    assert 'chexjax_films_total{door="http",status="unreadable"} 1.0' in text
    assert "chexjax_ready 1.0" in text
    assert SECRET not in text


def test_the_description_names_every_route_and_field(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    answer = client.post("/predict?maps=1", content=encoded(film_of(3))).json()
    fields = description["components"]["schemas"]["Answer"]["properties"]
    assert fields.keys() == answer.keys()
    assert description["components"]["schemas"]["Finding"]["properties"].keys() == answer["findings"][0].keys()
    assert {"200", "401", "413", "422", "429", "503"} <= description["paths"]["/predict"]["post"]["responses"].keys()
    page = client.get("/docs")
    for text in (
        "POST /predict",
        "GET /metrics",
        "image/png",
        "?maps",
        "probability",
        "Retry-After",
        "list of Box, or null",
    ):
        assert text in page.text
    assert "http" not in page.text.replace("http-equiv", "")  # it fetches nothing
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_it_writes_nothing(client: httpx.Client, tmp_path: Path, monkeypatch) -> None:
    """A body of many megabytes, as a form: what parses forms elsewhere keeps such in temporary files."""
    opened = []
    real = open

    import builtins

    def watched(file: object, mode: str = "r", *rest: object, **more: object) -> object:
        if set(mode) & set("wax+"):
            opened.append(file)
        return real(file, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda *_, **__: pytest.fail("a temporary file"))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("a temporary file"))
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), np.uint8)
    before = set(tmp_path.parent.rglob("*"))
    assert client.post("/predict?maps=1", files={"file": encoded(noise)}).status_code == 200
    assert not opened
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_client_that_leaves_frees_its_place(classifier: Classifier) -> None:
    with serving(classifier, Limits(queue=1, timeout=20)) as (client, service):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
            wait_until(lambda: service.metrics.under_way._value.get() == 1)
        wait_until(lambda: service.metrics.under_way._value.get() == 0)
        time.sleep(0.05)
        assert client.post("/predict", content=encoded(film_of(0))).status_code == 200

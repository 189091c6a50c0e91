"""STOW-RS, both ways: films in by POST /studies, their results in an archive; the answer says what became of each."""

import io
import json
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

from chexjax.predict import Classifier
from chexjax.serve import dicomweb
from chexjax.serve.dicomweb import StowTarget
from chexjax.serve.instances import DeliveryError
from chexjax.serve.service import Limits
from tests.dicom_files import SECRET, write_dicom
from tests.serve.archives import stow_archive
from tests.serve.conftest import film_of, serving

CR, CT, SC = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.7"
STORED, FAILED, WARNING, FAILURE = "00081199", "00081198", "00081196", "00081197"


def instance(folder: Path, number: int, **fields: object) -> bytes:
    levels = film_of(number, 128).astype(np.uint16) * 16
    own = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.4.1", "SOPInstanceUID": f"1.2.3.4.1.{number}"}
    return write_dicom(
        folder / "film.dcm", levels, **({"BitsStored": 12, "Modality": "CR"} | own | fields)
    ).read_bytes()


def store(client: httpx.Client, *films: bytes) -> httpx.Response:
    body = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + film + b"\r\n" for film in films) + b"--x--\r\n"
    headers = {"content-type": 'multipart/related; type="application/dicom"; boundary=x'}
    return client.post("/studies", content=body, headers=headers)


def items(response: httpx.Response, sequence: str, reason: str = "") -> list[tuple[str, ...]]:
    """(class, instance, reason) of each item of a sequence of the answer."""
    found = []
    for item in response.json().get(sequence, {}).get("Value", []):
        uids = [item[tag].get("Value", [""])[0] for tag in ("00081150", "00081155")]
        found.append((*uids, *((item[reason]["Value"][0],) if reason else ())))
    return found


def test_films_in_and_their_results_out(classifier: Classifier, tmp_path: Path) -> None:
    films = [instance(tmp_path, number) for number in range(1, 8)]
    with stow_archive() as archive, serving(classifier, Limits(), targets=[StowTarget(archive.url, 20)]) as (client, _):
        response = store(client, *films)
        metrics = client.get("/metrics").text
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"
    assert items(response, STORED) == [(CR, f"1.2.3.4.1.{number}") for number in range(1, 8)]
    assert FAILED not in response.json()
    assert 'chexjax_deliveries_total{outcome="delivered",target="stow"} 7.0' in metrics
    assert len(archive.files) == 7
    for headers in archive.headers:
        assert headers["Accept"] == "application/dicom+json"
        assert "Authorization" not in headers
    found = {}
    for files in archive.files:
        for dataset in (pydicom.dcmread(io.BytesIO(file)) for file in files):
            assert (dataset.StudyInstanceUID, dataset.PatientName) == ("1.2.3.4", SECRET)
            if dataset.Modality == "SR":
                evidence = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
                found[evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID] = probabilities(dataset)
    for number, film in enumerate(films, start=1):
        (expected,) = classifier.predict([film])
        own = {name.replace("_", " "): expected.probability(name) for name in expected.findings}
        assert found[f"1.2.3.4.1.{number}"] == {name: pytest.approx(value, abs=1e-6) for name, value in own.items()}


def probabilities(report: pydicom.Dataset) -> dict[str, float]:
    """A report's probabilities by finding; read without chexjax."""
    found = {}

    def walk(item: pydicom.Dataset, finding: str) -> None:
        for child in item.get("ContentSequence", ()):
            name = child.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in child else ""
            if name == "Tracking Identifier":
                finding = child.TextValue.replace("_", " ")
            if name == "Probability":
                found[finding] = float(child.MeasuredValueSequence[0].NumericValue)
            walk(child, finding)

    walk(report, "")
    return found


def test_the_answer_says_what_became_of_each(classifier: Classifier, tmp_path: Path) -> None:
    films = {
        "good": instance(tmp_path, 1),
        "refused": instance(tmp_path, 2, BodyPartExamined="HAND"),
        "broken": instance(tmp_path, 3)[:-9000],
        "capture": instance(tmp_path, 4, SOPClassUID=SC),
        "scan": instance(tmp_path, 5, SOPClassUID=CT, Modality="CT"),
        "nothing": b"nothing",
        "nameless": instance(tmp_path, 6, StudyInstanceUID=""),
    }
    with stow_archive() as archive, serving(classifier, Limits(), targets=[StowTarget(archive.url, 20)]) as (client, _):
        response = store(client, *films.values())
        assert response.status_code == 202
        assert items(response, STORED) == [(CR, "1.2.3.4.1.1"), (CR, "1.2.3.4.1.2")]
        assert response.json()[STORED]["Value"][1][WARNING]["Value"] == [0xB007]
        assert items(response, FAILED, FAILURE) == [
            (CR, "1.2.3.4.1.3", 0xC000), (SC, "1.2.3.4.1.4", 0x0122), (CT, "1.2.3.4.1.5", 0x0122), ("", "", 0xC000),
            (CR, "1.2.3.4.1.6", 0xC000),
        ]  # fmt: skip
        assert store(client, films["refused"]).status_code == 202
        assert store(client, films["broken"], films["scan"]).status_code == 409
        assert len(archive.files) == 1  # of the good one alone
        assert client.post("/studies", content=films["good"]).status_code == 415
        assert store(client).status_code == 422


def test_without_an_archive_there_is_no_such_route(client: httpx.Client) -> None:
    assert client.post("/studies", content=b"").status_code == 404
    assert "/studies" not in client.get("/openapi.json").json()["paths"]


def test_what_the_archive_does_not_take_has_failed(classifier: Classifier, tmp_path: Path, caplog) -> None:
    film = instance(tmp_path, 1)
    failed = {FAILED: {"vr": "SQ", "Value": [{}]}}
    for answer in ((409, failed), (202, failed), (401, SECRET), (202, "nonsense")):
        with stow_archive(answer) as archive:
            with serving(classifier, Limits(), targets=[StowTarget(archive.url, 20)]) as (client, _):
                response = store(client, film)
            assert (response.status_code, items(response, FAILED, FAILURE)) == (409, [(CR, "1.2.3.4.1.1", 0x0110)])
            assert len(archive.files) == 1  # what it refuses once it refuses again
    assert "the archive answers 401" in caplog.text
    assert SECRET not in caplog.text + response.text


def test_an_archive_at_fault_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr(dicomweb, "_PAUSE", 0.01)
    with stow_archive((503, {}), (429, {}), (200, {})) as archive:
        StowTarget(archive.url, 20).send([b"a", b"--"])
        assert archive.files == [[b"a", b"--"]] * 3
    with stow_archive((500, {})) as archive:
        with pytest.raises(DeliveryError, match="answers 500"):
            StowTarget(archive.url, 20).send([b"a"])
        assert len(archive.files) == 3
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(DeliveryError, match=r"cannot be reached \(ConnectionRefusedError\)"):
            StowTarget(f"http://127.0.0.1:{closed.getsockname()[1]}/studies", 1).send([b"a"])
        closed.listen()
        began = time.monotonic()
        with pytest.raises(DeliveryError, match=r"cannot be reached \(TimeoutError\)"):  # it never answers
            StowTarget(f"http://127.0.0.1:{closed.getsockname()[1]}/studies", 0.1).send([b"a"])
        assert time.monotonic() - began < 5


def test_a_warning_is_no_failure_and_redirects_are_not_followed() -> None:
    with stow_archive((202, {STORED: {"vr": "SQ", "Value": [{WARNING: {}}]}})) as archive:
        StowTarget(archive.url, 20).send([b"a"])
    with stow_archive((307, {})) as archive, pytest.raises(DeliveryError, match="answers 307"):
        StowTarget(archive.url, 20).send([b"a"])


def test_the_archives_password_comes_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("CHEXJAX_STOW_AUTHORIZATION", "Basic abc")
    with stow_archive() as archive:
        StowTarget(archive.url, 20).send([b"a"])
    assert archive.headers[0]["Authorization"] == "Basic abc"


def test_the_answer_is_the_standards_json(classifier: Classifier, tmp_path: Path) -> None:
    with stow_archive() as archive, serving(classifier, Limits(), targets=[StowTarget(archive.url, 20)]) as (client, _):
        response = store(client, instance(tmp_path, 1), b"nothing")
    dataset = pydicom.Dataset.from_json(json.dumps(response.json()))
    assert dataset.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.1.1"
    assert dataset.FailedSOPSequence[0].FailureReason == 0xC000

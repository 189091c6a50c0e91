"""C-STORE, both ways, with pynetdicom and with dcmtk as peers."""

import contextlib
import io
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pynetdicom import AE

from chexjax.errors import ConfigError
from chexjax.predict import Classifier
from chexjax.serve.dicom_port import PortContext, StorePort, StoreTarget, check_title, read_peer
from chexjax.serve.instances import DeliveryError, Instances
from chexjax.serve.metrics import Metrics
from chexjax.serve.service import Limits, Service
from tests.dicom_files import SECRET, write_dicom
from tests.serve.archives import store_archive
from tests.serve.conftest import create_certificate, wait_until
from tests.serve.test_dicomweb import CR, CT, SC, instance, probabilities

CALLERS = ["MODALITY", "OTHER"]


@contextmanager
def listening(
    classifier: Classifier,
    targets: list[Any],
    limits: Limits = Limits(batch=4),  # noqa: B008
    context: PortContext | None = None,
) -> Iterator[Any]:
    """A port on this machine: (its number, the service, what closes it)."""
    service = Service(classifier, limits, Metrics(limits.batch))
    service.warm_up()
    port = StorePort(Instances(service, targets), "CHEXJAX", CALLERS, context)
    with ExitStack() as stack:
        stack.callback(service.close)
        stack.callback(port.close, 5.0)
        yield port.listen("127.0.0.1", 0), service, port


def send(
    port: int,
    *films: bytes,
    title: str = "MODALITY",
    called: str = "CHEXJAX",
    kind: str = CR,
    tls: ssl.SSLContext | None = None,
) -> list[int]:
    """The status of each film; [] where the association is refused."""
    entity = AE(title)
    entity.add_requested_context(kind)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls and (tls, "localhost"))
    if not association.is_established:
        return []
    found = [association.send_c_store(pydicom.dcmread(io.BytesIO(film))) for film in films]
    association.release()
    return [status.Status if "Status" in status else -1 for status in found]


def test_films_in_and_their_results_back(classifier: Classifier, tmp_path: Path) -> None:
    films = [instance(tmp_path, number) for number in range(1, 4)]
    with store_archive() as (archive, taken):
        target = StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20)
        with listening(classifier, [target]) as (port, service, _):
            assert send(port, *films) == [0, 0, 0]
            assert send(port, instance(tmp_path, 4, BodyPartExamined="HAND")) == [0xB007]
            assert send(port, instance(tmp_path, 5)[:-9000]) == [0xC000]
            text = service.metrics.text(True).decode()
    assert 'chexjax_deliveries_total{outcome="delivered",target="c-store"} 3.0' in text
    assert {dataset.SOPClassUID for dataset in taken} <= {
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.11.1",
        SC,
    }
    reports = [dataset for dataset in taken if dataset.Modality == "SR"]
    assert len(reports) == 3
    for film, report in zip(films, reports, strict=True):
        (expected,) = classifier.predict([film])
        own = {name.replace("_", " "): expected.probability(name) for name in expected.findings}
        assert probabilities(report) == {name: pytest.approx(value, abs=1e-6) for name, value in own.items()}
        assert report.PatientName == SECRET


def test_strangers_are_not_answered(classifier: Classifier, tmp_path: Path) -> None:
    film = instance(tmp_path, 1)
    with store_archive() as (archive, taken):
        target = StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20)
        with listening(classifier, [target]) as (port, _, _):
            assert send(port, film, title="STRANGER") == []
            assert send(port, film, called="ANYONE") == []
            assert send(port, film, title="OTHER") == [0]
            for kind in (SC, CT):  # our own overlays are captures: an archive could send them back for ever
                assert send(port, kind=kind) == []
    assert len([dataset for dataset in taken if dataset.Modality == "SR"]) == 1


def test_a_peer_that_does_not_take_them(classifier: Classifier, tmp_path: Path, caplog) -> None:
    film = instance(tmp_path, 1)
    with store_archive(status=lambda: 0xA700) as (archive, _):
        with listening(classifier, [StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20)]) as (port, _, _):
            assert send(port, film) == [0x0110]
        assert "the peer answers 0xa700" in caplog.text
        with pytest.raises(DeliveryError, match="refuses the association"):
            StoreTarget(("ANOTHER", "127.0.0.1", archive), "CHEXJAX", 20).send([film])
        with pytest.raises(DeliveryError, match="does not take the results"):
            StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20).send([film])  # a CR image is no result
    with pytest.raises(DeliveryError, match="does not answer"):
        StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 1).send([film])
    with store_archive(status=lambda: 0xB000) as (archive, _):
        target = StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20)
        with listening(classifier, [target]) as (port, _, _):
            assert send(port, film) == [0]  # a warning: it is stored
    assert SECRET not in caplog.text


def test_a_full_queue_is_out_of_resources(classifier: Classifier, tmp_path: Path) -> None:
    film = instance(tmp_path, 1)
    with listening(classifier, [], Limits(queue=1)) as (port, service, _):
        leave = service.enter()
        assert send(port, film) == [0xA700]
        leave()
        assert send(port, film) == [0]
        service.is_ready = False
        assert send(port, film) == [0xA700]


def test_a_film_that_never_ends_is_cut_off(classifier: Classifier, tmp_path: Path) -> None:
    large = write_dicom(tmp_path / "large.dcm", np.zeros((1000, 1000), np.uint16), Modality="CR").read_bytes()
    with listening(classifier, [], Limits(body=100_000)) as (port, _, _):
        assert send(port, large) == [-1]
        small = instance(tmp_path, 2)
        assert len(small) < 100_000
        assert send(port, small, small, small, small) == [0] * 4  # the limit is a film's, not an association's


def test_it_ends_when_what_is_under_way_is_done(classifier: Classifier, tmp_path: Path, monkeypatch) -> None:
    film, found = instance(tmp_path, 1), []
    with listening(classifier, []) as (port, service, closing):
        predict = service.predict
        monkeypatch.setattr(service, "predict", lambda *a, **b: (time.sleep(0.5), predict(*a, **b))[1])
        thread = threading.Thread(target=lambda: found.extend(send(port, film)))
        thread.start()
        wait_until(lambda: service.metrics.under_way._value.get() == 1)
        closing.close(20)
        thread.join()
        assert found == [0]
        assert send(port, film) == []


# TLS


@pytest.fixture
def encrypted(certificate: tuple[Path, Path]) -> PortContext:
    context = PortContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_encrypted(
    classifier: Classifier, encrypted: PortContext, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    films = [instance(tmp_path, number) for number in range(1, 4)]
    knowing, unknowing = ssl.create_default_context(cafile=str(certificate[0])), ssl.create_default_context()
    with listening(classifier, [], context=encrypted) as (port, _, _):
        assert send(port, *films, tls=knowing) == [0, 0, 0]
        assert send(port, films[0], tls=knowing, title="STRANGER") == []
        assert send(port, films[0]) == []  # plain DICOM is not answered
        assert send(port, films[0], tls=unknowing) == []  # who does not know the certificate goes away
        assert send(port, films[0], tls=knowing) == [0]


def test_callers_are_known_by_their_certificates(
    classifier: Classifier, encrypted: PortContext, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    film, own, another = instance(tmp_path, 1), *(create_certificate(tmp_path, name) for name in ("own", "another"))
    encrypted.verify_mode = ssl.CERT_REQUIRED
    encrypted.load_verify_locations(own[0])
    with listening(classifier, [], context=encrypted) as (port, _, _):
        for shown, answer in ((own, [0]), (another, []), (None, [])):
            context = ssl.create_default_context(cafile=str(certificate[0]))
            if shown:
                context.load_cert_chain(*shown)
            assert send(port, film, tls=context) == answer


def test_a_caller_that_does_not_shake_hands_keeps_no_one_out(
    classifier: Classifier, encrypted: PortContext, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    film, context = instance(tmp_path, 1), ssl.create_default_context(cafile=str(certificate[0]))
    with ExitStack() as stack:
        port, _, _ = stack.enter_context(listening(classifier, [], Limits(timeout=6), encrypted))
        half, silent = (stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(2))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a handshake
        assert send(port, film, tls=context) == [0]
        assert not select.select([half, silent], [], [], 0)[0]  # these still wait
        for caller in (half, silent):  # and they are sent away
            with contextlib.suppress(ConnectionResetError):
                assert caller.recv(1) == b""


def test_a_caller_that_stops_within_a_message_is_sent_away(classifier: Classifier) -> None:
    with ExitStack() as stack:
        port, _, _ = stack.enter_context(listening(classifier, [], Limits(timeout=0.5)))
        half = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        half.sendall(b"\x01\x00\x00")  # half a header
        with contextlib.suppress(ConnectionResetError):
            assert half.recv(1) == b""


@pytest.mark.parametrize("text", ["", " ", "a" * 17, "a\\b", "ä", "a\nb"])
def test_what_is_no_title(text: str) -> None:
    with pytest.raises(ConfigError):
        check_title(text, "--ae-title")


def test_peers() -> None:
    assert read_peer("PACS@archive.example:104") == ("PACS", "archive.example", 104)
    assert read_peer("A@B@[::1]:65535") == ("A@B", "::1", 65535)
    for text in ("", "PACS", "PACS@host", "PACS@:104", "@host:104", "PACS@host:0", "PACS@host:65536", "PACS@host:1e3"):
        with pytest.raises(ConfigError):
            read_peer(text)


# dcmtk


@pytest.fixture
def dcmtk(monkeypatch: pytest.MonkeyPatch) -> None:
    """dcmtk's commands ahead of pynetdicom's, which have the same names."""
    for folder in os.get_exec_path():
        if command := shutil.which("storescu", path=folder):
            said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60).stdout
            if "$dcmtk" in said and shutil.which("storescp", path=folder):
                monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
                return
    pytest.skip("dcmtk is not installed")


@contextmanager
def storescp(folder: Path) -> Iterator[int]:
    """dcmtk's own archive, which writes what it takes into a folder."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = subprocess.Popen(["storescp", "--output-directory", str(folder), "-aet", "PACS", str(port)])

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers)
        yield port
    finally:
        running.terminate()
        running.wait(20)


def test_dcmtk_sends_and_dcmtk_gets_the_results(dcmtk: None, classifier: Classifier, tmp_path: Path) -> None:
    for number in range(1, 6):
        (tmp_path / f"{number}.dcm").write_bytes(instance(tmp_path, number))
    films = sorted(tmp_path.glob("[1-5].dcm"))
    with storescp(tmp_path / "archive") as archive:
        target = StoreTarget(("PACS", "127.0.0.1", archive), "CHEXJAX", 20)
        with listening(classifier, [target]) as (port, _, _):
            command = ["storescu", "-aet", "MODALITY", "-aec", "CHEXJAX", "127.0.0.1", str(port), *map(str, films)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            echo = ["echoscu", "-aet", "MODALITY", "-aec", "CHEXJAX", "127.0.0.1", str(port)]
            assert subprocess.run(echo, timeout=60).returncode == 0
            stranger = ["echoscu", "-aet", "STRANGER", "-aec", "CHEXJAX", "127.0.0.1", str(port)]
            done = subprocess.run(stranger, capture_output=True, text=True, timeout=60)
            assert done.returncode != 0
            assert "Calling AE Title Not Recognized" in done.stderr
    found = [pydicom.dcmread(path) for path in (tmp_path / "archive").iterdir()]
    reports = [dataset for dataset in found if dataset.Modality == "SR"]
    assert len(reports) == 5
    own = {
        round(float(expected.probability("Mass")), 6)
        for expected in classifier.predict([film.read_bytes() for film in films])
    }
    assert {round(probabilities(report)["Mass"], 6) for report in reports} == own


def test_dcmtk_sends_encrypted(
    dcmtk: None, classifier: Classifier, encrypted: PortContext, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    if "--enable-tls" not in subprocess.run(["storescu", "--help"], capture_output=True, text=True).stdout:
        pytest.skip("this dcmtk knows no TLS")
    path, (cert, key) = tmp_path / "1.dcm", create_certificate(tmp_path, "own")
    path.write_bytes(instance(tmp_path, 1))
    encrypted.verify_mode = ssl.CERT_REQUIRED
    encrypted.load_verify_locations(cert)
    with listening(classifier, [], context=encrypted) as (port, service, _):
        command = ["storescu", "+tls", str(key), str(cert), "+cf", str(certificate[0]), "-aet", "MODALITY"]
        command += ["-aec", "CHEXJAX", "localhost", str(port), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        text = service.metrics.text(True).decode()
    assert done.returncode == 0, done.stderr
    assert 'chexjax_films_total{door="c-store"' in text


def test_compressed_films_by_dcmtk(dcmtk: None, classifier: Classifier, tmp_path: Path, real_data: Path) -> None:
    """Of the transfer syntaxes that storescu proposes, one that the film needs no conversion for."""
    film = real_data / "dicom-cr" / "RG1_chest_JLSN.dcm"
    with listening(classifier, [], Limits(timeout=60)) as (port, service, _):
        command = ["storescu", "-xu", "-aet", "MODALITY", "-aec", "CHEXJAX", "127.0.0.1", str(port), str(film)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        text = service.metrics.text(True).decode()
    assert done.returncode == 0, done.stderr
    assert 'door="c-store",status="unreadable"' not in text
    assert "chexjax_films_total{" in text

"""The command: what is wrong is a line and status 64; SIGTERM finishes what is under way and ends with 0."""

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pynetdicom import AE

from chexjax.configs import common
from chexjax.serve import command
from tests.serve.conftest import encoded, film_of
from tests.untrained import save_untrained

REPOSITORY = Path(__file__).parent.parent.parent
TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir that a new process knows the network of."""
    config = common.base()
    config.networks.net1.update({"width": 0.0625})
    config.data.size = 32
    return save_untrained(config, tmp_path_factory.mktemp("run") / "run")


@contextmanager
def process(run: Path, *flags: str, **environment: str) -> Iterator[Sequence[Any]]:
    """The command, the address that it prints, and the lines before."""
    arguments = [sys.executable, "-m", "chexjax.serve", f"--checkpoint={run}", "--port=0", "--max-batch=2", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    started = subprocess.Popen(arguments, env=os.environ | environment, **pipes)
    try:
        address, printed = "", []
        for line in started.stdout:
            if found := re.match(r"ready: (\S+)", line):
                address = found[1]
                break
            printed.append(line.strip())
        assert address, started.stderr.read()
        yield started, address, *printed
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def test_sigterm_finishes_what_is_under_way_and_ends_with_0(run: Path, tmp_path: Path) -> None:
    with process(run, "--max-wait-ms=1500") as (started, address):
        idle = httpx.Client()  # keeps its connection open
        assert idle.get(f"{address}healthz").status_code == 200
        answers: list[httpx.Response] = []
        film = encoded(film_of(0, 300))
        ask = threading.Thread(target=lambda: answers.append(httpx.post(f"{address}predict", content=film, timeout=60)))
        ask.start()
        time.sleep(0.5)  # it is under way, and waits for company
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        ask.join()
        _, wrong = started.communicate(timeout=60)
        assert [answer.status_code for answer in answers] == [200]
        assert answers[0].json()["status"] in ("ok", "doubtful")
        assert started.returncode == 0, wrong
        assert time.monotonic() - began < 20
        assert "Traceback" not in wrong
        assert re.search(r"INFO POST /predict 200 \d+ ms\n", wrong)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}healthz")


def test_ctrl_c_is_130(run: Path) -> None:
    with process(run) as (started, _):
        started.send_signal(signal.SIGINT)
        _, wrong = started.communicate(timeout=60)
        assert started.returncode == 130
        assert wrong == "interrupted\n"


def test_tls_and_a_token_by_the_environment(run: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    flags = (f"--tls-cert={cert}", f"--tls-key={key}", "--host=0.0.0.0")
    with process(run, *flags, CHEXJAX_TOKEN=TOKEN) as (started, address):
        assert address.startswith("https://0.0.0.0:")
        port = int(address.rpartition(":")[2].strip("/"))
        own = f"https://127.0.0.1:{port}/predict"
        context = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(verify=context) as client:
            film = {"content": encoded(film_of(0))}
            assert client.post(own, **film).status_code == 401
            assert client.post(own, headers={"authorization": f"Bearer {TOKEN}"}, **film).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        started.send_signal(signal.SIGTERM)
        _, wrong = started.communicate(timeout=60)
        assert started.returncode == 0
        assert "warning" not in wrong
        assert TOKEN not in wrong


def test_with_a_certificate_the_dicom_port_encrypts_too(run: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    flags = (f"--tls-cert={cert}", f"--tls-key={key}", f"--dicom-ca={cert}", "--host=0.0.0.0", "--calling=MODALITY")
    more = ("--dicom-port=0", "--dicom-to=PACS@localhost:104")
    with process(run, *flags, *more, CHEXJAX_TOKEN=TOKEN) as (started, _, *message):
        (port,) = (
            int(line.rpartition(" ")[2]) for line in message if line.startswith("C-STORE (TLS): CHEXJAX at port ")
        )
        context = ssl.create_default_context(cafile=str(cert))
        context.load_cert_chain(cert, key)
        entity = AE("MODALITY")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", port, ae_title="CHEXJAX", tls_args=(context, "localhost"))
        assert association.is_established
        assert association.send_c_echo().Status == 0
        association.release()
        started.send_signal(signal.SIGTERM)
        _, wrong = started.communicate(timeout=60)
        assert started.returncode == 0
        assert "warning" not in wrong


def test_a_dicom_port_that_is_open_to_others_is_warned_of(run: Path) -> None:
    flags = ("--host=0.0.0.0", "--calling=MODALITY", "--dicom-port=0", "--dicom-to=PACS@localhost:104")
    with process(run, *flags, CHEXJAX_TOKEN=TOKEN) as (started, *_):
        started.send_signal(signal.SIGTERM)
        _, wrong = started.communicate(timeout=60)
    assert "without --tls-cert" in wrong
    assert "without --dicom-ca whoever knows an AE title" in wrong


def test_a_connection_without_a_request_is_closed(run: Path, monkeypatch) -> None:
    monkeypatch.setattr(command, "_SILENT", 0.2)
    from chexjax.predict import Classifier
    from chexjax.serve.service import Limits
    from tests.serve.conftest import serving

    with serving(Classifier.from_checkpoint(run), Limits(), ready=False) as (client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as silent:
            silent.sendall(b"POST /predict HTTP/1.1\r\nHost:")
            assert silent.recv(100) == b""
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as again:
            again.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert again.recv(1000).startswith(b"HTTP/1.1 200")
            again.sendall(b"G")  # whoever has been answered may not wait for ever either
            while received := again.recv(1000):
                assert b"HTTP" not in received
        for _ in range(2):  # one that asks may ask again
            assert client.get("/healthz/live").status_code == 200
            time.sleep(0.3)


# What is wrong


def end_of(monkeypatch, capsys, *flags: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["chexjax serve", *flags])
    with pytest.raises(SystemExit) as end:
        command.main()
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "usage: chexjax serve --checkpoint=WORKDIR"),
        (["--checkpoint=RUN", "film.png"], "usage: "),
        (["--checkpoint=RUN/none"], "RUN/none"),
        (["--checkpoint=RUN", "--host=0.0.0.0"], "there is no token"),
        (["--checkpoint=RUN", "--host=::"], "there is no token"),
        (["--checkpoint=RUN", "--host=films.example"], "there is no token"),
        (["--checkpoint=RUN", "--token-file=RUN/none"], "--token-file=RUN/none cannot be read: No such file"),
        (["--checkpoint=RUN", "--token-file=RUN/short"], "16 printable ASCII characters"),
        (["--checkpoint=RUN", "--token-file=RUN/empty"], "is empty"),
        (["--checkpoint=RUN", "--tls-cert=RUN/config.json"], "go together"),
        (["--checkpoint=RUN", "--tls-cert=RUN/config.json", "--tls-key=RUN/config.json"], "cannot be used"),
        (["--checkpoint=RUN", "--dicom-ca=RUN/none"], "--dicom-ca goes with --dicom-port, --tls-cert and --tls-key"),
        (["--checkpoint=RUN", "--port=70000"], "port"),
        (["--checkpoint=RUN", "--max-batch=0"], "max-batch"),
        (["--checkpoint=RUN", "--network=net9"], "has no network 'net9'"),
        (["--checkpoint=RUN", "--dicom-port=0"], "neither is given"),
        (["--checkpoint=RUN", "--dicom-port=0", "--dicom-to=PACS@localhost:104"], "needs --calling"),
        (["--checkpoint=RUN", "--dicom-to=PACS@localhost"], "AE_TITLE@HOST:PORT"),
        (["--checkpoint=RUN", "--dicom-to=SEVENTEEN_LETTERS@localhost:104"], "1 to 16 characters"),
        (["--checkpoint=RUN", "--ae-title=a\\b"], "1 to 16 characters"),
        (["--checkpoint=RUN", "--stow-to=archive/studies"], "--stow-to takes the address"),
        (["--checkpoint=RUN", "--stow-to=http://me:secret@archive/studies"], "a password goes into"),
        (["--checkpoint=RUN", "--stow-to=http://archive:x/studies"], "--stow-to takes the address"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(flags: list[str], message: str, run: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("CHEXJAX_TOKEN", raising=False)
    (run / "short").write_text("abc")
    (run / "empty").write_text("\n")
    flags = [flag.replace("RUN", str(run)) for flag in flags]
    if not any(flag.startswith("--port") for flag in flags):
        flags.append("--port=0")
    status, wrong = end_of(monkeypatch, capsys, *flags)
    assert status == 64
    assert wrong.startswith("error: ")
    assert wrong.count("\n") <= 2
    assert message.replace("RUN", str(run)) in wrong
    assert "secret" not in wrong


def test_a_port_that_is_taken(run: Path, monkeypatch, capsys) -> None:
    taken = command.listen("localhost", 0)
    number = taken.getsockname()[1]
    status, wrong = end_of(monkeypatch, capsys, f"--checkpoint={run}", f"--port={number}")
    assert (status, wrong) == (64, f"error: cannot listen at localhost, port {number}: Address already in use\n")
    taken.close()


def test_answers_do_not_wait_for_the_clients_acknowledgement() -> None:
    """asyncio sets TCP_NODELAY on what a listener accepts only where the listener names its protocol."""
    with command.listen("localhost", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_without_the_extra_it_is_named(run: Path, monkeypatch, capsys) -> None:
    found = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    status, wrong = end_of(monkeypatch, capsys, f"--checkpoint={run}")
    assert (status, wrong) == (64, "error: the service needs uvicorn; pip install 'chexjax[serve]'\n")


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False),
     ("::", False), ("192.168.0.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_what_is_this_machine(host: str, own: bool) -> None:
    assert command.is_loopback(host) is own


def test_its_modules_need_no_extra() -> None:
    """So that the pages of the API are made without it, and the command can say what is missing."""
    program = (
        "import sys\n"
        "for name in ('fastapi', 'uvicorn', 'prometheus_client', 'pynetdicom', 'highdicom'): sys.modules[name] = None\n"
        "import pkgutil, importlib, chexjax.serve as room\n"
        "for each in pkgutil.iter_modules(room.__path__):\n"
        "    importlib.import_module(f'chexjax.serve.{each.name}')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr

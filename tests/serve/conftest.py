"""A small network behind a real socket; films for it."""

import asyncio
import io
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from chexjax.configs import common
from chexjax.explain.evidence import MAPS, Evidence, Pointing, to_json
from chexjax.findings import FINDINGS
from chexjax.predict import Classifier

pytest.importorskip("fastapi", reason="the extra `serve`")
pytest.importorskip("pynetdicom", reason="the extra `serve`")
pytest.importorskip("highdicom", reason="the extra `serve`")

from chexjax.serve.app import create_app
from chexjax.serve.command import create_server, listen
from chexjax.serve.instances import Instances
from chexjax.serve.metrics import Metrics
from chexjax.serve.service import Limits, Service
from chexjax.trust.kept import fingerprint
from chexjax.workdir.restore import restore_best
from tests.conftest import shrink
from tests.untrained import save_untrained

THRESHOLDS = {finding: {"youden": 0.05 * k} for k, finding in enumerate(FINDINGS[:12], start=1)}  # two are unknown


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small network that has never seen a film; with thresholds for most findings."""
    folder = save_untrained(shrink(common.base()), tmp_path_factory.mktemp("run"))
    results = {"step": 1, "networks": {"net1": {"thresholds": THRESHOLDS}}}
    (folder / "metrics.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def classifier(workdir: Path) -> Classifier:
    return Classifier.from_checkpoint(workdir, batch_size=4)


@pytest.fixture
def checked(workdir: Path, tmp_path: Path) -> Classifier:
    """The same network, whose maps of Mass point, of Edema no better than the centre, and of others have no boxes."""
    folder = shutil.copytree(workdir, tmp_path / "checked")
    found = Evidence({"cam": {"Mass": Pointing(50, 45, 5, 5.0), "Edema": Pointing(25, 12, 12, 5.0)}})
    kept = {"checkpoint": fingerprint(restore_best(folder)), "pointing": to_json({"net1": found})}
    (folder / MAPS).write_text(json.dumps(kept))
    return Classifier.from_checkpoint(folder, batch_size=4)


def create_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that has signed itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    wanted = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(["openssl", "req", *wanted, *names], check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return cert, key


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The service's own certificate and key."""
    return create_certificate(tmp_path_factory.mktemp("tls"), "localhost")


def film_of(number: int, size: int = 96) -> np.ndarray:
    """uint8 (size, size - 8): each number another film, smooth enough for the gate."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 6), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size - 8, size), Image.Resampling.BICUBIC))


def encoded(film: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, kind)
    return file.getvalue()


Start = Callable[..., Any]


@contextmanager
def serving(
    classifier: Classifier,
    limits: Limits,
    token: str = "",
    targets: Sequence[Any] = (),
    ready: bool = True,
    **more: Any,
) -> Iterator[tuple[httpx.Client, Service]]:
    """The service at a port of this machine, in a thread, and a client that talks to it."""
    service = Service(classifier, limits, Metrics(limits.batch), **more)
    if ready:
        service.warm_up()
    listener = listen("localhost", 0)
    server = create_server(create_app(service, Instances(service, targets), token), limits, None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    family = "[::1]" if listener.family is socket.AF_INET6 else "127.0.0.1"
    try:
        with httpx.Client(base_url=f"http://{family}:{listener.getsockname()[1]}", timeout=60) as client:
            yield client, service
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture(scope="module")
def served(classifier: Classifier) -> Iterator[tuple[httpx.Client, Service]]:
    """A service with the limits that it has by default, but for batches of four."""
    with serving(classifier, Limits(batch=4, wait=0.002)) as both:
        yield both


@pytest.fixture
def client(served: tuple[httpx.Client, Service]) -> httpx.Client:
    return served[0]


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.01)

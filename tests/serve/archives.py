"""Archives on this machine that keep what they are sent: one by STOW-RS, one by C-STORE."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from chexjax.serve.multipart import read_parts


class Archive:
    """A STOW-RS service. `answers` are given one after the other, the last for ever: a status and a dataset."""

    def __init__(self, answers: list[tuple[int, Any]]) -> None:
        self.answers, self.files, self.headers = answers, [], []
        self.url = ""

    def take(self, headers: Any, body: bytes) -> tuple[int, bytes]:
        self.headers.append(dict(headers))
        self.files.append([part.content for part in read_parts(body, headers["content-type"])])
        status, dataset = self.answers[min(len(self.files), len(self.answers)) - 1]
        return status, json.dumps(dataset).encode()


@contextmanager
def stow_archive(*answers: tuple[int, Any]) -> Iterator[Archive]:
    archive = Archive(list(answers) or [(200, {})])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = archive.take(self.headers, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    archive.url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web/studies"
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def store_archive(title: str = "PACS", status: Callable[[], int] = lambda: 0) -> Iterator[tuple[int, list[Any]]]:
    """A storage SCP: its port, and the datasets that it took."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    taken: list[Any] = []

    def store(event: Any) -> int:
        answer = status()
        if answer == 0:
            taken.append(event.dataset)
        return answer

    entity = AE(title)
    entity.require_called_aet = True
    entity.supported_contexts = AllStoragePresentationContexts
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield server.server_address[1], taken
    finally:
        server.shutdown()

"""A headless Chromium, driven over its own protocol through a pipe: no other package is needed."""

import base64
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Chromium takes the pipes as descriptors 3 and 4.
_START = (
    'exec "$0" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe "$@" 3<&{} 4>&{}'
)


class Tab:
    """One tab: `call` sends a command of the protocol and waits for its answer."""

    def __init__(self, commands: int, events: int) -> None:
        self._commands, self._events, self._read = commands, events, b""
        self._numbers, self._session = itertools.count(1), ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 30
        while True:
            answer = self._next(until)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            assert select.select([self._events], [], [], max(until - time.monotonic(), 0))[0], (
                "Chromium does not answer"
            )
            part = os.read(self._events, 2**20)
            assert part, "Chromium has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def evaluate(self, script: str) -> Any:
        """The value of a script in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until a script is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(script):
            assert time.monotonic() < until, f"never: {script}\n{self.evaluate('document.body.innerText')}"
            time.sleep(0.05)

    def open(self, address: str, width: int = 1200, height: int = 900) -> None:
        self.resize(width, height)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def press(self, key: str, **more: Any) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, path: Path) -> None:
        """Gives a file to an input, as the dialog would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop(self, selector: str, *paths: Path) -> None:
        """Drags files over an element and lets them go."""
        self.evaluate(f"{selector}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({selector}.getBoundingClientRect())")
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=box[0], y=box[1], data=data)

    def picture(self, path: Path) -> None:
        """Writes the whole page as PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """What the browser says against the page: errors of scripts, of its policy, of what it could not fetch."""
        entries = [event["params"] for event in self.events if event["method"] == "Log.entryAdded"]
        wrong = [entry["entry"]["text"] for entry in entries if entry["entry"]["level"] == "error"]
        return wrong + [str(e["params"]) for e in self.events if e["method"] == "Runtime.exceptionThrown"]


@contextmanager
def chromium(program: str, folder: Path) -> Iterator[Tab]:
    """A browser with one tab; its profile lies in `folder`."""
    from_us, to_us = os.pipe(), os.pipe()
    command = ["bash", "-c", _START.format(from_us[0], to_us[1]), program, f"--user-data-dir={folder}"]
    running = subprocess.Popen(command, pass_fds=(from_us[0], to_us[1]), stderr=subprocess.DEVNULL)
    os.close(from_us[0])
    os.close(to_us[1])
    try:
        yield Tab(from_us[1], to_us[0])
    finally:
        running.kill()
        running.wait()
        os.close(from_us[1])
        os.close(to_us[0])

"""Headless Chromium over its DevTools pipe: what a page does when it is opened."""

import json
import os
import select
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
CONTRAST = """(() => {
  const scale = (colour) => (colour.startsWith("color(srgb") ? 255 : 1);
  const channels = (colour) => colour.match(/[0-9.]+/g).map((value, at) => Number(value) * (at < 3 ? scale(colour) : 1));
  const light = (colour) => channels(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = [];
  for (const node of document.body.querySelectorAll("*")) {
    const said = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!said || node.closest("script, noscript, option") || !node.getClientRects().length) continue;
    const [first, second] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
    if ((first + 0.05) / (second + 0.05) < 4.5) weak.push(node.outerHTML.slice(0, 120));
  }
  return weak;
})()"""


class Tab:
    """One page in headless Chromium, driven over its DevTools pipe; `trouble` collects what must not happen."""

    INK = """(() => {
      const map = document.getElementById("plane");
      const copy = Object.assign(document.createElement("canvas"), { width: map.width, height: map.height }).getContext("2d");
      copy.drawImage(map, 0, 0);
      return copy.getImageData(0, 0, map.width, map.height).data.reduce((sum, value, at) => sum + (at % 4 === 3 ? value : 0), 0);
    })()"""
    """How much is drawn on the map."""

    def __init__(self, browser: "Browser", file: Path, width: int = 1280) -> None:
        self.browser, self.trouble = browser, []  # type: ignore[var-annotated]
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
        self.own = file.as_uri()
        self.call("Page.navigate", {"url": self.own})
        self.until(f"location.href === {json.dumps(self.own)} && document.readyState === 'complete'")

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.browser.call(method, parameters or {}, self.session)
        for event in self.browser.taken(self.session):
            self.note(event["method"], event["params"])
        return answer

    def note(self, method: str, about: dict[str, Any]) -> None:
        if method == "Page.javascriptDialogOpening":
            self.trouble.append(f"dialog {about['message']}")
        if method == "Runtime.exceptionThrown":
            self.trouble.append(f"exception {about['exceptionDetails']}")
        if method == "Runtime.consoleAPICalled" or method == "Log.entryAdded":
            self.trouble.append(f"console {about}")
        if method == "Network.requestWillBeSent" and about["request"]["url"] not in (self.own, "data:,"):
            self.trouble.append(f"request {about['request']['url']}")

    def run(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True})
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        end = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def go(self, hash: str) -> None:
        """Follow a link within the page, and wait until the page has."""
        self.run(f"location.hash = {json.dumps(hash)}; 0")
        shown = "one" if hash.startswith(("#vector", "#random")) else "whole"
        title = json.dumps(hash[1:].replace("-", " "))
        told = f" && document.title.startsWith({title})" if shown == "one" else ""
        self.until(f"!document.getElementById('{shown}').hidden{told}")

    def rows(self) -> int:
        return self.run("document.querySelectorAll('#completion-table tbody tr').length")

    def column(self, number: int) -> list[str]:
        return self.run(
            f"[...document.querySelectorAll('#completion-table tbody tr')].map((row) => row.cells[{number}].textContent)"
        )

    def told(self) -> str:
        return self.run("document.querySelector('#completion-table [aria-live]').textContent")

    def enter(self, control: str, value: str) -> None:
        found = f"document.getElementById({json.dumps(control)})"
        self.run(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent(new Event('input', {{bubbles: true}})); 0")

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def key(self, key: str, code: int, text: str = "") -> None:
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **about, **({"text": text} if text else {})})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **about})

    def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1} if kind != "mouseMoved" else {}
        self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pressed})

    def wheel(self, x: float, y: float, down: float) -> None:
        self.call("Input.dispatchMouseEvent", {"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": down})

    def ink(self) -> int:
        return self.run(self.INK)

    def findings_of_axe(self) -> list[str]:
        """What axe-core, which must have been run into the page, calls serious or critical."""
        script = """axe.run({ resultTypes: ['violations'] }).then((told) => told.violations.map((one) =>
          `${one.impact} ${one.id}: ${one.nodes[0].html.slice(0, 160)}`))"""
        answer = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        return [told for told in answer["result"]["value"] if told.startswith(("serious", "critical"))]

    def screenshot(self, path: Path, scheme: str, whole: bool) -> None:
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", {"captureBeyondViewport": whole})["data"]))


class Browser:
    """Chromium behind file descriptors 3 and 4, where `--remote-debugging-pipe` expects its two pipes."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # Descriptors are given out in rising order, so the first placement cannot close the other pipe.
        placed = f"import os, sys; os.dup2({theirs_in}, 3); os.dup2({theirs_out}, 4); os.execv(sys.argv[1], sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", placed, program, *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.last, self.held, self.events = 0, b"", []  # type: ignore[var-annotated]

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.message()).get("id") != self.last:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def taken(self, session: str) -> list[dict[str, Any]]:
        taken, self.events = self.events, []
        return [event for event in taken if event.get("sessionId") == session]

    def message(self) -> dict[str, Any]:
        while b"\0" not in self.held:
            assert select.select([self.into], [], [], 60)[0], "the browser does not answer"
            piece = os.read(self.into, 2**20)
            assert piece, "the browser is gone"
            self.held += piece
        message, self.held = self.held.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        os.close(self.out)
        os.close(self.into)

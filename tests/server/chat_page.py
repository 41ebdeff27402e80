#!/usr/bin/env python3
"""The page at / in headless Chromium: tests/server/chat_page.py --binary quantgrid --chromium chromium [--pictures DIR]

Talks to the browser over its debugging pipe. A question is asked and the answer streams in; a long one is stopped; sizes of
a phone and a desk, light and dark, are looked at; nothing may be fetched from anywhere else.
"""

import argparse
import base64
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from serve_process import ServeProcess


class Browser:
    """Chromium and one page of it, over --remote-debugging-pipe: JSON messages that end in a zero byte."""

    def __init__(self, binary, profile):
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        script = f"exec 3<&{to_read} 4>&{to_write}; exec \"$@\""
        self.process = subprocess.Popen(
            ["bash", "-c", script, "-", binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--no-proxy-server", f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.rest, self.number, self.session = b"", 0, None
        self.requests, self.complaints = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next_message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]

    def next_message(self):
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 16)
            if not part:
                raise AssertionError("the browser ended")
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(message)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(message["params"]))
        return message

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, script, seconds=120):
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if value := self.run(script):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never came true: {script}; the page: {self.run('document.body.innerText')}")

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(30)


def expect(condition, *what):
    if not condition:
        raise AssertionError(what)


def ask(browser, text, most=""):
    browser.run(f"document.getElementById('max_tokens').value = {json.dumps(str(most))};"
                f"document.getElementById('temperature').value = '0';"
                f"document.getElementById('question').focus();")
    browser.call("Input.insertText", text=text)
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")


def conversation(browser):
    browser.wait_for("document.getElementById('model')?.textContent === 'tiny'")
    ask(browser, "hello", 40)
    browser.wait_for("!document.querySelector('.failed') && document.getElementById('stop').hidden && "
                     "document.querySelectorAll('.assistant').length === 1 && "
                     "document.querySelector('.assistant').textContent.length > 0")
    speed = browser.run("document.getElementById('speed').textContent")
    expect("40 tokens, " in speed and "tokens/s" in speed and not speed.startswith("0"), speed)
    first = browser.run("document.querySelector('.assistant').textContent")

    # The same question after the same beginning is another one: the conversation goes along.
    ask(browser, "hello", 10)
    browser.wait_for("document.querySelectorAll('.assistant').length === 2 && document.getElementById('stop').hidden")
    messages = browser.run("messages.map((m) => m.role).join()")
    expect(messages == "user,assistant,user,assistant", messages)
    expect(browser.run("messages[1].content") == first)


# Text grows while the model still writes, and ends when the button is pressed.
def streaming_and_stop(browser):
    browser.run("document.getElementById('clear').click()")
    browser.run("window.sizes = []; new MutationObserver(() => sizes.push(document.querySelector('.assistant')?.textContent"
                ".length ?? 0)).observe(document.getElementById('turns'), {childList: true, subtree: true, characterData: "
                "true})")
    # The small model would be done before a finger could move: its reply comes through a slow network.
    slow = {"offline": False, "latency": 0, "uploadThroughput": -1}
    browser.call("Network.emulateNetworkConditions", downloadThroughput=6000, **slow)
    ask(browser, "go on", 150)
    browser.wait_for("new Set(sizes).size > 5")
    expect(browser.run("!document.getElementById('stop').hidden"), "it ended before it could be stopped")
    browser.run("document.getElementById('stop').click()")
    browser.wait_for("document.getElementById('stop').hidden")
    length = browser.run("document.querySelector('.assistant').textContent.length")
    time.sleep(0.3)
    expect(browser.run("document.querySelector('.assistant').textContent.length") == length, "it went on after the stop")
    expect(browser.run("!document.querySelector('.failed')"), "a stop is no failure")
    expect(browser.run("parseInt(document.getElementById('speed').textContent)") < 150)
    browser.call("Network.emulateNetworkConditions", downloadThroughput=-1, **slow)
    ask(browser, "and now", 5)
    browser.wait_for("document.querySelectorAll('.assistant').length === 2 && document.getElementById('stop').hidden")


def layouts(browser, pictures):
    browser.run("document.querySelector('.assistant').textContent = '<b>not bold</b> ' + 'x'.repeat(500)")
    colours = set()
    for name, width, height, mobile in [("phone", 360, 740, True), ("desk", 1280, 800, False)]:
        for scheme in ("light", "dark"):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                         mobile=mobile)
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            expect(browser.run("document.documentElement.scrollWidth <= innerWidth"), name, "scrolls sideways")
            box = json.loads(browser.run("JSON.stringify(document.getElementById('send').getBoundingClientRect())"))
            expect(0 <= box["left"] and box["right"] <= width and box["bottom"] <= height, name, "no way to send", box)
            expect(box["height"] >= 44, name, "too small for a thumb", box)
            colours.add(browser.run("getComputedStyle(document.body).backgroundColor"))
            if pictures:
                browser.picture(pictures / f"chat-{name}-{scheme}.png")
    expect(len(colours) == 2, "light and dark look the same", colours)
    expect(browser.run("document.querySelector('.assistant b') === null"), "a reply became HTML")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    arguments = parser.parse_args()
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    with ServeProcess(arguments.binary) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(arguments.chromium, profile)
        try:
            browser.call("Page.navigate", url=server.url + "/")
            conversation(browser)
            streaming_and_stop(browser)
            layouts(browser, arguments.pictures)
            elsewhere = [url for url in browser.requests if not url.startswith((server.url, "about:", "data:"))]
            expect(not elsewhere, "fetched from elsewhere", elsewhere)
            expect(not browser.complaints, browser.complaints)
        finally:
            browser.close()
    print("the page does what it should")


if __name__ == "__main__":
    main()

"""A headless Chromium that a test can drive: DevTools' protocol over two pipes, without a package."""

import fcntl
import json
import os
import shutil
import subprocess

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. `run` evaluates JavaScript in it; `said` collects what its console and its errors said."""

    def __init__(self, url):
        here, there = os.pipe(), os.pipe()  # the browser reads from its descriptor 3 and writes to 4

        def pipes():
            read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (here[0], there[1]))
            os.dup2(read, 3)
            os.dup2(write, 4)

        os.set_inheritable(here[0], True)
        os.set_inheritable(there[1], True)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage",
                 "--hide-scrollbars", "--window-size=1240,900"]
        self.process = subprocess.Popen([BINARY, *flags, "about:blank"], preexec_fn=pipes, close_fds=False,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(here[0])
        os.close(there[1])
        self.to, self.source, self.number, self.said = here[1], os.fdopen(there[0], "rb"), 0, []
        self.session, self.rest = None, b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def _read(self):
        while b"\0" not in self.rest:
            chunk = self.source.read1(65536)
            if not chunk:
                raise RuntimeError("the browser is gone")
            self.rest += chunk
        message, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(message)
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded",
                                     "Page.javascriptDialogOpening"):
            self.said.append(message)
        return message

    def wait(self, event):
        while self._read().get("method") != event:
            pass

    def call(self, method, **parameters):
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.to, json.dumps(request).encode() + b"\0")
        while (message := self._read()).get("id") != self.number:
            pass
        if "error" in message:
            raise RuntimeError(message["error"])
        return message["result"]

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        self.source.close()

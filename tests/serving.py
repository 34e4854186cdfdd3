"""Servers for the tests: the real `transformers serve`, and a small one that says what it is told."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def transformers_serve(folder: Path):
    """The address of `transformers serve` running the model in ``folder`` on the CPU."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32"], env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet
    )
    try:
        for _ in range(1500):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "transformers serve has ended"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


class Scripted:
    """A server on a real socket: ``answer(path, body, number)`` gives ``(status, dict)``, or ``(status, dict, headers)``.

    ``seen`` holds ``(path, body, headers)`` of every POST, ``most`` how many were answered at one time. A 429 or 5xx asks to be retried after a millisecond.
    """

    def __init__(self, answer):
        self.seen, self.answer, lock = [], answer, threading.Lock()
        self.busy = self.most = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send(200, {"object": "list", "data": [{"id": "judge-1", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.seen.append((self.path, body, {name.lower(): value for name, value in self.headers.items()}))
                    number = len(outer.seen)
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                answer = outer.answer(self.path, body, number)
                with lock:
                    outer.busy -= 1
                self.send(*answer)

            def send(self, status, body, headers=None):
                payload = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    if status == 429 or status >= 500:
                        self.send_header("retry-after-ms", "1")
                    kind = "text/html" if isinstance(body, bytes) else "application/json"
                    for name, value in {
                        "content-type": kind,
                        "content-length": len(payload),
                        **(headers or {}),
                    }.items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(payload)
                except BrokenPipeError:  # the client gave up waiting
                    pass

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def said(content: str | None, finish: str = "stop", tokens: int = 7, **message) -> tuple[int, dict]:
    """A chat completion in OpenAI's form."""
    return 200, {
        "id": "x", "object": "chat.completion", "created": 0, "model": "judge-1",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 100 + tokens},
    }  # fmt: skip


def failed(status: int, message: str = "no", code: str | None = None) -> tuple[int, dict]:
    return status, {"error": {"message": message, "type": "error", "code": code}}

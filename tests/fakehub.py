"""A tiny Hugging Face hub: the status codes and headers that the real one answers with, on a local port."""

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c0ffee" * 6 + "beef"
GATED = {"LLM-Tuning-Safety/HEx-PHI"}
MESSAGES = {
    "RepoNotFound": (401, "Repository not found"),  # without a token the hub does not say whether there is one
    "RevisionNotFound": (404, "Invalid rev id: "),
    "EntryNotFound": (404, "Entry not found"),
    "GatedRepo": (401, "Access to this dataset is restricted. You must have access to it and be authenticated."),
}


class Handler(BaseHTTPRequestHandler):
    """``/api/datasets/o/n[/revision/R][/tree/R]`` and ``/datasets/o/n/resolve/R/file``; models without "datasets"."""

    root: Path
    revisions: tuple[str, ...]
    asked: list[str]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        found = re.fullmatch(
            r"/(api/)?(?:(datasets|models)/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path
        )
        api, _, repo, what, revision, file = found.groups()
        self.commit = revision if re.fullmatch("[0-9a-f]{40}", revision or "") else COMMIT
        folder = self.root / repo
        if not folder.is_dir():
            return self._refuse("RepoNotFound")
        if revision and revision not in self.revisions:
            return self._refuse("RevisionNotFound")
        files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
        if api and what == "tree":
            return self._json([self._entry(one, folder) for one in files])
        if api:
            names = [{"rfilename": one.relative_to(folder).as_posix()} for one in files]
            return self._json(
                {"id": repo, "sha": self.commit, "siblings": names, "gated": "auto" if repo in GATED else False}
            )
        if repo in GATED:
            return self._refuse("GatedRepo")
        if not (folder / file).is_file():
            return self._refuse("EntryNotFound")
        return self._send((folder / file).read_bytes())

    def _entry(self, one: Path, folder: Path) -> dict:
        name = one.relative_to(folder).as_posix()
        return {
            "type": "file",
            "path": name,
            "size": one.stat().st_size,
            "oid": hashlib.sha1(name.encode()).hexdigest(),
        }

    def _json(self, content) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _send(self, content: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(200)
        etag = hashlib.sha1(content).hexdigest()
        for name, value in {"Content-Type": kind, "ETag": f'"{etag}"', "X-Repo-Commit": self.commit}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        status, message = MESSAGES[code]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def serve(root: Path, revisions: tuple[str, ...]) -> tuple[ThreadingHTTPServer, str, list[str]]:
    """The server, its address and the list of what it is asked; it holds ``root/<owner>/<name>`` at these revisions."""
    asked: list[str] = []
    handler = type("Hub", (Handler,), {"root": root, "revisions": (*revisions, COMMIT, "main"), "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}", asked

"""A small local server that answers as a model hub does: repository listing, file headers, files.

Source: ours.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves the files of `folder` as the repository `name`; `asked` collects the files that were fetched."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.folder = name, folder
        self.asked: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def _answer(self, send_body: bool) -> None:
        path = urlsplit(self.path).path
        api, files = f"/api/models/{self.server.name}", f"/{self.server.name}/resolve/"
        if path.startswith(f"{api}/tree/"):
            self._send(
                json.dumps([_entry(self.server.folder, file) for file in self.server.files()]).encode(), send_body
            )
        elif path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": str(file.relative_to(self.server.folder))} for file in self.server.files()]
            info = {"id": self.server.name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self._send(json.dumps(info).encode(), send_body)
        elif path.startswith(files):
            name = path.removeprefix(files).partition("/")[2]
            file = self.server.folder / name
            if file.is_file():
                if send_body:
                    self.server.asked.append(name)
                self._send(file.read_bytes(), send_body)
            else:
                self.send_error(404)
        else:
            self.send_error(404)

    def _send(self, body: bytes, send_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if send_body:
            self.wfile.write(body)


def _entry(folder: Path, file: Path) -> dict:
    body = file.read_bytes()
    return {
        "type": "file",
        "path": str(file.relative_to(folder)),
        "size": len(body),
        "oid": hashlib.sha1(body).hexdigest(),
    }


@contextmanager
def hub_serving(name: str, folder: Path) -> Iterator[HubServer]:
    """Run a server for the block's duration."""
    server = HubServer(name, folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""A server that answers as Hugging Face does, for one model, and writes down what is asked of it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "1" * 40


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        server, path = self.server, self.path.partition("?")[0]
        files = {file.relative_to(server.folder).as_posix(): file for file in server.folder.rglob("*") if file.is_file()}
        if path == f"/api/models/{server.model}/revision/main":
            self._send(json.dumps({"id": server.model, "sha": COMMIT, "siblings": []}).encode(), body)
        elif path == f"/api/models/{server.model}/tree/{COMMIT}":
            self._send(json.dumps([{"type": "file", "path": name, "size": file.stat().st_size, "oid": _tag(file)}
                                   for name, file in files.items()]).encode(), body)
        elif path.startswith(f"/{server.model}/resolve/{COMMIT}/") and path.split("/", 5)[5] in files:
            name = path.split("/", 5)[5]
            if body:
                server.sent.append(name)
            self._send(files[name].read_bytes(), body, **{"ETag": f'"{_tag(files[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, body: bool, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def _tag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def hub(folder: Path, model: str):
    """Serve `folder` as the model of that id; yields the server, with its `address` and the names of files it has `sent`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folder, server.model, server.sent = folder, model, []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()

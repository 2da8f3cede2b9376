"""A server that speaks the part of the Hugging Face hub's protocol that huggingface_hub uses, for folders on this machine.

It serves `root/OWNER/NAME/REVISION/...`, files as they are, and takes what is pushed as revision "main".
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class HubServer:
    """
    Attributes:
        address: of the server. root: what it serves. gated: repositories that ask for a token.
        cut: bytes of a file after which the connection breaks; None for never.
        got: the requests that were answered, "METHOD path". messages: of the commits that were pushed.
    """

    root: Path
    address: str = ""
    gated: set[str] = field(default_factory=set)
    cut: int | None = None
    got: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def folder(self, repository: str, revision: str = "main") -> Path:
        """Where the files of a revision are put."""
        folder = self.root / repository / revision
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def downloads(self) -> list[str]:
        """Files that were sent, in order."""
        return [line.split("/resolve/")[1].split("/", 1)[1] for line in self.got if line.startswith("GET") and "/resolve/" in line]


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    """A server at a free port of this machine, until the end of the block."""
    hub = HubServer(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path).strip("/").split("/"), parse_qs(address.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.got.append(f"{self.command} /{'/'.join(path)}")
        if path[:2] == ["api", "validate-yaml"]:
            return self.json({"errors": [], "warnings": []})
        if path[:2] == ["api", "repos"]:
            wanted = json.loads(body)
            repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.folder(repository)
            return self.json({"url": f"{self.hub.address}/{repository}"})
        if path[0] == "api":
            return self.api("/".join(path[2:4]), path[4:], query, body)
        return self.file("/".join(path[:2]), path[3], "/".join(path[4:]))

    def api(self, repository: str, rest: list[str], query: dict[str, list[str]], body: bytes) -> None:
        if not self.may(repository):
            return
        kind, revision = (rest or ["revision"])[0], rest[1] if len(rest) > 1 else "main"
        if kind == "preupload":
            files = json.loads(body)["files"]
            return self.json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        folder = self.revision(repository, revision)
        if folder is None:
            return self.refuse(404, "RevisionNotFound")
        if kind == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    self.hub.messages.append(line["value"]["summary"])
                if line["key"] == "file":
                    target = folder / line["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(line["value"]["content"]))
            page = f"{self.hub.address}/{repository}/commit/{sha(folder)}"
            return self.json({"success": True, "commitOid": sha(folder), "commitUrl": page, "hookOutput": ""})
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        if kind == "tree":
            return self.json([{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names.items()])
        siblings = [{"rfilename": name, "size": size if "blobs" in query else None} for name, size in names.items()]
        return self.json({"id": repository, "modelId": repository, "sha": sha(folder), "siblings": siblings})

    def file(self, repository: str, revision: str, name: str) -> None:
        if not self.may(repository):
            return
        folder = self.revision(repository, revision)
        if folder is None:
            return self.refuse(404, "RevisionNotFound")
        if not (folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        content = (folder / name).read_bytes()
        size = str(len(content))
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send_response(200)
        for key, value in {"ETag": etag, "X-Repo-Commit": sha(folder), "X-Linked-Size": size, "Content-Length": size}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: self.hub.cut])
        self.close_connection = self.close_connection or self.hub.cut is not None

    def revision(self, repository: str, revision: str) -> Path | None:
        """The folder of a branch, or of a commit."""
        for folder in sorted((self.hub.root / repository).iterdir()):
            if revision in (folder.name, sha(folder)):
                return folder
        return None

    def may(self, repository: str) -> bool:
        """Whether a repository is there and open; else the answer is given."""
        if not (self.hub.root / repository).is_dir():
            self.refuse(401, "RepoNotFound")
        elif repository in self.hub.gated and not self.headers.get("Authorization"):
            self.refuse(401, "GatedRepo")
        else:
            return True
        return False

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def json(self, values: Any) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def sha(folder: Path) -> str:
    """A commit's: of the names and contents of its files."""
    digest = hashlib.sha1(folder.name.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()

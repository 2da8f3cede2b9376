"""Which requests reach the page: with a real server, and without a browser, as an attacker's come."""

import asyncio
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.demo.conftest import Server
from vidtwin.demo.folder import Keeper
from vidtwin.demo.gate import Gate


def ask(server, path, method="GET", body=None, **headers):
    """Status and text of a request with any headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(2000).decode(errors="replace")
    finally:
        connection.close()


def upload(server, content, name="a.mp4", disposition=None):
    """The path that a file was given, or the status."""
    edge = secrets.token_hex(8)
    head = disposition or f'form-data; name="files"; filename="{name}"'
    body = f"--{edge}\r\nContent-Disposition: {head}\r\n\r\n".encode() + content + f"\r\n--{edge}--\r\n".encode()
    status, text = ask(server, "/gradio_api/upload", "POST", body, Content_Type=f"multipart/form-data; boundary={edge}")
    return json.loads(text)[0] if status == 200 else status


def join(server, data, name="show_first", session=None):
    """What a visitor is answered, or the status of the refusal."""
    with urllib.request.urlopen(server.url + "config", timeout=10) as answer:
        number = next(fn["id"] for fn in json.load(answer)["dependencies"] if fn["api_name"] == name)
    session = session or secrets.token_hex(8)
    body = json.dumps({"data": data, "fn_index": number, "session_hash": session})
    status, _ = ask(server, "/gradio_api/queue/join", "POST", body, Content_Type="application/json")
    if status != 200:
        return status
    with urllib.request.urlopen(f"{server.url}gradio_api/queue/data?session_hash={session}", timeout=120) as lines:
        for line in lines:
            if b"process_completed" in line:
                return json.loads(line[5:])["output"].get("data")
    raise AssertionError("no answer")


def file(path, **more):
    return {"path": path, "orig_name": "a.mp4", "meta": {"_type": "gradio.FileData"}} | more


@pytest.fixture
def stranger():
    """Another server, and whether it was asked for anything."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    other = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{other.server_port}/a.mp4", asked
    other.shutdown()


def test_an_upload_is_one_file_and_nothing_else(server):
    """Gradio would keep a field in memory, and a thousand files open."""
    assert upload(server, b"x" * 2_000_000, disposition='form-data; name="files"') == 400
    many = b"\r\n--EDGE\r\nContent-Disposition: form-data; name=files; filename=a.mp4\r\n\r\n" * 1000 + b"\r\n--EDGE--\r\n"
    assert ask(server, "/gradio_api/upload", "POST", many[2:], Content_Type="multipart/form-data; boundary=EDGE")[0] == 400
    for kind in ("multipart/form-data", "application/x-www-form-urlencoded", "multipart/form-data; boundary=", "text/plain"):
        assert ask(server, "/gradio_api/upload", "POST", b"x" * 100_000, Content_Type=kind)[0] == 400, kind
    first, second = upload(server, b"same"), upload(server, b"same")
    assert Path(first).parent != Path(second).parent and Path(first).read_bytes() == b"same"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "localhost:1234", "[::1]:7860", "LOCALHOST."])
def test_a_page_of_this_machine_answers_to_its_names(server, name):
    assert ask(server, "/config", Host=name, Origin=f"http://{name}")[0] == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "evil.example:7860", "0.0.0.0", "[", ""]
)
def test_it_answers_to_no_others(server, name):
    status, text = ask(server, "/config", Host=name)
    assert status == 403 and "--public-name" in text


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1.evil.example", "null", "file://", "http://[", ""])
def test_pages_of_others_cannot_use_it(server, origin):
    for path, method in (("/config", "GET"), ("/gradio_api/queue/join", "POST"), ("/gradio_api/upload", "POST")):
        assert ask(server, path, method, Origin=origin)[0] == 403


def test_nothing_is_fetched_for_a_request(server, stranger):
    url, asked = stranger
    for place in (url, url.replace("http", "HTTP"), "https://example.org/a.mp4", "ftp://example.org/a"):
        for body in ([None, file(place)], [None, file(place, is_stream=True)], [None, {"path": place}], [None, [file(place)]]):
            assert join(server, body) == 403, place
        assert ask(server, f"/gradio_api/file={place}")[0] in (403, 404)
        assert ask(server, f"/gradio_api/proxy={place}")[0] == 404
    path = upload(server, b"no video")
    assert "did not work" in join(server, [None, file(path, url=url)])[1]
    assert asked == []


def test_no_file_but_those_that_were_given_is_read(server, tmp_path):
    path = Path(upload(server, b"no video"))
    (server.folder / "secret").write_text("a secret")
    served = path.parents[1]
    traps = [
        "/etc/passwd",
        f"{served}/../secret",
        str(server.folder / "secret"),
        "secret",
        str(path.parents[2] / "lock"),
        "",
        "\ud800",
        "a\0",
        "~/.bashrc",
    ]
    for trap in [*traps, "pyproject.toml", f"{path}\0.mp4", 7, ["/etc/passwd"], str(served.with_name("served2"))]:
        assert join(server, [None, file(trap)]) == 403, trap
        if isinstance(trap, str):
            assert ask(server, f"/gradio_api/file={quote(trap, errors='surrogatepass')}")[0] in (403, 404), trap
    link = served / "link.mp4"
    link.symlink_to("/etc/passwd")
    assert join(server, [None, file(str(link))]) == 403 and ask(server, f"/gradio_api/file={link}")[0] == 403
    link.unlink()
    assert ask(server, f"/gradio_api/file={path}")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["run/show_first", "api/show_first", "call/show_first", "component_server", "process_recording", "stream/x", "deep_link",
     "custom_component/x/client/y/z", "upload_progress?upload_id=x", "openapi.json", "dev/reload", "runs"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(server, path):
    assert {ask(server, f"/gradio_api/{path}", method)[0] for method in ("GET", "POST")} == {404}


@pytest.mark.parametrize("number", [-1, 10**30])
def test_requests_that_gradio_stumbles_over_take_a_line_of_the_log(server, number):
    before = len(server.said())
    body = json.dumps({"data": [None, None], "fn_index": number, "session_hash": "a"})
    status, text = ask(server, "/gradio_api/queue/join", "POST", body, Content_Type="application/json")
    assert (status, text) == (400, "the request is none of this page's")
    (line,) = server.said()[before:].strip().splitlines()
    assert line == f"vidtwin: warning: a request for /gradio_api/queue/join failed (KeyError: {number})"


@pytest.mark.parametrize(("path", "size"), [("/gradio_api/upload", 200), ("/gradio_api/queue/join", 1)])
def test_a_request_that_comes_in_drops_ends(tmp_path, monkeypatch, path, size):
    """A few of them would take all places of uploads."""
    monkeypatch.setattr("vidtwin.demo.gate.PATIENCE", 0.3)
    parts = [b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'] if size > 1 else []
    sent: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def drop():
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": parts.pop() if parts else b"x" * size, "more_body": True}

    async def keep(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    gate = Gate(app, None, tmp_path, 1e9, Keeper(tmp_path, 1e9, 60))
    asyncio.run(asyncio.wait_for(gate(scope, drop, keep), 20))
    assert sent[0]["status"] == 408


def test_requests_have_a_size(server):
    assert ask(server, "/gradio_api/queue/join", "POST", b" " * 70_000)[0] == 413
    assert ask(server, "/gradio_api/queue/join", "POST", b"[" * 60_000)[0] in (400, 422)
    assert ask(server, "/gradio_api/queue/join", "POST", b"\x1b]0;x\x07")[0] == 400
    assert server.process.poll() is None


@pytest.mark.parametrize(
    "name", ["a\x1b]0;pwned\x07.mp4", "<img src=x onerror=alert(1)>.mp4", "‮4pm.a", "..", "a/../../b.mp4", "-rf", "%00"]
)
def test_names_are_only_shown(server, name):
    """Control characters and markup of a name are nobody's: not the terminal's, not the page's, not the file system's."""
    path = upload(server, b"no video", name)
    if not isinstance(path, str):
        assert path == 400
        return
    answer = join(server, [None, file(path)])[1]
    assert "did not work" in answer and "<img" not in answer and "‮" not in answer and "\x1b" not in answer
    assert str(server.folder) not in answer and server.folder in Path(path).resolve().parents
    assert "\x1b" not in server.said() and "‮" not in server.said()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("show_between", [None, 1e999, 0]),
        ("show_between", [None, "\x1b[31m", {}]),
        ("show_generated", ["\x1b]0;pwned\x07", 0, 2]),
        ("show_generated", ["cat", 10**30, 2]),
        ("show_generated", ["cat", 0, 1e30]),
        ("show_first", [None, "/etc/passwd"]),
        ("show_first", []),
        ("show_first", [None, {"a": "\x1b[31m"}]),
    ],
)
def test_values_that_no_page_sends_harm_nobody(server, name, data):
    join(server, data, name)
    assert "\x1b" not in server.said() and server.process.poll() is None


def test_a_picture_that_kills_its_decoder_costs_the_others_nothing(server, clip):
    """Whatever it is: the process that works is ended here as by a broken decoder."""
    path, session = upload(server, clip.read_bytes(), "h264_aac.mp4"), secrets.token_hex(8)
    workers = subprocess.run(["pgrep", "-P", str(server.process.pid), "-f", "spawn_main"], capture_output=True, text=True).stdout
    for worker in workers.split():
        os.kill(int(worker), signal.SIGSEGV)
    assert "dB, the mean over frames" in join(server, [None, file(path)], session=session)[1]


def test_wrong_logins_are_slow_and_right_ones_work(weights, tmp_path):
    server = Server(tmp_path / "files", "--weights", str(weights), "--auth", "me:secret", "--public-name", "demo.example.org")
    assert server.get("config") == 401 and server.get("gradio_api/queue/status") == 401
    assert upload(server, b"x") == 401
    form = {"Content_Type": "application/x-www-form-urlencoded", "Host": "demo.example.org", "Origin": "https://demo.example.org"}
    found, begun = [], time.monotonic()

    def guess():
        found.append(ask(server, "/login", "POST", "username=me&password=guess", **form)[0])

    threads = [threading.Thread(target=guess) for _ in range(12)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert set(found) == {400, 429} and time.monotonic() - begun >= found.count(400)
    assert ask(server, "/login", "POST", "username=me&password=secret", **form)[0] == 200
    server.stop()


@pytest.mark.slow
def test_files_go_away_with_the_server_or_are_cleared_by_the_next(weights, clip, tmp_path):
    server = Server(tmp_path / "files", "--weights", str(weights), "--max-mb", "1", "--max-seconds", "5")
    assert upload(server, b"x" * 2_000_000) == 413
    with socket.create_connection(("127.0.0.1", server.port)) as broken:  # an upload that ends in the middle
        broken.sendall(b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\nxx")
    paths = [Path(upload(server, bytes([n]) * 900_000)) for n in range(25)]
    assert sum(path.stat().st_size for path in server.files()) <= 20e6 and not paths[0].exists() and paths[-1].exists()
    server.process.kill()
    server.process.wait()
    assert server.files()
    following = Server(tmp_path / "files", "--weights", str(weights), "--keep-minutes", "0.1")
    assert {path.name for path in server.files() if "kept" not in path.parts} == {"lock"}
    path = Path(upload(following, b"x"))
    deadline = time.monotonic() + 30
    while (path.exists() or path.parent.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not path.parent.exists()
    assert "dB, the mean" in join(following, [None, file(upload(following, clip.read_bytes(), "h264_aac.mp4"))])[1]
    assert len(following.files()) > 2
    following.stop()
    assert list(following.folder.iterdir()) == [] and "Traceback" not in following.said() + server.said()

import io
import os
import subprocess
import sys
import tempfile

import pytest

from vidtwin.video import frame_count
from vidtwin.video.pipes import spooled, stdout_output


class Standard:
    """Stands for sys.stdin or sys.stdout."""

    closed = False

    def __init__(self, buffer, terminal=False):
        self.buffer, self.isatty = buffer, lambda: terminal


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where temporary files go; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    if folder.is_dir():
        assert list(folder.iterdir()) == []


def test_standard_input_is_copied_to_a_file(monkeypatch, assets):
    video = (assets / "h264_aac.mp4").read_bytes()
    monkeypatch.setattr(sys, "stdin", Standard(io.BytesIO(video)))
    with spooled("-") as path:
        assert path.read_bytes() == video and frame_count(path) == 50
    assert not path.exists()
    with spooled(assets / "h264_aac.mp4") as path:
        assert path == assets / "h264_aac.mp4"
    assert path.exists()


def test_without_standard_input_there_is_one_line(monkeypatch):
    for stdin in (None, Standard(io.BytesIO(b""), terminal=True), Standard(io.BytesIO(b""))):
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(ValueError, match=r"-: .*; pipe a video into it, or name a file") as error:
            with spooled("-"):
                pass
        assert "\n" not in str(error.value)


class Full(io.BytesIO):
    def readinto(self, buffer):
        raise OSError(28, "No space left on device")

    def read(self, size=-1):
        raise OSError(28, "No space left on device")

    def write(self, data):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_line(monkeypatch, temporary):
    monkeypatch.setattr(sys, "stdin", Standard(Full()))
    with pytest.raises(OSError, match=r"-: standard input cannot be copied to .*temporary \(No space left on device\); free"):
        with spooled("-"):
            pass
    monkeypatch.setattr(sys, "stdout", Standard(Full()))
    with pytest.raises(OSError, match=r"-: standard output cannot be written \(No space left on device\); free"):
        with stdout_output(".mp4") as path:
            path.write_bytes(b"video")
    temporary.rmdir()
    with pytest.raises(OSError, match="-: no temporary folder can be made"):
        with stdout_output(".mp4"):
            pass


def test_a_finished_file_goes_to_standard_output(monkeypatch):
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Standard(stdout))
    with stdout_output(".mp4") as path:
        assert path.suffix == ".mp4"
        path.write_bytes(bytes(range(256)) * 9000)
    assert stdout.getvalue() == bytes(range(256)) * 9000
    with pytest.raises(ValueError, match="broken"):
        with stdout_output(".mp4") as path:
            path.write_bytes(b"half")
            raise ValueError("broken")
    assert stdout.getvalue() == bytes(range(256)) * 9000
    for unusable in (None, Standard(stdout, terminal=True)):
        monkeypatch.setattr(sys, "stdout", unusable)
        with pytest.raises(ValueError, match="-: standard output is not redirected; "):
            with stdout_output(".mp4"):
                pass


def test_a_closed_pipe_is_one_line(temporary):
    program = (
        "from vidtwin.video.pipes import stdout_output\n"
        "try:\n"
        "    with stdout_output('.mp4') as path:\n"
        "        path.write_bytes(bytes(1 << 20))\n"
        "except OSError as error:\n"
        "    raise SystemExit(str(error))\n"
    )
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == "-: standard output was closed before all was written; let its reader read to the end\n"

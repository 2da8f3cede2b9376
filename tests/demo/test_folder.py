"""Files of a server and of its visitors: within a total, for a while, and never those of others."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from vidtwin.demo.folder import LEAST, Keeper, new_file, server_folder, touch

SERVER = "from vidtwin.demo.folder import server_folder\nwith server_folder() as f: print(f, flush=True); input()"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where servers put their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(place):
    """A server's process, and its folder."""
    environment = os.environ | {"TMPDIR": str(place)}
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=-1, stdout=-1, text=True, env=environment)
    return server, place / server.stdout.readline().strip()


def test_what_a_killed_server_left_goes_and_what_a_living_one_has_stays(place):
    (dead, left), (living, kept) = start(place), start(place)
    for folder in (left, kept):
        (folder / "visitor-x").mkdir()
        (folder / "visitor-x" / "a.mp4").write_bytes(b"theirs")
    dead.kill()
    dead.wait()
    with server_folder() as mine:
        assert not left.exists() and (kept / "visitor-x" / "a.mp4").exists() and mine.parent == place.resolve()
        assert mine.stat().st_mode & 0o077 == 0
    living.communicate("\n")
    assert list(place.iterdir()) == []


def test_folders_that_are_no_server_s_stay(place):
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "lock").touch()
    (place / "vidtwin-demo-named").mkdir()  # without a lock: nobody knows whose
    (place / "vidtwin-demo-linked").symlink_to(place / "elsewhere")
    (place / "vidtwin-demo-file").touch()
    (place / "vidtwin-demo-link").mkdir()
    (place / "vidtwin-demo-link" / "lock").symlink_to(place / "elsewhere" / "lock")
    (place / "vidtwin-demo-pipe").mkdir()
    os.mkfifo(place / "vidtwin-demo-pipe" / "lock")
    before = sorted(place.rglob("*"))
    with server_folder():
        pass
    assert sorted(place.rglob("*")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_folders_of_other_users_stay(place):
    (place / "vidtwin-demo-theirs").mkdir()
    (place / "vidtwin-demo-theirs" / "lock").touch()
    os.chown(place / "vidtwin-demo-theirs", 65534, 65534)
    with server_folder():
        assert (place / "vidtwin-demo-theirs" / "lock").exists()


def test_beyond_the_total_the_oldest_go_and_what_was_touched_is_not_old(place):
    gone = []
    keeper = Keeper(place, 3 * LEAST, 1000, gone.extend)
    files = [new_file(name) for name in "abcd"]
    for path in files:
        path.write_bytes(b"small files count as well")
        time.sleep(0.01)  # the clock of a file system has its steps
    touch(files[0])
    keeper.clear()
    assert [path.exists() for path in files] == [True, False, True, True] and gone == [str(files[1])]
    keeper.clear(room=2 * LEAST)
    assert [path.exists() for path in files] == [True, False, False, False]
    with pytest.raises(ValueError, match="^b has been deleted here .*; give it again$"):
        touch(files[0], files[1])


def test_what_nobody_used_for_a_while_goes_with_its_folders(place):
    lock = place / "lock"
    lock.touch()
    new_file("a.mp4").write_bytes(b"a")
    link = place / "link"
    link.symlink_to("/etc/passwd")
    os.utime(new_file("b.mp4").parent, (0, 0))  # an empty folder; copies keep such times, and so they do not count
    kept = place / "kept"
    kept.mkdir()
    (kept / "example.mp4").write_bytes(b"of the page")
    keeper = Keeper(place, 1e9, 0.2, kept=kept)
    keeper.clear()
    assert len(list(place.iterdir())) == 5
    with keeper:
        deadline = time.monotonic() + 20
        while len(list(place.iterdir())) > 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert set(place.iterdir()) == {lock, kept} and (kept / "example.mp4").exists()

"""The library speaks of Python's arguments; only the command line names flags, and puts arguments into them."""

import ast
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tqdm import tqdm

from scripts.rooms import SRC, modules, room_of
from vidtwin.cli import COMMANDS, main
from vidtwin.cli.messages import PrintableStream, flags_of, in_flags
from vidtwin.cli.videos import encode_command, reconstruct_command

FLAG = re.compile(r"(?<![\w-])--?[a-z]")
LIBRARY = [path for path in modules() if room_of(path) not in ("cli", "demo", "__main__")]


def texts(path: Path) -> list[str]:
    """The strings of a module but its docstrings; of f-strings, with a word for each value."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "value" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.append(node.value)
    return found


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(SRC)))
def test_the_library_names_no_flags(path):
    found = [text for text in texts(path) if FLAG.search(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch=0: give at least 1", "--batch 0: give at least 1"),
        ("tile_overlap=3: is for policy='tile'; leave it out", "--tile-overlap 3: is for --policy tile; leave it out"),
        ("below check_db=79; use encode_dtype=torch.float32", "below --check 79; use --encode-dtype float32"),
        ("check_db=-1: give a PSNR", "--check -1: give a PSNR"),
        ('config="it\'s mine": no such preset', "--config it's mine: no such preset"),
        ("free some space and continue with resume=True", "free some space and continue with --resume"),
        ("begin anew (resume=False)", "begin anew (--no-resume)"),
        ("give a list with such a column, or label=True", "give a list with such a column, or label=True"),
        ("runs/batch=2/a.mp4: no such file", "runs/batch=2/a.mp4: no such file"),
        ("batch=2.mp4: no such file", "batch=2.mp4: no such file"),
        ("input='a.mp4': no such file", "input='a.mp4': no such file"),
    ],
)
def test_arguments_are_put_into_flags(text, expected):
    assert in_flags(text, reconstruct_command, ["reconstruct", "batch=2.mp4", "--batch=0"]) == expected


def test_other_commands_have_other_flags():
    assert in_flags("step=0: give more", encode_command) == "--step 0: give more"
    assert in_flags("step=0: give more", reconstruct_command) == "step=0: give more"


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_those_of_the_help(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    missing = [flag for flag in flags_of(COMMANDS[name]) if f"--{flag.replace('_', '-')}" not in shown]
    assert missing == []


def test_the_command_line_shows_flags(clip, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    command = ["encode", str(clip), "-o", str(tmp_path / "a.vidtwin"), "--weights", str(weights)]
    assert main([*command, "--batch=-1"]) == 1
    assert capsys.readouterr().err == "vidtwin: error: --batch -1: give at least 1 clip at a time\n"
    assert main([*command, "--tile-overlap", "3"]) == 1
    error = "vidtwin: error: --tile-overlap 3: is for --policy tile; leave it out with --policy crop\n"
    assert capsys.readouterr().err == error


def test_warnings_show_flags_too(capsys, monkeypatch):
    def command(batch: int = 1) -> None:
        warnings.warn("memory ran out; use batch=1", stacklevel=1)

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setitem(COMMANDS, "info", command)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["info"]) == 0
    assert capsys.readouterr().err == "vidtwin: warning: memory ran out; use --batch 1\n"


def test_what_a_command_prints_is_shown_and_not_obeyed(capsys, monkeypatch):
    def command() -> None:
        print("a\x1b]0;b\x07\tc\nd\re\x9b31m\u202e")
        print("\x1b[31m", file=sys.stderr)
        tqdm.write("\x1b[2J", file=sys.stderr)
        with tqdm(desc="\x1b[1m", total=1, file=sys.stderr) as bar:
            bar.update()
        raise ValueError("\x1b[A")

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setitem(COMMANDS, "info", command)
    assert main(["info"]) == 1
    out, err = capsys.readouterr()
    assert out == "a\\x1b]0;b\\x07\tc\nd\\re\\x9b31m\\u202e\n"
    assert "\x1b" not in err and err.startswith("\\x1b[31m\n\\x1b[2J\n\r\\x1b[1m:   0%")
    assert err.endswith("vidtwin: error: \\x1b[A\n")


def test_bars_below_each_other_still_go_up():
    shown = io.StringIO()
    PrintableStream(shown).write("\n\n")
    PrintableStream(shown).write("\x1b[A\x1b[A")
    assert shown.getvalue() == "\n\n\x1b[A\x1b[A"


def test_names_on_the_command_line_are_shown_in_usage_too(capsys):
    with pytest.raises(SystemExit):
        main(["info", "a", "--b\x1b[31m"])
    assert "--b\\x1b[31m" in capsys.readouterr().err
    assert main(["info", "a\x1b[31m"]) == 1
    assert "a\\x1b[31m" in capsys.readouterr().err


INTERRUPTED = """
import os, signal, sys, vidtwin.__main__

class Finder:
    @staticmethod
    def find_spec(name, *more):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
sys.meta_path.insert(0, Finder)
sys.exit(vidtwin.__main__.main())
"""


@pytest.mark.parametrize("module", ["vidtwin.cli", "tyro", "torch", "numpy"])
def test_ctrl_c_while_importing_is_one_line(module):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, module], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vidtwin: interrupted\n")

"""The command line: `vidtwin COMMAND ...`. A command body is arguments -> one library call -> print.

What commands print goes through `messages.printing_safely`, so that no name and no file speaks to the terminal.

Exit codes: 0; 1 when the work failed, with one line on standard error; 2 for wrong usage; 130 after Ctrl-C; 141 when whoever reads
standard output has gone (`vidtwin recipes | head`). With the environment
variable VIDTWIN_TRACEBACK set, failures show where they came from.
"""

import difflib
import inspect
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps

import tyro

from vidtwin import __version__
from vidtwin.cli.datasets import check_data_command, encode_dataset_command
from vidtwin.cli.demo import demo_command
from vidtwin.cli.editing import edit_command
from vidtwin.cli.evaluating import analyze_command, evaluate_command
from vidtwin.cli.generating import draw_sprites_command, generate_command, train_generator_command
from vidtwin.cli.help import explained, joined
from vidtwin.cli.messages import in_flags, printing_safely
from vidtwin.cli.options import UsageError
from vidtwin.cli.training import recipes_command, train_command
from vidtwin.cli.videos import decode_command, encode_command, interpolate_command, reconstruct_command, swap_command
from vidtwin.cli.weights import benchmark_command, convert_command, export_command, info_command
from vidtwin.files import printable
from vidtwin.video.pipes import flush_stdout, reader_has_gone, silence_stdout

GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Videos": {
        "reconstruct": reconstruct_command,
        "encode": encode_command,
        "decode": decode_command,
        "swap": swap_command,
        "interpolate": interpolate_command,
        "edit": edit_command,
    },
    "Files and weights": {"info": info_command, "convert": convert_command, "export": export_command},
    "Training": {"train": train_command, "recipes": recipes_command, "check-data": check_data_command},
    "Data sets of latents, and generating": {
        "encode-dataset": encode_dataset_command,
        "draw-sprites": draw_sprites_command,
        "train-generator": train_generator_command,
        "generate": generate_command,
    },
    "Measuring": {"evaluate": evaluate_command, "analyze": analyze_command, "benchmark": benchmark_command},
    "In the browser": {"demo": demo_command},
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def overview() -> str:
    """The commands by what they are on, with the first sentence of each one's help, as wide as the terminal."""
    lines = ["usage: vidtwin COMMAND ...", "", "Video autoencoder with Structure and Dynamics latents."]
    width = min(shutil.get_terminal_size().columns, 100)
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in group.items():
            about = (command.__doc__ or "").strip().splitlines()[0]
            lines.append(textwrap.fill(about, width, initial_indent=f"  {name:17}", subsequent_indent=" " * 19))
    return "\n".join([*lines, "", "vidtwin COMMAND --help shows its options, vidtwin --version the version."])


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with nullcontext() if all(map(str.isprintable, arguments)) else printing_safely():  # help has colours of its own
            try:
                return _main(arguments)
            finally:
                flush_stdout()
    except BrokenPipeError:
        silence_stdout()
        return 141


def _main(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"vidtwin {__version__}")
        return 0
    name = next(iter(arguments), "")
    if name in ("", "-h", "--help"):
        print(overview())
        return 0 if name else 2
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else "; `vidtwin` lists them"
        print(f"vidtwin: error: {printable(name)}: no such command{meant}", file=sys.stderr)
        return 2
    command = COMMANDS[name]

    def said(message: object) -> str:
        text = printable(" ".join(str(message).split())) or type(message).__name__
        return in_flags(text, command, arguments)

    warnings.showwarning = lambda message, *rest: print(f"vidtwin: warning: {said(message)}", file=sys.stderr)
    try:
        tyro.extras.subcommand_cli_from_dict(
            {name: _safely(command) for name, command in COMMANDS.items()},
            prog="vidtwin",
            description="Video autoencoder with Structure and Dynamics latents.",
            args=arguments,
            config=(tyro.conf.DisallowNone,),
        )
    except KeyboardInterrupt:
        print("vidtwin: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        if os.environ.get("VIDTWIN_TRACEBACK"):  # for whoever looks for a fault of ours
            raise
        if isinstance(error, BrokenPipeError) and reader_has_gone():
            raise
        print(f"vidtwin: error: {said(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _safely(command: Callable[..., None]) -> Callable[..., None]:
    """A command that prints through `printing_safely`, with the help of `cli.help`."""

    @wraps(command)
    def run(*arguments: object, **options: object) -> None:
        with printing_safely():
            command(*arguments, **options)

    signature = inspect.signature(command)
    del run.__wrapped__  # tyro would look there
    vars(run)["__signature__"], run.__annotations__, run.__doc__ = signature, explained(command), joined(command.__doc__)
    return run

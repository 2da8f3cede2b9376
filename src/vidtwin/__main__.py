"""`vidtwin`, `python -m vidtwin`: the command line, in a process whose threads sleep while they wait.

By default OpenMP's threads, which share out torch's operators, keep their processor busy while they wait for the next one. Reading,
the model and writing go side by side here, and need it: with sleeping threads a 1080p video takes a third less time
(docs/speed.md). The variable is read when torch is loaded, so it is set before; whoever sets it otherwise is heard.

Ctrl-C ends the process at once while modules are imported, some of which would make another error of it.

What is imported stays until the end, so the garbage collector is kept away from it: its passes over torch's half a million objects,
while they are imported and again when the process ends, take a second of a short run.
"""

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    if catching := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.disable()
    from vidtwin.cli import main as command_line

    gc.freeze()
    gc.enable()
    if catching:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command_line()


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"vidtwin: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())

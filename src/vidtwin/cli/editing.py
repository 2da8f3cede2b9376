"""The command that edits how a video moves."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vidtwin.cli.options import (
    FIT,
    MINI,
    VIDEO,
    Fitting,
    Model,
    Output,
    UsageError,
    Video,
    bar,
    print_notes,
    said_to,
)
from vidtwin.cli.videos import latents_of, video_output
from vidtwin.inference.decode import decode_video
from vidtwin.inference.edit import edit
from vidtwin.latents.file import is_latent_file
from vidtwin.video.read.reader import probe


def edit_command(
    input: Positional[Path],
    out: Output,
    motion: float | None = None,
    freeze: bool = False,
    slow: int = 1,
    motion_from: Path | None = None,
    part: Literal["both", "dynamics"] = "both",
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = MINI,
) -> None:
    """Change how a video moves: faster or slower within each clip, frozen, slowed down, or as another video.

    Args:
        input: video or latent file.
        out: the video to write.
        motion: speed around the middle of each clip, 0 to 4; the length does not change.
        freeze: hold the middle of each clip; --motion 0.
        slow: make the video this many times as long, a whole number; its sound is not copied.
        motion_from: a video or latent file whose Dynamics replaces the input's, at speed --motion.
        part: dynamics edits only this latent; both also edits Structure, frame by frame.
    """
    if freeze and motion is not None:
        raise UsageError(f"--freeze and --motion {motion:g}: give one of the two")
    if motion is None and not freeze and slow == 1 and motion_from is None:
        raise UsageError("vidtwin edit: say what to change: --motion 1.5, --freeze, --slow 2 or --motion-from B")
    speed = 0.0 if freeze else 1.0 if motion is None else motion
    with video_output(out, video, input, *filter(None, [motion_from]), Path(model.weights)) as target:
        engine, identity = model.load()
        source = None if is_latent_file(input) else probe(input)
        stream = latents_of(engine, source or input, fit, identity)
        other = None if motion_from is None else latents_of(engine, motion_from, fit, identity)
        edited = edit(stream, speed, slow, part, other)
        with bar(edited.frames) as progress:
            output = video.output(source if slow == 1 else None)
            notes = decode_video(engine, edited, target, output=output, weights=identity, progress=progress)
    if slow > 1 and source is not None and source.has_audio and video.sound:
        notes.append(f"the sound is not copied: the video lasts {slow} times as long")
    done = [f"Dynamics of {motion_from}"] if motion_from is not None else []
    done += ["frozen"] if speed == 0 else [f"motion {speed:g}"] if speed != 1 else []
    done += [f"{slow} times as long"] if slow > 1 else []
    print(f"{out}: {', '.join([str(input), *done])}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))

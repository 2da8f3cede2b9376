"""Commands on videos and latent files: reconstruct, encode, decode, swap, interpolate."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vidtwin.cli.options import (
    AS_ENCODED,
    FIT,
    MINI,
    SAMPLE,
    VIDEO,
    FitOptions,
    Fitting,
    Model,
    Output,
    UsageError,
    Video,
    VideoOptions,
    bar,
    check_output,
    print_notes,
    said_to,
)
from vidtwin.files import plural
from vidtwin.inference.decode import decode_video
from vidtwin.inference.encode import encode_stream, encode_video, plan_header
from vidtwin.inference.engine import DECODER, ENCODER, Engine
from vidtwin.inference.reconstruct import decode_row, interpolate, reconstruct, swap
from vidtwin.latents.bins import needs_constriction
from vidtwin.latents.entropy import check_step
from vidtwin.latents.file import SUFFIX, LatentVideo, is_latent_file
from vidtwin.latents.records import Stored
from vidtwin.latents.stream import Header, Identity, LatentStream
from vidtwin.model.checkpoint import shipped_names
from vidtwin.model.vidtwin import Part
from vidtwin.video.pipes import spooled, stdout_output
from vidtwin.video.read.reader import VideoInfo, info_of, probe
from vidtwin.video.write.encoding import Encoding, is_picture_sequence


def reconstruct_command(
    input: Positional[Path | None] = None,
    out: Output = Path("reconstruction.mp4"),
    side_by_side: bool = False,
    frames: str | None = None,
    score: bool = True,
    ssim_every: int | None = None,
    resume: bool = False,
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = MINI,
) -> None:
    """Encode a video to Structure and Dynamics, decode it, and score the result.

    Args:
        input: a video, a folder of images, a pattern of image names (%04d.png), or - for standard input; without one, the sample
            clip that comes with the package.
        out: the video to write (.mp4, .mov, .mkv, .webm), a folder for PNG frames, or - for standard output (.mp4).
        side_by_side: write original | reconstruction | structure only | dynamics only.
        frames: START:STOP, frame numbers from 0; either may be left out; default all.
        score: measure PSNR and SSIM.
        ssim_every: measure SSIM on every N-th frame; default all frames below 0.5 megapixel, else every 4th.
        resume: continue a stopped run with the same options.
    """
    start, stop = parse_frames(frames)
    check_scores(score, ssim_every)
    with spooled(input or SAMPLE) as path, video_output(out, video, path, Path(model.weights)) as target:
        info = probe(path)
        engine, identity = model.load()
        with bar(selected_frames(info, start, stop)) as progress:
            report = reconstruct(
                engine,
                info,
                target,
                policy=fit.policy,
                tile_overlap=fit.tile_overlap,
                overlap=fit.overlap,
                start=start,
                stop=stop,
                panels=side_by_side,
                score=score,
                ssim_every=ssim_every,
                output=video.output(info),
                weights=identity,
                resume=resume,
                progress=progress,
            )
    to = said_to(out)
    print(f"{'input':14}{input or 'the sample clip of the package'}", file=to)
    print(report.table(), file=to)
    print(f"{'written':14}{out}", file=to)


def encode_command(
    input: Positional[Path],
    out: Output,
    frames: str | None = None,
    logvar: bool = False,
    store: Stored = "float16",
    compress: bool = False,
    step: float = 1.0,
    resume: bool = False,
    fit: Fitting = FIT,
    model: Model = MINI,
) -> None:
    """Encode a video to a latent file (.vidtwin), which can be decoded without the video.

    While it is being written it is NAME.partial.vidtwin, whose finished windows can be decoded.

    Args:
        input: a video, a folder of images, a pattern of image names (%04d.png), or - for standard input.
        out: the latent file to write.
        frames: START:STOP, frame numbers from 0; either may be left out; default all.
        logvar: store the posterior's log-variances beside its means.
        store: how values are stored: float16 halves the file at almost no loss; float32 keeps every bit.
        compress: round the means and entropy-code them: a file of a few bits a value.
        step: step of the rounding with --compress, in units of a channel's mean posterior standard deviation; smaller is more
            exact.
        resume: continue a stopped run with the same options.
    """
    if out.suffix != SUFFIX:
        raise UsageError(f"{out}: name the latent file {SUFFIX}, as in {out.with_suffix(SUFFIX)}")
    start, stop = parse_frames(frames)
    if compress:
        check_compressed(step, logvar, store)
    check_output(out, input, Path(model.weights))
    with spooled(input) as path:
        info = probe(path)
        engine, identity = model.load(ENCODER, stored=True)
        with bar(selected_frames(info, start, stop)) as progress:
            video = encode_video(
                engine,
                info,
                out,
                policy=fit.policy,
                tile_overlap=fit.tile_overlap,
                overlap=fit.overlap,
                start=start,
                stop=stop,
                weights=identity,
                logvar=logvar,
                step=step if compress else None,
                stored=store,
                resume=resume,
                progress=progress,
            )
    notes = (*info.notes, *engine.notes)
    header, clips = video.header, plural(video.window_count * video.header.tiles, "clip")
    kinds = plural(video.frames, "frame"), plural(len(video.cuts), "shot cut"), f"{clips} of {header.config.frames} frames"
    print(f"{out}: {', '.join(kinds)}")
    print(f"{out}: {video.amount()}" + (f"; source {header.source_bytes:,} bytes" if header.source_bytes else ""))
    if video.size is not None:
        print(f"{out}: {video.size}")
    print_notes(notes)


def decode_command(
    input: Positional[Path],
    out: Output,
    only: Part | None = None,
    start: str | None = None,
    end: str | None = None,
    sound_from: Path | None = None,
    video: Video = VIDEO,
    model: Model = AS_ENCODED,
) -> None:
    """Decode a latent file to a video.

    Args:
        input: a latent file (.vidtwin), finished or still growing.
        out: the video to write (.mp4, .mov, .mkv, .webm), a folder for PNG frames, or - for standard output (.mp4).
        only: decode one of the two latents alone.
        start: where to start: a frame number from 0 (48), or seconds from the first frame (2s, 1.5, 1:02).
        end: where to stop, in the same way; this frame is not decoded.
        sound_from: the video that was encoded, to copy its sound, subtitles and chapters.
    """
    latents = LatentVideo.load(input)
    first = 0 if start is None else parse_position(start, "--start", latents)
    stop = None if end is None else parse_position(end, "--end", latents)
    if model.weights == AS_ENCODED.weights:
        model = replace(model, weights=weights_of(latents.header, input))
    with video_output(out, video, input, *filter(None, [sound_from]), Path(model.weights)) as target:
        engine, identity = model.load(DECODER)
        with bar((latents.frames if stop is None else stop) - first) as progress:
            notes = decode_video(
                engine,
                latents,
                target,
                only=only,
                start=first,
                stop=stop,
                output=video.output(sound_from),
                weights=identity,
                progress=progress,
            )
    growing = "" if latents.complete else ", of a file that is not finished"
    print(f"{out}: {min(latents.frames, stop or latents.frames) - first} frames{growing}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def swap_command(
    videos: Positional[Annotated[tuple[Path, ...], arg(metavar="A B")]] = (),
    *,
    out: Output,
    structure: Path | None = None,
    dynamics: Path | None = None,
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = MINI,
) -> None:
    """Decode the Structure of one video with the Dynamics of another.

    Args:
        videos: two videos or latent files: Structure is that of the first, Dynamics that of the second.
        out: the video to write, as long as the shorter of the two.
        structure: instead of A: its scene, timing, geometry and sound are kept.
        dynamics: instead of B: its colour and fast motion are used.
    """
    given = [path for path in (structure, dynamics) if path is not None] or list(videos)
    if len(given) != 2 or (videos and (structure or dynamics)):
        raise UsageError("vidtwin swap: give two videos, as in vidtwin swap A B -o OUT, or both --structure A and --dynamics B")
    structure, dynamics = given
    with video_output(out, video, structure, dynamics, Path(model.weights)) as target:
        engine, identity = model.load()
        source = None if is_latent_file(structure) else probe(structure)
        first, second = (latents_of(engine, given, fit, identity) for given in (source or structure, dynamics))
        mixed = swap(first, second)
        with bar(mixed.frames) as progress:
            output = video.output(source)
            notes = decode_video(engine, mixed, target, output=output, weights=identity, progress=progress)
    print(f"{out}: Structure of {structure}, Dynamics of {dynamics}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def interpolate_command(
    a: Positional[Path],
    b: Positional[Path],
    out: Output,
    steps: int = 5,
    part: Literal["both", "structure", "dynamics"] = "both",
    fit: Fitting = FIT,
    video: Video = VIDEO,
    model: Model = MINI,
) -> None:
    """Decode steps on the line between the latents of two videos, side by side.

    Args:
        a: video or latent file on the left; its timing, geometry and sound are kept.
        b: video or latent file on the right.
        out: the video to write, as long as the shorter of the two.
        steps: number of videos side by side, a and b included.
        part: which latent is interpolated; the other is that of a.
    """
    with video_output(out, video, a, b, Path(model.weights)) as target:
        engine, identity = model.load()
        source = None if is_latent_file(a) else probe(a)
        first, last = (latents_of(engine, given, fit, identity) for given in (source or a, b))
        streams = interpolate(first, last, steps, part)
        with bar(streams[0].frames) as progress:
            output = video.output(source)
            notes = decode_row(engine, streams, target, output=output, weights=identity, progress=progress)
    print(f"{out}: {steps} steps from {a} to {b}", file=said_to(out))
    print_notes((*engine.notes, *notes), said_to(out))


def check_scores(score: bool, ssim_every: int | None) -> None:
    """Refuse, before any work, what `reconstruct` cannot measure."""
    if ssim_every is not None and not score:
        raise UsageError(f"--ssim-every {ssim_every}: --no-score takes no SSIM; leave out one of the two")
    if ssim_every is not None and ssim_every < 1:
        raise UsageError(f"--ssim-every {ssim_every}: give at least 1, which is every frame")


def check_compressed(step: float, logvar: bool, store: Stored) -> None:
    """Refuse, before any work, what `encode --compress` cannot do."""
    if store == "float32":
        raise UsageError("--store float32: --compress rounds by --step; leave out one of --store and --compress")
    if logvar:
        raise UsageError("--logvar: a compressed file holds no log-variances; leave out one of --logvar and --compress")
    try:
        check_step(step)
    except ValueError as error:
        raise UsageError(str(error)) from error
    needs_constriction()


@contextmanager
def video_output(out: Path, video: VideoOptions, *inputs: Path) -> Iterator[Path]:
    """Where to write: `out`, checked before any work, or a temporary file that goes to standard output at the end."""
    encoding = Encoding(video.codec, video.crf, video.lossless)
    if str(out) == "-":
        with stdout_output(".mp4") as target:
            yield target
        return
    encoding.check(out)
    if not is_picture_sequence(out):  # the writer looks at folders
        check_output(out, *inputs)
    yield out


def latents_of(engine: Engine, given: Path | VideoInfo, fit: FitOptions, weights: Identity) -> LatentStream:
    """The windows of a latent file, or of a video as it is encoded; how many frames a progress bar is to expect."""
    if isinstance(given, Path) and is_latent_file(given):
        return LatentVideo.load(given).stream()
    info = info_of(given)
    header = plan_header(engine, info, weights, policy=fit.policy, tile_overlap=fit.tile_overlap, overlap=fit.overlap)
    return replace(encode_stream(engine, info.path, header), frames=info.expected_frames)


def weights_of(header: Header, path: Path) -> str:
    """The shipped weights that a latent file names. Other names in a file are not trusted as paths."""
    if header.weights.name not in shipped_names():
        raise UsageError(f"{path}: was encoded with weights {header.weights}; say where they are with --weights")
    return header.weights.name


def parse_position(text: str, option: str, video: LatentVideo) -> int:
    """A frame number: "48" is frame 48; "2s", "1.5" and "1:02.5" are the first frame shown then, in seconds from the first."""
    if text.isdecimal():
        return int(text)
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)s?", text)
    if match is None:
        raise UsageError(f"{option} {text}: expected a frame number (48) or seconds (2s, 1.5, 1:02)")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return video.frame_at(3600 * hours + 60 * minutes + seconds)


def parse_frames(text: str | None) -> tuple[int, int | None]:
    """ "10:20" -> (10, 20), "10:" -> (10, None), ":20" -> (0, 20), None -> (0, None)."""
    if text is None:
        return 0, None
    begin, colon, end = text.partition(":")
    if colon and all(part == "" or part.isdecimal() for part in (begin, end)):
        start, stop = int(begin or 0), int(end) if end else None
        if stop is None or stop > start:
            return start, stop
    raise UsageError(f"--frames {text}: expected START:STOP with 0 <= START < STOP, as in 0:100")


def selected_frames(info: VideoInfo, start: int, stop: int | None) -> int | None:
    """How many frames start..stop-1 of a video are about to be, for a progress bar; None if nothing says it."""
    ends = [end for end in (info.expected_frames, stop) if end is not None]
    return max(0, min(ends) - start) if ends else None

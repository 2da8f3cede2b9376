"""Commands that measure: evaluate, analyze."""

import datetime
from pathlib import Path
from typing import Literal

from tqdm import tqdm
from tyro.conf import Positional

from vidtwin.cli.options import Device, Output, UsageError, check_result, counter, device_of
from vidtwin.files import atomic_output, write_json
from vidtwin.model.loading import load_weights


def evaluate_command(
    data: Positional[str | None] = None,
    weights: str = "tiny",
    out: Output = Path("evaluation.json"),
    protocol: Literal["vidtwin-paper", "vidtwin-released"] | None = None,
    sample_fps: float | None = None,
    tail: Literal["repeat", "drop"] = "repeat",
    latents: Literal["mean", "sample"] = "mean",
    seed: int = 0,
    clips: int | None = None,
    controls: tuple[Literal["dct", "resize", "pca", "grid"], ...] = (),
    fit: str | None = None,
    grid: str | None = None,
    codecs: tuple[Literal["x264", "x265", "svtav1"], ...] = (),
    plot: Path | None = None,
    lpips: str | None = None,
    i3d: str | None = None,
    config: str = "auto",
    workers: int = 1,
    device: Device = "auto",
    compare: tuple[Path, Path] | None = None,
) -> None:
    """Reconstruct the clips of videos and score them: a table, and a file with the scores of every clip, which others can check.

    With --compare A.json B.json: the paired differences of two such files, with bootstrap intervals.

    Args:
        data: a folder of videos, or a video.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name or owner/name/x.ckpt), a file in Microsoft's layout, or
            released: Microsoft's checkpoint, from the hub.
        out: the file to write (.json).
        protocol: that of the paper (25 frames per second, posterior mean, last frame repeated) or of the released script (a sample
            of the posterior instead); in place of the next three.
        sample_fps: frames per second to take; default every frame.
        tail: frames at the end that do not fill a clip: pad by repeating the last one, or drop them.
        latents: the posterior's mean, or a sample.
        seed: of samples.
        clips: clips of each video, at most; default all.
        controls: also score simpler coders with as many values: a 3-D DCT; down- and upsampling; principal components of patches
            (with --fit); a model with one ordinary latent (with --grid).
        fit: for pca: a folder of training videos, of which up to 128 are used.
        grid: for grid: a shipped name, a checkpoint folder or a hub id.
        codecs: also measure PSNR over real bits: for the entropy-coded latents, and for these encoders at their best.
        plot: for codecs: also draw the curves (.svg).
        lpips: for LPIPS: a folder with vgg16-397923af.pth and vgg.pth, or a released checkpoint with them.
        i3d: for FVD and KVD: i3d_torchscript.pt of StyleGAN-V.
        config: for a file in Microsoft's layout: a preset, or a config.json; auto is the preset that fits.
        workers: number of processes; the scores do not depend on it.
        device: auto is cuda if there is one, else cpu.
        compare: two results of this command.
    """
    if compare is not None:
        from vidtwin.evaluation.compare import compare as compare_files

        print(compare_files(*compare).table())
        return
    if data is None:
        raise UsageError("vidtwin evaluate: name a folder of videos, or two files with --compare A.json B.json")
    try:
        from vidtwin.evaluation.pca import fit_patch_pca
        from vidtwin.evaluation.plots import rate_distortion_plot
        from vidtwin.evaluation.reconstruct import PROTOCOLS, evaluate
        from vidtwin.evaluation.scoring import Networks, Rules, training_clips
    except ModuleNotFoundError as error:
        raise UsageError(f"evaluating needs the package {error.name}: pip install 'vidtwin[eval]'") from None
    from vidtwin.data.sources import find_videos

    if plot is not None and not codecs:
        raise UsageError("--plot draws curves of rate and distortion: name codecs with --codecs")
    for path in filter(None, (out, plot)):
        check_result(path, Path(data))
    if "pca" in controls and fit is None:
        raise ValueError("the control pca learns from clips: give a folder of training videos with --fit")
    if "grid" in controls and grid is None:
        raise ValueError("the control grid is a model: give weights of one with a single latent with --grid")
    rules = PROTOCOLS[protocol] if protocol else Rules(sample_fps, tail, latents, seed)
    model = load_weights(weights, config)
    pca = None
    if fit is not None and "pca" in controls:
        pca = fit_patch_pca(training_clips(find_videos(fit), model.config), model.config.latent_values, seed)
    videos = [Path(data)] if Path(data).is_file() else find_videos(data)
    with counter("video") as progress:
        result = evaluate(
            model,
            videos,
            tail=rules.tail,
            latents=rules.latents,
            seed=seed,
            device=device_of(device),
            sample_fps=rules.sample_fps,
            controls=controls,
            first=clips,
            codecs=codecs,
            networks=Networks(lpips, i3d, pca=pca, grid=grid),
            weights=weights,
            workers=workers,
            progress=progress,
        )
    write_json(out, result.to_dict(), indent=1, allow_nan=False)
    if plot is not None:
        with atomic_output(plot) as partial:
            partial.write_text(rate_distortion_plot(result.rate_distortion))
    print(result.table())
    print(f"{'written':24}{out}")


def analyze_command(
    data: Positional[str],
    weights: str = "tiny",
    out: Output = Path("analysis.json"),
    report: Path | None = None,
    evaluation: Path | None = None,
    clips: int = 1,
    spread: bool = False,
    sprites: int = 240,
    others: tuple[str, ...] = (),
    seed: int = 0,
    config: str = "auto",
    device: Device = "auto",
) -> None:
    """Say what each latent holds: spectra, swaps, dependence, probes on sprites, bits; beside a model that was never trained.

    Args:
        data: a folder of at least 10 videos.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name or owner/name/x.ckpt), a file in Microsoft's layout, or
            released: Microsoft's checkpoint, from the hub.
        out: the file to write (.json).
        report: also write a report (.html) with all figures, pictures and videos.
        evaluation: a result of `vidtwin evaluate`, to be included in the report.
        clips: clips of each video, from its beginning.
        spread: take clips evenly spread over each video instead.
        sprites: number of drawn clips with known factors, at least 40.
        others: further models to compare, as NAME=WEIGHTS: for example one with a single latent.
        seed: random seed of the untrained weights, the sprites and the tests.
        config: for a file in Microsoft's layout: a preset, or a config.json; auto is the preset that fits.
        device: auto is cuda if there is one, else cpu.
    """
    if clips < 1:
        raise UsageError(f"--clips {clips}: give at least 1")
    try:
        from vidtwin.analysis.analyze import analyze
        from vidtwin.analysis.report import report as page
    except ModuleNotFoundError as error:
        raise UsageError(f"analysing needs the package {error.name}: pip install 'vidtwin[eval]'") from None
    from vidtwin.data.sources import find_videos
    from vidtwin.evaluation.compare import read_result
    from vidtwin.evaluation.results import list_hash
    from vidtwin.evaluation.scoring import first_clips

    for path in filter(None, (out, report)):
        check_result(path, Path(data))
    if odd := [other for other in others if not all(other.partition("="))]:
        raise UsageError(f"--others {odd[0]}: give NAME=WEIGHTS")
    scores = None if evaluation is None else read_result(evaluation)
    place, videos = device_of(device), find_videos(data)
    model = load_weights(weights, config).to(place)
    beside = {name: load_weights(path).to(place) for name, _, path in (other.partition("=") for other in others)}
    pixels, names = first_clips(videos, model.config, clips, spread)
    with tqdm(leave=False, disable=None) as shown:

        def progress(what: str, done: int, total: int) -> None:
            shown.set_description(what, refresh=False)
            shown.total, shown.n = total, done
            shown.refresh()

        analysis = analyze(model, pixels, names, seed=seed, sprites=sprites, others=beside, progress=progress)
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    facts = {
        "weights": Path(weights).name,
        "list_sha256": list_hash(videos),
        "clips_of_each": clips,
        "spread": spread,
        "date": date,
    }
    record = facts | analysis.to_dict()
    write_json(out, record, indent=1, allow_nan=False)
    print(f"verdict: {analysis.verdict()}")
    for name, sentence in analysis.sentences().items():
        print(f"{name}: {sentence}")
    print(f"written: {out}")
    if report is not None:
        text = page(model, pixels, names, analysis, weights, scores)
        with atomic_output(report) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"written: {report}, {len(text.encode()) / 2**20:.1f} MiB")

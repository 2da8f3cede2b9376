"""Commands on data sets: check-data, encode-dataset."""

from pathlib import Path
from typing import Literal

from tqdm import tqdm
from tyro.conf import Positional

from vidtwin.cli.options import Device, Dtype, Output, UsageError, check_result, counter, device_of, public_name
from vidtwin.files import write_json
from vidtwin.latents.stream import Identity
from vidtwin.model.loading import load_weights


def check_data_command(
    source: Positional[str],
    frames: int = 16,
    sample_fps: float | None = None,
    workers: int = 1,
    camera: tuple[str, ...] = (),
    json_out: Path | None = None,
) -> None:
    """Decode a data set once and say what is in it: counts, sizes, rates, durations, shot cuts, and what is broken.

    Args:
        source: a folder of videos, a .csv with a column "videos", a .txt list, WebDataset tars (shards-{000..010}.tar), or a
            LeRobot data set.
        frames: length of the training clips.
        sample_fps: frame rate of the clips; default every frame.
        workers: processes that decode; 0 decodes in the main process.
        camera: cameras of a LeRobot data set, by name or by the part after its last dot; default all except depth maps.
        json_out: also write the report to this file.
    """
    from vidtwin.data.check import check_data

    if json_out is not None:
        check_result(json_out)
    with counter("recording") as progress:
        report = check_data(source, frames, sample_fps, workers, progress, camera)
    print(report.table())
    if json_out is not None:
        write_json(json_out, report.to_dict())


def encode_dataset_command(
    source: Positional[str],
    out: Output,
    weights: str = "tiny",
    config: str = "auto",
    policy: Literal["crop", "squash", "pad"] = "crop",
    sample_fps: float | None = None,
    every: int | None = None,
    anchor: Literal["first", "last"] = "first",
    store: Literal["float16", "float32", "int8"] = "float16",
    logvar: bool = False,
    label: bool = False,
    root: Path | None = None,
    camera: tuple[str, ...] = (),
    damaged: bool = False,
    retry_failures: bool = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    processes: int | None = None,
    batch: int | None = None,
    threads: int = 1,
    scratch: Path | None = None,
    ray: str | None = None,
    gpus: float | None = None,
    verify: int | None = None,
) -> None:
    """Encode all videos of a source to a data set of latents (Parquet), which `vidtwin.LatentDataset` and others read.

    The same command continues a stopped run, and brings a data set up to date: only what is missing or has changed is
    encoded. Exit code 1 if recordings failed; all others are in the data set then.

    Args:
        source: a folder of videos, a .csv with a column "videos" (other columns are carried over), a .txt list, WebDataset tars
            (shards-{000..010}.tar), a LeRobot data set, or a URL of a folder or list (s3://, gs://, hf://, https://); lists may
            hold URLs.
        out: the folder to write.
        weights: a shipped name, a checkpoint folder, a hub id (owner/name or owner/name/x.ckpt), a file in Microsoft's layout, or
            released: Microsoft's checkpoint, from the hub.
        config: for a file in Microsoft's layout: a preset, or a config.json.
        policy: how frames are fitted to the model's size.
        sample_fps: frames per second inside a window; default every frame.
        every: frames between the first frames of consecutive windows; default one window after another. 1 gives a row for each
            frame.
        anchor: whether the frame of a row is the first of its window (the future), or the last (the past).
        store: how values are stored.
        logvar: store the posterior's log-variances beside its means.
        label: carry over the first folder of each video's path, as column "label".
        root: the folder that paths of a list are relative to; default the list's own.
        camera: cameras of a LeRobot data set, by name or by the part after its last dot; default all except depth maps.
        damaged: encode damaged videos as far as they can be read, instead of counting them as failures.
        retry_failures: try recordings again that failed before and have not changed.
        device: auto is cuda if there is one, else cpu.
        dtype: dtype of the encoder.
        processes: number of processes, on this machine or in the cluster; default one for each core, or each GPU.
        batch: clips of one video that go through the model together; default 1 on a CPU, 8 on a GPU.
        threads: of each process.
        scratch: folder for temporary copies of remote files; default inside `out`.
        ray: encode on a Ray cluster: its address, or "local". `out` must be seen by all its machines.
        gpus: of each process in the cluster, also a part of one; default 1 with --device cuda, else 0.
        verify: instead of encoding, check a finished data set: files, keys, and so many recordings encoded again, bit for bit.
    """
    from vidtwin.latent_sets.job import encode_dataset, verify_dataset
    from vidtwin.latent_sets.plan import Plan

    for option, value in (("processes", processes), ("batch", batch), ("threads", threads), ("verify", verify)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} {value}: give at least 1")
    if ray is None:
        place = device_of(device)
    else:  # the cluster has GPUs, or has not; the machine that asks may be another
        place = "cuda" if device == "cuda" or (device == "auto" and gpus is not None and gpus > 0) else "cpu"
    model = load_weights(weights, config)
    if verify is not None:
        check = verify_dataset(source, out, model, verify, label=label, root=root, cameras=camera)
        print(f"{out}: {check.files} files and {check.rows:,} rows are as they were written")
        print(f"{out}: {check.items} recordings ({check.rows_again} rows) encoded again are the same, bit for bit")
        return
    encoder = None
    if ray is not None:
        from vidtwin.latent_sets.cluster import Cluster

        encoder = Cluster(None if ray == "local" else ray, processes, gpus).encode
    clips = batch or (8 if place == "cuda" else 1)
    identity = Identity.of(model, public_name(weights))
    plan = Plan(model.config, identity, dtype, policy, sample_fps, every, anchor, store, logvar, damaged, place, threads, clips)
    with tqdm(unit="video", leave=False, disable=None) as shown:

        def progress(done: int, total: int, failed: int) -> None:
            shown.total, shown.n = total, done
            shown.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
            shown.refresh()

        summary = encode_dataset(
            source,
            out,
            model,
            plan,
            label=label,
            root=root,
            cameras=camera,
            processes=processes,
            retry=retry_failures,
            scratch=scratch,
            encoder=encoder,
            progress=progress,
        )
    print(summary.table())
    print(f"{'written':14}{out}")
    if summary.failures:
        name, reason = summary.failures[0]
        raise ValueError(
            f"{len(summary.failures)} of {summary.items} recordings failed, {name}: {reason}; all reasons are in "
            f"{out / 'failures.jsonl'}, --retry-failures tries them again"
        )

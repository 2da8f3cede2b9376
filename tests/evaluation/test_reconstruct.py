"""The reconstruction protocol, end to end with a tiny untrained model on generated videos."""

import dataclasses
import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.conftest import SMALL
from vidtwin import Latents, VidTwin, VidTwinConfig
from vidtwin.evaluation.controls import dct_control, default_boxes
from vidtwin.evaluation.fvd import frechet_distance
from vidtwin.evaluation.pca import fit_patch_pca
from vidtwin.evaluation.reconstruct import evaluate, evaluation_clips
from vidtwin.evaluation.results import Scores, list_hash, mean_scores
from vidtwin.evaluation.scoring import Networks, first_clips, training_clips
from vidtwin.frames.clips import Geometry, to_clip
from vidtwin.latents.entropy import LatentCoder, Moments
from vidtwin.losses.lpips import LPIPS
from vidtwin.metrics import clip_psnr, unit_range
from vidtwin.model.ablations import ablations
from vidtwin.video.read.reader import read_video
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

SIZE = (4, 32, 32)


def _write(path: Path, frames: int, fps: int = 10, seed: int = 0, height: int = 36, width: int = 48) -> Path:
    """A textured square that moves over a gradient and grows brighter."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(0, 160, width)[None, :, None] * rng.uniform(0.4, 1, 3) + np.zeros((height, 1, 1))
    video = np.repeat(ground[None], frames, axis=0)
    for index in range(frames):
        left = 2 + index * 2 % (width - 14)
        video[index, 8:18, left : left + 10] = rng.uniform(60, 250, (10, 10, 3)) * 0.5 + 5 * index
    with VideoWriter(path, Fraction(fps), (height, width), Encoding(crf=12)) as writer:
        writer.write(video.clip(0, 255).round().astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def model() -> VidTwin:
    torch.manual_seed(0)
    frames, height, width = SIZE
    config = VidTwinConfig(
        frames=frames, height=height, width=width, patch=8, hidden=32, depth=1, heads=2, num_queries=2, query_dim=16,
        query_heads=2, query_layers=1, query_mlp=32, structure_width=16, structure_channels=4, dynamics_channels=4,
    )  # fmt: skip
    return VidTwin(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    _write(folder / "a.mp4", frames=10, seed=1)
    _write(folder / "b.mp4", frames=4, seed=2)
    return folder


def _videos(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mp4"))


def _expected_clip(path: Path, ids: list[int]) -> torch.Tensor:
    frames = read_video(path).frames
    return to_clip(frames[ids], Geometry.plan("crop", frames.shape[1:3], SIZE[1:]))


def test_clips_are_consecutive_and_the_tail_repeats_its_last_frame(folder):
    clips = list(evaluation_clips(folder / "a.mp4", *SIZE))
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert len(clips) == len(expected)
    for clip, ids in zip(clips, expected, strict=True):
        assert clip.shape == (3, *SIZE) and clip.dtype == torch.float32
        torch.testing.assert_close(clip, _expected_clip(folder / "a.mp4", ids))


def test_the_tail_can_be_dropped(folder):
    assert len(list(evaluation_clips(folder / "a.mp4", *SIZE, tail="drop"))) == 2
    assert len(list(evaluation_clips(folder / "b.mp4", *SIZE, tail="drop"))) == 1


@pytest.mark.parametrize(
    ("sample_fps", "expected"),
    [(None, [0, 1, 2, 3]), (100, [0, 1, 2, 3]), (4, [0, 2, 4, 6]), (5, [0, 2, 4, 6]), (3, [0, 3, 6, 9])],
)
def test_frames_are_sampled_every_round_native_over_sample(folder, sample_fps, expected):
    first = next(evaluation_clips(folder / "a.mp4", *SIZE, sample_fps=sample_fps))
    torch.testing.assert_close(first, _expected_clip(folder / "a.mp4", expected))


def test_bad_clip_rules_are_refused(folder):
    with pytest.raises(ValueError, match="tail='loop'"):
        next(evaluation_clips(folder / "a.mp4", *SIZE, tail="loop"))
    for rate in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="sample_fps"):
            next(evaluation_clips(folder / "a.mp4", *SIZE, sample_fps=rate))


def test_output_is_clamped_and_not_rounded():
    clip = torch.tensor([-3.0, -1.0, 0.001, 1.0, 2.0])
    torch.testing.assert_close(unit_range(clip), torch.tensor([0, 0, 0.5005, 1, 1]))
    x = torch.zeros(3, 2, 16, 16)
    assert clip_psnr(x + 5, torch.ones_like(x)) == 80  # identical after the clamp


def test_one_identical_frame_does_not_make_the_mean_infinite():
    x = torch.zeros(3, 2, 16, 16)
    y = x.clone()
    y[:, 1] += 0.2  # 0.1 in [0, 1]: 20 dB
    assert clip_psnr(x, y) == pytest.approx((80 + 20) / 2, abs=1e-4)
    assert clip_psnr(x, x) == 80


def test_scores_are_those_of_a_plain_loop(model, folder):
    """The protocol written out once more, without the two passes."""
    result = evaluate(model, _videos(folder), tail="repeat")
    clips = {path.name: list(evaluation_clips(path, *SIZE)) for path in _videos(folder)}
    flat = [clip for video in clips.values() for clip in video]
    with torch.no_grad():
        codes = model.encode(torch.stack(flat))
        mean = codes.map(lambda tensor: tensor.mean(0, keepdim=True).expand_as(tensor))
        decodings = {
            "psnr": model.decode(codes),
            "psnr_structure_at_mean": model.decode(dataclasses.replace(codes, structure=mean.structure)),
            "psnr_dynamics_at_mean": model.decode(Latents(codes.structure, mean.dynamics_x, mean.dynamics_y)),
            "psnr_structure_only": model.decode(codes, only="structure"),
            "psnr_dynamics_only": model.decode(codes, only="dynamics"),
        }
    for name, decoded in decodings.items():
        expected = [clip_psnr(y, x) for y, x in zip(decoded, flat, strict=True)]
        assert getattr(result.overall, name) == pytest.approx(np.mean(expected), abs=1e-3)
        assert getattr(result.videos["a.mp4"], name) == pytest.approx(np.mean(expected[:3]), abs=1e-3)
    assert result.overall.clips == 4
    assert [scores.clips for scores in result.videos.values()] == [3, 1]
    assert result.overall.lost_without_structure == result.overall.psnr - result.overall.psnr_structure_at_mean


class _Perfect(VidTwin):
    """Looks up the clip that latents came from, so that the full decoding is exact."""

    def __init__(self, config: VidTwinConfig):
        super().__init__(config)
        self.seen: list[tuple[Latents, torch.Tensor]] = []

    def posterior(self, x):
        posterior = super().posterior(x)
        self.seen.append((posterior.mean, x))
        return posterior

    def decode(self, latents, only=None):
        for code, x in self.seen:
            if only is None and all(map(torch.equal, code.tensors, latents.tensors)):
                return x
        return super().decode(latents, only)


def test_a_perfect_reconstruction_scores_the_most_there_is(model, folder):
    result = evaluate(_Perfect(model.config), _videos(folder))
    assert result.overall.psnr == pytest.approx(80)
    assert result.overall.ssim == pytest.approx(1)


def test_samples_follow_the_seed(model, folder):
    first, again, other = (evaluate(model, _videos(folder), latents="sample", seed=seed) for seed in (1, 1, 2))
    mean = evaluate(model, _videos(folder), latents="mean")
    assert first.overall == again.overall
    assert first.overall.psnr != other.overall.psnr
    assert first.overall.psnr != mean.overall.psnr
    assert (first.protocol["latents"], first.protocol["seed"]) == ("sample", 1)
    assert (mean.protocol["latents"], mean.protocol["seed"]) == ("mean", None)


def test_the_result_says_how_it_was_taken(model, folder):
    result = evaluate(model, _videos(folder), tail="drop", weights="untrained", sample_fps=5)
    protocol = json.loads(json.dumps(result.to_dict(), allow_nan=False))["protocol"]
    assert protocol["weights"] == "untrained"
    assert len(protocol["weights_hash"]) == 64
    assert protocol["list_sha256"] == list_hash([folder / "a.mp4"])  # b.mp4 has too few frames at this rate
    assert (protocol["videos"], protocol["clips"], protocol["frames"]) == (1, 1, 4)
    assert (protocol["tail"], protocol["sample_fps"], protocol["latents"]) == ("drop", 5, "mean")
    assert (protocol["dtype"], protocol["device"]) == ("float32", "cpu")
    assert set(protocol["versions"]) == {"python", "torch", "vidtwin"}
    assert protocol["model"] == model.config.to_dict()
    assert "32x32" in protocol["resize"]
    assert "4 frames" in result.failures["b.mp4"]


def test_the_list_hash_sees_names_sizes_and_order(folder, tmp_path):
    copy = tmp_path / "a.mp4"
    copy.write_bytes((folder / "a.mp4").read_bytes())
    assert list_hash([copy]) == list_hash([folder / "a.mp4"])
    assert list_hash([copy, folder / "b.mp4"]) != list_hash([folder / "b.mp4", copy])
    copy.write_bytes(b"other")
    assert list_hash([copy]) != list_hash([folder / "a.mp4"])


def test_an_unreadable_video_is_recorded_and_counts_nowhere(model, folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    good = evaluate(model, _videos(folder))
    result = evaluate(model, [broken, *_videos(folder)])
    assert [name.rpartition("/")[2] for name in result.failures] == ["broken.mp4"]
    assert result.overall == good.overall
    with pytest.raises(ValueError, match=r"none of 1 videos gave a clip \(broken.mp4: "):
        evaluate(model, [broken])


def test_progress_counts_both_passes_and_the_mode_is_restored(model, folder):
    calls: list[tuple[int, int]] = []
    model.train()
    evaluate(model, _videos(folder), progress=lambda done, total: calls.append((done, total)))
    assert model.training
    model.eval()
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_bad_requests_are_refused(model, folder):
    with pytest.raises(ValueError, match="latents='mode'"):
        evaluate(model, _videos(folder), latents="mode")
    with pytest.raises(ValueError, match=r"^tail='loop'"):
        evaluate(model, _videos(folder), tail="loop")
    with pytest.raises(ValueError, match="no videos"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="more than once"):
        evaluate(model, [folder / "a.mp4", folder / "a.mp4"])


def test_the_mean_counts_clips():
    one, two = (Scores(1, psnr, 0.5, 1, 2, 3, 4, 5, 6, lpips=lpips) for psnr, lpips in ((20.0, None), (30.0, 0.2)))
    assert mean_scores([one, two, two]) == Scores(3, pytest.approx(80 / 3), 0.5, 1, 2, 3, 4, 5, 6)
    assert mean_scores([two]).lpips == 0.2 and "lpips" not in one.metrics()


def test_every_clip_is_in_the_file(model, folder):
    result = evaluate(model, _videos(folder), controls=("dct", "resize"))
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert [(clip["video"], clip["first_frame"]) for clip in record["clips"]] == [
        ("a.mp4", 0),
        ("a.mp4", 4),
        ("a.mp4", 8),
        ("b.mp4", 0),
    ]
    first = next(evaluation_clips(folder / "a.mp4", *SIZE))
    assert record["clips"][0]["sha256"] == hashlib.sha256(first.numpy().tobytes()).hexdigest()
    assert record["overall"]["psnr"] == pytest.approx(np.mean([clip["psnr"] for clip in record["clips"]]), abs=1e-6)
    interval = record["intervals"]["psnr"]
    assert interval["low"] <= interval["mean"] == record["overall"]["psnr"] <= interval["high"]
    with torch.no_grad():
        posterior = model.posterior(first[None])
    assert record["clips"][0]["kl_structure"] == pytest.approx(posterior.kl_parts()["structure"].item() / math.log(2), rel=1e-5)
    boxes = default_boxes(model.config.latent_values, SIZE)
    expected = clip_psnr(dct_control(unit_range(first), boxes) * 2 - 1, first)
    assert record["clips"][0]["psnr_dct"] == pytest.approx(expected, abs=1e-5)
    assert record["overall"]["psnr_resize"] > 10
    assert record["missing"]["ms_ssim"] == "needs frames with sides above 160 pixels"
    assert "vgg16-397923af.pth" in record["missing"]["lpips"] and "i3d_torchscript.pt" in record["missing"]["fvd"]


def test_controls_that_have_learned(model, folder, tmp_path):
    single = VidTwin(ablations(model.config)["a"])
    single.save_pretrained(tmp_path / "grid")
    assert single.config.latent_values <= model.config.latent_values
    training = [_write(tmp_path / f"{seed}.mp4", frames=5, seed=seed) for seed in range(10, 18)]
    pca = fit_patch_pca(training_clips(training, model.config), model.config.latent_values)
    networks = Networks(pca=pca, grid=str(tmp_path / "grid"))
    controls = ("dct", "resize", "pca", "grid")
    one, two = (evaluate(model, _videos(folder), controls=controls, networks=networks, workers=workers) for workers in (1, 2))
    assert one.clips == two.clips and one.protocol == two.protocol
    facts = one.protocol["controls"]
    assert list(facts) == list(controls)
    assert all(0 < fact["values"] <= model.config.latent_values for fact in facts.values())
    first = next(evaluation_clips(folder / "a.mp4", *SIZE))
    with torch.no_grad():
        expected = clip_psnr(single.eval()(first[None])[0][0], first)
    assert one.clips[0].scores.psnr_grid == pytest.approx(expected, abs=1e-4)
    assert one.clips[0].scores.psnr_pca == pytest.approx(clip_psnr(pca.control(unit_range(first)) * 2 - 1, first))
    for control, message in (("pca", "give pca, which fit_patch_pca makes"), ("grid", "give grid, the weights")):
        with pytest.raises(ValueError, match=message):
            evaluate(model, _videos(folder), controls=(control,))
    large = dataclasses.replace(model.config, structure_channels=8)
    VidTwin(large).save_pretrained(tmp_path / "large")
    with pytest.raises(
        ValueError, match=rf"large': {large.latent_values} values for clips of .*at most {model.config.latent_values}"
    ):
        evaluate(model, _videos(folder), controls=("grid",), networks=Networks(grid=str(tmp_path / "large")))


def test_rate_and_distortion(model, folder, monkeypatch):
    """Of the first clip of each video, in the same bytes as a coder of its own makes."""
    monkeypatch.setattr("vidtwin.evaluation.reconstruct.STEPS", (1 / 256, 1 / 16, 1.0))  # untrained sigmas are near 1
    one, two = (evaluate(model, _videos(folder), first=1, codecs=("x264",), workers=workers) for workers in (1, 2))
    assert one.rate_distortion == two.rate_distortion and one.overall.clips == 2 and one.protocol["first_clips"] == 1
    curves = one.to_dict()["rate_distortion"]
    assert list(curves) == ["latents", "x264"] and [point["quality"] for point in curves["x264"]] == [24, 28, 32, 36, 40, 44]
    bits = [point.bits for point in one.rate_distortion["latents"]]
    assert bits == sorted(bits, reverse=True) and bits[0] > bits[-1]
    assert one.rate_distortion["latents"][0].psnr == pytest.approx(one.overall.psnr, abs=0.5)
    moments = Moments()
    with torch.no_grad():
        posteriors = [model.posterior(next(evaluation_clips(path, *SIZE))[None]) for path in _videos(folder)]
    for posterior in posteriors:
        moments.add(posterior.mean, posterior.logvar)
    coder = LatentCoder.fit(moments, 1 / 256)
    expected = np.mean([8 * sum(map(len, coder.encode(posterior.mean))) for posterior in posteriors])
    assert bits[0] == expected
    with pytest.raises(ValueError, match="codec 'mpeg2' is unknown"):
        evaluate(model, _videos(folder), codecs=("mpeg2",))
    with pytest.raises(ValueError, match="first=0: give at least 1 clip of each video"):
        evaluate(model, _videos(folder), first=0)


def test_runs_and_processes_give_the_same_file(model, folder):
    records = [evaluate(model, _videos(folder), latents="sample", workers=workers).to_dict() for workers in (1, 1, 2)]
    assert [record.pop("run")["processes"] for record in records] == [1, 1, 2]
    assert records[0] == records[1] == records[2]
    with pytest.raises(ValueError, match="workers=0: give at least 1"):
        evaluate(model, _videos(folder), workers=0)


def test_processes_note_what_cannot_be_read(model, folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    one, two = (evaluate(model, [broken, *_videos(folder)], workers=workers) for workers in (1, 2))
    assert one.failures == two.failures and len(one.failures) == 1 and one.overall == two.overall


class _Features(nn.Module):
    """Of the I3D's interface."""

    def forward(self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> torch.Tensor:
        return x.mean(dim=(3, 4)).flatten(1)


def test_metrics_with_networks(tmp_path):
    torch.manual_seed(0)
    config = VidTwinConfig(
        frames=10, height=32, width=32, patch=8, hidden=32, depth=1, heads=2, num_queries=2, query_dim=16,
        query_heads=2, query_layers=1, query_mlp=32, structure_width=16, structure_channels=4, dynamics_channels=4,
    )  # fmt: skip
    torch.jit.script(_Features()).save(tmp_path / "i3d.pt")
    lpips = LPIPS((4, 4, 4, 4, 4))
    save_file(lpips.state_dict(), tmp_path / "lpips.safetensors")
    networks = Networks(
        lpips=str(tmp_path / "lpips.safetensors"),
        i3d=str(tmp_path / "i3d.pt"),
        i3d_sha256=hashlib.sha256((tmp_path / "i3d.pt").read_bytes()).hexdigest(),
    )
    videos, model = [_write(tmp_path / "a.mp4", frames=60, seed=1)], VidTwin(config).eval()
    one, two = (evaluate(model, videos, networks=networks, workers=workers) for workers in (1, 2))
    assert one.distances == two.distances and one.distances["clips"] == 6
    assert one.distances["fvd"] > one.distances["fvd_of_real_halves"] > 0
    clips = torch.stack(list(evaluation_clips(videos[0], 10, 32, 32)))
    with torch.no_grad():
        decoded = model.decode(model.encode(clips))
        features = [((x.clamp(-1, 1) + 1) * 127.5).mean(dim=(3, 4)).flatten(1).double().numpy() for x in (clips, decoded)]
        frames = [x.clamp(-1, 1).transpose(1, 2).flatten(0, 1) for x in (clips, decoded)]
        expected = lpips(*frames).mean().item()
    assert one.distances["fvd"] == pytest.approx(frechet_distance(*features), rel=1e-3)
    assert one.overall.lpips == pytest.approx(expected, rel=1e-4)
    assert set(one.missing) == {"ms_ssim"}
    assert set(evaluate(model, videos, networks=networks, tail="drop", sample_fps=3).missing) == {
        "ms_ssim",
        "fvd",
        "kvd",
    }  # 2 clips
    with pytest.raises(ValueError, match="so it was not run"):
        evaluate(model, videos, networks=Networks(i3d=networks.i3d))


def test_clips_are_the_first_ones_or_spread_over_the_video(clip):
    few, spread = (first_clips([clip], SMALL, 2, spread)[0] for spread in (False, True))  # 50 frames: 3 whole clips
    (third,) = first_clips([clip], SMALL, 3)[0][2:]
    assert len(few) == len(spread) == 2
    assert torch.equal(few[0], spread[0]) and torch.equal(spread[1], third) and not torch.equal(few[1], third)
    assert len(first_clips([clip], SMALL, 9, spread=True)[0]) == 3

"""The reconstruction protocol, end to end with a tiny untrained model on generated videos, and the benchmark script."""

import dataclasses
import importlib.util
import json
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vidtwin import Latents, VidTwin, VidTwinConfig
from vidtwin.evaluation.metrics import clip_psnr, unit_range
from vidtwin.evaluation.reconstruct import evaluate, evaluation_clips
from vidtwin.evaluation.results import Scores, list_hash, mean_scores
from vidtwin.video.clips import Geometry, to_clip
from vidtwin.video.encoding import Encoding
from vidtwin.video.read import read_video
from vidtwin.video.write import VideoWriter

QUALITY = Path(__file__).parents[2] / "benchmarks" / "quality.py"
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
    assert len(protocol["weights_sha256"]) == 64
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
    one, two = (Scores(1, psnr, 0.5, 1, 2, 3, 4) for psnr in (20.0, 30.0))
    assert mean_scores([one, two, two]) == Scores(3, pytest.approx(80 / 3), 0.5, 1, 2, 3, 4)


def _quality() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality", QUALITY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_prints_a_table_and_writes_json(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "weights")
    out = tmp_path / "results.json"
    common = [str(folder), "--weights", str(tmp_path / "weights"), "--device", "cpu", "--out", str(out)]
    code = _quality().main([*common, "--train-folder", str(folder)])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert code == 1  # untrained: below the bars
    assert printed.count("FAIL") == sum(not bar["met"] for bar in record["bars"]) >= 1
    assert all(name in printed for name in ("a.mp4", "b.mp4", "mean over clips"))
    assert record["controls"]["dct"]["values"] <= model.config.latent_values
    assert record["controls"]["psnr"]["overall"]["dct"] > record["overall"]["psnr"]
    assert record["protocol"]["clips"] == 4


def test_the_benchmark_has_built_in_boxes_and_names_bad_arguments(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "weights")
    common = [str(folder), "--weights", str(tmp_path / "weights"), "--device", "cpu", "--tail", "drop"]
    quality = _quality()
    quality.main([*common, "--out", str(tmp_path / "results.json")])
    assert json.loads((tmp_path / "results.json").read_text())["controls"]["dct"]["chosen"] == "built in"
    capsys.readouterr()
    assert quality.main([*common, "--out", str(tmp_path / "nowhere" / "results.json")]) == 1
    assert "nowhere" in capsys.readouterr().err
    for arguments in ([str(tmp_path / "weights"), "--out", "x.json"], [*common, "--out", "x", "--train-videos", "0"]):
        with pytest.raises(SystemExit) as exit_:
            quality.main(arguments)
        assert exit_.value.code == 2

"""Editing motion: what each edit does to latents and to the feature of Structure, and to whole videos."""

from fractions import Fraction
from itertools import pairwise

import pytest
import torch

import vidtwin
from tests.inference.test_whole_videos import stream_of
from vidtwin.cli import main
from vidtwin.inference.edit import move, slow, time_matrix
from vidtwin.inference.reconstruct import swap
from vidtwin.video.read.reader import iter_frames, probe, read_video

SEQUENCE = torch.arange(16.0)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def test_between_frames_time_is_linear_and_beyond_them_between_line_and_parabola():
    assert time_matrix(torch.tensor([0.5]), 3)[0].tolist() == [0.5, 0.5, 0]
    assert time_matrix(torch.tensor([3.0]), 3)[0].tolist() == pytest.approx([0.25, -1.5, 2.25], abs=1e-5)
    matrix = time_matrix(torch.tensor([-2.0, 4.5, 17.0]), 16)
    assert (matrix @ SEQUENCE).tolist() == pytest.approx([-2, 4.5, 17], abs=1e-4)
    assert matrix.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    for frames in (1, 2, 3, 16):
        torch.testing.assert_close(time_matrix(torch.arange(frames), frames), torch.eye(frames), rtol=0, atol=0)
    assert time_matrix(torch.tensor([-1.0, 0.0, 2.0]), 1).tolist() == [[1], [1], [1]]


def test_motion_1_is_the_stream_itself(model, write):
    stream = stream_of(model, write(20))
    assert move(stream, 1) is stream and slow(stream, 1) is stream


def test_frozen_clips_have_constant_dynamics_and_structure_at_their_middle(model, write):
    source = write(20)
    plain, frozen = (list(s.windows) for s in (stream_of(model, source), move(stream_of(model, source), 0)))
    for before, after in zip(plain, frozen, strict=True):
        assert torch.equal(after.latents.structure, before.latents.structure)
        n = len(before.ticks)
        for z, held in zip(before.latents.tensors[1:], after.latents.tensors[1:], strict=True):
            middle = (z[:, :, (n - 1) // 2] + z[:, :, n // 2]) / 2
            torch.testing.assert_close(held, middle[:, :, None].expand_as(held))
        u = model.u_S(after.latents, after.times[None])
        torch.testing.assert_close(u, u[:, :, :1].expand_as(u))
        assert after.ticks == before.ticks and after.cuts == before.cuts


def test_half_the_motion_is_the_middle_half_of_the_clip(model, write):
    source = write(16)
    (before,), (after,) = stream_of(model, source).windows, move(stream_of(model, source), 0.5, "dynamics").windows
    z, held = before.latents.dynamics_x, after.latents.dynamics_x
    torch.testing.assert_close(held[:, :, 0], z[:, :, 3] * 0.25 + z[:, :, 4] * 0.75)  # 7.5 - 7.5 / 2 = 3.75
    assert after.times is None  # Structure stays


def test_shots_are_edited_each_for_itself(model, write):
    (window,) = move(stream_of(model, write(16, cuts=(6,))), 0.5).windows
    assert window.cuts[6]
    assert window.times[:6, 6:].abs().max() == 0 == window.times[6:, :6].abs().max()
    middle = time_matrix(torch.tensor([0.25 * 5]), 6)[0]
    torch.testing.assert_close(window.times[0, :6], middle)


def test_slow_makes_more_windows_of_the_same_structure(model, write):
    source = write(20, ticks=[i * i + 40 * i for i in range(20)], clock=Fraction(1, 1000))
    before, after = list(stream_of(model, source).windows), list(slow(stream_of(model, source), 3).windows)
    assert [window.index for window in after] == [0, 1, 2, 3] and [window.last for window in after] == [False] * 3 + [True]
    assert [len(window.ticks) for window in after] == [16, 16, 16, 12]
    ticks = [tick for window in after for tick in window.ticks]
    assert all(a < b for a, b in pairwise(ticks))
    old = [tick for window in before for tick in window.ticks]
    assert ticks[::3] == [3 * (tick - old[0]) + old[0] for tick in old]
    assert all(torch.equal(window.latents.structure, before[0].latents.structure) for window in after[:3])
    z = before[0].latents.dynamics_y
    torch.testing.assert_close(after[0].latents.dynamics_y[:, :, 1], z[:, :, 0])  # the second of three is the frame itself
    torch.testing.assert_close(after[2].latents.dynamics_y[:, :, -2], z[:, :, 15])


def test_edits_of_edits_are_edits(model, write):
    (twice,) = move(move(stream_of(model, write(16)), 0.5), 2.0).windows
    expected = torch.eye(16)
    inner = slice(4, 12)  # what stays within the clip both times
    torch.testing.assert_close(twice.times[inner], expected[inner], rtol=0, atol=0.6)
    assert (twice.times @ SEQUENCE).tolist() == pytest.approx(SEQUENCE.tolist(), abs=1e-3)


def test_what_cannot_be_is_refused_in_one_line(model, write):
    stream = stream_of(model, write(16), overlap=4)
    for edit, said in (
        (lambda: move(stream, -1), "motion=-1: give 0"),
        (lambda: move(stream, float("nan")), "motion=nan: give 0"),
        (lambda: move(stream, 2, "structure"), "part='structure': choose 'both' or 'dynamics'"),
        (lambda: slow(stream, 2), "overlap=4: windows that are slowed cannot share frames"),
        (lambda: slow(stream, 0), "slow=0: give a whole number from 1 to 16"),
    ):
        with pytest.raises(ValueError, match=f"^{said}") as error:
            edit()
        assert "\n" not in str(error.value)


def test_videos_are_edited(model, clip, tmp_path):
    source = tmp_path / "in.mp4"
    vidtwin.save_video(read_video(clip, 0, 20), source)
    slowed, tiled = {"slow": 2, "motion": 2.0}, {"motion": 0, "policy": "tile"}
    edits = {"plain": {"motion": 1.0}, "frozen": {"motion": 0}, "slow": slowed, "tiles": tiled}
    for name, options in edits.items():
        assert vidtwin.edit(source, tmp_path / f"{name}.mp4", weights=model, **options) == []
    vidtwin.reconstruct(source, tmp_path / "reconstructed.mp4", weights=model)
    plain, frozen, reconstructed = (read_video(tmp_path / f"{name}.mp4").frames for name in ("plain", "frozen", "reconstructed"))
    assert (plain == reconstructed).all()
    assert (frozen[0] == frozen[1]).mean() > 0.9 and len(frozen) == 20
    assert [f.time for f in iter_frames(tmp_path / "slow.mp4")][::2] == [2 * f.time for f in iter_frames(source)]
    assert read_video(tmp_path / "tiles.mp4").frames.shape == (20, 180, 320, 3)


def test_inputs_are_not_written_over(model, write):
    a, b = write(4, name="a.mp4"), write(4, name="b.mp4")
    for work in (
        lambda: vidtwin.edit(a, a, slow=2, weights=model),
        lambda: vidtwin.edit(a, b, motion_from=b, weights=model),
        lambda: vidtwin.swap(a, b, b, weights=model),
        lambda: vidtwin.interpolate(a, b, b, weights=model),
    ):
        with pytest.raises(ValueError, match=r"\.mp4: is an input; choose another output"):
            work()


def test_dynamics_of_another_video_at_motion_1_is_a_swap(model, clip, write, tmp_path):
    other = write(20)
    vidtwin.swap(clip, other, tmp_path / "swap.mp4", weights=model)
    vidtwin.edit(clip, tmp_path / "edit.mp4", motion_from=other, weights=model)
    assert (tmp_path / "edit.mp4").read_bytes() == (tmp_path / "swap.mp4").read_bytes()
    mixed = swap(stream_of(model, clip), move(stream_of(model, other), 0, "dynamics"))
    window = next(mixed.windows)
    assert window.times is None and window.latents.dynamics_x.std(dim=2).max() < 1e-5


def test_structure_is_edited_where_it_is_decoded(model, write):
    (window,) = move(stream_of(model, write(16)), 0).windows
    times = window.times[None]
    clip = model.decode(window.latents, times=times)
    assert torch.equal(clip, model.decoder(model.u_S(window.latents, times) + model.u_D(window.latents)))
    assert not torch.allclose(clip, model.decode(window.latents))
    assert torch.equal(model.decode(window.latents, "dynamics", times), model.decode(window.latents, "dynamics"))


def test_the_command_edits_and_says_what_it_did(clip, weights, tmp_path, capsys):
    def run(*options):
        code = main(["edit", str(clip), "-o", str(tmp_path / "out.mp4"), "--weights", str(weights), *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    code, said = run("--slow", "2", "--freeze")
    assert code == 0 and "frozen, 2 times as long" in said and "the sound is not copied" in said
    assert not probe(tmp_path / "out.mp4").has_audio and len(read_video(tmp_path / "out.mp4").frames) == 100
    assert run("--motion", "0.5")[0] == 0 and probe(tmp_path / "out.mp4").has_audio
    for options, code, words in (
        ((), 2, "say what to change: --motion 1.5"),
        (("--freeze", "--motion", "1"), 2, "give one of the two"),
        (("--motion", "9"), 1, "--motion 9: give 0 (frozen) to 4"),
        (("--slow", "2", "--overlap", "4"), 1, "--overlap 4: windows that are slowed"),
        (("--motion-from", "none.mp4"), 1, "none.mp4"),
        (("--motion", "2", "-o", str(clip)), 2, "is the input"),
    ):
        found, said = run(*options)
        assert found == code and words in said and said.count("\n") == 1, said

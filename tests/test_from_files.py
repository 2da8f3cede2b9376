import numpy as np
import pytest
import torch

import vidtwin
from vidtwin.inference.decode import Output
from vidtwin.video.read.reader import probe


@pytest.fixture
def short(clip, tmp_path):
    """The first 20 frames of a real video, without sound."""
    frames = vidtwin.read_video(clip, 0, 20)
    assert vidtwin.save_video(frames, tmp_path / "short.mp4") == []
    return tmp_path / "short.mp4"


def test_a_video_is_reconstructed_by_the_name_of_weights_or_a_model(clip, model, weights, tmp_path):
    report = vidtwin.reconstruct(str(clip), str(tmp_path / "a.mp4"), weights=weights, stop=20)
    assert report.frames == 20 and probe(tmp_path / "a.mp4").has_audio
    assert vidtwin.reconstruct(clip, tmp_path / "b.mp4", weights=model, stop=20, output=Output()).psnr == report.psnr
    assert not probe(tmp_path / "b.mp4").has_audio
    assert str(vidtwin.load(weights).config) == str(model.config)
    assert "<video" in report._repr_html_() and report.facts()["latents"] in report._repr_html_()


def test_latent_files_are_made_and_decoded(short, model, tmp_path):
    video = vidtwin.encode_video(short, tmp_path / "a.vidtwin", weights=model)
    assert video.frames == 20
    assert "20 frames in 2 windows of structure=(1, 4, 4, 2, 2), " in repr(video) and ", weights 'unnamed' (" in repr(video)
    for latents in (tmp_path / "a.vidtwin", video):
        vidtwin.decode_video(latents, tmp_path / "a.mp4", weights=model)
        assert len(vidtwin.read_video(tmp_path / "a.mp4").frames) == 20
    with pytest.raises(ValueError, match="encoded with weights 'unnamed' .* say where they are by weights="):
        vidtwin.decode_video(tmp_path / "a.vidtwin", tmp_path / "b.mp4")


def test_two_videos_are_swapped_and_interpolated(short, model, tmp_path):
    vidtwin.encode_video(short, tmp_path / "a.vidtwin", weights=model)
    vidtwin.swap(short, tmp_path / "a.vidtwin", tmp_path / "swap.mp4", weights=model)
    vidtwin.interpolate(tmp_path / "a.vidtwin", short, tmp_path / "row.mp4", steps=3, weights=model)
    assert len(vidtwin.read_video(tmp_path / "swap.mp4").frames) == 20
    assert vidtwin.read_video(tmp_path / "row.mp4").frames.shape[2] == 3 * 32


def test_frames_are_written_as_they_are_or_refused(tmp_path):
    frames = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    vidtwin.save_video(frames, tmp_path / "%02d.png", fps=10)
    assert np.array_equal(vidtwin.read_video(tmp_path / "%02d.png").frames, frames.numpy())
    with pytest.raises(ValueError, match="fps=None: say how many"):
        vidtwin.save_video(frames, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="frames of float32 .*: give uint8"):
        vidtwin.save_video(frames / 255, tmp_path / "a.mp4", fps=10)

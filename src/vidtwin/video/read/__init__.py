"""Video files -> frames; `reader` is the whole of it."""

from vidtwin.video.read.reader import frame_count, iter_frames, probe, read_clip, read_video

__all__ = ["frame_count", "iter_frames", "probe", "read_clip", "read_video"]

"""Video files and the model's clips: read (file -> frames), clips (frames <-> clip), write (frames -> file)."""

from vidtwin.video.clips import (
    POLICIES,
    Geometry,
    chunks,
    content,
    frame_interval,
    from_clip,
    pad_tail,
    to_clip,
)
from vidtwin.video.decode import VideoWarning
from vidtwin.video.encoding import Encoding
from vidtwin.video.read import Frame, Video, VideoInfo, frame_count, iter_frames, probe, read_clip, read_video
from vidtwin.video.write import VideoWriter

__all__ = [
    "POLICIES",
    "Encoding",
    "Frame",
    "Geometry",
    "Video",
    "VideoInfo",
    "VideoWarning",
    "VideoWriter",
    "chunks",
    "content",
    "frame_count",
    "frame_interval",
    "from_clip",
    "iter_frames",
    "pad_tail",
    "probe",
    "read_clip",
    "read_video",
    "to_clip",
]

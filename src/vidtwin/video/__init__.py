"""Video files and the model's clips: read (file -> frames), clips (frames <-> clip), write (frames -> file)."""

from vidtwin.frames.clips import (
    POLICIES,
    Geometry,
    chunks,
    content,
    frame_interval,
    from_clip,
    pad_tail,
    to_clip,
)
from vidtwin.video.read.decode import VideoWarning
from vidtwin.video.read.reader import Frame, Video, VideoInfo, frame_count, iter_frames, probe, read_clip, read_video
from vidtwin.video.write.encoding import Encoding
from vidtwin.video.write.writer import VideoWriter

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

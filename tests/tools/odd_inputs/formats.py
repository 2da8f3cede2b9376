"""Rows: codecs and containers; pipes."""

from tests.tools.odd_inputs.judging import Gives, Refuses, Row
from tests.tools.odd_inputs.looks import BITS, X265, copied
from tests.tools.odd_inputs.making import asset, data, video

NOT_IN_MP4 = "left out: .mp4 cannot hold it; write .mkv to keep it"
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}

ROWS = [
    Row("H.264 and AAC, MP4", asset("h264_aac.mp4"), Gives(50, sound=1)),
    Row("HEVC, MP4", video("in.mp4", codec="libx265", options=X265), Gives(8)),
    Row("VP8, WebM", video("in.webm", codec="libvpx"), Gives(8)),
    Row("VP9 and Opus, WebM, to WebM", video("in.webm", codec="libvpx-vp9", sound=["libopus"]), Gives(8, sound=1), out="out.webm"),
    Row("AV1, MP4", video("in.mp4", codec="libsvtav1", options={"preset": "12"}), Gives(8)),
    Row("AV1, MKV", video("in.mkv", codec="libsvtav1", options={"preset": "12"}), Gives(8)),
    Row("MPEG-2 and MP2, MPG", video("in.mpg", codec="mpeg2video", sound=["mp2"]), Gives(8, sound=1)),
    Row("MPEG-4 Part 2, AVI", asset("mpeg4.avi"), Gives(45)),
    Row(
        "MPEG-4 Part 2 with B-frames and MP3, AVI",
        video("in.avi", codec="mpeg4", options={"bf": "2"}, sound=["libmp3lame"]),
        Gives(8, sound=1),
    ),
    Row(
        "Motion JPEG and PCM, AVI",
        video("in.avi", codec="mjpeg", pix_fmt="yuvj420p", sound=["pcm_s16le"]),
        Gives(8, notes=(NOT_IN_MP4,)),
    ),
    Row(
        "Motion JPEG and PCM, AVI, to MKV",
        video("in.avi", codec="mjpeg", pix_fmt="yuvj420p", sound=["pcm_s16le"]),
        Gives(8, sound=1),
        out="out.mkv",
    ),
    Row("H.264 with B-frames, AVI", video("in.avi"), Gives(8)),
    Row("FFV1, MKV", video("in.mkv", codec="ffv1"), Gives(8)),
    Row(
        "ProRes and PCM, MOV",
        video("in.mov", codec="prores_ks", pix_fmt="yuv422p10le", sound=["pcm_s16le"]),
        Gives(8, notes=(BITS,), sound=1),
    ),
    Row("H.264, MKV", video("in.mkv"), Gives(8)),
    Row("H.264, to MOV", video("in.mp4", sound=["aac"]), Gives(8, sound=1), out="out.mov"),
    Row("H.264 and AAC, TS", video("in.ts", frames=25, sound=["aac"]), Gives(25, sound=1)),
    Row("H.264 and AAC, FLV", video("in.flv", sound=["aac"]), Gives(8, sound=1)),
    Row("Sorenson (FLV1), FLV", video("in.flv", codec="flv"), Gives(8)),
    Row("Theora and Vorbis, Ogg (.ogv)", asset("theora_vorbis.ogv"), Gives(8, sound=1)),
    Row("VP8, Ogg (.ogv)", video("in.ogv", codec="libvpx"), Gives(8)),
    Row("WMV", video("in.wmv", codec="wmv2"), Gives(8)),
    Row("fragmented MP4", asset("fragmented.mp4"), Gives(50, sound=1)),
    Row("fragmented MP4 without sound", video("in.mp4", container_options=FRAGMENTED), Gives(8)),
    Row("WebM named .mp4", asset("really_webm.mp4"), Gives(45)),
    Row("MP4 named .avi", copied("vfr_jitter.mp4", "in.avi"), Gives(36, steady=False)),
    Row("a video by a pipe, and to a pipe", video("in.mp4", sound=["aac"]), Gives(8, sound=1), out="-", piped=True),
    Row("nothing by the pipe", data("empty", b""), Refuses("standard input is empty"), piped=True),
]

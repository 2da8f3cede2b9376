"""VidTwin: a video autoencoder with a Structure and a Dynamics latent (arXiv 2412.17726).

The names below are imported when they are first used: `import vidtwin` alone brings neither torch nor the video libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtwin.from_files import decode_video, edit, encode_video, interpolate, load, reconstruct, save_video, swap
    from vidtwin.generation.pipeline import VidTwinPipeline
    from vidtwin.latent_sets.dataset import IterableLatents, LatentDataset
    from vidtwin.model.config import VidTwinConfig, preset
    from vidtwin.model.latents import Latents, NormalizedLatents, Posterior
    from vidtwin.model.loading import export_released, load_released
    from vidtwin.model.vidtwin import VidTwin
    from vidtwin.motion.extractor import MotionExtractor
    from vidtwin.version import __version__
    from vidtwin.video.read.reader import read_video

__all__ = [
    "IterableLatents",
    "LatentDataset",
    "Latents",
    "MotionExtractor",
    "NormalizedLatents",
    "Posterior",
    "VidTwin",
    "VidTwinConfig",
    "VidTwinPipeline",
    "__version__",
    "decode_video",
    "edit",
    "encode_video",
    "export_released",
    "interpolate",
    "load",
    "load_released",
    "preset",
    "read_video",
    "reconstruct",
    "save_video",
    "swap",
]

_HOMES = {
    "IterableLatents": "vidtwin.latent_sets.dataset",
    "LatentDataset": "vidtwin.latent_sets.dataset",
    "Latents": "vidtwin.model.latents",
    "MotionExtractor": "vidtwin.motion.extractor",
    "NormalizedLatents": "vidtwin.model.latents",
    "Posterior": "vidtwin.model.latents",
    "VidTwin": "vidtwin.model.vidtwin",
    "VidTwinConfig": "vidtwin.model.config",
    "VidTwinPipeline": "vidtwin.generation.pipeline",
    "__version__": "vidtwin.version",
    "decode_video": "vidtwin.from_files",
    "edit": "vidtwin.from_files",
    "encode_video": "vidtwin.from_files",
    "export_released": "vidtwin.model.loading",
    "interpolate": "vidtwin.from_files",
    "load": "vidtwin.from_files",
    "load_released": "vidtwin.model.loading",
    "preset": "vidtwin.model.config",
    "read_video": "vidtwin.video.read.reader",
    "reconstruct": "vidtwin.from_files",
    "save_video": "vidtwin.from_files",
    "swap": "vidtwin.from_files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

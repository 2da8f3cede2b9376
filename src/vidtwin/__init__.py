"""VidTwin: a video autoencoder with a Structure and a Dynamics latent (arXiv 2412.17726)."""

from typing import TYPE_CHECKING, Any

from vidtwin.model.config import VidTwinConfig, preset
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.released import export_released, load_released
from vidtwin.version import __version__

if TYPE_CHECKING:
    from vidtwin.motion.extractor import MotionExtractor

__all__ = [
    "Latents",
    "MotionExtractor",
    "Posterior",
    "VidTwin",
    "VidTwinConfig",
    "__version__",
    "export_released",
    "load_released",
    "preset",
]


def __getattr__(name: str) -> Any:
    """MotionExtractor on first use: it brings the video libraries, which importing vidtwin does not."""
    if name == "MotionExtractor":
        from vidtwin.motion.extractor import MotionExtractor

        return MotionExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""VidTwin: a video autoencoder with a Structure and a Dynamics latent (arXiv 2412.17726)."""

from vidtwin.model.config import VidTwinConfig, preset
from vidtwin.model.latents import Latents, Posterior
from vidtwin.model.vidtwin import VidTwin
from vidtwin.released import export_released, load_released
from vidtwin.version import __version__

__all__ = [
    "Latents",
    "Posterior",
    "VidTwin",
    "VidTwinConfig",
    "__version__",
    "export_released",
    "load_released",
    "preset",
]

"""High dynamic range and wide colours -> SDR: PQ and HLG (BT.2100) and BT.2020 primaries become BT.709 of 8 bits.

The light that a display would show is computed in nits, its colours are turned into those of BT.709, and it is compressed
into what SDR can show:

- PQ: the EOTF of SMPTE ST 2084. HLG: the inverse OETF and the OOTF of BT.2100 for a display of 1000 nits, gamma 1.2.
- BT.2020 -> BT.709: the matrix of BT.2087, to six digits; what BT.709 cannot show (below 0) is clipped.
- The curve is L (1 + L / P^2) / (1 + L), equation 4 of Reinhard et al., "Photographic Tone Reproduction for Digital Images"
  (2002), with L in units of 203 nits, the reference white of BT.2408, and P the peak of 1000 nits. It is applied to the
  largest of R, G and B; the other two follow in proportion, so that hues stay. So a grey card (26 nits) comes to level 103,
  reference white to 194, 1000 nits and above to 255: within 8 levels of what HLG shows on the SDR displays that it is made
  to be compatible with.
- Written for the display that SDR assumes, of gamma 2.4 (the inverse of BT.1886 with a black of 0).

Video of BT.2020 primaries that is SDR takes the same path without the curve. What a file says about the display it was
graded on is not used, so a picture depends on nothing but its pixels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vidtwin.video.pyav import color_tags

PQ, HLG, SDR = "PQ", "HLG", "SDR"
TRANSFERS = {16: PQ, 18: HLG}  # by H.273's numbers
BT709, BT2020 = 1, 9  # H.273's numbers of primaries
WHITE = 203.0  # nits of reference white (BT.2408): of a sheet of paper, not of highlights
PEAK = 1000.0  # nits that become the white of the SDR picture; what is brighter is not told apart
SDR_GAMMA = 2.4

BT2020_LUMA, BT709_LUMA = (0.2627, 0.6780, 0.0593), (0.2126, 0.7152, 0.0722)
BT2020_TO_BT709 = ((1.660491, -0.587641, -0.072850), (-0.124550, 1.132900, -0.008349), (-0.018151, -0.100579, 1.118730))

LEVELS = 4096  # entries of the tables that are looked up by light
BAND = 2**20  # pixels that are converted at once: the floats of a large picture would take many times its memory


@dataclass(frozen=True)
class Light:
    """What the numbers of a picture mean: `transfer` PQ, HLG or SDR; `wide` if their primaries are those of BT.2020."""

    transfer: str
    wide: bool

    @classmethod
    def of(cls, frame: VideoFrame, stream: VideoStream) -> "Light | None":
        """As a decoded frame of a stream is tagged; None: no conversion. Untagged primaries of PQ and HLG are BT.2020."""
        number, primaries = color_tags(frame, stream)
        transfer = TRANSFERS.get(number, SDR)
        if transfer == SDR:
            return cls(SDR, True) if primaries == BT2020 else None
        return cls(transfer, primaries != BT709)

    def __str__(self) -> str:
        return f"{self.transfer}, BT.2020" if self.wide else self.transfer


def to_sdr(picture: np.ndarray, light: Light) -> np.ndarray:
    """Picture uint16 (H, W, 3), R'G'B' of full range -> uint8 (H, W, 3), BT.709 as an SDR display shows it."""
    tables = _tables(light.transfer)
    sdr = np.empty(picture.shape, np.uint8)
    rows = max(1, BAND // picture.shape[1])
    for top in range(0, len(picture), rows):
        band = picture[top : top + rows]
        sdr[top : top + rows] = _band(band.reshape(-1, 3), light, tables).reshape(band.shape)
    return sdr


def pq_eotf(signal: np.ndarray) -> np.ndarray:
    """PQ signal in [0, 1] -> nits, 0 to 10000 (SMPTE ST 2084, BT.2100 table 4)."""
    root = signal ** (32 / 2523)
    return 10000 * (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)


def hlg_scene(signal: np.ndarray) -> np.ndarray:
    """HLG signal in [0, 1] -> light of the scene in [0, 1]: the inverse OETF of BT.2100 table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def compress(nits: np.ndarray) -> np.ndarray:
    """Nits -> light of the SDR picture, 1 is its white: Reinhard's curve from PEAK."""
    light, peak = nits / WHITE, PEAK / WHITE
    return np.minimum(light * (1 + light / peak**2) / (1 + light), 1)


@dataclass(frozen=True)
class _Tables:
    """linear: signal -> light, 1 is PEAK (SDR: WHITE); curve: root of light -> 1 is WHITE; sdr: root of light -> level."""

    linear: torch.Tensor
    curve: torch.Tensor | None
    sdr: torch.Tensor


@lru_cache(maxsize=3)
def _tables(transfer: str) -> _Tables:
    signal, steps = np.linspace(0, 1, 65536), np.linspace(0, 1, LEVELS)
    curve: np.ndarray | None = None
    if transfer == SDR:
        linear = signal**SDR_GAMMA
    else:
        linear = hlg_scene(signal) if transfer == HLG else pq_eotf(signal) / PEAK
        curve = compress(PEAK * steps**2)
    sdr = (255 * (steps**2) ** (1 / SDR_GAMMA)).round().astype(np.uint8)
    floats = [None if table is None else torch.from_numpy(table.astype(np.float32)) for table in (linear, curve)]
    assert floats[0] is not None
    return _Tables(floats[0], floats[1], torch.from_numpy(sdr))


def _band(pixels: np.ndarray, light: Light, tables: _Tables) -> np.ndarray:
    """(N, 3) uint16 -> (N, 3) uint8. NumPy multiplies: matrix products of PyTorch depend on its settings of precision."""
    linear = torch.index_select(tables.linear, 0, torch.from_numpy(pixels.astype(np.int32)).view(-1)).view(-1, 3)
    if light.transfer == HLG:
        luminance = linear.numpy() @ np.array(BT2020_LUMA if light.wide else BT709_LUMA, np.float32)
        linear *= torch.from_numpy(luminance).clamp_(min=1e-9).pow_(0.2)[:, None]
    if light.wide:
        matrix = np.array(BT2020_TO_BT709, np.float32)
        linear = torch.from_numpy(linear.numpy() @ (matrix / matrix.sum(1, keepdims=True)).T)  # grey stays grey
    linear.clamp_(min=0)
    if tables.curve is not None:
        largest = linear.amax(1, keepdim=True).clamp_(min=1e-9)
        linear *= _look_up(tables.curve, largest.sqrt()).div_(largest)
    return _look_up(tables.sdr, linear.clamp_(max=1).sqrt_()).numpy()


def _look_up(table: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1], above counts as 1; they are used up -> the table's nearest entries, same shape."""
    positions = values.mul_(LEVELS - 1).add_(0.5).to(torch.int32).clamp_(max=LEVELS - 1)
    return torch.index_select(table, 0, positions.view(-1)).view(values.shape)

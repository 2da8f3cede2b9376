"""LPIPS with VGG16, v0.1 (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", Eq. 1).

N frames; H, W height and width in pixels; c_l channels of stage l. Names of parameters are those of the released checkpoint
under `loss.perceptual_loss.`; modules of the network are numbered as in torchvision's `vgg16().features`.
"""

import hashlib
from collections import OrderedDict
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtwin.files import atomic_output
from vidtwin.model.checkpoint import load_strictly, read_state_dict
from vidtwin.model.hub import find_weights, on_hub

WIDTHS = (64, 128, 256, 512, 512)  # c_l of VGG16
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of each stage
RELEASED = "loss.perceptual_loss."
BACKBONE, HEADS = "vgg16-397923af.pth", "vgg.pth"
DOWNLOADS = {  # file: address, kind of checksum, its first digits
    BACKBONE: ("https://download.pytorch.org/models/vgg16-397923af.pth", "sha256", "397923af"),
    HEADS: (
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/vgg.pth",
        "md5",
        "d507d7349b931f0638a25a48a722f98a",
    ),
}
REMEDY = (
    f"give a folder with {BACKBONE} and {HEADS}, or a released checkpoint with {RELEASED}*; "
    "perceptual: ms-ssim or none trains without it"
)


class ScalingLayer(nn.Module):
    """Colours in [-1, 1] to the statistics that VGG16 was trained with: (N, 3, H, W) -> the same."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class VGG16Features(nn.Module):
    """(N, 3, H, W) -> relu1_2, relu2_2, relu3_3, relu4_3, relu5_3: (N, c_l, H / 2^l, W / 2^l), l = 0..4."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        number, c_in = 0, 3
        for stage, (convolutions, c) in enumerate(zip(CONVOLUTIONS, widths, strict=True), 1):
            layers: list[nn.Module] = [] if stage == 1 else [nn.MaxPool2d(2)]
            for _ in range(convolutions):
                layers += [nn.Conv2d(c_in, c, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = c
            numbered = OrderedDict((str(i), layer) for i, layer in enumerate(layers, number))
            self.add_module(f"slice{stage}", nn.Sequential(numbered))
            number += len(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.children():
            x = stage(x)
            features.append(x)
        return features


class Head(nn.Module):
    """Weighs the channels of a stage: (N, c, h, w) -> (N, 1, h, w). Untrained it adds them up."""

    def __init__(self, c: int) -> None:
        super().__init__()
        # The released heads are `model.1`, after a dropout that belongs to the training of LPIPS itself.
        weigh = nn.Conv2d(c, 1, 1, bias=False)
        nn.init.ones_(weigh.weight)
        self.model = nn.Sequential(nn.Identity(), weigh)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LPIPS(nn.Module):
    """Learned perceptual distance of frames: the weighted squared difference of unit-normalised VGG16 features.

    Frozen. `widths` are the c_l of the five stages: other than VGG16's they make a small stand-in of the same layout.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.scaling_layer = ScalingLayer()
        self.net = VGG16Features(widths)
        self.lin0, self.lin1, self.lin2, self.lin3, self.lin4 = (Head(c) for c in widths)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in eval mode: in the released training a `model.train()` reached LPIPS and left its dropout on for good."""
        return super().train(False)

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Distances (N,) of (N, 3, H, W) in [-1, 1], sides of at least 16; the gradient flows to x_hat alone."""
        assert x.shape == x_hat.shape, f"{tuple(x.shape)} and {tuple(x_hat.shape)}"
        with torch.no_grad():
            targets = self.net(self.scaling_layer(x))
        features = self.net(self.scaling_layer(x_hat))
        heads = (self.lin0, self.lin1, self.lin2, self.lin3, self.lin4)
        stages = zip(heads, targets, features, strict=True)
        distances = [head((_unit(target) - _unit(feature)).square()).mean((1, 2, 3)) for head, target, feature in stages]
        return torch.stack(distances).sum(0)


def load_lpips(source: str | Path | None = None) -> LPIPS:
    """LPIPS in float32 on the CPU, from a folder, a file, or downloads (553 MB, once, into the cache folder of torch.hub).

    A folder holds torchvision's vgg16-397923af.pth and the v0.1 heads vgg.pth. A file (.safetensors, else torch's) is a released
    checkpoint, also by its name on the hub ("released"), whose `loss.perceptual_loss.*` are taken, or the state_dict of an LPIPS.
    Names and shapes are checked strictly, the stage widths follow from the shapes; checksums are checked of downloads.

    Raises:
        FileNotFoundError: no such file or folder, a folder without one of the two files, or no network for the download.
        ValueError: tensors of something else, a damaged file, a pickle with more than tensors and plain data (nothing of it has
            run), or a download with another checksum. OSError: the cache folder cannot be written.
    """
    source = _download() if source is None else source
    path = find_weights(source) if on_hub(source) else Path(source)
    if path.is_dir():
        tensors = _read_folder(path)
    else:
        tensors = _read_state(path)
        if any(name.startswith(RELEASED) for name in tensors):
            tensors = {name.removeprefix(RELEASED): t for name, t in tensors.items() if name.startswith(RELEASED)}
    first = [f"net.slice{stage}.{number}.bias" for stage, number in enumerate((0, 5, 10, 17, 24), 1)]
    if not any(name in tensors for name in first):
        raise ValueError(f"{path}: holds no LPIPS; {REMEDY}")
    widths = tuple(tensors[name].numel() if name in tensors else c for name, c in zip(first, WIDTHS, strict=True))
    model = LPIPS(widths)
    load_strictly(model, tensors, str(path))
    return model


def _unit(feature: Tensor) -> Tensor:
    """Every position's channels scaled to length 1, in float32 at least: 1e-10 is 0 in float16."""
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
    return feature / (torch.linalg.vector_norm(feature, dim=1, keepdim=True) + 1e-10)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """LPIPS's state_dict from torchvision's VGG16 and the heads; names that belong to neither are kept as they are."""
    missing = [name for name in (BACKBONE, HEADS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {' and no '.join(missing)} in it; {REMEDY}")
    layout = VGG16Features((1,) * 5).state_dict()
    ours = {f"features.{name.split('.', 1)[1]}": f"net.{name}" for name in layout}  # features.5.bias: net.slice2.5.bias
    backbone = {name: t for name, t in _read_state(folder / BACKBONE).items() if not name.startswith("classifier.")}
    scaling = {f"scaling_layer.{name}": t for name, t in ScalingLayer().state_dict().items()}
    return scaling | {ours.get(name, name): t for name, t in backbone.items()} | _read_state(folder / HEADS)


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, alone in it or under `state_dict`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; {REMEDY}")
    return read_state_dict(path, REMEDY)


def _download() -> Path:
    """The cache folder with both files; a file that is there already is not fetched again."""
    folder = Path(torch.hub.get_dir()) / "checkpoints" / "vidtwin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (url, kind, checksum) in DOWNLOADS.items():
        if (folder / name).is_file():
            continue
        with atomic_output(folder / name) as partial:
            try:
                torch.hub.download_url_to_file(url, str(partial))
            except (OSError, HTTPException) as error:
                raise FileNotFoundError(
                    f"LPIPS: {name} is missing, and could not be downloaded from {url} ({error}); {REMEDY}"
                ) from error
            found = _digest(partial, kind)
            if not found.startswith(checksum):
                raise ValueError(f"LPIPS: {name} is missing: {url} gave a file of {kind} {found}, not {checksum}; {REMEDY}")
    return folder


def _digest(path: Path, kind: str) -> str:
    """The checksum of a file in hex digits."""
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

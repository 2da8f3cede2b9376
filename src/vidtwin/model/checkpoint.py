"""Configs and tensors in files: `config.json` and `model.safetensors` of our folders; torch's files, whose code is not run."""

import hashlib
import json
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vidtwin.checked import read_json
from vidtwin.files import check_regular, in_line
from vidtwin.model.config import VidTwinConfig

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LEGACY_PICKLES = 4  # before the storages of a file of torch before 1.6, the content last
EXPANDING = re.compile(r"(hex|base.?64|quopri|quoted.?printable|uu)(.codec)?", re.IGNORECASE)  # codecs of bytes
SHIPPED = Path(__file__).parents[1] / "weights"


def stored_in(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as a file holds them, on the CPU: matrices and kernels in `dtype`, biases and norms as they are."""
    return {name: tensor.detach().to("cpu", dtype if tensor.ndim > 1 else None).contiguous() for name, tensor in state.items()}


class Uninitialized(TorchFunctionMode):
    """Modules made within do not fill their weights, which are read from a file next: seconds less, and no memory is touched."""

    FILLING = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.FILLING or getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def own_float32(tensors: Mapping[str, Tensor], source: Path | str) -> dict[str, Tensor]:
    """The tensors to be a model's weights: float32, contiguous, no two in the same memory; copied only where they are not.

    Raises ValueError, which names their source, for one of another kind than floating point, or whose values are not all there.
    """
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise ValueError(f"{source}: {name} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}, not of weights")
        tensor = tensor.float().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.data_ptr())
        result[name] = tensor
    return result


def shipped_names() -> list[str]:
    """Names that `from_pretrained` finds in the package itself."""
    return sorted(folder.name for folder in SHIPPED.iterdir() if (folder / CONFIG_FILE).is_file())


def read_config(folder: Path) -> VidTwinConfig:
    """The config of a checkpoint folder."""
    return read_config_file(folder / CONFIG_FILE)


def read_config_file(path: Path) -> VidTwinConfig:
    """A config from a JSON file of its fields.

    Raises:
        FileNotFoundError: no such file. ValueError: not JSON, or not the fields of a config.
    """
    try:
        fields = read_json(path)
        if not isinstance(fields, dict):
            raise ValueError("not a mapping of fields")
        return VidTwinConfig.from_dict(fields)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: missing; a checkpoint folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {in_line(error)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or cut short ({in_line(error)}); copy or download it again") from error


def read_state_dict(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors of a file that is there: .safetensors, else torch's, alone in it or under `state_dict`; nothing is executed.

    Raises:
        ValueError: it holds anything else (ends with `remedy`), is damaged, or is a pickle of more than tensors and plain data.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)
    content = read_pickle(path)
    tensors = content.get("state_dict", content) if isinstance(content, Mapping) else None
    named = isinstance(tensors, Mapping) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items())
    if not tensors or not named:
        raise ValueError(f"{path}: holds no state_dict of tensors; {remedy}")
    return dict(tensors)


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `model`; names and shapes must be exactly the model's, or a ValueError says what differs."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    refuse_differences(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    model.load_state_dict(tensors)


def refuse_differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str, remedy: str = ""
) -> None:
    """Raise a ValueError that lists unknown, missing and misshaped names, if there are any."""
    unknown = [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    misshaped = [
        f"{name} {in_line(shape)} instead of {expected[name]}"
        for name, shape in found.items()
        if name in expected and shape != expected[name]
    ]
    kinds = (("unknown", unknown), ("missing", missing), ("misshaped", misshaped))
    differences = [f"{len(names)} {kind}: {shorten(names)}" for kind, names in kinds if names]
    if differences:
        raise ValueError(f"{source}: tensors do not fit the config; {'; '.join(differences)}" + (f"; {remedy}" if remedy else ""))


def shorten(names: list[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    return in_line(", ".join(names[:most])) + (f", and {len(names) - most} more" if len(names) > most else "")


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of the config and of the names, shapes and values of the weights as float32.

    The same whatever file they came from; not the same after a cast to a lower precision, so take it before.
    """
    config: VidTwinConfig = model.config  # type: ignore[assignment]
    fields = config.to_dict() | {"query_dropout": None}  # of training only
    for name in ("structure_branch", "dynamics_branch"):  # younger than the first weights, which keep their identity
        if fields[name] == getattr(VidTwinConfig, name):
            del fields[name]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def read_pickle(path: Path) -> Any:
    """torch.load that runs no code: tensors, plain containers, and the numpy scalars of Lightning's scheduler states.

    Tensors stay in the file until they are used, where its format (that of torch since 1.6) allows it.

    Raises:
        OSError: no such file, or a pipe or a device.
        ValueError: a pickle that asks for anything else (nothing of it has run), or no file of torch's, or a damaged one.
    """
    check_regular(path)
    zipped = zipfile.is_zipfile(path)
    try:
        _check_sizes(path, zipped)
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        what = f"asks for {in_line(name.group(1))}" if name else "is not one that torch wrote, or is damaged"
        raise ValueError(
            f"{path}: refused, its pickle {what}; nothing was run; "
            "give a checkpoint of tensors, or convert it to .safetensors where it was made"
        ) from None
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can raise anything in the unpickler
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path}: not a torch checkpoint, or cut short ({in_line(reason)}); copy or download it again") from error


def _check_sizes(path: Path, zipped: bool) -> None:
    """Raise an error for a file that would be much larger in memory: by compressed records, or by what its pickle calls."""
    if not zipped:
        with path.open("rb") as file:
            return _check_calls(file, LEGACY_PICKLES)
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise ValueError("its records are compressed, or lie over each other")
        for record in records:
            if record.filename.endswith("/data.pkl"):
                with archive.open(record) as file:
                    _check_calls(file, 1)


def _check_calls(file: IO[bytes], pickles: int) -> None:
    """Of what torch lets a pickle call, bytearray(length) and some codecs make much of little."""
    encodes, codec = False, None
    for _ in range(pickles):
        for _, word, _ in pickletools.genops(file):
            if isinstance(word, str):
                if word.endswith(" bytearray"):
                    raise pickle.UnpicklingError("GLOBAL bytearray")
                encodes = encodes or word == "_codecs encode"
                codec = word if EXPANDING.fullmatch(word) else codec
    if encodes and codec:
        raise pickle.UnpicklingError(f"GLOBAL {codec}")


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy scalar is made of, under the names of numpy 1 and numpy 2."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    ]

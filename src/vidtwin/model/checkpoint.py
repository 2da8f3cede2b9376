"""Our checkpoint format: a folder or hub repository with `config.json` (the config's fields) and `model.safetensors`.

`Checkpointed` gives the model `from_pretrained`, `save_pretrained` and `push_to_hub`, as huggingface_hub's model mixin would, but
brings that library, which takes as long to import as the rest of the package, only where the hub is asked. It knows
files and tensors, and of the model only that it is built from a config.
"""

import hashlib
import json
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vidtwin.checked import parse_json
from vidtwin.files import atomic_output, check_writable, in_line, tensor_output
from vidtwin.model.config import PRESETS, VidTwinConfig

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
SHIPPED = Path(__file__).parents[1] / "weights"

CARD = """---
library_name: vidtwin
tags: [video, autoencoder]
---

# VidTwin

A video autoencoder with Structure and Dynamics latents ([arXiv 2412.17726](https://arxiv.org/abs/2412.17726)).

    from vidtwin import VidTwin
    model = VidTwin.from_pretrained("the folder or hub id of this card")

Not stated yet by whoever trained it: data and its licence, recipe, figures.
"""

T = TypeVar("T", bound="Checkpointed")


class Checkpointed:
    """Loading and saving for `VidTwin`."""

    config: VidTwinConfig

    @classmethod
    def from_pretrained(cls: type[T], name: str | Path, **hub_options: Any) -> T:
        """A model in eval mode, float32, from a shipped name ("tiny"), a folder, or a hub id ("owner/name").

        Shipped names come first and need no network. `hub_options` (revision, token, cache_dir, local_files_only,
        force_download) go to the hub. Weights stored in float32 stay in their file until they are used, mapped into memory:
        changing the model does not change the file, and replacing the file is safe; do not write into it meanwhile.

        Raises:
            FileNotFoundError: no such folder, or a file of it is missing.
            ValueError: the config or the tensors are not those of a VidTwin; the message lists what differs.
        """
        folder = find_folder(name, **hub_options)
        config, tensors = read_config(folder), read_tensors(folder / WEIGHTS_FILE)
        make: Callable[[VidTwinConfig], nn.Module] = cls  # type: ignore[assignment]
        with torch.device("meta"), Uninitialized():  # no memory is taken for a model that the file does not hold
            expected = {name: tuple(tensor.shape) for name, tensor in make(config).state_dict().items()}
        refuse_differences(expected, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, str(folder))
        with Uninitialized():
            model = make(config)
        model.load_state_dict(own_float32(tensors), assign=True)
        assert isinstance(model, cls)
        return model.eval()

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder; its files are replaced when all of them are written. An existing README.md (model card) is kept.

        `dtype` is that of the stored matrices and kernels (float16 halves the file; loading gives float32 again). Biases and norms,
        a thousandth of all, stay as they are: rounding them costs more than rounding all the rest.

        Raises:
            ValueError: weights that are not finite in `dtype`. OSError: the folder cannot be written, or the disk is full.
        """
        assert isinstance(self, nn.Module)
        folder = Path(folder)
        tensors = stored_in(self.state_dict(), dtype)
        broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise ValueError(f"{folder}: weights with NaN or infinite values in {dtype}: {shorten(broken)}; not saved")
        folder.parent.mkdir(parents=True, exist_ok=True)
        check_writable(folder / WEIGHTS_FILE if folder.is_dir() else folder)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.partial-", dir=folder.parent) as partial:
            with tensor_output(Path(partial) / WEIGHTS_FILE) as path:
                save_file(tensors, path, metadata={"format": "pt"})
            with atomic_output(Path(partial) / CONFIG_FILE) as path:
                path.write_text(json.dumps(self.config.to_dict(), indent=2) + "\n")
            if not (folder / CARD_FILE).exists():
                with atomic_output(Path(partial) / CARD_FILE) as path:
                    path.write_text(CARD)
            folder.mkdir(exist_ok=True)
            for path in Path(partial).iterdir():
                os.replace(path, folder / path.name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: torch.dtype = torch.float32,
        private: bool | None = None,
        token: str | None = None,
        **upload_options: Any,
    ) -> str:
        """Upload what `save_pretrained` writes to the hub repository `repo_id` ("owner/name"), made if there is none.

        `upload_options` (commit_message, revision, create_pr) go to huggingface_hub's `HfApi.upload_folder`. Returns the commit's
        address. Raises what that library raises.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory(prefix="vidtwin-") as folder:
            self.save_pretrained(folder, dtype=dtype)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **upload_options)


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


def own_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to be a model's weights: float32, contiguous, no two in the same memory; copied only where they are not."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.float().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes or tensor.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.data_ptr())
        result[name] = tensor
    return result


def find_folder(name: str | Path, **hub_options: Any) -> Path:
    """The folder of a shipped name, of a path, or of a hub id (downloaded on first use)."""
    if isinstance(name, str) and name in shipped_names():
        return SHIPPED / name
    folder = SHIPPED / name if isinstance(name, str) and (SHIPPED / name / "generator.json").is_file() else Path(name)
    if folder.is_dir():
        inner = [part for part in ("model", "autoencoder") if (folder / part).is_dir()]
        if inner and not (folder / CONFIG_FILE).exists():
            raise FileNotFoundError(f"weights {str(name)!r}: {folder} has no {CONFIG_FILE}; did you mean {folder / inner[0]}?")
        return folder
    if name in PRESETS:
        raise FileNotFoundError(
            f"weights {str(name)!r}: a preset, whose weights are not shipped; give a file or folder of them, or a shipped name: "
            f"{', '.join(shipped_names())}"
        )
    parts = str(name).split("/")
    if folder.exists() or len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise FileNotFoundError(
            f"weights {str(name)!r}: not a folder with {CONFIG_FILE} and {WEIGHTS_FILE}; "
            f"shipped names: {', '.join(shipped_names())}; hub ids are 'owner/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=[CONFIG_FILE, WEIGHTS_FILE], **hub_options))
    except Exception as error:  # the hub raises a dozen kinds (offline, not found, gated)
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise FileNotFoundError(f"weights {str(name)!r}: no such folder, and the hub did not give it: {reason}") from error


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
        fields = parse_json(path.read_bytes())
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
        ValueError: a pickle that asks for anything else (nothing of it has run), or no file of torch's, or a damaged one.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
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


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy scalar is made of, under the names of numpy 1 and numpy 2."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    ]

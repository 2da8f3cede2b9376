"""Weights by name: in the package, in folders and files, and on the Hugging Face hub.

huggingface_hub, which takes as long to import as the rest of the package, is imported where the hub is asked. What it downloads
stays in its cache (HF_HOME), from where it is read without a network too.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch

from vidtwin.files import in_line
from vidtwin.model.cards import CARD_FILE
from vidtwin.model.checkpoint import CONFIG_FILE, SHIPPED, WEIGHTS_FILE, shipped_names
from vidtwin.model.config import PRESETS

RELEASED_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")  # of files in Microsoft's layout
PUBLISHED = "microsoft/vidtwin"
PUBLISHED_FILE = f"{PUBLISHED}/checkpoints/vidtwin_structure_7_7_8_dynamics_7_8.ckpt"
SHORT = {"released": PUBLISHED_FILE, PUBLISHED: PUBLISHED_FILE}


@dataclass(frozen=True)
class HubOptions:
    """Which files of a repository, and how they are got.

    Attributes:
        subfolder: of the repository, or of a local folder. revision: a branch, tag or commit of a repository.
        token: for private and gated repositories; None is the one that `hf auth login` stored. cache_dir: instead of the hub's.
        local_files_only: use the cache alone. force_download: download again what is in the cache.
    """

    subfolder: str = ""
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "HubOptions":
        """Raises TypeError for an option that is unknown."""
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise TypeError(f"unknown option {', '.join(unknown)}: beside the named ones there are {', '.join(names)}")
        return cls(**{name: value for name, value in options.items() if value is not None})

    @property
    def prefix(self) -> str:
        """Of the names of the files that are asked for."""
        return f"{self.subfolder.strip('/')}/" if self.subfolder else ""


Choice = Callable[[str, Mapping[str, int | None]], list[str]]  # (prefix, files with their sizes) -> those to download


def find_weights(name: str | Path, options: HubOptions | None = None) -> Path:
    """The folder of ours, or file in Microsoft's layout, that a name means; what is on the hub is downloaded on first use.

    Names are a shipped one, a path, a hub id ("owner/name"), a file of one ("owner/name/x.ckpt"), and "released", which is
    `PUBLISHED_FILE`.

    Raises:
        FileNotFoundError: no such folder or file, or the hub did not give it. ValueError: a revision of what is not on the hub.
    """
    options = options or HubOptions()
    path = local(name, options, [folder.name for folder in SHIPPED.iterdir()])
    if path is not None:
        if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
            return path.parent
        if path.is_file() and path.suffix not in RELEASED_SUFFIXES:
            raise _not_weights(
                name, f"not a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, nor one of {', '.join(RELEASED_SUFFIXES)}"
            )
        inner = [part for part in ("model", "autoencoder") if (path / part / CONFIG_FILE).is_file()]
        if inner and not (path / CONFIG_FILE).exists():
            raise FileNotFoundError(f"weights {str(name)!r}: {path} has no {CONFIG_FILE}; did you mean {path / inner[0]}?")
        return path
    repository, file = hub_id(str(name) if options.subfolder else SHORT.get(str(name), str(name)))
    if not repository and Path(name).suffix in RELEASED_SUFFIXES:
        raise FileNotFoundError(f"{name}: no such file; give a .ckpt or .safetensors file")
    if not repository:
        raise _not_weights(name, "a preset, whose weights are not shipped" if name in PRESETS else "no such file or folder")
    try:
        folder, files = fetch(repository, options, lambda prefix, files: choose(prefix, file, files))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"weights {str(name)!r}: no such file or folder, and {error}") from error.__cause__
    return folder / files[0] if len(files) == 1 else (folder / files[0]).parent


def _not_weights(name: str | Path, what: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"weights {str(name)!r}: {what}; shipped names: {', '.join(shipped_names())}; "
        "hub ids are 'owner/name' or 'owner/name/file.ckpt', and 'released' is Microsoft's checkpoint"
    )


def local(name: str | Path, options: HubOptions, shipped: list[str]) -> Path | None:
    """The path of a shipped name or of what exists; None for what only the hub can have."""
    path = SHIPPED / name if name in shipped else Path(name)
    if not path.exists():
        return None
    if options.revision is not None:
        raise ValueError(f"revision={options.revision!r}: {str(name)!r} is not on the hub; leave it out")
    return path / options.subfolder


def hub_id(text: str) -> tuple[str, str]:
    """Repository and file of "owner/name" or "owner/name/folder/x.ckpt"; empty for what can be neither."""
    parts = text.split("/")
    if any(part in ("", ".", "..", "~") for part in parts):
        return "", ""
    has_file = Path(text).suffix in RELEASED_SUFFIXES
    is_one = len(parts) > 2 and not Path(text).parent.is_dir() if has_file else len(parts) == 2
    return ("/".join(parts[:2]), "/".join(parts[2:])) if is_one else ("", "")


def on_hub(name: str | Path) -> bool:
    """Whether a name is not of this machine, and can be one of the hub."""
    return not Path(name).exists() and (str(name) in SHORT or hub_id(str(name))[0] != "")


def choose(prefix: str, file: str, files: Mapping[str, int | None]) -> list[str]:
    """The files of a repository to load: the one that is asked for, a folder of ours, or the only one of Microsoft's layout."""
    ours = [prefix + CONFIG_FILE, prefix + WEIGHTS_FILE]
    if not file and all(name in files for name in ours):
        return ours
    found = [name for name in files if name.startswith(prefix) and PurePosixPath(name).suffix in RELEASED_SUFFIXES]
    wanted = [prefix + file] if file else found
    if len(wanted) == 1 and wanted[0] in files:
        return wanted
    there = f"it has {', '.join(found)}; choose one of these by 'owner/name/FILE'" if found else "it has no weights"
    raise FileNotFoundError(f"{prefix}{file}: not in it; {there}" if file else f"it holds no {' and '.join(ours)}; {there}")


def fetch(repository: str, options: HubOptions, chosen: Choice) -> tuple[Path, list[str]]:
    """Download the chosen files of a repository of one revision, unless they are in the cache: their folder and names.

    Raises:
        FileNotFoundError: in one line, why the hub did not give them.
    """
    from huggingface_hub import hf_hub_download

    folders = set()
    try:
        files = listing(repository, options)
        wanted = chosen(options.prefix, files)
        _announce(repository, options, {name: files[name] for name in wanted})
        for name in wanted:
            path = hf_hub_download(
                repository,
                name,
                revision=options.revision,
                cache_dir=options.cache_dir,
                token=options.token,
                local_files_only=options.local_files_only,
                force_download=options.force_download,
            )
            folders.add(Path(path).parents[name.count("/")])
    except Exception as error:  # the hub raises a dozen kinds
        raise FileNotFoundError(f"the hub did not provide it: {_reason(error, repository, options)}") from error
    if len(folders) > 1:
        raise FileNotFoundError(f"the hub did not provide it: {repository} was changed meanwhile; try again")
    return folders.pop(), wanted


def listing(repository: str, options: HubOptions) -> dict[str, int | None]:
    """Files and their sizes, as the hub says; where it cannot be asked, those in its cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    cause: Exception | None = None
    if not options.local_files_only:
        try:
            info = HfApi(token=options.token).model_info(repository, revision=options.revision, files_metadata=True)
            return {file.rfilename: file.size for file in info.siblings or ()}
        except RevisionNotFoundError:
            raise
        except Exception as error:
            cause = error
    try:
        found = snapshot_download(
            repository, revision=options.revision, cache_dir=options.cache_dir, local_files_only=True, allow_patterns=[]
        )
    except Exception:
        raise cause or FileNotFoundError("its cache does not hold it, and only that was to be used") from None
    folder = Path(found)
    return {path.relative_to(folder).as_posix(): None for path in folder.rglob("*") if path.is_file()}


def _announce(repository: str, options: HubOptions, files: Mapping[str, int | None]) -> None:
    """Say what will be downloaded, in a line above huggingface_hub's bars, and silent where these are."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.utils import are_progress_bars_disabled

    def cached(name: str) -> bool:
        found = try_to_load_from_cache(repository, name, cache_dir=options.cache_dir, revision=options.revision)
        return isinstance(found, str) and not options.force_download

    new = {name: size for name, size in files.items() if size is not None and not cached(name)}
    if new and not are_progress_bars_disabled():
        size, kept = sum(size for size in new.values() if size), options.cache_dir or HF_HUB_CACHE
        print(f"downloading {repository}: {', '.join(new)} ({size / 1e6:,.1f} MB), kept in {kept}", file=sys.stderr)


def _reason(error: Exception, repository: str, options: HubOptions) -> str:
    """Why the hub did not give something, in a line that says what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repository}"
        return f"it is gated; accept its terms at {page}, then run `hf auth login` or give token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private; check the name, or run `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {options.revision!r}; give a branch, tag or commit of it"
    reason = next(filter(None, str(error).splitlines()), type(error).__name__)
    if isinstance(error, errors.OfflineModeIsEnabled) or type(error).__name__ in ("ConnectError", "ConnectTimeout"):
        return f"it cannot be reached, and its cache does not hold it ({in_line(reason)}); check the network, or HF_HUB_OFFLINE"
    return in_line(reason)


class Saved(Protocol):
    """What has a `save_pretrained`."""

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype = ..., figures: Mapping[str, object] | None = ..., name: str | None = ...
    ) -> None: ...


class Pushed:
    """`push_to_hub` for what has a `save_pretrained`."""

    def push_to_hub(
        self: Saved,
        repo_id: str,
        *,
        dtype: torch.dtype = torch.float32,
        figures: Mapping[str, object] | None = None,
        private: bool | None = None,
        token: str | None = None,
        **upload_options: Any,
    ) -> str:
        """Upload what `save_pretrained` writes to the hub repository `repo_id` ("owner/name"), made if there is none.

        A README.md that is there is kept. `upload_options` (commit_message, revision, create_pr) go to huggingface_hub's
        `HfApi.upload_folder`. Returns the commit's address.

        Raises:
            ValueError: as `save_pretrained`; figures for a card that is kept. What that library raises.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if api.file_exists(repo_id, CARD_FILE, revision=upload_options.get("revision")):
            if figures:
                raise ValueError(f"figures={dict(figures)}: {repo_id} has a {CARD_FILE}, which is kept; write them into it")
            upload_options = {"ignore_patterns": CARD_FILE} | upload_options
        with tempfile.TemporaryDirectory(prefix="vidtwin-") as folder:
            self.save_pretrained(folder, dtype=dtype, figures=figures, name=repo_id)
            return api.upload_folder(repo_id=repo_id, folder_path=folder, **upload_options)

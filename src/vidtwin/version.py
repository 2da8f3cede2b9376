"""The version of the package, which pyproject.toml states."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vidtwin")
except PackageNotFoundError:  # the files alone, not installed
    __version__ = "0+unknown"

"""The version of the package: of the tag that it was built at."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vidtwin")
except PackageNotFoundError:  # the files alone, not installed
    __version__ = "0+unknown"

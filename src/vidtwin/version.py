"""The version of the package; read at build time, so it imports nothing."""

__version__ = "0.1.0"

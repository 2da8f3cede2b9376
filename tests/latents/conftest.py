"""Videos that are made on the spot, as for the tests of inference."""

from tests.inference.conftest import write

__all__ = ["write"]

"""Entry point of preprocess; the code is in the backend."""

from gptoss_backend.triton.preprocess import Preprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]

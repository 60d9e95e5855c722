"""Entry point of a generation model; the code is in the backend."""

from gptoss_backend.triton.generate import Generate as TritonPythonModel

__all__ = ["TritonPythonModel"]

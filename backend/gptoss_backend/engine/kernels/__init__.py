"""GPU kernels in the Triton language (https://triton-lang.org), each with a torch reference elsewhere in the engine.

Importing a module in here imports `triton`, which a machine without a GPU need not have: import on use.
"""

"""The forward pass in C++ for CPUs with AVX2 or AVX-512 BF16. `torch_model.py` is its fallback and its oracle."""

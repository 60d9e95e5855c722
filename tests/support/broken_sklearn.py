"""A scikit-learn as one built for NumPy 1 is under NumPy 2: installed to all appearances, and failing on import."""

from __future__ import annotations

from pathlib import Path

WORDS = "numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88 from PyObject"


def write_broken_sklearn(folder: Path) -> Path:
    """Make the package and its distribution in `folder`; return it, to be put first on the import path."""
    package = folder / "sklearn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise ValueError({WORDS!r})\n")
    distribution = folder / "scikit_learn-1.3.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.3.0\n")
    (distribution / "RECORD").write_text("sklearn/__init__.py,,\n")
    return folder

"""Triton's interpreter, made to do once what it does again for each call and each operation.

Before a kernel runs, the interpreter puts its own functions in place of the language's, and afterwards it takes them
out again. Triton 3.7 looks through the whole language for what is left to replace at each call of one function of the
language by another, too; it lists all dtypes at each operation; and for each sum and product of integers it computes in
64 bits whether they overflow, which it tells nobody. Together that is two thirds of its time. What kernels compute, and
what is checked of them, is the interpreter's affair as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import FunctionType, ModuleType

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def hurry() -> None:
    """Prepare this process, for good."""
    interpreter._patch_lang = _replacing_once(interpreter._patch_lang)
    interpreter._get_np_dtype = _remembering(interpreter._get_np_dtype)
    builder = interpreter.interpreter_builder
    if not builder.options.debug:  # only then it tells of overflows
        builder.options = replace(builder.options, sanitize_overflow=False)


def _replacing_once(put_in: Callable[[FunctionType], object]) -> Callable[[FunctionType], object]:
    """Return what puts the interpreter's functions in where they are not yet, and gives what takes them out again."""

    def put_in_if_needed(function: FunctionType) -> object:
        languages = _languages_of(function)
        is_done = bool(languages) and all(map(_is_replaced, languages))
        return interpreter._LangPatchScope() if is_done else put_in(function)

    return put_in_if_needed


@cache
def _languages_of(function: FunctionType) -> tuple[ModuleType, ...]:
    """Return the modules of the language that a function sees, in which functions are replaced for it."""
    seen = function.__globals__.values()
    return tuple(language for language in (tl, tl.core) if any(value is language for value in seen))


def _is_replaced(language: ModuleType) -> bool:
    """Look at one function and one method: all functions of a module come and go at once, and so do all methods."""
    return not tl.core.is_builtin(language.load) and not tl.core.is_builtin(tl.tensor.__add__)


def _remembering(find: Callable[[tl.dtype], np.dtype]) -> Callable[[tl.dtype], np.dtype]:
    """Return what finds NumPy's dtype of numbers, and of blocks of them, once for each."""
    find_once = cache(find)

    def find_for_all(dtype: tl.dtype) -> np.dtype:
        scalar = dtype.scalar
        return find(dtype) if isinstance(scalar, tl.pointer_type) else find_once(scalar)

    return find_for_all

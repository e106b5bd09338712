"""What Triton's interpreter cannot do yet, and kernels need: for a rehearsal, and for tests."""

from __future__ import annotations

from typing import Any

import numpy as np


def multiply_bfloat16() -> None:
    """Let the interpreter multiply matrices of bfloat16, which it holds as integers and multiplies as such."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle = interpreter.TensorHandle
    create_dot = builder.create_dot

    def widened(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return handle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def wider_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    if create_dot.__name__ != wider_dot.__name__:
        builder.create_dot = wider_dot

"""Prints src/menura/kernels/cpp/toom_cook_matrices.h; a test compares them.

usage: python scripts/toom_cook_header.py > src/menura/kernels/cpp/toom_cook_matrices.h
"""

from __future__ import annotations

import numpy as np

from menura.kernels.packing import IMAGE_POINTS, TOOM_COOK_POINTS, TOOM_COOK_SIZES, FilterMatrices, toom_cook


def toom_cook_header() -> str:
    """The text of the C++ header."""
    lines = {size: toom_cook(*size, TOOM_COOK_POINTS) for size in TOOM_COOK_SIZES}
    square, pair = toom_cook(4, 3, IMAGE_POINTS), toom_cook(5, 2, IMAGE_POINTS)
    return (
        "// Printed by scripts/toom_cook_header.py; a test compares them.\n"
        "#pragma once\n\nnamespace menura {\n\n"
        + "".join(
            _struct(f"ToomCook_{outputs}_{taps}", line, kInput=line.inputs, kOutput=line.outputs)
            for (outputs, taps), line in lines.items()
        )
        + _struct("ToomCook_4_3", square, kInput=square.inputs, kWeight=square.weights, kOutput=square.outputs)
        + _struct("ToomCook_5_2", pair, kInput=pair.inputs, kOutput=pair.outputs)
        + "}  // namespace menura\n"
    )


def _struct(name: str, matrices: FilterMatrices, **tables: np.ndarray) -> str:
    outputs, inputs = matrices.outputs.shape
    body = "".join(_table(table, matrix) for table, matrix in tables.items())
    return f"struct {name} {{\n  static constexpr int kInputs = {inputs}, kOutputs = {outputs};\n{body}}};\n\n"


def _table(name: str, matrix: np.ndarray) -> str:
    rows = ",\n".join("      {" + ", ".join(map(_number, row)) + "}" for row in matrix + 0.0)
    return f"  static constexpr float {name}[{matrix.shape[0]}][{matrix.shape[1]}] = {{\n{rows}}};\n"


def _number(value: float) -> str:
    digits = f"{value:.9g}"
    return f"{digits}f" if "." in digits else f"{digits}.0f"


if __name__ == "__main__":
    print(toom_cook_header(), end="")

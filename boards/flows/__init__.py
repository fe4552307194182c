# SPDX-License-Identifier: Apache-2.0
"""From a board's facts to its folder: `vivado` for Zynq UltraScale+, `ecp5` with the open tools, `bitstream` for the
latter's last steps.
"""

from __future__ import annotations

from pathlib import Path

from edgemoe.boards.facts import Board, Ecp5Board
from edgemoe.boards.flows import ecp5, vivado
from edgemoe.hw.contract.config import NAME


def write(board: Board, folder: Path, name: str = NAME, *, force: bool = False) -> list[Path]:
    """Everything up to the vendor's or the open tools, the core as module `name`; returns the paths. force: replace
    files that edgemoe did not write.
    """
    flow = ecp5 if isinstance(board, Ecp5Board) else vivado
    return flow.write(board, folder, name, force=force)

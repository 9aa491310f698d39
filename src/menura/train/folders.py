"""What an experiment's folder holds. Loads no torch."""

from __future__ import annotations

import itertools
from pathlib import Path

from menura.system.files import writing

BEGIN = "begin"
"""The weights that training begins with."""
SLICES = "slices"
FEATURES = "features"
LOGS = "logs"
VOICE = "voice"
"""The exported voice: weights, index, card."""

_UNFINISHED = ".*.part"


def remove_unfinished(folder: Path) -> None:
    """Delete what killed runs of an experiment left half-written. Only call it while no other run is at work there.

    Voices stay out of it: they can be exported beside a run.
    """
    places = (
        folder.glob(_UNFINISHED),
        *(
            (folder / name).rglob(_UNFINISHED)
            for name in (BEGIN, SLICES, FEATURES, LOGS)
            if not (folder / name).is_symlink()
        ),
    )
    for path in itertools.chain(*places):
        with writing(path):
            path.unlink(missing_ok=True)

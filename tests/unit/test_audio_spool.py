"""The temporary sample store."""

from __future__ import annotations

import resource
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from menura.audio.encode import SampleSpool
from menura.errors import ResourceError


@pytest.mark.parametrize("memory_bytes", [1, 1000, 1 << 20])
def test_gives_back_what_was_appended_with_gain_and_peak(tmp_path: Path, memory_bytes: int) -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    with closing(SampleSpool(tmp_path, memory_bytes)) as spool:
        for start in range(0, 1000, 130):
            spool.append(x[start : start + 130])
        assert spool.length_samples == 1000
        assert spool.peak == np.abs(x).max()
        for block_samples in (1, 99, 5000):
            np.testing.assert_array_equal(np.concatenate(list(spool.blocks(block_samples))), x)
        np.testing.assert_array_equal(np.concatenate(list(spool.blocks(64, gain=0.5))), x * np.float32(0.5))
        spool.append(x[:3])
        assert spool.length_samples == 1003
        np.testing.assert_array_equal(np.concatenate(list(spool.blocks(64)))[1000:], x[:3])
    assert list(tmp_path.iterdir()) == []


def test_empty_spool_has_no_blocks(tmp_path: Path) -> None:
    with closing(SampleSpool(tmp_path, 1000)) as spool:
        spool.append(np.zeros(0, dtype=np.float32))
        assert spool.length_samples == 0
        assert spool.peak == 0
        assert list(spool.blocks(10)) == []


def fill(spool: SampleSpool, samples: int, block: int) -> None:
    for _ in range(samples // block):
        spool.append(np.zeros(block, dtype=np.float32))


def fill_and_read(spool: SampleSpool, samples: int, block: int) -> None:
    fill(spool, samples, block)
    next(spool.blocks(1000))  # Python's buffer may hold all that was too much


@pytest.mark.parametrize("block", [300, 1000, 20_000])
def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, block: int) -> None:
    """Short blocks wait in a buffer, and closing would write them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            closing(SampleSpool(tmp_path, 1000)) as spool,
            pytest.raises(ResourceError, match="can't be written") as caught,
        ):
            fill_and_read(spool, 40_000, block)
        closed = SampleSpool(tmp_path, 1000)
        fill(closed, 24_990, block)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        closed.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []

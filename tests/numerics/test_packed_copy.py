"""Arrays that are copied to a device together."""

from __future__ import annotations

import numpy as np
import torch

from densebench.numerics.packed_copy import packed_on_device


def test_arrays_come_out_as_they_went_in():
    """Of several types, of no length, strided, and of sizes that fill no whole word."""
    rng = np.random.default_rng(0)
    arrays = {
        "bytes": rng.integers(0, 256, 7, dtype=np.uint8),
        "flags": rng.random(5) < 0.5,
        "nothing": np.zeros((0, 3), np.int64),
        "numbers": rng.integers(0, 99, (4, 3)),
        3: rng.random((2, 3, 5), dtype=np.float32)[:, ::2],
        "doubles": rng.random(1),
    }
    found = packed_on_device(arrays, torch.device("cpu"))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == torch.from_numpy(array.copy()).dtype
        assert np.array_equal(found[name].numpy(), array)


def test_they_share_one_piece_of_memory():
    found = packed_on_device({number: np.full(3, number) for number in range(4)}, torch.device("cpu"))
    assert len({tensor.untyped_storage().data_ptr() for tensor in found.values()}) == 1
    found[1].zero_()
    assert [tensor.tolist() for tensor in found.values()] == [[0] * 3, [0] * 3, [2] * 3, [3] * 3]

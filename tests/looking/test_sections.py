"""Where the sections of the page mark patches, in pictures of other aspects."""

from dataclasses import replace

import looks
import numpy as np

from densebench.looking import maps
from densebench.looking.sections import section


def upright(view):
    return replace(view, grid=np.ascontiguousarray(view.grid.transpose(1, 0, 2)))


def test_a_query_is_marked_on_the_grid_of_its_own_picture():
    look = looks.look(("wide", "high"), ("one",), grid=(4, 8), queries=((0.5, 0.5), (0.3, 0.9)))
    [seen] = look.backbones[:1]
    seen = replace(seen, views=(seen.views[0], upright(seen.views[1])))
    for kind in ("similarity", "neighbours"):
        wide, high = ([line.mark for line in row.lines] for row in section(kind, look, [seen]))
        assert wide == [maps.patch_box(2, 4, (4, 8)), maps.patch_box(1, 7, (4, 8))]
        assert high == [maps.patch_box(4, 2, (8, 4)), maps.patch_box(2, 3, (8, 4))]

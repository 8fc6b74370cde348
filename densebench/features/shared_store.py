"""A store that several processes fill together: each writes its part, and then all see the whole."""

from __future__ import annotations

import time
from collections.abc import Collection

from densebench.errors import UserError
from densebench.files.store import Store
from densebench.processes import in_any, synchronise, world_size

LOOKS = 10  # seconds until files that another host wrote must be seen


def see_all(store: Store, keys: Collection[str]) -> None:
    """Wait until all processes have stored their parts, and list what they stored. keys: all of it, in every process.

    Raises UserError in all processes where one of them does not see what another has stored.
    """
    if world_size() == 1:
        return
    synchronise()
    for look in range(LOOKS + 1):  # a network file system may show new files late
        store.refresh()
        lacking = [key for key in keys if key not in store]
        if not lacking or look == LOOKS:
            break
        time.sleep(1.0)
    if in_any([bool(lacking)])[0]:
        raise UserError(
            f"the {world_size()} processes do not share one cache: what one stored is not in {store.folder} for another; set "
            "DENSEBENCH_CACHE to a folder that all hosts see"
        )

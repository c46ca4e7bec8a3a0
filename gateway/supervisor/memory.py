"""Keep the garbage collector from looking in vain at what a process has loaded, and at what dies young without it."""

import gc
from typing import Final

# A batch's objects hold no cycles. The default of 700 would scan them in vain at every third request, and those of a
# range of the log, which live together for a while, once for every few batches.
_COLLECT_EVERY: Final = 50_000


def settle_memory() -> None:
    """Take all that was loaded at the start out of the collector's sight, and let it look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 20, 100)

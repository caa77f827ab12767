"""The collector leaves a process's modules alone, and still finds what refers to itself."""

import gc
import weakref

from shared import garbage


class _Ring:
    """Something that refers to itself, so that nobody's letting go frees it."""

    def __init__(self) -> None:
        self.me = self


def test_new_garbage_is_found_and_what_was_there_is_left_alone() -> None:
    """Ten thousand new objects, and a ring that nobody holds is gone."""
    before = gc.get_threshold()
    garbage.settle()
    try:
        assert gc.get_freeze_count() > 1_000
        ring = weakref.ref(_Ring())
        assert ring() is not None
        kept = [[] for _ in range(10_001)]
        assert (len(kept), ring()) == (10_001, None)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)

"""Work that goes on without its caller: its slots come back, whatever happens."""

import threading
from collections.abc import Iterator

import pytest
from flask import Flask

from services.api.waiting import do_or_leave
from shared.errors import Unavailable

NO_HOST_HAS_THIS = 1 << 47  # bytes, of stack


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    usual = threading.stack_size(NO_HOST_HAS_THIS)
    yield
    threading.stack_size(usual)


def refuses(*_: object) -> dict[str, str]:
    raise ValueError("no")


def test_work_that_no_thread_can_be_started_for_keeps_no_slot(no_more_threads: None) -> None:
    with Flask(__name__).test_request_context():
        for _ in range(9):
            with pytest.raises(Unavailable) as refused:
                do_or_leave(dict, dict)
            assert refused.value.code == "overloaded"
            assert refused.value.message == "There is no thread to do this in."


def test_work_that_fails_keeps_no_slot() -> None:
    with Flask(__name__).test_request_context():
        for _ in range(9):
            with pytest.raises(ValueError, match="no"):
                do_or_leave(refuses, dict)
            with pytest.raises(ValueError, match="no"):
                do_or_leave(dict, refuses)
        assert do_or_leave(dict, dict) == {}

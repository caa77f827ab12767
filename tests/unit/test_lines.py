"""Lines of the log: whole, in order, never lost in silence, and never a reason to refuse work."""

import io
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.lines import Lines
from shared.observability import _as_json


def test_lines_of_many_threads_are_whole_and_each_threads_in_order(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as stream, ThreadPoolExecutor(16) as threads:
        lines = Lines(stream, lost=lambda _: None)

        def log(thread: int) -> None:
            for number in range(200):
                lines.write(f"{thread} {number} {'x' * 500}\n")

        list(threads.map(log, range(16)))
        written = [line.split() for line in path.read_text().splitlines()]  # before it is closed
    for thread in range(16):
        mine = [line for line in written if line[0] == str(thread)]
        assert mine == [[str(thread), str(number), "x" * 500] for number in range(200)]
    assert len(written) == 16 * 200


def test_what_comes_while_one_writes_is_written_at_once_by_that_one():
    writes, others = [], iter(["two\n", "three\n"])

    class Stream(io.BytesIO):
        def write(self, data):
            writes.append(data)
            for line in others:  # from a signal handler, say: it is the same thread
                lines.write(line)
            return len(data)

    lines = Lines(Stream(), lost=lambda _: None)
    lines.write("one\n")
    assert writes == [b"one\n", b"two\nthree\n"]


def test_lines_that_cannot_be_written_are_counted_and_hurt_nobody():
    lost = []
    with Path("/dev/full").open("wb", buffering=0) as full:
        lines = Lines(full, lost.append)
        lines.write("one\n")
        lines.write("two\n")
    assert lost == [1, 1]


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ({"micro": 2**63}, {"micro": 2**63}),
        ({"number": 10**30, "text": "ü"}, {"number": 10**30, "text": "ü"}),
        ({"half": "\ud800"}, {"half": "\ud800"}),
        ({"codes": {404: "a"}}, {"codes": {"404": "a"}}),
        ({"error": ValueError("x")}, {"error": "ValueError('x')"}),
    ],
)
def test_whatever_a_line_tells_becomes_json(told, read):
    assert json.loads(_as_json(None, "info", told)) == read


def test_a_line_to_a_closed_stream_hurts_nobody():
    lost, stream = [], io.BytesIO()
    stream.close()
    Lines(stream, lost.append).write("late\n")
    assert lost == [1]


def test_half_a_character_is_written_as_json_spells_it():
    stream = io.BytesIO()
    Lines(stream, lost=lambda _: None).write('"ü \ud800"\n')
    assert stream.getvalue() == '"ü \\ud800"\n'.encode()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # it is the point
def test_a_forked_child_writes_its_own_lines_and_not_its_parents(tmp_path):
    path, may_go_on, is_writing = tmp_path / "log", threading.Event(), threading.Event()

    class Slow(io.FileIO):
        def write(self, data):
            is_writing.set()
            may_go_on.wait(20)
            return super().write(data)

    stream = Slow(path, "a")
    lines = Lines(stream, lost=lambda _: None)
    writer = threading.Thread(target=lines.write, args=("first\n",))
    writer.start()
    is_writing.wait(20)
    lines.write("left for the one who writes\n")
    child = os.fork()
    if child == 0:
        may_go_on.set()
        lines.write("child\n")
        os._exit(0)
    os.waitpid(child, 0)
    assert path.read_text() == "child\n"
    may_go_on.set()
    writer.join(20)
    assert path.read_text() == "child\nfirst\nleft for the one who writes\n"
    stream.close()

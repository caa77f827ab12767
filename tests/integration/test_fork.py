"""A worker's pool forks a new child whenever one dies: the parent must not notice."""

import subprocess
import sys

import pytest

from deploy.local.stack import ROOT
from tests.harness import Databases

FORKING = """
import os, sys
from sqlalchemy import text
from shared.database import Database
database, one = Database(sys.argv[1]), text("SELECT 1")
def read():
    with database.reading() as tx:
        return tx.scalar(one)
read()
if (child := os.fork()) == 0:
    database.leave_to_parent()
    os._exit(0 if read() == 1 else 1)
print(os.waitpid(child, 0)[1], read())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_forked_child_leaves_its_parents_connections_open(
    kind: str, databases: Databases
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, databases.make(kind)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "0 1\n"), done.stderr

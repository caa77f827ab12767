"""A set of processes under supervisord: started in stages, restarted when they crash, all ended.

supervisord is our child and dies with us; the programs are its children and die with it; what they
fork dies with them (see `tether`). So nothing is left, whoever is killed with SIGKILL.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from types import TracebackType
from typing import Self

from deploy.local import tether
from deploy.local.lock import PortTakenError, StackError, take_lock
from deploy.local.ready import Check
from deploy.local.sockets import port_is_taken, remove_socket_directory, socket_directory
from deploy.local.supervision import (
    DOWN,
    STOP_WAIT_SECONDS,
    Control,
    Program,
    Status,
    configuration,
    end_supervisord,
    settle,
)

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.05
DEATHS_ALLOWED = 1  # a program that dies twice while we wait for it will not come up


@dataclass(frozen=True, kw_only=True)
class Process:
    """What to run, and how to see that it is ready."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    stage: int = 0
    """A stage is started when the one before it is ready."""
    ready: Check | None = None
    """None: ready when it has been running for a second."""
    port: int | None = None
    once: bool = False
    """It runs to its end, with exit status 0, before the other processes of its stage start."""
    stop_signal: Signals = SIGTERM
    before: Callable[[], None] | None = None
    """Called before each start of the stack, e.g. to create the data."""
    after: Callable[[], None] | None = None
    """Called after the stack has stopped."""


class Stack:
    """Processes that run on a *directory* (which gets `log/` and `run/`) with a common *env*.

    As a context manager it starts, waits until all is ready, and stops. Only in the main thread.
    """

    def __init__(
        self,
        directory: Path,
        processes: Sequence[Process],
        *,
        env: Mapping[str, str] | None = None,
        ready_seconds: float = 60.0,
    ) -> None:
        self.directory = directory.absolute()
        self.run_directory = self.directory / "run"
        self.log_directory = self.directory / "log"
        self.processes = {process.name: process for process in processes}
        self.env = dict(env or {})
        self.ready_seconds = ready_seconds
        if len(self.processes) != len(processes):
            raise ValueError("Two processes have the same name.")
        self._supervisord: subprocess.Popen[bytes] | None = None
        self._control: Control | None = None
        self._lock: int | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready(self.ready_seconds)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # What is described

    def environment(self, process: Process | None = None) -> dict[str, str]:
        """Return the whole environment of *process*, or of a command that belongs to the stack."""
        path = [str(Path(__file__).parent / "inherit"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        own = process.env if process else {}
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **self.env,
            **own,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }

    def log_path(self, name: str) -> Path:
        """Return the file that holds the output of the process *name*."""
        return self.log_directory / f"{name}.log"

    def log_tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of the output of the process *name*."""
        try:
            text = self.log_path(name).read_text(errors="replace")
        except FileNotFoundError:
            return "(nothing)"
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"

    # Start

    def start(self) -> None:
        """Start every stage, each when the one before is ready; does not wait for the last one.

        Raises StackBusyError, PortTakenError, or StackError with the end of a log; nothing is left.
        """
        if self._supervisord is not None:
            raise StackError("The stack is started already.")
        for directory in (self.directory, self.run_directory, self.log_directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.run_directory.chmod(0o700)  # it holds the environment of each process
        self._lock = take_lock(self.run_directory / "lock")
        try:
            self._check_ports()
            self._start_supervisord()
            stages = sorted({process.stage for process in self.processes.values()})
            for stage in stages:
                names = self._start_stage(stage)
                if stage != stages[-1]:
                    self._wait_ready(names, self.ready_seconds)
        except BaseException:
            self.stop()
            raise

    def _check_ports(self) -> None:
        for process in self.processes.values():
            if process.port is not None and port_is_taken(process.port):
                raise PortTakenError(process.name, process.port)

    def _start_supervisord(self) -> None:
        programs = [self._program(p) for p in self.processes.values() if not p.once]
        for process in self.processes.values():
            tether.write_launch(
                self.run_directory / f"{process.name}.json",
                command=process.command,
                env=self.environment(process),
                directory=ROOT,
                death_signal=process.stop_signal,
            )
        # supervisord binds a neighbour of the socket, with its process id added, and links it.
        self._sockets = socket_directory(self.run_directory, longest_name="supervisor.sock.1234567")
        socket_path = self._sockets / "supervisor.sock"
        socket_path.unlink(missing_ok=True)
        configuration_file = self.run_directory / "supervisord.conf"
        configuration_file.write_text(
            configuration(
                programs,
                socket_path=socket_path,
                run_directory=self.run_directory,
                log_directory=self.log_directory,
            )
        )
        assert self._lock is not None
        with self.log_path("supervisord.start").open("wb") as log:
            self._supervisord = tether.spawn(
                [
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "-n",
                    "-c",
                    configuration_file.name,
                ],
                cwd=self.run_directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; and we find what it left by the session
                pass_fds=(self._lock,),  # the directory is taken until supervisord has ended too
            )
        self._control = Control(socket_path)
        deadline = time.monotonic() + self.ready_seconds
        while True:
            if self._supervisord.poll() is not None or time.monotonic() > deadline:
                raise StackError(
                    "supervisord did not start:\n" + self.log_tail("supervisord.start")
                )
            with contextlib.suppress(OSError):
                self._control.statuses()
                return
            time.sleep(POLL_SECONDS)

    def _program(self, process: Process) -> Program:
        return Program(
            name=process.name,
            stage=process.stage,
            stop_signal=process.stop_signal,
            launch_file=self.run_directory / f"{process.name}.json",
            log_file=self.log_path(process.name),
        )

    def _start_stage(self, stage: int) -> list[str]:
        """Start the processes of *stage*; return the names of those that go on."""
        members = [process for process in self.processes.values() if process.stage == stage]
        for process in members:
            if process.before is not None:
                process.before()
        for process in members:
            if process.once:
                self._run_once(process)
        going_on = [process for process in members if not process.once]
        for process in going_on:
            self._ask().start(self._program(process))
        return [process.name for process in going_on]

    def _run_once(self, process: Process) -> None:
        with self.log_path(process.name).open("wb") as log:
            child = tether.spawn(
                process.command,
                cwd=ROOT,
                env=self.environment(process),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            status = child.wait(self.ready_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if status != 0:
            how = "took too long" if status is None else f"failed (exit status {status})"
            raise StackError(f"{process.name} {how}:\n{self.log_tail(process.name)}")

    # Ready

    def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until every process answers, but for those that were stopped with `stop_process`.

        Raises StackError when the time is up, or at once when a process keeps dying.
        """
        self._wait_ready([p.name for p in self.processes.values() if not p.once], timeout_seconds)

    def _wait_ready(self, names: Iterable[str], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        waiting = dict.fromkeys(names, "it was not asked yet")
        starts: dict[str, set[int]] = {name: set() for name in waiting}
        while True:
            statuses = self.statuses()
            for name in list(waiting):
                reason = self._why_not_ready(statuses[name])
                if reason is None:
                    del waiting[name]
                    continue
                waiting[name] = reason
                starts[name].add(statuses[name].started_at)
                deaths = len(starts[name]) - (statuses[name].state not in DOWN)
                if deaths > DEATHS_ALLOWED or statuses[name].state == "FATAL":
                    raise StackError(self._failure(name, "ends as soon as it is started"))
            if not waiting:
                return
            if time.monotonic() > deadline:
                name, reason = next(iter(waiting.items()))
                how = f"is not ready after {timeout_seconds:.0f} s ({reason})"
                raise StackError(self._failure(name, how))
            time.sleep(POLL_SECONDS)

    def _why_not_ready(self, status: Status) -> str | None:
        if status.state == "STOPPED":
            return None  # on purpose
        ready = self.processes[status.name].ready
        if ready is None:
            return None if status.state == "RUNNING" else f"it is {status.state.lower()}"
        return ready() if status.pid else "it is down"

    def _failure(self, name: str, how: str) -> str:
        return f"{name} {how}. The end of {self.log_path(name)}:\n{self.log_tail(name)}"

    # While it runs

    def is_supervised(self) -> bool:
        """Say whether supervisord runs: if it was killed, so were the processes."""
        return self._supervisord is not None and self._supervisord.poll() is None

    def statuses(self) -> dict[str, Status]:
        """Return what supervisord says about each process."""
        return self._ask().statuses()

    def pids(self) -> dict[str, int]:
        """Return the process ids of what runs now, by name."""
        return {name: status.pid for name, status in self.statuses().items() if status.pid}

    def pid_of(self, name: str) -> int:
        """Return the process id of *name*. Raises StackError if it is down."""
        pid = self.statuses()[name].pid
        if not pid:
            raise StackError(f"{name} is not running.")
        return pid

    def start_process(self, name: str) -> None:
        """Start *name* if it is stopped; see `wait_ready`."""
        self._ask().start(self._program(self.processes[name]))

    def stop_process(self, name: str) -> None:
        """Stop *name*, in good order or after 20 s by force, and wait until it is gone."""
        control = self._ask()
        assert self._supervisord is not None
        settle(self._supervisord, control)
        control.stop(self._program(self.processes[name]))
        deadline = time.monotonic() + STOP_WAIT_SECONDS + 5
        while (state := self.statuses()[name].state) not in {"STOPPED", "EXITED", "FATAL"}:
            if time.monotonic() > deadline:
                raise StackError(self._failure(name, f"does not stop ({state})"))
            time.sleep(POLL_SECONDS)

    def restart(self, name: str) -> None:
        """Stop *name* in good order and start it again; see `wait_ready`."""
        self.stop_process(name)
        self.start_process(name)

    def _ask(self) -> Control:
        if self._control is None:
            raise StackError("The stack is not started.")
        return self._control

    # Stop

    def stop(self) -> None:
        """End every process, the last stage first, and see to it that none is left.

        What does not stop in time is killed. Safe to repeat.
        """
        supervisord, control = self._supervisord, self._control
        self._supervisord = self._control = None
        try:
            if supervisord is not None and control is not None:
                stages = len({process.stage for process in self.processes.values()})
                end_supervisord(supervisord, control, stages=stages)
            for process in self.processes.values():
                if process.after is not None:
                    process.after()
        finally:
            if self._sockets is not None:
                remove_socket_directory(self._sockets)
                self._sockets = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

"""Run the whole system in the foreground until Ctrl-C: `make up`.

Exit status: 0 stopped, 1 it could not start or go on, 2 a port or the data folder is in use.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deploy.local.banner import banner
from deploy.local.lock import PortTakenError, StackBusyError, StackError
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_port
from deploy.local.stack import ROOT, Stack

PORTS = {  # process: variable, default
    "api": ("ARRAKIS_API_PORT", 8000),
    "webhooks": ("ARRAKIS_WEBHOOKS_PORT", 8001),
    "flower": ("ARRAKIS_FLOWER_PORT", 5555),
}
LOOK_SECONDS = 0.5


def serve(stack: Stack, describe: Callable[[Stack], str]) -> int:
    """Start *stack*, print what *describe* says, wait for Ctrl-C or SIGTERM; return the status."""
    signal.signal(signal.SIGINT, _interrupt)  # a script's `make up &` comes with it ignored
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # unless `nohup make up`
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        with stack:
            known = stack.pids()
            _say(describe(stack))
            try:
                _watch(stack, known)
            except KeyboardInterrupt:
                _say("\nStopping …")
                for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(end, signal.SIG_IGN)  # one is enough: stopping has a time limit
    except KeyboardInterrupt:  # during the start
        _say("\nStopping …")
    except PortTakenError as error:
        variable = PORTS[error.name][0] if error.name in PORTS else "another port"
        _complain(f"{error} Set {variable} to a free one, e.g. {variable}={free_port()} make up")
        return 2
    except StackBusyError as error:
        _complain(str(error))
        return 2
    except StackError as error:
        _complain(str(error))
        return 1
    _say("Stopped: no process is left.")
    return 0


def _watch(stack: Stack, known: dict[str, int]) -> NoReturn:
    """Say when a process is another than the *known* one. Raises StackError if supervisord dies."""
    while True:
        time.sleep(LOOK_SECONDS)
        try:
            pids = stack.pids()
        except OSError as error:
            if not stack.is_supervised():
                raise StackError("supervisord was killed, and all its processes end.") from error
            continue  # it is too busy to answer
        for name, pid in pids.items():
            if known.get(name, pid) != pid:
                _say(f"{name} was restarted (now process {pid}); see {stack.log_path(name)}")
        known = known | pids


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _port(process: str) -> int:
    variable, default = PORTS[process]
    value = os.environ.get(variable) or str(default)
    if not value.isdecimal() or not 0 < int(value) < 65536:
        _complain(f"{variable} must be a port number, and is {value!r}.")
        sys.exit(2)
    return int(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="up", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="the data folder")
    options = parser.parse_args()
    stack = arrakis_stack(
        options.data,
        api_port=_port("api"),
        webhooks_port=_port("webhooks"),
        flower_port=_port("flower"),
        simulator_port=free_port(),
        database_url=os.environ.get("DATABASE_URL") or None,
        redis_url=os.environ.get("REDIS_URL") or None,
        env=dict(os.environ),
    )
    _say(f"Starting; the logs are in {stack.log_directory} …")
    return serve(stack, banner)


if __name__ == "__main__":
    sys.exit(main())

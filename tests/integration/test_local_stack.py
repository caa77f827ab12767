"""The local stack: real servers as our children, restarts, and nothing left behind."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
import sqlalchemy

from deploy.local.lock import PortTakenError, StackBusyError, StackError
from deploy.local.postgres import PostgresCluster
from deploy.local.processes import descendants, is_alive, wait_gone
from deploy.local.ready import http_ready, tcp_ready, wait_until
from deploy.local.secrets import LENGTHS, local_secrets
from deploy.local.servers import (
    free_port,
    free_ports,
    pgbench_path,
    redis_command,
    running_postgres,
    running_redis,
)
from deploy.local.services import arrakis_stack
from deploy.local.sockets import port_is_taken
from deploy.local.stack import ROOT, Process, Stack
from deploy.local.tether import spawn

AS_ROOT = os.geteuid() == 0
LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not LINUX, reason="only the kernel of Linux ends children")

PYTHONPATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}

STAND_IN = """
import http.server, sys
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
http.server.ThreadingHTTPServer.allow_reuse_address = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hello).serve_forever()
"""


def stand_in(name="web", stage=0):
    port = free_port()
    return Process(
        name=name,
        command=[sys.executable, "-c", STAND_IN, str(port)],
        port=port,
        stage=stage,
        ready=http_ready(f"http://127.0.0.1:{port}/"),
    )


def embedded_redis(directory, stage=0):
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    return Process(
        name="redis", command=redis_command(directory, port), port=port, stage=stage,
        ready=tcp_ready(port),
    )  # fmt: skip


def owner(tmp_path, script, *arguments):
    """Run *script* as a process of its own; return it once it has printed a line, and that line."""
    path = tmp_path / "owner.py"
    path.write_text(script)
    child = subprocess.Popen(
        [sys.executable, path, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(30, child.kill)  # then a line that is waited for is empty
    limit.daemon = True
    limit.start()
    line = child.stdout.readline()
    if not line:
        child.kill()
        child.wait()
        raise AssertionError("The owner did not get ready; see above.")
    return child, line.strip()


def get(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
        return response.status


def eventually(condition, timeout_seconds=10):
    reason = wait_until(lambda: None if condition() else "no", timeout_seconds=timeout_seconds)
    assert reason is None


# Servers


def test_a_redis_starts_and_keeps_its_data_over_a_restart_and_a_crash(tmp_path):
    with running_redis(tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        client.set("a", "1")
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("save")["save"] == ""
        server.restart()
        client.set("b", "2")
        client.execute_command("WAITAOF", 1, 0, 2000)  # on disk
        first = server.pid
        server.kill()
        server.restart()
        assert server.pid != first
        assert client.mget("a", "b") == [b"1", b"2"]
        client.close()
        process, port = psutil.Process(server.pid), server.port
    assert not is_alive(process)
    assert not port_is_taken(port)


def test_a_postgres_starts_and_keeps_its_data_over_a_restart_and_a_crash():
    with running_postgres() as server:
        engine = sqlalchemy.create_engine(server.url)
        with engine.begin() as connection:
            assert connection.exec_driver_sql("SHOW server_encoding").scalar() == "UTF8"
            assert connection.exec_driver_sql("SELECT current_database()").scalar() == "arrakis"
            connection.exec_driver_sql("CREATE TABLE t AS SELECT 1 AS a")
        server.restart()
        engine.dispose()
        server.kill()
        server.restart()
        with engine.begin() as connection:
            assert connection.exec_driver_sql("SELECT a FROM t").scalar() == 1
        engine.dispose()
        family = [psutil.Process(server.pid), *descendants(server.pid)]
    assert not any(is_alive(process) for process in family)
    assert pgbench_path().exists()


def test_a_postgres_of_root_runs_as_another_user_even_in_a_folder_that_this_one_cannot_enter(
    tmp_path,
):
    if not AS_ROOT:
        pytest.skip("only for root")
    tmp_path.chmod(0o700)
    with running_postgres(tmp_path, fsync=True) as server:
        assert psutil.Process(server.pid).username() == "nobody"
        with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert (tmp_path / "cluster" / "postmaster.pid").exists()


def test_a_cluster_below_a_long_path_has_its_socket_in_a_short_one(tmp_path):
    deep = tmp_path / ("d" * 120)
    cluster = PostgresCluster(deep, port=free_port())
    try:
        assert len(str(cluster.socket_directory / f".s.PGSQL.{cluster.port}")) <= 103
        assert cluster.socket_directory.stat().st_mode & 0o777 == 0o700
    finally:
        cluster.remove_socket()
    assert not cluster.socket_directory.exists()


def test_a_server_that_cannot_start_says_why(tmp_path):
    with running_redis() as first:
        words = f"port {first.port} is taken"
        with pytest.raises(RuntimeError, match=words), running_redis(port=first.port):
            pass
    (tmp_path / "appendonlydir").write_text("not a folder")
    words = "(?s)Redis ended at its start; the end of its log:.*appendonlydir"
    with pytest.raises(RuntimeError, match=words), running_redis(tmp_path):
        pass


SERVERS_OWNER = """
import sys, time
from pathlib import Path
from deploy.local.servers import running_postgres, running_redis
home = Path(sys.argv[1])
with running_redis(home / "redis") as redis, running_postgres(home / "postgres") as postgres:
    print(redis.pid, postgres.pid, flush=True)
    time.sleep(60)
"""


@linux_only
def test_servers_die_with_a_test_run_that_is_killed(tmp_path):
    child, line = owner(tmp_path, SERVERS_OWNER, str(tmp_path))
    family = descendants(child.pid)
    assert {int(pid) for pid in line.split()} <= {process.pid for process in family}
    child.kill()
    child.communicate()
    assert wait_gone(family, timeout_seconds=10) == []
    PostgresCluster(tmp_path / "postgres").remove_socket()
    shutil.rmtree(tmp_path / "postgres")


def test_free_ports_are_different_and_free():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert not any(port_is_taken(port) for port in ports)


# The tether


def test_a_tethered_process_is_refused_to_a_thread_that_may_end_before_it():
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(spawn, ["true"]).result()


FORKER = """
import multiprocessing, sys, time
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    context.Process(target=time.sleep, args=(60,)).start()
    print("started", flush=True)
    time.sleep(60)
"""


@linux_only
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_program_forks_dies_with_it(tmp_path, method):
    script = tmp_path / "forker.py"
    script.write_text(FORKER)
    process = Process(name="forker", command=[sys.executable, str(script), method])
    with Stack(tmp_path, [process]) as stack:
        pid = stack.pid_of("forker")
        eventually(lambda: "started" in stack.log_tail("forker"))
        children = descendants(pid)
        assert children
        os.kill(pid, signal.SIGKILL)
        assert wait_gone(children, timeout_seconds=2) == []
    assert multiprocessing.active_children() == []


# The stack


def test_a_stack_starts_in_stages_and_ends_with_nothing_left(tmp_path):
    events = []
    first = stand_in("first")
    check = first.ready
    seen = []
    late = Process(
        name="late", command=["sleep", "60"], stage=1, before=lambda: seen.append(check()),
        after=lambda: events.append("after"),
    )  # fmt: skip
    migrate = Process(
        name="migrate", command=["sh", "-c", "echo $COLOUR $OWN"], env={"OWN": "50% \"o'k\""},
        stage=1, once=True,
    )  # fmt: skip
    with Stack(tmp_path, [late, migrate, first], env={"COLOUR": "red; #1"}) as stack:
        assert seen == [None]  # the first was ready
        assert stack.pids().keys() == {"first", "late"}
        assert stack.log_tail("migrate") == 'red; #1 50% "o\'k"'
        assert get(first.port) == 200
        family = descendants(stack.pid_of("first")) + [
            psutil.Process(pid) for pid in stack.pids().values()
        ]
    assert events == ["after"]
    assert not any(is_alive(process) for process in family)
    assert not port_is_taken(first.port)


@linux_only
def test_a_killed_granian_leaves_no_worker_on_the_port_and_is_restarted(tmp_path):
    (tmp_path / "hello.py").write_text(
        "from flask import Flask\napp = Flask(__name__)\n\n\n@app.get('/')\ndef hello():\n"
        "    return 'hello'\n"
    )
    port = free_port()
    options = ["--interface", "wsgi", "--port", str(port), "--working-dir", str(tmp_path)]
    api = Process(
        name="api",
        command=[sys.executable, "-m", "granian", *options, "hello:app"],
        port=port,
        ready=http_ready(f"http://127.0.0.1:{port}/"),
    )
    with Stack(tmp_path / "data", [api]) as stack:
        pid = stack.pid_of("api")
        workers = descendants(pid)
        assert workers
        os.kill(pid, signal.SIGKILL)
        assert wait_gone(workers, timeout_seconds=2) == []
        eventually(lambda: stack.pids().get("api", pid) != pid)
        stack.wait_ready(10)
        assert get(port) == 200


def test_a_process_can_be_stopped_started_and_restarted(tmp_path):
    web, cache = stand_in(), embedded_redis(tmp_path / "redis")
    with Stack(tmp_path, [web, cache]) as stack:
        first = stack.pid_of("redis")
        stack.stop_process("redis")
        stack.stop_process("redis")
        assert port_is_taken(web.port)
        assert not port_is_taken(cache.port)
        with pytest.raises(StackError, match="redis is not running"):
            stack.pid_of("redis")
        stack.wait_ready(5)  # for what is not stopped on purpose
        stack.start_process("redis")
        stack.start_process("redis")
        stack.wait_ready(10)
        second = stack.pid_of("redis")
        stack.restart("redis")
        stack.wait_ready(10)
        assert len({first, second, stack.pid_of("redis")}) == 3


def test_a_program_that_keeps_ending_fails_the_start_at_once_with_the_end_of_its_log(tmp_path):
    broken = Process(name="broken", command=["sh", "-c", "echo BILLING_SECRET is short; exit 3"])
    web = stand_in()
    began = time.monotonic()
    words = "(?s)broken ends as soon as it is started.*BILLING_SECRET is short"
    with pytest.raises(StackError, match=words), Stack(tmp_path, [web, broken]):
        pass
    assert time.monotonic() - began < 8
    assert not port_is_taken(web.port)


def test_a_step_that_fails_stops_the_start_with_its_output(tmp_path):
    web = stand_in()
    step = Process(
        name="migrate", command=["sh", "-c", "echo no such table; exit 1"], stage=1, once=True
    )
    words = r"migrate failed \(exit status 1\):\nno such table"
    with pytest.raises(StackError, match=words), Stack(tmp_path, [web, step]):
        pass
    assert not port_is_taken(web.port)


def test_two_stacks_run_side_by_side_and_one_folder_takes_one(tmp_path):
    left, right = stand_in(), stand_in()
    with (
        Stack(tmp_path / "left", [left]) as one,
        Stack(tmp_path / ("right" * 30), [right]) as other,  # too long for a Unix socket
    ):
        with pytest.raises(StackBusyError, match=rf"process {os.getpid()}\): stop it first"):
            Stack(tmp_path / "left", [stand_in()]).start()
        with pytest.raises(PortTakenError, match=f"Port {left.port} of web is taken"):
            Stack(tmp_path / "third", [left]).start()
        assert one.pid_of("web") != other.pid_of("web")
        one.stop()
        assert get(right.port) == 200
        assert not port_is_taken(left.port)
        one.start()
        one.wait_ready(10)
        assert get(left.port) == 200


STACK_OWNER = """
import json, sys, time
from pathlib import Path
from deploy.local.ready import http_ready, tcp_ready
from deploy.local.servers import redis_command
from deploy.local.stack import Process, Stack
data, redis_port, api_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
api = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(api_port)]
stack = Stack(data, [
    Process(name="redis", command=redis_command(data, redis_port), ready=tcp_ready(redis_port)),
    Process(name="api", command=[*api, "flask:Flask"], stage=1, ready=tcp_ready(api_port)),
])
with stack:
    print(json.dumps(stack.pids()), flush=True)
    time.sleep(60)
"""


@linux_only
@pytest.mark.parametrize("victim", ["owner", "supervisord", "both"])
def test_kill_9_of_the_owner_or_of_supervisord_leaves_no_process(tmp_path, victim):
    child, line = owner(tmp_path, STACK_OWNER, str(tmp_path), *map(str, free_ports(2)))
    family = descendants(child.pid)
    supervisord = psutil.Process(json.loads(line)["redis"]).parent()
    assert "supervisor.supervisord" in supervisord.cmdline()
    assert len(family) >= 4  # supervisord, Redis, granian and its worker
    if victim != "owner":
        supervisord.kill()
    if victim != "supervisord":
        child.kill()
    left = [process for process in family if process.pid != supervisord.pid or victim == "owner"]
    assert wait_gone(left, timeout_seconds=15) == []
    child.kill()
    child.communicate()


# Secrets


def test_the_secrets_are_stable_private_and_the_environment_wins(tmp_path):
    first = local_secrets(tmp_path, {})
    path = tmp_path / "local.env"
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.keys() == LENGTHS.keys()
    assert all(len(first[name]) >= 64 for name in LENGTHS if name != "ARRAKIS_FLOWER_PASSWORD")
    assert len(set(first.values())) == len(first)
    path.write_text(path.read_text() + "OTHER=kept\n")
    path.chmod(0o644)
    assert local_secrets(tmp_path, {}) == first
    assert path.stat().st_mode & 0o777 == 0o600
    given = {"BILLING_ADMIN_JWT_SECRET": "x" * 32, "NOWPAYMENTS_API_KEY": ""}
    assert local_secrets(tmp_path, given) == first | {"BILLING_ADMIN_JWT_SECRET": "x" * 32}
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("NOWPAYMENTS_API_K")))
    mended = local_secrets(tmp_path, {})
    assert {name for name in first if first[name] != mended[name]} == {"NOWPAYMENTS_API_KEY"}
    assert "OTHER=kept" in path.read_text().splitlines()


def test_two_that_start_at_once_agree_on_the_secrets(tmp_path):
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return tuple(local_secrets(tmp_path, {}).items())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1


# The real system, and `make up`


def test_the_real_stack_has_every_service_on_the_database_that_is_asked_for(tmp_path):
    ports = dict(zip(("api", "webhooks", "flower", "simulator"), free_ports(4), strict=True))
    arguments = {f"{name}_port": port for name, port in ports.items()}
    workers = {"worker-payments", "worker-ledger", "worker-maintenance", "beat", "flower"}
    stack = arrakis_stack(tmp_path, **arguments, env={})
    assert stack.processes.keys() == {"redis", "simulator", "api", "webhooks"} | workers
    assert stack.env["DATABASE_URL"] == f"sqlite:///{tmp_path}/sietch.db"
    assert stack.env["NOWPAYMENTS_API_URL"] == f"http://127.0.0.1:{ports['simulator']}/v1"
    assert stack.env["FEATURE_BILLING_ENABLED"] == "true"
    assert (
        stack.env["BILLING_ADMIN_JWT_SECRET"]
        == local_secrets(tmp_path, {})["BILLING_ADMIN_JWT_SECRET"]
    )
    assert all(stack.processes[name].port == port for name, port in ports.items())
    password = stack.env["ARRAKIS_FLOWER_PASSWORD"]
    assert not any(password in word for p in stack.processes.values() for word in p.command)

    other = arrakis_stack(
        tmp_path, **arguments, workers=False, database_url="postgresql+psycopg://db/arrakis",
        redis_url="redis://elsewhere/0", env={"NOWPAYMENTS_API_URL": "https://provider/v1"},
    )  # fmt: skip
    assert other.processes.keys() == {"migrate", "api", "webhooks"}
    assert other.env["REDIS_URL"] == "redis://elsewhere/0"
    assert other.env["NOWPAYMENTS_API_URL"] == "https://provider/v1"


UP_OWNER = """
import sys
from pathlib import Path
from deploy.local.ready import tcp_ready
from deploy.local.servers import redis_command
from deploy.local.stack import Process, Stack
from deploy.local.up import serve
data, port = Path(sys.argv[1]), int(sys.argv[2])
data.mkdir(exist_ok=True)
api = Process(name="api", command=redis_command(data, port), port=port, ready=tcp_ready(port))
sys.exit(serve(Stack(data, [api]), lambda stack: f"up {stack.pid_of('api')}"))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_up_says_what_was_restarted_and_stops_all_on_a_signal(tmp_path, end):
    port = free_port()
    child, line = owner(tmp_path, UP_OWNER, str(tmp_path / "data"), str(port))
    os.kill(int(line.removeprefix("up ")), signal.SIGKILL)
    assert child.stdout.readline().startswith("api was restarted (now process ")
    family = descendants(child.pid)
    child.send_signal(end)
    output, _ = child.communicate(timeout=20)
    assert "Stopped: no process is left." in output
    assert child.returncode == 0
    assert not any(is_alive(process) for process in family)


def test_up_names_the_variable_of_a_port_that_is_taken_and_refuses_a_second_run(tmp_path):
    port = free_port()
    data = str(tmp_path / "data")
    child, _ = owner(tmp_path, UP_OWNER, data, str(port))

    def second_run(*arguments):
        return subprocess.run(
            [sys.executable, tmp_path / "owner.py", *arguments],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )

    taken = second_run(str(tmp_path / "other"), str(port))
    assert taken.returncode == 2
    assert f"Port {port} of api is taken" in taken.stderr
    assert "Set ARRAKIS_API_PORT to a free one" in taken.stderr
    again = second_run(data, str(free_port()))
    assert again.returncode == 2
    assert again.stderr == (
        f"A stack already runs on {Path(data)} (process {child.pid}): stop it first.\n"
    )
    child.terminate()
    child.communicate(timeout=20)

"""The local stack: real servers as our children, restarts, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import redis
import sqlalchemy

from deploy.local.lock import PortTakenError, StackBusyError, StackError
from deploy.local.postgres import PostgresCluster
from deploy.local.processes import descendants, is_alive, wait_gone
from deploy.local.ready import http_ready, tcp_ready, wait_until
from deploy.local.secrets import LENGTHS, local_secrets
from deploy.local.servers import pgbench_path, running_postgres, running_redis
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_port, free_ports, port_is_taken
from deploy.local.stack import ROOT, Process, Stack
from deploy.local.tether import spawn

PYTHONPATH = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}


def stand_in(name="web", stage=0):
    port = free_port()
    serve = ["-m", "http.server", str(port), "--bind", "127.0.0.1"]
    ready = http_ready(f"http://127.0.0.1:{port}/")
    return Process(name=name, command=[sys.executable, *serve], port=port, stage=stage, ready=ready)


def granian(name="api"):
    port = free_port()
    serve = ["-m", "granian", "--interface", "wsgi", "--port", str(port), "flask:Flask"]
    return Process(name=name, command=[sys.executable, *serve], port=port, ready=tcp_ready(port))


@pytest.fixture
def linux():
    if sys.platform != "linux":
        pytest.skip("only the kernel of Linux ends children with their parent")


@pytest.fixture
def owner(tmp_path):
    """Return what runs a script as a process of its own, until it has printed a line."""
    started = []

    def start(script, *arguments):
        path = tmp_path / "owner.py"
        path.write_text(script)
        command = [sys.executable, path, *map(str, arguments)]
        child = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        limit = threading.Timer(30, child.kill)  # then a line that is waited for is empty
        limit.start()
        started.append((child, limit))
        return child, child.stdout.readline().strip()

    yield start
    for child, limit in started:
        limit.cancel()
        child.kill()
        child.communicate()


def eventually(condition):
    assert wait_until(lambda: None if condition() else "no", timeout_seconds=10) is None


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


def test_a_postgres_starts_and_keeps_its_data_over_a_restart_and_a_crash(tmp_path):
    tmp_path.chmod(0o700)  # nobody, who runs the server of root, cannot walk in
    with running_postgres(tmp_path) as server:
        if os.geteuid() == 0:
            assert psutil.Process(server.pid).username() == "nobody"
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


def test_a_cluster_below_a_long_path_has_its_socket_in_a_short_one(tmp_path):
    cluster = PostgresCluster(tmp_path / ("d" * 120), port=free_port())
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


OWNER_OF_SERVERS = """
import sys, time
from pathlib import Path
from deploy.local.servers import running_postgres, running_redis
home = Path(sys.argv[1])
with running_redis(home / "redis") as redis, running_postgres(home / "postgres") as postgres:
    print(redis.pid, postgres.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("linux")
def test_servers_die_with_a_test_run_that_is_killed(tmp_path, owner):
    child, line = owner(OWNER_OF_SERVERS, tmp_path)
    family = descendants(child.pid)
    assert len(line.split()) == 2
    assert {int(pid) for pid in line.split()} <= {process.pid for process in family}
    child.kill()
    assert wait_gone(family, timeout_seconds=10) == []
    PostgresCluster(tmp_path / "postgres").remove_socket()
    shutil.rmtree(tmp_path / "postgres")


def test_free_ports_are_different_and_free():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert not any(map(port_is_taken, ports))


def test_a_tethered_process_is_refused_to_a_thread_that_may_end_before_it():
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="main thread"):
        pool.submit(spawn, ["true"]).result()


FORKER = """
import multiprocessing, sys, time
if __name__ == "__main__":
    multiprocessing.get_context(sys.argv[1]).Process(target=time.sleep, args=(60,)).start()
    print("started", flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_program_forks_dies_with_it(tmp_path, method):
    script = tmp_path / "forker.py"
    script.write_text(FORKER)
    process = Process(name="forker", command=[sys.executable, str(script), method])
    with Stack(tmp_path, [process]) as stack:
        eventually(lambda: "started" in stack.log_tail("forker"))
        pid = stack.pid_of("forker")
        children = descendants(pid)
        assert children
        os.kill(pid, signal.SIGKILL)
        assert wait_gone(children, timeout_seconds=2) == []


@pytest.mark.usefixtures("linux")
def test_a_killed_granian_leaves_no_worker_on_the_port_and_is_restarted(tmp_path):
    with Stack(tmp_path, [granian()]) as stack:
        pid = stack.pid_of("api")
        workers = descendants(pid)
        assert workers
        os.kill(pid, signal.SIGKILL)
        assert wait_gone(workers, timeout_seconds=2) == []
        eventually(lambda: stack.pids().get("api", pid) != pid)
        stack.wait_ready(10)


# The stack


def test_a_stack_starts_in_stages_and_ends_with_nothing_left(tmp_path):
    first = stand_in("first")
    seen, events = [], []
    hooks = {"before": lambda: seen.append(first.ready()), "after": lambda: events.append("after")}
    late = Process(name="late", command=["sleep", "60"], stage=1, **hooks)
    echo = ["sh", "-c", "echo $COLOUR $OWN"]
    step = Process(name="step", command=echo, env={"OWN": '50% "o\'k"'}, stage=1, once=True)
    with Stack(tmp_path, [late, step, first], env={"COLOUR": "red; #1"}) as stack:
        assert seen == [None]  # the first was ready
        assert stack.pids().keys() == {"first", "late"}
        assert stack.log_tail("step") == 'red; #1 50% "o\'k"'
        family = [psutil.Process(pid) for pid in stack.pids().values()]
    assert events == ["after"]
    assert not any(is_alive(process) for process in family)
    assert not port_is_taken(first.port)


def test_a_process_can_be_stopped_started_and_restarted(tmp_path):
    web, other = stand_in("web"), stand_in("other")
    with Stack(tmp_path, [web, other]) as stack:
        first = stack.pid_of("web")
        stack.stop_process("web")
        stack.stop_process("web")
        assert not port_is_taken(web.port)
        assert port_is_taken(other.port)
        with pytest.raises(StackError, match="web is not running"):
            stack.pid_of("web")
        stack.wait_ready(5)  # for what is not stopped on purpose
        stack.start_process("web")
        stack.start_process("web")
        stack.wait_ready(10)
        second = stack.pid_of("web")
        stack.restart("web")
        stack.wait_ready(10)
        assert len({first, second, stack.pid_of("web")}) == 3


@pytest.mark.parametrize(
    ("once", "words"),
    [
        (False, "(?s)broken ends as soon as it is started.*A_SECRET is short"),
        (True, r"broken failed \(exit status 3\):\nA_SECRET is short"),
    ],
)
def test_what_cannot_start_stops_the_start_at_once_with_the_end_of_its_log(tmp_path, once, words):
    web = stand_in()
    command = ["sh", "-c", "echo A_SECRET is short; exit 3"]
    broken = Process(name="broken", command=command, stage=1, once=once)
    began = time.monotonic()
    with pytest.raises(StackError, match=words), Stack(tmp_path, [web, broken]):
        pass
    assert time.monotonic() - began < 8
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
        assert not port_is_taken(left.port)
        assert right.ready() is None
        one.start()
        one.wait_ready(10)


OWNER_OF_STACK = """
import json, sys
from pathlib import Path
from deploy.local.ready import tcp_ready
from deploy.local.servers import redis_command
from deploy.local.stack import Process, Stack
from deploy.local.up import serve
data, port, api_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
data.mkdir(exist_ok=True)
api = [sys.executable, "-m", "granian", "--interface", "wsgi", "--port", str(api_port)]
stack = Stack(data, [
    Process(name="redis", command=redis_command(data, port), ready=tcp_ready(port)),
    Process(name="api", command=[*api, "flask:Flask"], port=api_port, ready=tcp_ready(api_port)),
])
sys.exit(serve(stack, lambda stack: str(stack.pid_of("redis"))))
"""


@pytest.mark.usefixtures("linux")
@pytest.mark.parametrize("victim", ["owner", "supervisord", "both"])
def test_kill_9_of_the_owner_or_of_supervisord_leaves_no_process(tmp_path, owner, victim):
    child, line = owner(OWNER_OF_STACK, tmp_path, *free_ports(2))
    family = descendants(child.pid)
    supervisord = psutil.Process(int(line)).parent()
    assert "supervisor.supervisord" in supervisord.cmdline()
    assert len(family) >= 4  # supervisord, Redis, granian and its worker
    if victim != "owner":
        supervisord.kill()
    if victim != "supervisord":
        child.kill()
    assert wait_gone(family, timeout_seconds=15) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_up_says_what_was_restarted_and_stops_all_on_a_signal(tmp_path, owner, end):
    child, line = owner(OWNER_OF_STACK, tmp_path, *free_ports(2))
    os.kill(int(line), signal.SIGKILL)
    assert child.stdout.readline().startswith("redis was restarted (now process ")
    family = descendants(child.pid)
    child.send_signal(end)
    output, _ = child.communicate(timeout=20)
    assert "Stopped: no process is left." in output
    assert child.returncode == 0
    assert not any(is_alive(process) for process in family)


def test_up_names_the_variable_of_a_port_that_is_taken_and_refuses_a_second_run(tmp_path, owner):
    data, ports = tmp_path / "data", free_ports(2)
    child, _ = owner(OWNER_OF_STACK, data, *ports)

    def second_run(*arguments):
        command = [sys.executable, tmp_path / "owner.py", *map(str, arguments)]
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    taken = second_run(tmp_path / "other", *ports)
    assert taken.returncode == 2
    assert f"Port {ports[1]} of api is taken" in taken.stderr
    assert "Set ARRAKIS_API_PORT to a free one" in taken.stderr
    again = second_run(data, *free_ports(2))
    assert again.returncode == 2
    assert again.stderr == f"A stack already runs on {data} (process {child.pid}): stop it first.\n"


# The real system, described


def test_the_secrets_are_stable_private_and_the_environment_wins(tmp_path):
    first = local_secrets(tmp_path, {})
    path = tmp_path / "local.env"
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.keys() == LENGTHS.keys()
    assert all(len(first[name]) >= 64 for name in LENGTHS if name != "ARRAKIS_FLOWER_PASSWORD")
    assert len(set(first.values())) == len(first)
    path.write_text(path.read_text().replace("NOWPAYMENTS_API_KEY", "OTHER"))
    path.chmod(0o644)
    second = local_secrets(tmp_path, {})
    assert path.stat().st_mode & 0o777 == 0o600
    assert {name for name in first if first[name] != second[name]} == {"NOWPAYMENTS_API_KEY"}
    assert f"OTHER={first['NOWPAYMENTS_API_KEY']}" in path.read_text().splitlines()
    given = {"BILLING_ADMIN_JWT_SECRET": "x" * 32, "NOWPAYMENTS_API_KEY": ""}
    assert local_secrets(tmp_path, given) == second | {"BILLING_ADMIN_JWT_SECRET": "x" * 32}


def test_those_that_start_at_once_agree_on_the_secrets(tmp_path):
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return tuple(local_secrets(tmp_path, {}).items())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1


def test_the_real_stack_has_every_service_on_the_servers_that_are_asked_for(tmp_path):
    names = ("api", "webhooks", "flower", "simulator")
    ports = {f"{name}_port": port for name, port in zip(names, free_ports(4), strict=True)}
    workers = {"worker-payments", "worker-ledger", "worker-maintenance", "beat", "flower"}
    stack = arrakis_stack(tmp_path, **ports, env={})
    assert stack.processes.keys() == {"redis", "simulator", "api", "webhooks"} | workers
    assert stack.env["DATABASE_URL"] == f"sqlite:///{tmp_path}/sietch.db"
    assert stack.env["NOWPAYMENTS_API_URL"] == f"http://127.0.0.1:{ports['simulator_port']}/v1"
    assert stack.env["FEATURE_BILLING_ENABLED"] == "true"
    assert stack.env.items() >= local_secrets(tmp_path, {}).items()
    assert all(stack.processes[name].port == ports[f"{name}_port"] for name in names)
    password = stack.env["ARRAKIS_FLOWER_PASSWORD"]
    assert not any(password in word for p in stack.processes.values() for word in p.command)

    given = {"database_url": "postgresql+psycopg://db/arrakis", "redis_url": "redis://elsewhere/0"}
    provider = {"NOWPAYMENTS_API_URL": "https://provider/v1"}
    other = arrakis_stack(tmp_path, **ports, workers=False, **given, env=provider)
    assert other.processes.keys() == {"migrate", "api", "webhooks"}
    assert other.env["REDIS_URL"] == "redis://elsewhere/0"
    assert other.env["NOWPAYMENTS_API_URL"] == "https://provider/v1"

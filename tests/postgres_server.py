"""A real PostgreSQL server in a temporary folder, where the programs are on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from patience import wait_until

USER = "landrace_test"
PASSWORD = "pass-w0rd"
"""What no message, log or recorded command may hold."""
DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).parent
    return next((folder for folder in sorted(DEBIAN.glob("*/bin"), reverse=True) if (folder / "initdb").exists()), None)


class PostgresServer:
    """Listens on a port of 127.0.0.1; asks for a password."""

    def __init__(self, folder: Path) -> None:
        """Makes the cluster. Raises subprocess.CalledProcessError."""
        self._programs = folder
        self._home = Path(tempfile.mkdtemp(prefix="landrace-postgres-"))
        # It refuses to run as root.
        self._user: dict[str, object] = {}
        if os.geteuid() == 0:
            entry = _unprivileged()
            os.chown(self._home, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        secret = self._home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        how = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        self._run([str(folder / "initdb"), *how, "--no-locale", "-D", str(self._data)])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def start(self) -> None:
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self._home}"]
        options = [part for setting in [*settings, "fsync=off", "max_connections=40"] for part in ("-c", setting)]
        self._process = subprocess.Popen(
            [str(self._programs / "postgres"), "-D", str(self._data), *options],
            cwd=self._home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._user,  # type: ignore[call-overload]
        )
        wait_until(self._answers)

    def stop(self) -> None:
        """At once, with the connections that there are."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def empty_database(self) -> str:
        """The URL of the one database for ledgers, with nothing in it."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS landrace CASCADE")
        return self.url()

    def url(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, command: Sequence[str]) -> None:
        subprocess.run(command, cwd=self._home, check=True, capture_output=True, **self._user)  # type: ignore[call-overload]


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")

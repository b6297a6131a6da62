"""A private Postfix: its own configuration, queue, data, log and ports in one folder, apart from the system's own.

    with Instance(parameters={"transport_maps": "static:rule-deliver"}, services=fragment) as postfix:
        with postfix.session() as smtp:
            smtp.mail("a@client.test", ["b@lab.test"], b"Subject: hello\\n\\nhello\\n")
        postfix.log.wait_for(r"status=sent")

It runs the host's Postfix programs with `postfix -c FOLDER/config`, reads and writes nothing under /etc/postfix or
/var/spool/postfix, and works where /etc/postfix/main.cf was never made. It needs root, since master(8) does: it
starts pipe(8) and spawn(8), which change to another user.
"""

from __future__ import annotations

import atexit
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postroom.postfix import processes
from postroom.postfix.maillog import Maillog, tail
from postroom.postfix.postconf import Postconf, PostconfError, command, one_line, settle
from postroom.postfix.session import Session

LOOPBACK = "127.0.0.1"
# `postfix start` checks the queue first; a second is usual, a loaded machine takes several.
START_SECONDS = 60
STOP_SECONDS = 15
# A program may start another while it is being ended.
STOP_ROUNDS = 3

# What differs from Postfix's own defaults, and why.
PARAMETERS: dict[str, str] = {
    "compatibility_level": "3.6",
    "inet_interfaces": LOOPBACK,
    "inet_protocols": "ipv4",
    "myhostname": "lab.test",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    # The default tables are /etc/aliases and NIS: the host's, not ours.
    "alias_maps": "",
    "alias_database": "",
    "biff": "no",
    # A reverse lookup asks the host's resolver, which may be slow or absent.
    "smtpd_peername_lookup": "no",
    # Retries within a test's patience instead of minutes.
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "1s",
    "transport_retry_time": "1s",
    "enable_long_queue_ids": "yes",
    # A session that makes mistakes on purpose is not to be slowed down.
    "smtpd_error_sleep_time": "0",
    "smtpd_client_connection_rate_limit": "0",
}

# master.cf of a stock Postfix without chroot: a chroot would need the host's files copied into the queue directory.
SERVICES = """\
pickup     unix  n       -       n       60      1       pickup
cleanup    unix  n       -       n       -       0       cleanup
qmgr       unix  n       -       n       300     1       qmgr
tlsmgr     unix  -       -       n       1000?   1       tlsmgr
rewrite    unix  -       -       n       -       -       trivial-rewrite
bounce     unix  -       -       n       -       0       bounce
defer      unix  -       -       n       -       0       bounce
trace      unix  -       -       n       -       0       bounce
verify     unix  -       -       n       -       1       verify
flush      unix  n       -       n       1000?   0       flush
proxymap   unix  -       -       n       -       -       proxymap
proxywrite unix  -       -       n       -       1       proxymap
smtp       unix  -       -       n       -       -       smtp
relay      unix  -       -       n       -       -       smtp
lmtp       unix  -       -       n       -       -       lmtp
local      unix  -       n       n       -       -       local
virtual    unix  -       n       n       -       -       virtual
error      unix  -       -       n       -       -       error
retry      unix  -       -       n       -       -       error
discard    unix  -       -       n       -       -       discard
showq      unix  n       -       n       -       -       showq
anvil      unix  -       -       n       -       1       anvil
scache     unix  -       -       n       -       1       scache
postlog    unix-dgram n  -       n       -       1       postlogd
"""


class InstanceError(Exception):
    """A private Postfix cannot be had or did not start; the text says what is missing or what Postfix said."""


def missing() -> str | None:
    """Why no private Postfix can run here, as one line; None when one can."""
    if os.geteuid() != 0:
        return "a private Postfix needs root: master(8), pipe(8) and spawn(8) change to other users"
    try:
        command("postfix")
        pwd.getpwnam("postfix")
    except PostconfError as error:
        return str(error)
    except KeyError:
        return "user postfix: not found; install Postfix (Debian: apt-get install postfix)"
    return None


def free_port() -> int:
    """A TCP port that nothing on loopback listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def shut_folder(directory: Path) -> Path | None:
    """The first folder on the way to `directory` (itself included) that other users cannot enter; None: all open."""
    for folder in (*reversed(directory.parents), directory):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


class Instance:
    """One private Postfix. `stop` ends everything that it started, programs of pipe(8) and spawn(8) included."""

    def __init__(
        self,
        parameters: Mapping[str, str] | None = None,
        services: str = "",
        directory: str | os.PathLike[str] | None = None,
        smtpd: str = "smtpd",
        keep: bool = False,
    ) -> None:
        """`parameters` go over PARAMETERS into main.cf, `services` is text added to master.cf, `smtpd` is the command
        of the SMTP listener with any -o options. Without `directory` a temporary one. `close` removes the folder
        unless `keep`; with `keep` the end of this Python does not end Postfix either."""
        reason = missing()
        if reason:
            raise InstanceError(reason)
        self.keep = keep
        self.smtpd = smtpd
        self.services = services
        folder = Path(directory or Path(tempfile.gettempdir(), f"postroom-{secrets.token_hex(4)}"))
        # A folder that was there is not ours to remove, only what we make in it.
        self._own_folder = not folder.exists()
        self.directory = self._folder(folder.resolve())
        self.config_directory = self.directory / "config"
        self.queue_directory = self.directory / "queue"
        self.data_directory = self.directory / "data"
        self.log = Maillog(self.directory / "log" / "mail.log")
        self.parameters = {**PARAMETERS, **self._own_parameters(), **(parameters or {})}
        self.port = 0
        self._reservation: socket.socket | None = None

    def __enter__(self) -> Instance:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _folder(directory: Path) -> Path:
        """Make the folder where it is not there; it must be one that Postfix's and the programs' users can enter.

        Daemons run as user postfix and programs as the user= of master.cf, both with the queue directory as their
        working directory: one parent of mode 700 (a home, or mkdtemp's own 700) and every one of them fails, each in
        another way.
        """
        made = not directory.exists()
        if made:
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        shut = shut_folder(directory)
        if shut is not None:
            if made:
                directory.rmdir()
            raise InstanceError(f"{shut}: other users than its owner cannot enter it; choose another folder (TMPDIR)")
        return directory

    def _own_parameters(self) -> dict[str, str]:
        return {
            "queue_directory": str(self.queue_directory),
            "data_directory": str(self.data_directory),
            "maillog_file": str(self.log.path),
            "maillog_file_prefixes": str(self.log.path.parent),
        }

    # Life

    @property
    def address(self) -> tuple[str, int]:
        """Where the SMTP listener is, once started."""
        return (LOOPBACK, self.port)

    @property
    def running(self) -> bool:
        """Whether master(8) lives."""
        try:
            master = int((self.queue_directory / "pid" / "master.pid").read_text())
        except (OSError, ValueError):
            return False
        return master in processes.of_postfix(self.config_directory)

    def start(self) -> None:
        """Start Postfix; its configuration is written when it is not there yet. Returns when its ports are open."""
        if not self.keep:
            # A test or a demo that dies by an exception elsewhere must not leave a mail system behind.
            atexit.register(self.close)
        try:
            self._make()
            since = self.log.size()
            said = self._postfix("start", START_SECONDS)
            if not self.running:
                said = one_line(said + tail(self.log.text(since)))
                raise InstanceError(f"postfix -c {self.config_directory} start failed: {said}")
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """End Postfix and every program it started; the folder stays, and `start` goes on with the same queue."""
        # Looked up before the daemons end: what they started is then still seen to be theirs.
        opened = processes.handles(processes.of_postfix(self.config_directory))
        try:
            if self.running:
                self._postfix("stop", STOP_SECONDS)
        finally:
            processes.end(opened)
            for _ in range(STOP_ROUNDS):
                left = processes.of_postfix(self.config_directory)
                if not left:
                    break
                processes.end(processes.handles(left))

    def close(self) -> None:
        """`stop`, and remove the folder unless it is to be kept."""
        atexit.unregister(self.close)
        try:
            self.stop()
        finally:
            if self._reservation is not None:
                self._reservation.close()
            if not self.keep:
                for folder in [self.directory] if self._own_folder else self._parts():
                    shutil.rmtree(folder, ignore_errors=True)

    def reload(self) -> None:
        """Make Postfix read its configuration again."""
        self._postfix("reload", START_SECONDS)

    def flush(self) -> None:
        """Try all deferred mail now."""
        self._postfix("flush", START_SECONDS)

    def _parts(self) -> tuple[Path, ...]:
        return (self.config_directory, self.queue_directory, self.data_directory, self.log.path.parent)

    def _make(self) -> None:
        for folder in self._parts():
            folder.mkdir(exist_ok=True)
            # Whatever the umask: see _folder.
            folder.chmod(0o755)
        shutil.chown(self.data_directory, "postfix")
        main = self.config_directory / "main.cf"
        if not main.exists():
            main.write_text("".join(f"{name} = {value}\n" for name, value in self.parameters.items()))
            settle(main)
        master = self.config_directory / "master.cf"
        if not master.exists():
            self._reserve()
            listener = f"{LOOPBACK}:{self.port} inet n - n - - {self.smtpd}\n"
            master.write_text(listener + SERVICES + self.services)

    def _reserve(self) -> None:
        """Choose a port and keep others off it. master(8) sets SO_REUSEPORT: two instances that chose the same port
        would both start and share its connections between them."""
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reservation.bind((LOOPBACK, 0))
        self.port = self._reservation.getsockname()[1]

    def _postfix(self, verb: str, timeout: float) -> str:
        """`postfix -c DIRECTORY verb`; what it wrote to the terminal (the rest is in the log)."""
        return self._command("postfix", "-c", str(self.config_directory), verb, timeout=timeout)

    def _command(self, name: str, *arguments: str, data: bytes = b"", timeout: float = START_SECONDS) -> str:
        try:
            done = subprocess.run(
                [command(name), *arguments],
                input=data,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise InstanceError(f"{name} {' '.join(arguments)}: not done within {timeout:g} s") from error
        return done.stdout.decode("utf-8", "replace")

    # Use

    def postconf(self, name: str) -> str:
        """The value of a parameter in this instance."""
        return Postconf(self.config_directory).get(name)

    def set(self, values: Mapping[str, str]) -> None:
        """Set main.cf parameters and reload when running."""
        Postconf(self.config_directory).set(values)
        settle(self.config_directory / "main.cf")
        if self.running:
            self.reload()

    def wait_for(self, pattern: str, timeout: float = 30, since: int = 0) -> re.Match[str]:
        """The first match in the log, waiting for it (Maillog.wait_for)."""
        return self.log.wait_for(pattern, timeout, since)

    def session(self, timeout: float = 60) -> Session:
        """A new SMTP connection to the listener, its greeting read."""
        return Session(self.address, timeout)

    def sendmail(self, sender: str, recipients: Sequence[str], message: bytes, *options: str) -> None:
        """Submit as a local program does, through sendmail(1) and pickup(8)."""
        arguments = ("-C", str(self.config_directory), *options, "-i", "-f", sender, "--", *recipients)
        said = self._command("sendmail", *arguments, data=message)
        if said:
            raise InstanceError(f"sendmail: {one_line(said)}")

    def queue(self) -> list[dict[str, Any]]:
        """The mail in the queue, as `postqueue -j` lists it."""
        listing = self._command("postqueue", "-c", str(self.config_directory), "-j")
        return [json.loads(line) for line in listing.splitlines()]

    def wait_until_empty(self, timeout: float = 30) -> None:
        """Wait until nothing is in the queue."""
        end = time.monotonic() + timeout
        while self.queue():
            if time.monotonic() >= end:
                raise InstanceError(f"mail still in the queue after {timeout:g} s: {self.queue()}")
            time.sleep(0.1)

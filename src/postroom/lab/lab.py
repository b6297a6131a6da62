"""The lab: a private Postfix with Postroom wired into it, a name server, and mail to look at.

Everything is real (Debian's postfix and nsd, the programs installed from the package, `postroom wire`) and
everything is private: one folder, loopback ports, gone afterwards. The demo tells its cases on it, the tests
assert them.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from postroom.lab import place
from postroom.lab.nameserver import Nameserver
from postroom.lab.settings import PARAMETERS, ZONES, configuration, handler_services, inside_listener
from postroom.lab.sink import Sink
from postroom.postfix.instance import Instance, InstanceError, free_port, missing
from postroom.postfix.maillog import Delivery, Maillog
from postroom.postfix.session import Reply, Session

# pipe(8) and spawn(8) run programs as an ordinary user; the lab makes no account for itself.
USER = "nobody"
PROGRAMS = ("rule-deliver", "rule-policy", "bounce-record", "notify-record")

# A policy service looks at its configuration file at most once a second.
RELOAD_SECONDS = 1.1
PATIENCE = 60.0
# Retrying each second, qmgr(8) can come upon a mail that pipe(8) has just deferred and not yet let go of ("skipped,
# still being delivered"). Then it leaves it alone for minutes.
FLUSH_SECONDS = 10.0


class Lab:
    """One laboratory. Use it as a context manager; `keep` leaves the folder, and Postfix running, behind."""

    def __init__(
        self,
        say: Callable[[str], None] = lambda text: None,
        keep: bool = False,
        zones: Mapping[str, str] | None = None,
    ) -> None:
        """`zones` are served besides the lab's own."""
        self.say = say
        self.keep = keep
        self.zones = {**ZONES, **(zones or {})}
        self.folder = Path(tempfile.mkdtemp(prefix="postroom-lab-"))
        # The programs' user has to be able to walk through it; see postroom.lab.place.
        self.folder.chmod(0o755)
        self.log = Maillog(self.folder / "postroom.log")
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        try:
            self._start()
        except BaseException:
            self.keep = False
            self.stop()
            raise
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            self.keep = False  # what was interrupted is not worth looking at, and nobody was told how to stop it
        self.stop()

    def stop(self) -> None:
        if self.keep:
            return
        # A second Ctrl-C would leave half of it running.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._stack.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            signal.signal(signal.SIGINT, before)

    def settle(self) -> None:
        """Retry what is left in the queue as rarely as any server does, not each second."""
        self.postfix.set({"minimal_backoff_time": "300s", "maximal_backoff_time": "4000s", "queue_run_delay": "300s"})

    def stop_script(self) -> Path:
        """A file that ends and removes a lab that was kept."""
        pids = [str(pid) for pid in (self.nameserver.pid, self.lmtp.pid, self.smtp.pid) if pid]
        file = self.folder / "stop"
        file.write_text(
            f"#!/bin/sh\npostfix -c {self.postfix.config_directory} stop\nkill {' '.join(pids)}\n"
            f"rm -rf {self.folder} {self.nameserver.folder}\n"
        )
        file.chmod(0o755)
        return file

    # Starting

    def _start(self) -> None:
        reason = missing()
        if reason:
            raise InstanceError(reason)
        self.place = place.install(self.folder, USER)
        self.say(f"programs in {self.place.programs}, run by {self.place.python}: {self.place.why}")
        self.nameserver = self._stack.enter_context(Nameserver(self.zones, servfail=("broken.test",)))
        self.say(f"name server (nsd) on {self.nameserver.address} with {', '.join(self.zones)}; broken.test: SERVFAIL")
        for name in ("state", "mail", "sockets"):
            self._own_folder(name)
        (self.folder / "etc").mkdir()
        self.log.path.touch()
        self._give(self.log.path)
        self.lmtp = self._stack.enter_context(Sink(self.folder / "sockets" / "lmtp"))
        self.smtp = self._stack.enter_context(Sink())
        self.write_list("listed@victim.test", "listed@backup.test", "listed@broken.test")
        self.run("verp", "key", str(self.folder / "etc" / "bounce.key"))
        self._give(self.folder / "etc" / "bounce.key")
        self.configure()
        self._start_postfix()

    def _start_postfix(self) -> None:
        self.inside = free_port()
        self.postfix = Instance(
            parameters=PARAMETERS,
            services=handler_services(self.folder, USER) + inside_listener(self.inside),
            directory=self.folder / "postfix",
            keep=self.keep,
        )
        self._stack.enter_context(self.postfix)
        self.say(f"private Postfix on {self.postfix.address[0]}:{self.postfix.port}, log {self.postfix.log.path}")
        wired = ["--postfix", str(self.postfix.config_directory), "--user", USER, "--config", str(self.config)]
        self.run("wire", *PROGRAMS, *wired, "--programs", str(self.place.programs), "--yes")
        self.say(f"postroom wire {' '.join(PROGRAMS)}: done, Postfix reloaded")

    def _own_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        self._give(folder)
        folder.chmod(0o755)
        return folder

    @staticmethod
    def _give(path: Path) -> None:
        account = pwd.getpwnam(USER)
        os.chown(path, account.pw_uid, account.pw_gid)

    # Changing

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "postroom.toml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def configure(self, action: str = "HANGUP", on_error: str = "skip") -> None:
        """Write postroom.toml with this action and on_error in the rule of case 1, and wait until it is in force."""
        text = configuration(self.folder, self.nameserver.address, self.smtp.port, action, on_error)
        running = self.config.exists()
        replace(self.config, text)
        if running:
            time.sleep(RELOAD_SECONDS)

    def write_list(self, *addresses: str) -> None:
        replace(self.folder / "etc" / "blocked", "".join(f"{address}\n" for address in addresses))

    def write_handler(self, name: str, body: str) -> None:
        """A program as a user would write one: transport `name` of the lab's master.cf runs it."""
        file = self.folder / "handlers" / name
        file.parent.mkdir(exist_ok=True)
        head = f"#!{self.place.programs}/python\nfrom postroom.delivery import sent\n"
        replace(
            file,
            f"{head}from postroom.runners.pipe import run\n\n\ndef deliver(mail):\n    {body}\n\n\nrun(deliver)\n",
            mode=0o755,
        )

    @property
    def library(self) -> Path:
        """Where the lab's own copy of the library is."""
        return next((self.place.programs.parent / "lib").glob("python*/site-packages/postroom"))

    # Asking

    def run(self, *arguments: str) -> str:
        """`postroom ARGUMENTS`, as a person would type it; what it printed."""
        done = subprocess.run(
            [str(self.place.programs / "postroom"), *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        if done.returncode:
            raise RuntimeError(f"postroom {' '.join(arguments)}: exit {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def facts(self, *arguments: str) -> list[dict[str, Any]]:
        """The same with the configuration named and --json, read."""
        printed = self.run(*arguments, "--config", str(self.config), "--json")
        return [json.loads(line) for line in printed.splitlines()]

    def rcpt(self, recipient: str, sender: str = "someone@client.test") -> tuple[Reply | None, bool]:
        """What Postfix says to RCPT TO, None for nothing at all; and whether it then closed the connection."""
        with Session(self.postfix.address) as session:
            session.command("EHLO client.test")
            session.command(f"MAIL FROM:<{sender}>")
            reply = session.command(f"RCPT TO:<{recipient}>")
            closed = reply is None or session.command("NOOP") is None
        return reply, closed

    def send(
        self, *recipients: str, sender: str = "someone@client.test", message: bytes = b"", inside: bool = False
    ) -> str:
        """Send one mail, return its queue id; `inside`: by the listener that asks no policy service."""
        address = (self.postfix.address[0], self.inside) if inside else self.postfix.address
        text = message or b"Subject: a mail from the lab\nMessage-ID: <%d@client.test>\n\nHello.\n" % time.time_ns()
        with Session(address) as session:
            replies = session.mail(sender, recipients, text)
        accepted = [reply for reply in replies if reply and "queued as" in reply.text]
        if not accepted:
            raise RuntimeError(f"Postfix did not take the mail: {[str(reply) for reply in replies]}")
        return accepted[0].text.split()[-1]

    def deliveries(self, queue_id: str) -> list[Delivery]:
        return [line for line in self.postfix.log.deliveries() if line.queue_id == queue_id]

    def wait(self, queue_id: str, recipient: str, status: str = "", timeout: float = PATIENCE) -> Delivery:
        """The last `status=` line for the recipient, once there is one (with this status, where given)."""
        end = time.monotonic() + timeout
        flush = time.monotonic() + FLUSH_SECONDS
        while True:
            found = [line for line in self.deliveries(queue_id) if line.recipient == recipient]
            wanted = [line for line in found if line.status == status or not status]
            if wanted:
                return wanted[-1]
            if time.monotonic() > end:
                raise TimeoutError(f"{queue_id}: no status={status or '...'} for {recipient}; logged: {found}")
            if time.monotonic() > flush:
                self.postfix.flush()
                flush += FLUSH_SECONDS
            time.sleep(0.05)

    def maildir(self, name: str) -> list[Path]:
        """The mails in a maildir of the lab."""
        return sorted((self.folder / "mail" / name / "new").glob("*"))

    def said(self, queue_id: str = "", since: int = 0) -> list[str]:
        """Postroom's log lines, about one mail where a queue id is given."""
        return [line for line in self.log.text(since).splitlines() if f"]: {queue_id}" in line or not queue_id]

    @contextmanager
    def moved(self, path: Path) -> Iterator[None]:
        """The file is somewhere else meanwhile."""
        away = path.with_name(path.name + ".away")
        path.rename(away)
        try:
            yield
        finally:
            away.rename(path)


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write the file as a whole: a program that Postfix starts in between reads the old text or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(path)

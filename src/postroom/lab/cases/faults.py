"""Our fault defers: each cause ends status=deferred, never bounced; without it the mail is delivered, once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from postroom.lab.cases import Line
from postroom.lab.lab import Lab, replace

Fault = Callable[[Lab], AbstractContextManager[object]]


def each_defers(lab: Lab) -> Iterator[Line]:
    for title, recipient, fault in FAULTS:
        yield _deferred_then_delivered(lab, title, recipient, fault)
    yield _prints(lab)


def _deferred_then_delivered(lab: Lab, title: str, recipient: str, fault: Fault) -> Line:
    with fault(lab):
        queue_id = lab.send(recipient, inside=True)
        if fault in KILLED:
            KILLED[fault](lab)
        lab.wait(queue_id, recipient)
    # Not the last line: on a busy machine the second try is over before anyone has looked at the first.
    deferred = next(line for line in lab.deliveries(queue_id) if line.recipient == recipient)
    sent = lab.wait(queue_id, recipient, "sent")
    statuses = [line.status for line in lab.deliveries(queue_id)]
    name = recipient.partition("@")[0]
    copies = len(lab.maildir(name)) if recipient.endswith("@home.test") and name != "relay" else 1
    return Line(
        f"{title}",
        f"status={deferred.status} dsn={deferred.dsn}, then status={sent.status}",
        deferred.text.strip()[:110],
        deferred.status == "deferred"
        and deferred.dsn.startswith("4.")
        and set(statuses) == {"deferred", "sent"}
        and copies == 1,
    )


def _prints(lab: Lab) -> Line:
    """Better than deferred: what a handler prints never reaches Postfix, so the mail is simply delivered."""
    lab.write_handler("prints", "print('x' * 100_000)\n    return sent('delivered')")
    queue_id = lab.send("box@prints.test", inside=True)
    found = lab.wait(queue_id, "box@prints.test")
    lab.log.wait_for(f"{queue_id}: output_dropped=", timeout=10)
    return Line(
        "a handler that prints 100 KB",
        f"status={found.status} dsn={found.dsn}",
        "the output is kept from Postfix and stands in the log, cut",
        found.status == "sent" and "xxx" not in found.text,
    )


@contextmanager
def _missing_module(lab: Lab) -> Iterator[None]:
    with lab.moved(lab.library / "actions" / "maildir.py"):
        yield


@contextmanager
def _missing_core(lab: Lab) -> Iterator[None]:
    with lab.moved(lab.library / "envelope.py"):
        yield


@contextmanager
def _broken_toml(lab: Lab) -> Iterator[None]:
    good = lab.config.read_text()
    replace(lab.config, good + "\n[[rule\n")
    try:
        yield
    finally:
        replace(lab.config, good)


@contextmanager
def _vanished_list(lab: Lab) -> Iterator[None]:
    with lab.moved(lab.folder / "etc" / "blocked"):
        yield


@contextmanager
def _raising_handler(lab: Lab) -> Iterator[None]:
    lab.write_handler("raises", "raise ValueError('a bad day')")
    yield
    lab.write_handler("raises", "return sent('delivered')")


@contextmanager
def _printing_and_raising_handler(lab: Lab) -> Iterator[None]:
    lab.write_handler("prints", "print('5.1.1 x' * 20_000)\n    raise SystemExit(1)")
    yield
    lab.write_handler("prints", "return sent('delivered')")


@contextmanager
def _locked_state(lab: Lab) -> Iterator[None]:
    database = sqlite3.connect(next(lab.state.glob("*.db")), isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        database.close()


@contextmanager
def _read_only_state(lab: Lab) -> Iterator[None]:
    modes = {path: path.stat().st_mode for path in (lab.state, *lab.state.iterdir())}
    for path in modes:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


@contextmanager
def _full_disk(lab: Lab) -> Iterator[None]:
    owner = lab.state.stat()
    options = f"size=16k,mode=0755,uid={owner.st_uid},gid={owner.st_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(lab.state)], check=True)
    try:
        (lab.state / "ballast").write_bytes(b"x" * 12288)
        yield
    finally:
        # A program that is just leaving may still have it open: out of the tree now, gone when that one is.
        subprocess.run(["umount", "--lazy", str(lab.state)], check=True)


@contextmanager
def _relay_down(lab: Lab) -> Iterator[None]:
    lab.lmtp.stop()
    yield
    lab.lmtp.start()


@contextmanager
def _slow_handler(lab: Lab) -> Iterator[None]:
    lab.write_handler("sleeps", "import time\n    time.sleep(600)\n    return sent('too late')")
    yield
    lab.write_handler("sleeps", "return sent('delivered')")


@contextmanager
def _killed_handler(lab: Lab) -> Iterator[None]:
    """Sleeps at its first start only: Postfix tries again a second later, perhaps before anyone could mend it."""
    _pid(lab).unlink(missing_ok=True)
    pid = str(_pid(lab))
    lab.write_handler(
        "dies",
        f"import os, time\n    if os.path.exists({pid!r}):\n        return sent('delivered')\n"
        f"    open({pid!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"    os.rename({pid!r} + '.new', {pid!r})\n    time.sleep(600)",
    )
    yield


def _killed_by_sigterm(lab: Lab) -> AbstractContextManager[None]:
    return _killed_handler(lab)


def _pid(lab: Lab) -> Path:
    return lab.folder / "mail" / "pid"


def _kill(lab: Lab, number: signal.Signals) -> None:
    while not _pid(lab).exists():
        time.sleep(0.02)
    os.kill(int(_pid(lab).read_text()), number)


KILLED: dict[Fault, Callable[[Lab], None]] = {
    _killed_handler: lambda lab: _kill(lab, signal.SIGKILL),
    _killed_by_sigterm: lambda lab: _kill(lab, signal.SIGTERM),
}

FAULTS: tuple[tuple[str, str, Fault], ...] = (
    ("a module of the library missing", "module@home.test", _missing_module),
    ("a module that the start needs missing", "core@home.test", _missing_core),
    ("broken TOML", "toml@home.test", _broken_toml),
    ("a list whose file vanished", "list@home.test", _vanished_list),
    ("a handler that raises", "box@raises.test", _raising_handler),
    ("a handler that prints 100 KB and exits 1", "box@prints.test", _printing_and_raising_handler),
    ("a locked state", "locked@home.test", _locked_state),
    ("a read-only state", "readonly@home.test", _read_only_state),
    ("a full disk under the state", "full@home.test", _full_disk),
    ("a relay that is down", "relay@home.test", _relay_down),
    ("a handler slower than its deadline", "box@sleeps.test", _slow_handler),
    ("SIGKILL in the middle", "box@dies.test", _killed_handler),
    ("SIGTERM in the middle", "box2@dies.test", _killed_by_sigterm),
)

"""The emulator against the real pipe(8): the same odd programs, and the same verdict demanded.

One private Postfix, one transport for each program, all mails in one go; then each program once more under the
emulator. A difference means that `postroom try` tells an author something that Postfix will not do.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postroom.postfix.emulator import Surroundings, attempt
from postroom.postfix.instance import Instance
from postroom.postfix.maillog import Delivery
from postroom.postfix.pipe_request import Recipient, Request
from postroom.postfix.pipe_verdict import SYS_EXITS, Verdict
from postroom.postfix.postconf import Postconf
from postroom.postfix.session import Session, dot_stuffed

# Postfix's log lines end at 2000 characters, so a longer text is compared as far as it goes.
LOG_LINE = 1800
# Postfix runs a hundred programs at once here, the emulator one after the other.
TIME_LIMIT = 3
EMULATED_LIMIT = 1.5
BODY = b"Subject: odd\n\nFrom here\n.dot\nend\n"
BIG = b"Subject: big\n\n" + b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n" * 4000

SH = "#!/bin/sh\ncat >/dev/null\n"
PY = "#!/usr/bin/python3 -IS\nimport os, signal, sys, time\nsys.stdin.buffer.read()\n"
SLOW_WRITER = "os.write(1, b'x' * 4096)\ntime.sleep(0.5)\n"

PROGRAMS: dict[str, str] = {
    **{f"exit-{status}": f"{SH}exit {status}\n" for status in (0, 1, 2, 63, *SYS_EXITS, 79, 100, 126, 127, 200, 255)},
    **{f"said-{status}": f"{SH}echo some words\nexit {status}\n" for status in (0, 1, 67, 70, 75, 78)},
    "defer-69": f"{SH}echo 4.2.2 full\nexit 69\n",
    "bounce-75": f"{SH}echo 5.1.1 no\nexit 75\n",
    "success-1": f"{SH}echo 2.0.0 fine\nexit 1\n",
    "defer-0": f"{SH}echo 4.2.2 full\nexit 0\n",
    "leading-space": f"{SH}echo ' 5.1.1 no'\nexit 75\n",
    "leading-newline": f"{SH}printf '\\n5.1.1 no\\n'\nexit 75\n",
    "code-newline": f"{SH}echo 4.2.2\nexit 69\n",
    "code-alone": f"{SH}printf 5.1.1\nexit 75\n",
    "second-line": f"{SH}echo warning: x\necho 4.2.2 full\nexit 69\n",
    "two-lines": f"{SH}echo 4.2.2 full\necho and more\nexit 69\n",
    "both-streams": f"{SH}printf '4.2.2 ' >&2\necho text\nexit 69\n",
    "error-stream": f"{SH}echo 4.3.0 from stderr >&2\nexit 1\n",
    "wide-code": f"{SH}echo 5.123.456 t\nexit 1\n",
    "too-wide-code": f"{SH}echo 5.1234.5 t\nexit 1\n",
    "class-3": f"{SH}echo 3.1.1 t\nexit 1\n",
    "long-code": f"{SH}echo 4.2.2.2 t\nexit 1\n",
    "dash-code": f"{SH}echo 4.2.2-x t\nexit 1\n",
    "colon-code": f"{SH}echo 4.2.2: t\nexit 1\n",
    "smtp-reply": f"{SH}echo 450 4.2.2 t\nexit 1\n",
    "tab-code": f"{SH}printf '4.2.2\\ttabbed\\ttext\\n'\nexit 1\n",
    "blanks-code": f"{SH}printf '4.2.2   wide \\n\\n'\nexit 1\n",
    "blanks-0": f"{SH}printf '  a\\tb\\n c \\n\\n'\n",
    "long-0": f"{SH}printf '%%150s' y | tr ' ' x\n".replace("%%", "%"),
    "blank-at-100": f"{PY}os.write(1, b'x' * 97 + b'   ' + b'y' * 9)\n",
    "output-5000-0": f"{PY}os.write(1, b'x' * 5000)\n",
    "output-5000-1": f"{PY}os.write(1, b'x' * 5000)\nsys.exit(1)\n",
    "output-4096-75": f"{PY}os.write(1, b'4.2.2 ' + b'x' * 4090)\nsys.exit(75)\n",
    "output-100k": f"{PY}try:\n    sys.stdout.write('y' * 100000)\nexcept OSError:\n    os._exit(1)\n",
    "late-write-c": f"{PY}signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n{SLOW_WRITER}os.write(1, b'z')\n",
    "late-write-python": f"{PY}{SLOW_WRITER}try:\n    os.write(1, b'z')\nexcept BrokenPipeError:\n    os._exit(1)\n",
    "signals": f"{SH}exec grep -E 'SigIgn|SigBlk' /proc/self/status\n",
    "limits": f"{SH}ulimit -a | cksum\n",
    "utf-8": f"{PY}os.write(1, '5.1.1 caf\u00e9 \u20ac'.encode())\nsys.exit(1)\n",
    "not-utf-8": f"{PY}os.write(1, b'5.1.1 \\xff\\xfe \\xc3( \\xe2\\x82 \\x80\\x7f\\x1b[0m\\r\\v')\nsys.exit(1)\n",
    "nul": f"{PY}os.write(1, b'5.1.1 a\\0b')\nsys.exit(1)\n",
    "nul-first": f"{PY}os.write(1, b'\\0005.1.1 a')\nsys.exit(75)\n",
    "killed-9": f"{SH}kill -9 $$\n",
    "killed-15": f"{SH}echo 5.1.1 no\nkill -15 $$\n",
    "killed-11": f"{SH}kill -11 $$\n",
    "unread-0": "#!/bin/sh\nexit 0\n",
    "unread-75": "#!/bin/sh\necho 4.3.2 later\nexit 75\n",
    "uncaught-error": f"{PY}raise ValueError('a bug')\n",
    "child-holds-output": f"{SH}sleep 30 &\nexit 0\n",
    "child-let-go": f"{SH}sleep 5 </dev/null >/dev/null 2>&1 &\nexit 0\n",
    "too-slow": f"{SH}echo 4.2.2 full\nexec sleep 30\n",
    "slow-but-steady": f"{SH}for i in 1 2 3 4 5; do echo $i; sleep 0.8; done\nexit 0\n",
    "closed-then-slow": f"{SH}exec >&- 2>&-\nsleep 30\n",
    "never-reads": "#!/bin/sh\nsleep 30\n",
    "no-interpreter": "#!/no/such/interpreter\n",
    "no-first-line": "cat >/dev/null\necho shell ran it\nexit 67\n",
}
UNREAD = ("unread-0", "unread-75", "never-reads")
# Postfix 3.7 reads past the end of an output that is a code and nothing else: no text to compare.
NO_TEXT = ("code-alone",)

# Where the program's whole view is compared: name -> flags, words, sender, recipients at that name's domain.
VIEWS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "plain": ("", "s=${sender} r=${recipient} o=$original_recipient $nexthop -- $(user) $extension", "a@c.d", ("x+y",)),
    "several": (
        "",
        "a ${recipient} u=${user}x=${extension} ${domain} $mailbox $$x$$ p{$sender}",
        "-a@c.d",
        ("x+y", "Z"),
    ),
    "client": (
        "",
        "$client_address/$client_hostname/$client_helo/$client_protocol [$sasl_username] z",
        "a@c.d",
        ("x",),
    ),
    "headers": ("DFORX", "${recipient} x", "A@C.test", ("X",)),
    "folded": ("hu", "${recipient} ${original_recipient} ${domain} $user $extension $nexthop", "A@C.test", ("X+Y",)),
    "quoted": ("q", "${recipient} ${sender} ${original_recipient} $mailbox", '"a b"@c.test', ('"x \\" y"',)),
    "raw": ("DR", "${recipient} ${sender} ${original_recipient} $mailbox", '"a b"@c.test', ('"x  y"',)),
    "escaped": ("B.>", "${recipient}", "a@c.test", ("x",)),
    "null": ("FR", "s=${sender}", "", ("x",)),
    "null-quoted": ("Rq", "s=${sender}", "", ("x",)),
    "no-user": ("", "a u=${user} r=${recipient} e=$extension m=$mailbox z", "a@c.test", ("+ext", '""', "postmaster+x")),
    "bounces": ("", "u=${user} e=$extension", "a@c.test", ("double-bounce", "owner-x+y", "x+y+z")),
}
# Requests that pipe(8) answers without running the program.
REFUSED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "conditional": ("", "${sender?x}", ("x",)),
    "unknown-macro": ("", "$recipent", ("x",)),
    "bare-dollar": ("", "a$ b", ("x",)),
    "loop": ("D", "x", ("x",)),
    "several-d": ("D", "x", ("x", "y")),
    "several-o": ("O", "x", ("x", "y")),
}
SEER = """#!/usr/bin/python3 -IS
import os, sys, json
mask = os.umask(0)
os.umask(mask)
name = os.path.basename(sys.argv[0])
seen = {
    "arguments": sys.argv[1:],
    "content": sys.stdin.buffer.read().decode("latin-1"),
    "environment": dict(os.environ),
    "directory": os.getcwd(),
    "umask": mask,
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
    "open": [n for n in range(100) if os.path.exists(f"/proc/self/fd/{n}")],
    "same": os.fstat(1).st_ino == os.fstat(2).st_ino,
    "blocking": [os.get_blocking(n) for n in (0, 1, 2)],
}
with open(os.path.dirname(sys.argv[0]) + "/seen/" + name, "w") as file:
    json.dump(seen, file)
"""
KEEPER = """#!/bin/sh
exec cat >"${0%/*}/seen/queue-$1"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the programs are: not under tmp_path, whose parents are of mode 700 and keep user nobody out."""
    made = Path(tempfile.mkdtemp(prefix="postroom-odd-"))
    made.chmod(0o755)
    (made / "seen").mkdir()
    (made / "seen").chmod(0o777)
    for name, text in PROGRAMS.items():
        program(made / name, text)
    program(made / "not-executable", SH, 0o644)
    (made / "directory").mkdir()
    for name in VIEWS:
        program(made / f"see-{name}", SEER)
    for name in REFUSED:
        program(made / f"refused-{name}", SEER)
    program(made / "keep", KEEPER)
    yield made
    shutil.rmtree(made)


def program(path: Path, text: str, mode: int = 0o755) -> None:
    path.write_text(text)
    path.chmod(mode)


def verdict_names() -> list[str]:
    return [*PROGRAMS, "not-executable", "not-there", "directory"]


def services(folder: Path) -> str:
    """master.cf: one transport for each program."""
    text = "keep unix - n n - - pipe\n  user=nobody null_sender= argv=@/keep ${queue_id}\n"
    for name in verdict_names():
        text += f"{name} unix - n n - - pipe\n  user=nobody argv=@/{name} ${{recipient}}\n"
    for name, (flags, words, *_) in VIEWS.items():
        given = f"flags={flags} " if flags else ""
        text += f"see-{name} unix - n n - - pipe\n  {given}user=nobody argv=@/see-{name} {words}\n"
    for name, (flags, words, _) in REFUSED.items():
        given = f"flags={flags} " if flags else ""
        text += f"refused-{name} unix - n n - - pipe\n  {given}user=nobody argv=@/refused-{name} {words}\n"
    return text.replace("@", str(folder))


@pytest.fixture(scope="module")
def postfix(start_postfix: Callable[..., Instance], folder: Path) -> Instance:
    """The instance, with every mail of this file delivered or tried once."""
    transports = [
        *verdict_names(),
        *(f"see-{name}" for name in VIEWS),
        *(f"refused-{name}" for name in REFUSED),
        "keep",
    ]
    table = ", ".join(f"{name}.test={name}:" for name in transports)
    instance = start_postfix(
        parameters={
            "transport_maps": f"inline:{{{table}}}",
            "command_time_limit": f"{TIME_LIMIT}s",
            "recipient_delimiter": "+",
            "allow_min_user": "yes",
            "minimal_backoff_time": "1000s",
            "maximal_backoff_time": "1000s",
        },
        services=services(folder),
    )
    send_all(instance)
    expected = len(verdict_names()) + sum(len(view[3]) for view in VIEWS.values()) + len(VIEWS)
    expected += sum(len(refused[2]) for refused in REFUSED.values())
    end = time.monotonic() + 60
    while len({(line.queue_id, line.recipient) for line in instance.log.deliveries()}) < expected:
        assert time.monotonic() < end, "deliveries are missing"
        time.sleep(0.1)
    return instance


def send_all(instance: Instance) -> None:
    with instance.session() as session:
        session.command("EHLO client.test")
        for name in verdict_names():
            transaction(session, "", [f"x@{name}.test"], BIG if name in UNREAD else BODY)
        for name, (_, _, sender, users) in VIEWS.items():
            recipients = [f"{user}@See-{name}.test" for user in users]
            transaction(session, sender, [*recipients, "x@keep.test"], BODY)
        for name, (_, _, users) in REFUSED.items():
            message = b"Delivered-To: X@refused-loop.test\n" + BODY
            transaction(session, "", [f"{user}@refused-{name}.test" for user in users], message)


def transaction(session: Session, sender: str, recipients: list[str], message: bytes) -> None:
    replies = [session.command(f"MAIL FROM:<{sender}>")]
    replies += [session.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
    replies += [session.command("DATA"), session.send(dot_stuffed(message) + b".\r\n")]
    assert [reply.code for reply in replies if reply] == [250, *(250 for _ in recipients), 354, 250], replies


def logged(instance: Instance, relay: str) -> list[Delivery]:
    return [line for line in instance.log.deliveries() if line.relay == relay]


def surroundings(instance: Instance) -> Surroundings:
    """What the same Postfix would give a program."""
    return Surroundings.of_pipe("nobody", Postconf(instance.config_directory))


@pytest.fixture(scope="module")
def emulated(postfix: Instance, folder: Path) -> dict[str, Verdict]:
    """Every program once under the emulator, side by side: most of the time they sleep."""

    def run(name: str) -> Verdict:
        request = Request("", (Recipient(f"x@{name}.test", f"x@{name}.test"),))
        words = [str(folder / name), "${recipient}"]
        return attempt(words, request, BIG if name in UNREAD else BODY, surroundings(postfix), EMULATED_LIMIT, name)

    return {name: run(name) for name in verdict_names()}


@pytest.mark.parametrize("name", verdict_names())
def test_the_verdict_is_postfixs(name: str, postfix: Instance, emulated: dict[str, Verdict]) -> None:
    (real,) = logged(postfix, name)
    verdict = emulated[name]
    assert (verdict.status, verdict.dsn) == (real.status, real.dsn)
    if name not in NO_TEXT:
        assert shown(verdict.text) == shown(real.text)


def shown(text: str) -> str:
    return text[:LOG_LINE]


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_request_is_refused_alike(name: str, postfix: Instance, folder: Path) -> None:
    flags, words, users = REFUSED[name]
    recipients = tuple(Recipient(address, address) for address in (f"{user}@refused-{name}.test" for user in users))
    request = Request("", recipients, frozenset(flags))
    message = b"Delivered-To: X@refused-loop.test\n" + BODY
    argv = [str(folder / f"refused-{name}"), *words.split()]
    verdict = attempt(argv, request, message, surroundings(postfix), EMULATED_LIMIT, f"refused-{name}")
    for real in logged(postfix, f"refused-{name}"):
        assert (verdict.status, verdict.dsn, verdict.text) == (real.status, real.dsn, real.text)
    assert not (folder / "seen" / f"refused-{name}").exists()


@pytest.mark.parametrize("name", VIEWS)
def test_a_program_sees_what_postfix_shows_it(name: str, postfix: Instance, folder: Path) -> None:
    flags, words, sender, _ = VIEWS[name]
    lines = logged(postfix, f"see-{name}")
    assert {line.status for line in lines} == {"sent"}
    seen = folder / "seen" / f"see-{name}"
    real = json.loads(seen.read_text())
    seen.unlink()
    message = (folder / "seen" / f"queue-{lines[0].queue_id}").read_bytes()
    addresses = [internal(line.recipient) for line in lines]
    addresses.sort(key=lambda address: position(address, real["arguments"]))
    request = Request(
        internal(sender),
        tuple(Recipient(address, address) for address in addresses),
        frozenset(flags),
        recipient_delimiter="+",
        attributes={
            "nexthop": f"See-{name}.test",
            "client_address": "127.0.0.1",
            "client_hostname": "unknown",
            "client_helo": "client.test",
            "client_protocol": "ESMTP",
        },
    )
    argv = [str(folder / f"see-{name}"), *words.split()]
    verdict = attempt(argv, request, message, surroundings(postfix), EMULATED_LIMIT, f"see-{name}")
    assert verdict.status == "sent", verdict
    mine = json.loads(seen.read_text())
    assert undated(mine) == undated(real)


def internal(address: str) -> str:
    """The address as Postfix keeps it: the log quotes the local part."""
    local, at, domain = address.rpartition("@")
    return re.sub(r"\\(.)", r"\1", local.strip('"')) + at + domain


def position(address: str, arguments: list[str]) -> int:
    """Where the queue manager put a recipient; its order is its own."""
    return next((number for number, word in enumerate(arguments) if address in word), len(arguments))


def undated(seen: dict[str, Any]) -> dict[str, Any]:
    """Without the date in the line that flag F adds: the two runs are seconds apart."""
    date = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}"
    return seen | {"content": re.sub(rf"\A(From \S+  ){date}\n", r"\1DATE\n", seen["content"])}

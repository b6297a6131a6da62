"""actions.relay against real servers (smtp-sink(1), of Debian's postfix package)."""

import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from postroom.actions import perform, relay
from postroom.delivery import Mail
from postroom.status import ConfigurationFault, Outcome

Make = Callable[..., Mail]
Start = Callable[..., tuple[str, Any]]

PROTOCOLS = ["smtp", "lmtp", "lmtp:unix"]


def body(dump: bytes) -> bytes:
    """What smtp-sink kept, less what it wrote on top and at the end."""
    lines = dump.split(b"\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(b"Received:")) + 3
    return b"\n".join(lines[start:-2]) + b"\n" if lines[start:-2] else b""


def arguments(dump: bytes, name: str) -> list[bytes]:
    return re.findall(rb"(?m)^X-%b-Args: (.*)$" % name.encode(), dump)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_real_server_takes_it(protocol: str, sink: Start, mail: Mail) -> None:
    target, server = sink(protocol)
    outcome = perform(("relay", target), mail)
    name = target.removeprefix("lmtp:unix:").removeprefix("lmtp:").removeprefix("smtp:")
    where = f"relay[{name}]" if "unix" in protocol else "relay" + name
    assert str(outcome) == f"2.{outcome.status[2:]} {where} said: 250 {outcome.status} Ok"
    (dump,) = server.mails
    assert body(dump) == b"".join(mail.message.chunks())
    assert arguments(dump, "Mail") == [b"<s@example.com>"]
    assert arguments(dump, "Rcpt") == [b"<r@example.org>"]


def test_the_null_sender_and_odd_local_parts(sink: Start, make_mail: Make) -> None:
    target, server = sink("smtp")
    perform(("relay", target), make_mail(sender="", recipient='a b"\\c@example.org'))
    (dump,) = server.mails
    assert arguments(dump, "Mail") == [b"<>"]
    assert arguments(dump, "Rcpt") == [rb'<"a b\"\\c"@example.org>']


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b".\n",
        b"\n.\n.\n..\n",
        b"Subject: x\n\nFrom here\n.QUIT\n",
        b"no line end",
        b"x" * 65535 + b"\n.\n" + b"y" * 65534 + b"\n.z\n",
        b"a: b\n" * 100_000,
        b"Subject: \xff\n\n\xfe\n",
        b"Subject: x\n\n" + b"z" * 1_000_000 + b"\n",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_any_message_arrives(sink: Start, make_mail: Make, data: bytes) -> None:
    target, server = sink("smtp")
    assert perform(("relay", target), make_mail(data)).kind == "sent"
    kept = body(server.mails[0])
    wanted = data if data.endswith(b"\n") or not data else data + b"\n"
    if len(data) < 1_000_000:
        assert kept == wanted
    else:  # smtp-sink breaks lines at its buffer's size
        assert kept.replace(b"\n", b"") == wanted.replace(b"\n", b"")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("options", "kind", "status"),
    [
        (["-f", "MAIL"], "bounced", "5.3.0"),
        (["-f", "RCPT"], "bounced", "5.3.0"),
        (["-f", "DATA"], "bounced", "5.3.0"),
        (["-f", "."], "bounced", "5.3.0"),
        (["-f", "RCPT", "-B", "550 5.1.1 no such user"], "bounced", "5.1.1"),
        (["-f", ".", "-B", "552 too much"], "bounced", "5.2.2"),
        (["-r", "MAIL"], "deferred", "4.3.0"),
        (["-r", "RCPT", "-b", "452 4.2.2 full"], "deferred", "4.2.2"),
        (["-r", "DATA"], "deferred", "4.3.0"),
        (["-r", "."], "deferred", "4.3.0"),
        (["-f", "CONNECT"], "deferred", "4.3.0"),
        (["-f", "LHLO EHLO HELO", "-B", "554 5.7.1 go away"], "deferred", "4.7.1"),
        (["-r", "CONNECT"], "deferred", "4.3.0"),
        (["-r", "LHLO EHLO HELO"], "deferred", "4.3.0"),
        (["-q", "CONNECT"], "deferred", "4.4.2"),
        (["-q", "LHLO EHLO"], "deferred", "4.4.2"),
        (["-q", "MAIL"], "deferred", "4.4.2"),
        (["-q", "RCPT"], "deferred", "4.4.2"),
        (["-q", "DATA"], "deferred", "4.4.2"),
        (["-q", "."], "deferred", "4.4.2"),
        (["-Q", "RCPT"], "deferred", "4.0.0"),
        (["-Q", "."], "deferred", "4.0.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_the_server_says_decides(
    sink: Start, mail: Mail, protocol: str, options: list[str], kind: str, status: str
) -> None:
    target, _ = sink(protocol, *options)
    outcome = perform(("relay", target), mail)
    assert (outcome.kind, outcome.status) == (kind, status), outcome
    assert "relay[" in outcome.text
    assert "while " in outcome.text


def test_a_server_without_extensions_is_greeted_with_helo(sink: Start, make_mail: Make) -> None:
    target, server = sink("smtp", "-e", "-f", "EHLO")
    assert perform(("relay", target), make_mail(b"Subject: \xff\n")).kind == "sent"
    assert arguments(server.mails[0], "Mail") == [b"<s@example.com>"]


def test_a_refusal_in_the_middle_of_the_body_counts(sink: Start, make_mail: Make) -> None:
    """A server that will not read on; without a look for its reply, the rest of the body would wait for ever."""
    target, _ = sink("smtp", "-A", "0")
    outcome = perform(("relay", target), make_mail(b"x" * 20_000_000, seconds=10))
    assert outcome.kind == "bounced"
    assert outcome.text.endswith("(while sending message body)")


@pytest.mark.parametrize(("options", "wanted"), [([], b" BODY=8BITMIME"), (["-8"], b"")])
def test_8_bit_content_is_announced_where_the_server_knows_of_it(
    sink: Start, make_mail: Make, options: list[str], wanted: bytes
) -> None:
    target, server = sink("smtp", *options)
    assert perform(("relay", target), make_mail(b"Subject: \xc3\xa4\n")).kind == "sent"
    assert arguments(server.mails[0], "Mail") == [b"<s@example.com>" + wanted]


def test_nobody_there_defers(tmp_path: Path, mail: Mail) -> None:
    with socket.socket() as bound:  # bound, not listening: nobody else can get this port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        outcome = perform(("relay", f"smtp:[127.0.0.1]:{port}"), mail)
    assert str(outcome) == f"4.4.1 connect to relay[127.0.0.1]:{port}: Connection refused"
    outcome = perform(("relay", f"lmtp:unix:{tmp_path}/no"), mail)
    assert str(outcome) == f"4.4.1 connect to relay[{tmp_path}/no]: No such file or directory"
    outcome = perform(("relay", f"lmtp:unix:{tmp_path}/{'x' * 200}"), mail)
    assert outcome.status == "4.4.1"


def test_a_host_that_is_none_defers(make_mail: Make) -> None:
    for host in ("no-such-host.invalid", "ä" * 70, "a..b", "x" * 300):
        outcome = perform(("relay", f"smtp:[{host}]:25"), make_mail(seconds=5))
        assert outcome.status in ("4.4.1", "4.4.3"), host


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("smtp:[127.0.0.1]:2525", ("smtp", "", "127.0.0.1", 2525)),
        ("smtp:mx.example:25", ("smtp", "", "mx.example", 25)),
        ("smtp:mx.example", ("smtp", "", "mx.example", 25)),
        ("lmtp:[::1]:24", ("lmtp", "", "::1", 24)),
        ("lmtp:inet:[::1]", ("lmtp", "", "::1", 24)),
        ("lmtp:unix:/run/x y", ("lmtp", "/run/x y", "", 0)),
    ],
)
def test_targets(text: str, wanted: tuple[str, str, str, int]) -> None:
    target = relay.Target(text)
    assert (target.protocol, target.path, target.host, target.port) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "smtp", "smtp:", "http:[x]:80", "smtp:unix:/x", "lmtp:unix:x", "smtp:[x", "smtp:[x]25", "smtp:x:0",
        "smtp:x:65536", "smtp:x:1:2", "smtp:x:smtp", "smtp:x:²", "smtp:[]:25", "lmtp:unix:/a\0b", "smtp::25",
    ],
)  # fmt: skip
def test_a_target_that_is_none_is_our_fault(mail: Mail, text: str) -> None:
    with pytest.raises(ConfigurationFault, match="action relay: "):
        perform(("relay", text), mail)


@pytest.mark.parametrize("character", ["\r\n", "\n", "\r", "\0", "\x7f", "\t"])
def test_an_address_that_would_be_a_command_is_refused(make_mail: Make, character: str) -> None:
    bad = f"a>{character}RSET@example.org"
    assert perform(("relay", "smtp:[127.0.0.1]:1"), make_mail(recipient=bad)).status == "5.1.3"
    assert perform(("relay", "smtp:[127.0.0.1]:1"), make_mail(sender=bad)).status == "5.1.7"


class Endless:
    """100 MB that are nowhere in memory at once."""

    size = 100_000_000

    def chunks(self) -> Iterator[bytes]:
        line = b"x" * 999 + b"\n"
        for _ in range(0, self.size, 50_000):
            yield line * 50


def test_100_mb_go_through_in_little_memory(make_mail: Make, sink: Start, tmp_path: Path) -> None:
    target, server = sink("smtp")
    pid = os.fork()
    if pid == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mail = make_mail(seconds=100)
        mail.message = Endless()
        outcome: Outcome = perform(("relay", target), mail)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if outcome.kind == "sent" and grown < 4000 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(server.mails[0]) > Endless.size

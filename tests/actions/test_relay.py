"""actions.relay: against real servers, and against sockets that misbehave at every step."""

import os
import re
import resource
import socket
import threading
import time
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
NODE = os.uname().nodename


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


def test_a_host_is_looked_up_and_named(mail: Mail, scripted: Callable[..., "Scripted"]) -> None:
    server = scripted(CONVERSATION)
    outcome = perform(("relay", f"lmtp:localhost:{server.port}"), mail)
    assert str(outcome) == f"2.0.0 localhost[127.0.0.1]:{server.port} said: 250 done"


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


# --- a server that follows a script -----------------------------------------------------------------------------

CONVERSATION: list[bytes] = [
    b"220 hi\r\n",
    b"250-me\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"250 sender\r\n",
    b"250 recipient\r\n",
    b"354 go\r\n",
    b"250 done\r\n",
]


class Scripted:
    """Sends one piece of the script at each turn: at once, after each command, after the final dot."""

    def __init__(self, script: list[bytes | Callable[[socket.socket], None]], family: int = socket.AF_INET) -> None:
        self.script = script
        self.lines: list[bytes] = []
        self.listener = socket.socket(family)
        self.listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.listener.listen()
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    @property
    def target(self) -> str:
        return f"smtp:[127.0.0.1]:{self.port}"

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        try:
            with connection, connection.makefile("rb") as lines:
                for part in self.script:
                    if callable(part):
                        part(connection)
                    elif part:
                        connection.sendall(part)
                    self._hear(lines, part in (b"354 go\r\n", b"250 go\r\n"))
        except OSError:
            pass

    def _hear(self, lines: "socket.SocketIO", body: bool) -> None:
        while line := lines.readline():
            self.lines.append(line)
            if not body or line == b".\r\n":
                return

    def end(self) -> None:
        self.thread.join(timeout=20)
        self.listener.close()
        assert not self.thread.is_alive()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(*script: object, **options: int) -> Scripted:
        servers.append(Scripted(*script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def replaced(turn: int, part: object) -> list[object]:
    return [*CONVERSATION[:turn], part]


@pytest.mark.parametrize("turn", range(6))
def test_dropped_at_each_point(mail: Mail, scripted: Callable[..., Scripted], turn: int) -> None:
    server = scripted(replaced(turn, lambda connection: connection.shutdown(socket.SHUT_RDWR)))
    outcome = perform(("relay", server.target), mail)
    assert outcome.status == "4.4.2"
    assert outcome.text.startswith("lost connection with relay[127.0.0.1]:")
    assert outcome.text.endswith("may be sent more than once") == (turn == 5)


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("part", [b"25", b"250", b"250-more\r\n", b"250-more\r\n250 end"])
def test_dropped_in_the_middle_of_each_reply(
    mail: Mail, scripted: Callable[..., Scripted], turn: int, part: bytes
) -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(part)
        connection.shutdown(socket.SHUT_RDWR)

    assert perform(("relay", scripted(replaced(turn, half)).target), mail).status == "4.4.2"


@pytest.mark.parametrize("turn", range(6))
def test_silent_at_each_point_until_the_deadline(make_mail: Make, scripted: Callable[..., Scripted], turn: int) -> None:
    server = scripted(replaced(turn, b""))
    before = time.monotonic()
    outcome = perform(("relay", server.target), make_mail(seconds=1))
    assert time.monotonic() - before < 1
    assert outcome.status == "4.4.2"
    assert outcome.text.startswith("conversation with relay[127.0.0.1]:")
    assert outcome.text.endswith("may be sent more than once") == (turn == 5)


def test_a_byte_at_a_time_is_not_time_without_end(make_mail: Make, scripted: Callable[..., Scripted]) -> None:
    def drip(connection: socket.socket) -> None:
        for _ in range(100):
            connection.sendall(b"2")
            time.sleep(0.05)

    before = time.monotonic()
    outcome = perform(("relay", scripted([drip]).target), make_mail(seconds=1))
    assert time.monotonic() - before < 2
    assert outcome.status == "4.4.2"


def test_a_server_that_does_not_read_is_not_waited_for(make_mail: Make, scripted: Callable[..., Scripted]) -> None:
    def asleep(connection: socket.socket) -> None:
        connection.sendall(b"354 go\r\n")
        time.sleep(1)

    outcome = perform(("relay", scripted(replaced(4, asleep)).target), make_mail(b"x" * 30_000_000, seconds=0.6))
    assert (outcome.status, outcome.text[-26:]) == ("4.4.2", "while sending message body")


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize(
    "reply",
    [b"hello\r\n", b"\r\n", b"\0\r\n", b"250_x\r\n", b"9" * 100_000, b"250-x\r\n" * 50_000, b"\xff" * 20 + b"\n"],
)
def test_noise_at_each_point_defers(mail: Mail, scripted: Callable[..., Scripted], turn: int, reply: bytes) -> None:
    outcome = perform(("relay", scripted(replaced(turn, reply)).target), mail)
    assert (outcome.kind, outcome.status) == ("deferred", "4.5.0"), outcome
    assert "sent no reply" in outcome.text


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("code", [100, 199, 354, 600, 999])
def test_a_code_that_makes_no_sense_defers(mail: Mail, scripted: Callable[..., Scripted], turn: int, code: int) -> None:
    if (turn, code) == (4, 354):
        return
    outcome = perform(("relay", scripted(replaced(turn, b"%d what\r\n" % code)).target), mail)
    assert outcome.kind == "deferred"


@pytest.mark.parametrize("turn", range(5))
def test_a_reply_too_many_never_counts_as_one_for_the_mail(
    mail: Mail, scripted: Callable[..., Scripted], turn: int
) -> None:
    """Out of step, the reply to RCPT would be read as the one to the message."""
    part = CONVERSATION[turn] + b"250 one too many\r\n"
    outcome = perform(("relay", scripted([*replaced(turn, part), *CONVERSATION[turn + 1 :]]).target), mail)
    assert outcome.kind == "deferred", outcome


def test_data_has_to_be_asked_for(mail: Mail, scripted: Callable[..., Scripted]) -> None:
    script = [*replaced(4, b"250 go\r\n"), b"250 done\r\n"]
    assert perform(("relay", scripted(script).target), mail).status == "4.5.0"


def test_a_refusal_is_heard_while_the_server_does_not_read(make_mail: Make, scripted: Callable[..., Scripted]) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"354 go\r\n")
        time.sleep(0.2)
        connection.sendall(b"552 5.3.4 too big\r\n")
        time.sleep(2.5)

    server = scripted(replaced(4, refuse))
    outcome = perform(("relay", server.target), make_mail(b"x" * 30_000_000, seconds=2))
    assert outcome.status == "5.3.4"


@pytest.mark.parametrize("turn", range(4))
def test_a_refusal_before_the_mail_was_asked_about_cannot_bounce_it(
    mail: Mail, scripted: Callable[..., Scripted], turn: int
) -> None:
    part = CONVERSATION[turn] + b"554 5.7.1 leave\r\n"
    outcome = perform(("relay", scripted(replaced(turn, part)).target), mail)
    assert outcome.kind == "deferred", outcome


@pytest.mark.parametrize(
    ("turn", "reply", "wanted"),
    [
        (0, b"554-no\r\n554 5.3.2 service\r\n", ("deferred", "4.0.0", "554 no 5.3.2 service (while waiting")),
        (3, b"550-5.1.1 no\r\n550 5.1.1 such\r\n", ("bounced", "5.1.1", "550 5.1.1 no 5.1.1 such (while sending RCPT")),
        (3, b"551 moved\n", ("bounced", "5.1.6", "551 moved (while sending RCPT TO)")),
        (3, b"550\r\n", ("bounced", "5.0.0", "550 (while sending RCPT TO)")),
        (2, b"530 5.7.0 TLS first\r\n", ("bounced", "5.7.0", "530 5.7.0 TLS first (while sending MAIL FROM)")),
        (5, b"250-2.6.0 ok\r\n250 2.6.0 queued\r\n", ("sent", "2.6.0", "250 2.6.0 ok 2.6.0 queued")),
        (5, b"250 \x00\x1b[31m\xff\r\n", ("sent", "2.0.0", "250 ??[31m\ufffd")),
    ],
)
def test_the_words_and_the_status(
    mail: Mail, scripted: Callable[..., Scripted], turn: int, reply: bytes, wanted: tuple[str, str, str]
) -> None:
    outcome = perform(("relay", scripted(replaced(turn, reply)).target), mail)
    assert (outcome.kind, outcome.status) == wanted[:2]
    assert f" said: {wanted[2]}" in outcome.text


def test_a_huge_refusal_is_cut_in_the_line_for_postfix(mail: Mail, scripted: Callable[..., Scripted]) -> None:
    reply = (b"550-" + b"x" * 500 + b"\r\n") * 100 + b"550 end\r\n"
    outcome = perform(("relay", scripted(replaced(3, reply)).target), mail)
    assert outcome.kind == "bounced"
    assert len(outcome.line()) <= 500


def test_size_body_and_smtputf8_where_the_server_knows_them(make_mail: Make, scripted: Callable[..., Scripted]) -> None:
    server = scripted(CONVERSATION)
    outcome = perform(("relay", server.target), make_mail(b"a\nb\n", sender="jürgen@example.com"))
    assert outcome.kind == "sent"
    server.end()
    assert server.lines[1:3] == [
        "MAIL FROM:<jürgen@example.com> SIZE=6 BODY=8BITMIME SMTPUTF8\r\n".encode(),
        b"RCPT TO:<r@example.org>\r\n",
    ]
    assert server.lines[-1] == b"QUIT\r\n"
    hello = server.lines[0].split()[1].decode()
    assert hello in (NODE, "[127.0.0.1]") and "." in hello


@pytest.mark.parametrize("address", ["jürgen@example.com", "a@exämple.com", "\udcff@example.com"])
def test_an_address_that_the_server_cannot_take_bounces(
    make_mail: Make, scripted: Callable[..., Scripted], address: str
) -> None:
    plain = replaced(1, b"250 me\r\n")
    assert perform(("relay", scripted(plain).target), make_mail(recipient=address)).status == "5.6.7"
    assert perform(("relay", scripted(plain).target), make_mail(sender=address)).status == "5.6.7"


def test_over_ipv6(mail: Mail, scripted: Callable[..., Scripted]) -> None:
    server = scripted(CONVERSATION, family=socket.AF_INET6)
    outcome = perform(("relay", f"smtp:[::1]:{server.port}"), mail)
    assert outcome.text == f"relay[::1]:{server.port} said: 250 done"


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

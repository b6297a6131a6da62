"""actions.relay against servers that drop, stall, talk nonsense or out of turn, at every step of the dialogue."""

import os
import socket
import time
from collections.abc import Callable

import pytest
from actions.scripted import CONVERSATION, Scripted, replaced

from postroom.actions import perform
from postroom.delivery import Mail

Make = Callable[..., Mail]

NODE = os.uname().nodename


def test_a_host_is_looked_up_and_named(mail: Mail, scripted: Callable[..., Scripted]) -> None:
    server = scripted(CONVERSATION)
    outcome = perform(("relay", f"lmtp:localhost:{server.port}"), mail)
    assert str(outcome) == f"2.0.0 localhost[127.0.0.1]:{server.port} said: 250 done"


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

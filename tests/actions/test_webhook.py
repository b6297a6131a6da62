"""actions.webhook against servers that answer, misbehave, or are somebody else."""

import base64
import hashlib
import hmac
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from actions.web import Web, reply
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st

from postroom.actions import Failed, http, perform, webhook
from postroom.actions.http import Answer
from postroom.delivery import Mail
from postroom.status import ConfigurationFault

Make = Callable[..., Mail]
Start = Callable[..., Web]
HEAD = b"Return-Path: <s@example.com>\nX-Original-To: r@example.org\nDelivered-To: r@example.org\n"


@pytest.fixture
def web() -> Iterator[Start]:
    servers: list[Web] = []

    def start(*answers: Any, **options: Any) -> Web:
        servers.append(Web(*(answers or (reply("200 OK"),)), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def run(mail: Mail, *words: str) -> tuple[str, str]:
    outcome = perform(("webhook", *words), mail)
    return outcome.status, outcome.text


def test_the_mail_is_posted_with_its_envelope(web: Start, make_mail: Make) -> None:
    server = web(reply("202 Accepted", "queued"))
    mail = make_mail(sender="", recipient="b%b \udcff\u00e4@example.org", original="o@example.org", sasl_username="bob")
    name = f"[127.0.0.1]:{server.port}"
    assert run(mail, server.url("/in?x=%20")) == ("2.0.0", f"{name} said: 202 Accepted")
    ((first, fields, body),) = server.requests
    assert first == "POST /in?x=%20 HTTP/1.1"
    content = b"".join(mail.message.chunks())
    assert body.endswith(b"\n" + content)
    assert body.startswith(b"Return-Path: <>\nX-Original-To: o@example.org\n")
    assert fields["content-type"] == "message/rfc822"
    assert fields["host"] == f"127.0.0.1:{server.port}"
    assert fields["idempotency-key"] == mail.key().hex()
    assert fields["postroom-sender"] == ""
    assert fields["postroom-recipient"] == "b%25b%20%FF%C3%A4@example.org"
    assert fields["postroom-original-recipient"] == "o@example.org"
    assert fields["postroom-queue-id"] == "4XyzQ"
    assert fields["postroom-sasl-username"] == "bob"
    assert fields["postroom-size"] == str(mail.message.size)
    assert "postroom-client-helo" not in fields
    assert "transfer-encoding" not in fields and "webhook-signature" not in fields


@pytest.mark.parametrize("size", [0, 65536, 3_000_000])
def test_any_size_arrives_whole(web: Start, make_mail: Make, size: int) -> None:
    server = web()
    assert run(make_mail(b"\0" * size), server.url())[0] == "2.0.0"
    assert server.requests[0][2] == HEAD + b"\0" * size


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        ("200 OK", "5.1.1 no", "2.0.0"),
        ("201 Created", "", "2.0.0"),
        ("204 No Content", "", "2.0.0"),
        ("410 Gone", "", "5.2.1"),
        ("413 Content Too Large", "<html>", "5.3.4"),
        ("422 Unprocessable Content", "", "5.6.0"),
        ("404 Not Found", "5.1.1 no such ticket", "5.1.1 no such ticket"),
        ("400 Bad Request", "5.6.0 not\r\n a ticket", "5.6.0 not a ticket"),
        ("403 Forbidden", "5.7.1 not for you", "5.7.1 not for you"),
        ("413 Content Too Large", "4.3.4 too large today", "4.3.4 too large today"),
        ("503 Service Unavailable", "4.2.1 closed till noon", "4.2.1 closed till noon"),
        ("503 Service Unavailable", "5.1.1 no", "4.3.0"),
        ("500 Internal Server Error", "5.1.1 no", "4.3.0"),
        ("429 Too Many Requests", "5.1.1 no", "4.3.0"),
        ("401 Unauthorized", "5.1.1 no", "4.3.0"),
        ("404 Not Found", "5.1.1", "4.3.0"),
        ("404 Not Found", "2.0.0 fine", "4.3.0"),
        ("404 Not Found", " <p>5.1.1 no", "4.3.0"),
        ("301 Moved Permanently", "", "4.3.5"),
        ("307 Temporary Redirect", "5.1.1 no", "4.3.5"),
        *[
            (f"{code} x", "", "4.3.0")
            for code in (400, 401, 403, 404, 405, 408, 415, 421, 425, 429, 500, 502, 503, 504)
        ],
        *[(f"{code} x", "", "4.3.0") for code in (101, 103, 600, 999)],
    ],
)
def test_what_the_answer_means(web: Start, mail: Mail, status: str, body: str, outcome: str) -> None:
    server = web(reply(status, body))
    found = perform(("webhook", server.url()), mail)
    assert str(found).startswith(outcome + (" " if outcome[-1].isdigit() else ""))
    assert isinstance(found, Failed) == status.startswith("500")
    if " " not in outcome:
        assert f"said: {status}" in found.text


@given(st.integers(100, 999), st.text(max_size=40))
def test_only_what_says_never_bounces(code: int, body: str) -> None:
    outcome = webhook.verdict(Answer("x", code, "why", "", body))
    if outcome.kind == "bounced":
        assert code in webhook.NEVER or (400 <= code < 500 and body.strip().startswith("5."))
    assert (outcome.kind == "sent") == (200 <= code < 300)


def test_no_redirect_is_followed_and_retry_after_is_logged(web: Start, mail: Mail) -> None:
    other = web()
    server = web(reply("302 Found", more=f"Location: {other.url()}\r\nRetry-After: 120\n x\r\n"))
    assert run(mail, server.url())[0] == "4.3.5"
    assert (len(server.requests), other.requests) == (1, [])
    assert mail.log["retry_after"] == "120 x"


def crowd(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-More: y\r\n" * 200 + b"\r\n")


def endless(piece: bytes, pause: float = 0) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(piece)
                time.sleep(pause)
        except OSError:
            return

    return send


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1",
        b"220 hello, this is no HTTP\r\n",
        b"\xff\xfe\0",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        crowd,
        endless(b"HTTP/1.1 100 Continue\r\n\r\n"),
        endless(b"x" * 1000),
        endless(b"X: y\r\n" * 100),
    ],
)
def test_what_is_no_answer_defers(web: Start, make_mail: Make, answer: Any) -> None:
    server = web(answer)
    started = time.monotonic()
    status, text = run(make_mail(seconds=3), server.url())
    assert status == "4.4.2", text
    assert f"[127.0.0.1]:{server.port} " in text
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("piece", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_byte_now_and_then_does_not_prolong_it(web: Start, make_mail: Make, piece: bytes) -> None:
    server = web(endless(piece, 0.1))
    started = time.monotonic()
    status, text = run(make_mail(seconds=2), server.url())
    assert (status, text) == (
        "4.4.2", f"conversation with [127.0.0.1]:{server.port} timed out while waiting for the answer",
    )  # fmt: skip
    assert 1.7 < time.monotonic() - started < 2


def test_a_server_that_does_not_read_is_left_in_time(web: Start, make_mail: Make) -> None:
    server = web(lambda connection: time.sleep(4.5), hear=False)
    started = time.monotonic()
    status, text = run(make_mail(b"x" * 10_000_000, seconds=4), server.url())
    assert (status, text.rpartition(" timed out ")[2]) == ("4.4.2", "while sending the request")
    assert time.monotonic() - started < 4


def early(status: str) -> Callable[[socket.socket], None]:
    """Answers after the first bytes, and closes with the rest unread, which resets the connection."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(reply(status))
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.3)

    return answer


def test_a_refusal_before_the_end_of_the_mail_counts_and_a_success_does_not(web: Start, make_mail: Make) -> None:
    assert run(make_mail(b"x" * 30_000_000), web(early("413 Too Large"), hear=False).url())[0] in ("5.3.4", "4.4.2")
    assert run(make_mail(b"x" * 30_000_000), web(early("200 OK"), hear=False).url())[0] == "4.4.2"


def test_a_body_that_breaks_off_takes_nothing_back(web: Start, mail: Mail) -> None:
    server = web(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    assert run(mail, server.url())[0] == "2.0.0"
    server = web(b"HTTP/1.1 404 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert run(mail, server.url())[0] == "4.3.0"


def test_nobody_there_and_no_such_host(mail: Mail) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    status, text = run(mail, f"http://127.0.0.1:{port}/")
    assert (status, text.rpartition(": ")[2]) == ("4.4.1", "Connection refused")
    assert run(mail, "http://no-such-host.invalid/")[0] == "4.4.3"


# TLS


def test_a_verified_server_gets_it(web: Start, mail: Mail, authority: Authority) -> None:
    server = web(certificate=authority.certificate("localhost", "IP:127.0.0.1"))
    for host in ("localhost", "127.0.0.1"):
        status, text = run(mail, server.url(host=host), f"ca={authority.ca}")
        assert status == "2.0.0", text
    assert server.requests[0][1]["host"] == f"localhost:{server.port}"


def test_an_unverified_server_gets_nothing(web: Start, mail: Mail, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "somebody else")
    right = authority.certificate("IP:127.0.0.1")
    cases = [
        (authority.certificate("elsewhere.example"), f"ca={authority.ca}", "not valid for '127.0.0.1'"),
        (right, f"ca={other.ca}", "unable to get local issuer certificate"),
        (right, None, "unable to get local issuer certificate"),
        (authority.certificate("IP:127.0.0.1", "x.example", days=-1), f"ca={authority.ca}", "certificate has expired"),
    ]
    for certificate, option, reason in cases:
        server = web(certificate=certificate)
        status, text = run(mail, server.url(), *([option] if option else []))
        assert (status, reason in text) == ("4.7.5", True), text
        assert server.requests == []


def test_a_server_without_tls_and_one_that_stalls(web: Start, make_mail: Make) -> None:
    server = web(reply("200 OK"), hear=False)
    status, text = run(make_mail(), server.url().replace("http:", "https:"))
    assert status == "4.4.2" and "while negotiating TLS" in text
    server = web(lambda connection: time.sleep(2.2), hear=False)
    started = time.monotonic()
    status, text = run(make_mail(seconds=2), server.url().replace("http:", "https:"))
    assert (status, text.endswith("timed out while negotiating TLS")) == ("4.4.2", True), text
    assert time.monotonic() - started < 2


def test_a_file_of_authorities_that_is_none_is_our_mistake(web: Start, mail: Mail, tmp_path: Path) -> None:
    server = web(hear=False)
    (tmp_path / "empty").touch()
    for path in ("missing", "empty"):
        with pytest.raises(ConfigurationFault, match="ca= cannot be used"):
            run(mail, server.url().replace("http:", "https:"), f"ca={tmp_path}/{path}")


# Signatures


def secret_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return f"secret={path}"


@pytest.mark.parametrize(
    ("line", "key"),
    [("whsec_" + base64.b64encode(b"k" * 24).decode(), b"k" * 24), ("some words\nand more", b"some words")],
)
def test_it_is_signed_as_standard_webhooks_has_it(
    web: Start, mail: Mail, tmp_path: Path, line: str, key: bytes
) -> None:
    server = web()
    assert run(mail, server.url(), secret_file(tmp_path, line))[0] == "2.0.0"
    ((_, fields, body),) = server.requests
    stamp = fields["webhook-timestamp"]
    assert abs(int(stamp) - time.time()) < 20
    signed = f"{fields['webhook-id']}.{stamp}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert fields["webhook-signature"] == f"v1,{wanted}"
    assert fields["webhook-id"] == fields["idempotency-key"]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("", 0o600, "is empty"),
        ("x", 0o644, "open to everybody"),
        ("whsec_%", 0o600, "base64"),
        ("whsec_a", 0o640, "base64"),
    ],
)
def test_a_secret_that_is_none_sends_nothing(
    web: Start, mail: Mail, tmp_path: Path, text: str, mode: int, said: str
) -> None:
    server = web()
    with pytest.raises(ConfigurationFault, match=said) as caught:
        run(mail, server.url(), secret_file(tmp_path, text, mode))
    assert str(tmp_path) not in str(caught.value), "the path is for the log, not for a sender"
    assert server.requests == []


# URLs


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://a.example/", ("http", "a.example", 80, "/")),
        ("https://a.example/x/y?z=/", ("https", "a.example", 443, "/x/y?z=/")),
        ("https://[2001:db8::1]:8443/x", ("https", "2001:db8::1", 8443, "/x")),
        ("http://[::1]/x", ("http", "::1", 80, "/x")),
    ],
)
def test_urls(text: str, parts: tuple[str, str, int, str]) -> None:
    url = http.Url(text)
    assert (url.scheme, url.host, url.port, url.path) == parts

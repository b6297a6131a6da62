"""actions.relay over TLS: the right server gets the mail, and nobody else so much as its sender."""

import base64
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Authority

from postroom.actions import perform
from postroom.actions.smtp import Reply, mechanisms
from postroom.delivery import Mail
from postroom.status import ConfigurationFault

Make = Callable[..., Mail]

CAPABILITIES = b"250-me\r\n250-AUTH LOGIN plain\r\n250 8BITMIME\r\n"


class Server:
    """One connection of SMTP, with TLS at the start or after STARTTLS; `changed` replaces single replies."""

    def __init__(self, certificate: tuple[Path, Path], wrapped: bool, **changed: bytes) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.wrapped = wrapped
        self.changed = changed
        self.lines: list[tuple[bool, bytes]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def heard(self) -> list[bytes]:
        """The lines that came in clear."""
        return [line for secure, line in self.lines if not secure]

    def end(self) -> None:
        self.thread.join(timeout=20)
        self.listener.close()
        assert not self.thread.is_alive()

    def _serve(self) -> None:
        connection, _ = self.listener.accept()
        try:
            if self.wrapped:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                self._converse(connection, b"220 hi\r\n")
        except OSError:
            connection.close()

    def _converse(self, connection: socket.socket, greeting: bytes) -> None:
        secure = isinstance(connection, ssl.SSLSocket)
        connection.sendall(greeting)
        with connection.makefile("rb", buffering=0) as lines:
            while line := self._line(lines):
                self.lines.append((secure, line))
                verb = line.split()[0].decode().lower()
                connection.sendall(self.changed.get(verb) or self._reply(verb, secure))
                if verb == "starttls":
                    with self.context.wrap_socket(connection, server_side=True) as secured:
                        self._converse(secured, b"")
                    return
                if verb == "data":
                    while self._line(lines) not in (b".\r\n", b""):
                        pass
                    connection.sendall(b"250 2.6.0 kept\r\n")

    @staticmethod
    def _line(lines: "socket.SocketIO") -> bytes:
        return lines.readline()

    def _reply(self, verb: str, secure: bool) -> bytes:
        if verb in ("ehlo", "lhlo"):
            return CAPABILITIES if secure else b"250-me\r\n250 STARTTLS\r\n"
        return {"starttls": b"220 go\r\n", "data": b"354 go\r\n", "auth": b"235 in\r\n"}.get(verb, b"250 ok\r\n")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def serve(authority: Authority) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(wrapped: bool, *names: str, **changed: bytes) -> Server:
        started.append(Server(authority.certificate(*(names or ("IP:127.0.0.1",))), wrapped, **changed))
        return started[-1]

    yield start
    for server in started:
        server.end()


def run(mail: Mail, server: Server, protocol: str, *options: str) -> tuple[str, str]:
    outcome = perform(("relay", f"{protocol}:[127.0.0.1]:{server.port}", *options), mail)
    return outcome.status, outcome.text.replace(f"relay[127.0.0.1]:{server.port}", "IT")


@pytest.mark.parametrize("protocol", ["smtps", "lmtps", "smtp+starttls", "lmtp+starttls"])
def test_nothing_but_the_hello_goes_in_clear(
    serve: Callable[..., Server], authority: Authority, mail: Mail, protocol: str
) -> None:
    server = serve(protocol.endswith("ps"))
    assert run(mail, server, protocol, f"ca={authority.ca}") == ("2.6.0", "IT said: 250 2.6.0 kept")
    hello = "lhlo" if protocol.startswith("lmtp") else "ehlo"
    clear = [line.split()[0].decode().lower() for line in server.heard()]
    assert clear == ([] if protocol.endswith("ps") else [hello, "starttls"])
    server.end()
    verbs = [line.split()[0].decode().lower() for secure, line in server.lines if secure]
    assert verbs == [hello, "mail", "rcpt", "data", "quit"]


def test_a_big_mail_goes_through(serve: Callable[..., Server], authority: Authority, make_mail: Make) -> None:
    server = serve(True)
    mail = make_mail(b"".join(b"%07d %s\n" % (number, b"x" * 990) for number in range(5000)))
    assert run(mail, server, "smtps", f"ca={authority.ca}")[0] == "2.6.0"


@pytest.mark.parametrize("protocol", ["smtps", "smtp+starttls"])
def test_another_server_gets_not_even_the_sender(
    serve: Callable[..., Server], authority: Authority, mail: Mail, protocol: str
) -> None:
    server = serve(protocol == "smtps", "elsewhere.example")
    status, text = run(mail, server, protocol, f"ca={authority.ca}")
    assert (status, "certificate verify failed" in text, "127.0.0.1" in text) == ("4.7.5", True, True), text
    server.end()
    assert not [line for _, line in server.lines if b"@" in line]


def test_an_authority_that_the_system_does_not_know_needs_ca(serve: Callable[..., Server], mail: Mail) -> None:
    status, text = run(mail, serve(True), "smtps")
    assert (status, "unable to get local issuer certificate" in text) == ("4.7.5", True), text


def test_tls_that_is_not_offered_defers(serve: Callable[..., Server], authority: Authority, mail: Mail) -> None:
    """Who stands in between can take the offer out of the reply, and reads nothing for it."""
    server = serve(False, ehlo=b"250-me\r\n250 SIZE\r\n")
    found = run(mail, server, "smtp+starttls", f"ca={authority.ca}")
    assert found == ("4.7.4", "TLS is required, but was not offered by IT")
    server = serve(False, starttls=b"454 4.7.0 not now\r\n")
    assert run(mail, server, "smtp+starttls", f"ca={authority.ca}")[0] == "4.7.0"


def test_what_is_said_in_clear_behind_the_consent_is_not_heard(
    serve: Callable[..., Server], authority: Authority, mail: Mail
) -> None:
    """CVE-2011-0411, the client's side: replies put in before TLS must not be taken for the server's."""
    server = serve(False, starttls=b"220 go\r\n250-me\r\n250 AUTH PLAIN\r\n")
    status, text = run(mail, server, "smtp+starttls", f"ca={authority.ca}")
    assert (status, "in clear" in text) == ("4.7.0", True), text


def test_a_server_that_says_nothing_is_left_in_time(make_mail: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"[127.0.0.1]:{listener.getsockname()[1]}"
        outcome = perform(("relay", f"smtps:{target}"), make_mail(seconds=2))
    assert str(outcome) == f"4.4.2 conversation with relay{target} timed out while negotiating TLS"


def test_a_server_that_speaks_no_tls_defers(mail: Mail) -> None:
    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 hi, in clear\r\n")
            connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak)
        thread.start()
        target = f"[127.0.0.1]:{listener.getsockname()[1]}"
        outcome = perform(("relay", f"smtps:{target}"), mail)
        thread.join()
    assert (outcome.status, f"TLS with relay{target} failed: wrong version number" in outcome.text) == ("4.7.0", True)


# Login


def login(folder: Path, text: str = "bob:s3:cret\n", mode: int = 0o600) -> str:
    path = folder / "login"
    path.write_text(text)
    path.chmod(mode)
    return f"login={path}"


def test_login(serve: Callable[..., Server], authority: Authority, mail: Mail, tmp_path: Path) -> None:
    server = serve(False)
    assert run(mail, server, "smtp+starttls", f"ca={authority.ca}", login(tmp_path))[0] == "2.6.0"
    server.end()
    (line,) = [line for secure, line in server.lines if secure and line.startswith(b"AUTH")]
    assert base64.b64decode(line.split()[2]) == b"\0bob\0s3:cret"


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"auth": b"535 5.7.8 wrong\r\n"}, "4.7.8"),
        ({"auth": b"334 \r\n"}, "4.5.0"),
        ({"ehlo": b"250-me\r\n250 AUTH LOGIN\r\n"}, "4.7.4"),
    ],
)
def test_a_login_that_fails_says_nothing_about_the_mail(
    serve: Callable[..., Server],
    authority: Authority,
    mail: Mail,
    tmp_path: Path,
    changed: dict[str, bytes],
    status: str,
) -> None:
    found, text = run(mail, serve(True, **changed), "smtps", f"ca={authority.ca}", login(tmp_path))
    assert found == status
    assert "s3" not in text and base64.b64encode(b"\0bob\0s3:cret").decode() not in text


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [("bob\n", 0o600, "user:password"), ("bob:x", 0o604, "open to everybody"), ("\n", 0o600, "empty")],
)
def test_a_login_file_that_is_none_is_our_mistake(
    serve: Callable[..., Server], authority: Authority, mail: Mail, tmp_path: Path, text: str, mode: int, said: str
) -> None:
    server = serve(True)
    with pytest.raises(ConfigurationFault, match=said):
        run(mail, server, "smtps", f"ca={authority.ca}", login(tmp_path, text, mode))
    server.end()
    assert not [line for _, line in server.lines if line.startswith(b"AUTH")]


def test_mechanisms() -> None:
    assert mechanisms(Reply(250, ("AUTH X", "SIZE 1", "auth PLAIN login", "AUTH=OLD"))) == {"PLAIN", "LOGIN", "OLD"}

"""TLS towards a server: always verified, by name, against the system's authorities or those of `ca=PATH`.

Imports ssl, four bare starts of Python; only who talks TLS does.
"""

from __future__ import annotations

from postroom.status import ConfigurationFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import ssl
    from typing import Any

# What recv() takes together at once. As much as session.py ever waits for (smtp.REPLY_LIMIT), and one record of TLS.
_TOGETHER = 65536 + 16384


def context(ca: str) -> ssl.SSLContext:
    """Raises ConfigurationFault where the file of authorities is no use."""
    import ssl

    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise ConfigurationFault("the file of ca= cannot be used") from OSError(f"{ca}: {error}")


class Tls:
    """A connection as session.py wants it: where it would have to wait, it raises BlockingIOError."""

    def __init__(self, connection: _socket.socket, host: str, ca: str) -> None:
        import socket
        import ssl

        settings = context(ca)
        plain = socket.socket(fileno=connection.detach())
        plain.setblocking(False)  # a new object takes the descriptor for a blocking one
        self._socket = settings.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        self._waits = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._wants_to_write = ssl.SSLWantWriteError
        self.family = int(self._socket.family)
        self.fileno = self._socket.fileno
        self.getsockname = self._socket.getsockname
        self.close = self._socket.close

    def handshake(self) -> tuple[bool, bool] | None:
        """None when it is done, else (wait to read, wait to write). Raises OSError."""
        try:
            self._socket.do_handshake()
        except self._waits as wait:
            writing = isinstance(wait, self._wants_to_write)
            return not writing, writing
        return None

    def send(self, data: Any) -> int:
        try:
            return self._socket.send(data)
        except self._waits:
            raise BlockingIOError from None

    def recv(self, size: int) -> bytes:
        """Everything that has come: what stays behind in here would not make the descriptor readable again."""
        data = b""
        while len(data) < _TOGETHER:
            try:
                piece = self._socket.recv(size)
            except OSError as error:
                if data:
                    break  # what has come counts, whatever comes next
                if isinstance(error, self._waits):
                    raise BlockingIOError from None
                raise
            if not piece:
                break
            data += piece
        return data


def why(error: OSError) -> str:
    """OpenSSL's own words: `certificate verify failed: self-signed certificate`."""
    reason = str(getattr(error, "reason", "") or error.strerror or error).replace("_", " ").lower()
    detail = getattr(error, "verify_message", "")
    return f"{reason}: {detail}" if detail else reason

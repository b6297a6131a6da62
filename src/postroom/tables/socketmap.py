"""socketmap_table(5), the client: netstrings over a kept connection. `unix:PATH:NAME` or `inet:HOST:PORT:NAME`.

32:name user@example.com,          ->
9:OK a text,    9:NOTFOUND ,       <-     also TEMP, TIMEOUT and PERM, each with a reason: nothing is known then
"""

from __future__ import annotations

import _socket

from postroom.deadline import Deadline
from postroom.status import ConfigurationFault, Fault
from postroom.tables.keys import coded, full_key

# postconf(5) socketmap_max_reply_size and, since Postfix 3.12, socketmap_max_query_size: a longer key is not found.
REPLY_LIMIT = 100_000
QUERY_LIMIT = 10_000

# Without a deadline of a mail: Postfix's own 100 s (src/util/dict_sockmap.c) would hold up a policy reply for too long.
PATIENCE = 30.0

_READ = 65536

# One connection for all names at an endpoint, as Postfix has it; and for each of several threads that ask at once. What
# a thread takes from here is its own until it puts it back.
_connections: dict[tuple[str, ...], list[_socket.socket]] = {}


class Socketmap:
    def __init__(self, where: str) -> None:
        kind, _, rest = where.partition(":")
        endpoint, _, self._name = rest.rpartition(":")
        host, _, port = endpoint.rpartition(":")
        self._endpoint = (kind, endpoint)
        good = endpoint if kind == "unix" else host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
        if kind not in ("unix", "inet") or not good or not self._name or set(self._name) & set(" \t"):
            raise ConfigurationFault(f"socketmap:{where}: expected unix:PATH:NAME or inet:HOST:PORT:NAME")

    def find(self, kind: str, value: str, delimiter: str, deadline: Deadline | None = None) -> bool | str:
        """A socketmap is asked for the whole value only; it does its own falling back."""
        key = coded(full_key(kind, value))
        if len(self._name) + 1 + len(key) > QUERY_LIMIT:
            return False
        reply = self._asked(self._name.encode("utf-8", "surrogateescape") + b" " + key, deadline or Deadline(PATIENCE))
        word, _, text = reply.decode("utf-8", "surrogateescape").partition(" ")
        if word == "OK":
            return text or True
        if word == "NOTFOUND":
            return False
        raise self._fault(f"answered {word} {text}" if word in ("TEMP", "TIMEOUT", "PERM") else "gave no known answer")

    def _fault(self, what: str) -> Fault:
        from postroom.status import clean

        return Fault(clean(f"socketmap:{':'.join(self._endpoint)}:{self._name}: {what}")[:300])

    def _asked(self, request: bytes, deadline: Deadline) -> bytes:
        """The reply. A kept connection that the server has closed meanwhile is opened again, once."""
        data = b"%d:%s," % (len(request), request)
        kept = _kept(self._endpoint)
        if kept is not None:
            try:
                return self._exchange(kept, data, deadline)
            except (ConnectionError, EOFError):
                kept.close()
            except OSError as error:
                kept.close()
                raise self._fault(_why(error)) from None
        connection = None
        try:
            connection = self._connected(deadline)
            return self._exchange(connection, data, deadline)
        except (OSError, EOFError) as error:
            if connection is not None:
                connection.close()
            raise self._fault(_why(error)) from None

    def _connected(self, deadline: Deadline) -> _socket.socket:
        kind, endpoint = self._endpoint
        if kind == "unix":
            return _opened(_socket.AF_UNIX, endpoint, deadline)
        host, _, port = endpoint.rpartition(":")
        failure: OSError = OSError(f"{host}: no address")
        for family, _, _, _, address in _socket.getaddrinfo(host.strip("[]"), int(port), 0, _socket.SOCK_STREAM):
            try:
                return _opened(family, address, deadline)
            except OSError as error:
                failure = error
        raise failure

    def _exchange(self, connection: _socket.socket, data: bytes, deadline: Deadline) -> bytes:
        """One request and its reply. What goes wrong leaves the connection out of step: it is not kept then."""
        connection.settimeout(_left(deadline))
        connection.sendall(data)
        buffer = b""
        while (reply := netstring(buffer)) is None:
            connection.settimeout(_left(deadline))
            more = connection.recv(_READ)
            if not more:
                raise EOFError("closed the connection")
            buffer += more
        _connections.setdefault(self._endpoint, []).append(connection)
        return reply


def _kept(endpoint: tuple[str, ...]) -> _socket.socket | None:
    """The connection that was used last, of those that the server has not closed meanwhile."""
    try:
        while True:
            connection = _connections[endpoint].pop()
            if _silent(connection):
                return connection
            connection.close()
    except (KeyError, IndexError):
        return None


def netstring(buffer: bytes) -> bytes | None:
    """The content of the one netstring that there is; None while it is not whole. Raises OSError for anything else."""
    digits, colon, rest = buffer.partition(b":")
    if not colon and (digits.isdigit() or not digits) and len(digits) < 10:
        return None
    if not digits.isdigit() or len(digits) > 9 or int(digits) > REPLY_LIMIT:
        raise OSError("its reply is no netstring, or too long")
    size = int(digits)
    if len(rest) <= size:
        return None
    if rest[size:] != b",":
        raise OSError("its reply is no netstring, or more than one")
    return rest[:size]


def _silent(connection: _socket.socket) -> bool:
    """Whether the server has neither closed a kept connection nor said more than it was asked."""
    try:
        connection.setblocking(False)
        connection.recv(1, _socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _opened(family: int, address: object, deadline: Deadline) -> _socket.socket:
    connection = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        connection.settimeout(_left(deadline))
        connection.connect(address)  # type: ignore[arg-type]  # as getaddrinfo gave it, or a path
    except OSError:
        connection.close()
        raise
    return connection


def _left(deadline: Deadline) -> float:
    left = deadline.remaining(PATIENCE)
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or "no answer in time"

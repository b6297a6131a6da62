"""The load: policy requests over connections that stay, the next one sent when the reply is there, as smtpd(8) does."""

import select
import socket
import sys
import time

WARM_UP = 200

# A reply is short and comes in one piece; who sends more than this, or two replies, is no policy server.
REPLY = 4096


def ask(connection: socket.socket, request: bytes) -> bytes:
    connection.send(request)
    reply = connection.recv(REPLY)
    if not (reply.startswith(b"action=") and reply.endswith(b"\n\n")):
        sys.exit(f"the server answered {reply!r}")
    return reply


def verify(connection: socket.socket, requests: list[bytes], expected: list[bytes]) -> None:
    """Who is fast because it answers something else is not measured."""
    for request, wanted in zip(requests, expected, strict=True):
        reply = ask(connection, request)
        if reply.lower() != wanted.lower():
            sys.exit(f"the server answered {reply!r}, expected {wanted!r}, to\n{request.decode()}")


def rate(connection: socket.socket, requests: list[bytes], seconds: float) -> float:
    """Requests a second on one connection."""
    count, place, start, now = 0, 0, time.perf_counter(), 0.0
    while now < seconds:
        for request in requests[place : place + 50]:
            ask(connection, request)
            count += 1
        place = (place + 50) % len(requests)
        now = time.perf_counter() - start
    return count / now


def rate_of_many(connections: list[socket.socket], requests: list[bytes], seconds: float) -> float:
    """Requests a second on all of them together, one under way on each."""
    poll = select.epoll()
    by_number = {connection.fileno(): connection for connection in connections}
    for place, connection in enumerate(connections):
        poll.register(connection, select.EPOLLIN)
        connection.send(requests[place % len(requests)])
    count, place, start, now = 0, len(connections), time.perf_counter(), 0.0
    while now < seconds:
        for number, _ in poll.poll():
            connection = by_number[number]
            if not connection.recv(REPLY).endswith(b"\n\n"):
                sys.exit("the server sent a part of a reply")
            connection.send(requests[place % len(requests)])
            place += 1
            count += 1
        now = time.perf_counter() - start
    for connection in connections:
        connection.recv(REPLY)
    poll.close()
    return count / now

"""A name server that takes every question and answers none."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest


@pytest.fixture
def silent_server() -> Iterator[SimpleNamespace]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        yield SimpleNamespace(address=f"127.0.0.1:{server.getsockname()[1]}")

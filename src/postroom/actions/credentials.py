"""What only we and a server may know: one line in a file that is not open to everybody."""

from __future__ import annotations

import os
import stat

from postroom.status import ConfigurationFault

_SIZE_LIMIT = 4096


def secret(path: str, option: str) -> str:
    """The first line of the file that `option` names. Raises ConfigurationFault, which never tells what is in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            mode = os.fstat(fd).st_mode
            data = os.read(fd, _SIZE_LIMIT) if stat.S_ISREG(mode) else b""
        finally:
            os.close(fd)
    except OSError as error:
        raise ConfigurationFault(f"the file of {option}= cannot be read") from OSError(f"{path}: {error.strerror}")
    if mode & stat.S_IRWXO:
        raise ConfigurationFault(f"the file of {option}= is open to everybody") from PermissionError(
            f"{path}: mode {stat.S_IMODE(mode):03o}, expected 600 or 640"
        )
    line = data.partition(b"\n")[0].strip()
    if not line:
        raise ConfigurationFault(f"the file of {option}= is empty") from ValueError(path)
    return line.decode("utf-8", "surrogateescape")

"""The country of an IP address, by a MaxMind database that the administrator keeps up to date."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from postroom.config import identity
from postroom.rules import Unknown
from postroom.status import ConfigurationFault

if TYPE_CHECKING:
    from maxminddb import Reader

# Open for as long as the process lives, by path, with the identity of the file that was opened.
_open: dict[str, tuple[tuple[int, ...], Reader]] = {}


def country(path: str, address: str) -> str | Unknown:
    """ISO 3166-1 alpha-2 in upper case; "" for an address in no country, as those of private networks.

    Raises ConfigurationFault where there is no such database, or nothing to read it with.
    """
    try:
        import maxminddb
    except ImportError:
        raise ConfigurationFault("[country] needs the package maxminddb: pip install postroom[country]") from None
    try:
        found = _reader(path).get(address)
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        return Unknown(f"{path}: {error}")
    entry = found.get("country") or found.get("registered_country") if isinstance(found, dict) else None
    code = entry.get("iso_code") if isinstance(entry, dict) else None
    return code.upper() if isinstance(code, str) else ""


def _reader(path: str) -> Reader:
    """Opened anew where geoipupdate(1) has put another file there."""
    import maxminddb

    try:
        now = identity(os.stat(path))
        known = _open.get(path)
        if known is not None and known[0] == now:
            return known[1]
        reader = maxminddb.open_database(path, maxminddb.MODE_MMAP)
    except OSError as error:
        raise ConfigurationFault(f"{path}: {os.strerror(error.errno or 0)}") from None
    _open[path] = now, reader  # the one before is closed with its last user, who may be another thread just now
    return reader

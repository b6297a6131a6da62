"""The country of an address: a database made here, replaced, broken and gone; and without the package."""

import os
import sys
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from postroom import country
from postroom.rules import Unknown
from postroom.status import ConfigurationFault

ENTRIES = {
    "192.0.2.0/24": {"country": {"iso_code": "DE"}},
    "198.51.100.0/24": {"registered_country": {"iso_code": "at"}},
    "203.0.113.0/24": {"continent": {"code": "EU"}},
    "2001:db8::/32": {"country": {"iso_code": "FR"}},
}


def write(path: Path, entries: dict[str, object] = ENTRIES) -> str:
    writer = MMDBWriter(6, "Test-Country", languages=["en"], ipv4_compatible=True)
    for net, entry in entries.items():
        writer.insert_network(IPSet([net]), entry)
    draft = path.with_name(path.name + ".new")
    writer.to_db_file(str(draft))
    draft.rename(path)
    return str(path)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "DE"),
        ("198.51.100.7", "AT"),
        ("203.0.113.7", ""),
        ("127.0.0.1", ""),
        ("2001:db8::25", "FR"),
        ("2001:db9::25", ""),
    ],
)
def test_countries(tmp_path: Path, address: str, expected: str) -> None:
    assert country.country(write(tmp_path / "a.mmdb"), address) == expected


def test_a_new_database_is_used_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mmdb")
    assert country.country(path, "192.0.2.7") == "DE"
    write(tmp_path / "a.mmdb", {"192.0.2.0/24": {"country": {"iso_code": "CH"}}})
    assert country.country(path, "192.0.2.7") == "CH"
    os.unlink(path)
    with pytest.raises(ConfigurationFault, match="No such file"):
        country.country(path, "192.0.2.7")


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_broken_database_is_unknown(tmp_path: Path, size: int) -> None:
    path = Path(write(tmp_path / "a.mmdb"))
    path.write_bytes(path.read_bytes()[:size])
    assert isinstance(country.country(str(path), "192.0.2.7"), Unknown)


def test_what_is_no_address_is_unknown(tmp_path: Path) -> None:
    assert isinstance(country.country(write(tmp_path / "a.mmdb"), "unknown"), Unknown)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ConfigurationFault, match=r"postroom\[country\]"):
        country.country(str(tmp_path / "a.mmdb"), "192.0.2.7")

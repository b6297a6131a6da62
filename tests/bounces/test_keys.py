"""The key file."""

from __future__ import annotations

from pathlib import Path

import pytest

from postroom.bounces import keys
from postroom.status import ConfigurationFault

SECRET = "00" * 16


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bounce.key"
    path.touch(mode=0o600)
    return path


def test_the_first_signs_and_all_verify(file: Path) -> None:
    file.write_text(f"# comment\n\nb {'11' * 32}\n  a {SECRET}  \n")
    assert [(key.id, key.secret) for key in keys.load(str(file))] == [("b", b"\x11" * 32), ("a", b"\0" * 16)]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o601])
def test_a_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    file.write_text(f"a {SECRET}\n")
    file.chmod(mode)
    with pytest.raises(ConfigurationFault, match="open to everybody") as caught:
        keys.load(str(file))
    assert str(file) in str(caught.value.__cause__)
    file.chmod(0o640)
    assert keys.load(str(file))


@pytest.mark.parametrize(
    "text",
    ["", "# none\n", f"A {SECRET}\n", f"ab {SECRET}\n", f"1 {SECRET}\n", "a\n", f"a {SECRET} x\n", "a xyz\n",
     "a 00\n", f"a {SECRET[1:]}\n", f"a {'00' * 65}\n", f"a {SECRET}\na {SECRET}\n", "\0\xff\n"],
)  # fmt: skip
def test_a_wrong_file_is_a_fault_that_does_not_show_the_secret(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationFault) as caught:
        keys.load(str(file))
    said = f"{caught.value} {caught.value.__cause__}"
    assert SECRET not in said
    assert "line " in said


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFault, match="cannot be read"):
        keys.load(str(tmp_path / "absent"))


def test_fresh_keys_have_ids_of_their_own(file: Path) -> None:
    ring: list[keys.Key] = []
    for _ in keys.IDS:
        ring.insert(0, keys.fresh(ring))
    assert sorted(key.id for key in ring) == sorted(keys.IDS)
    assert len({key.secret for key in ring}) == len(ring)
    with pytest.raises(ConfigurationFault, match="taken"):
        keys.fresh(ring)
    file.write_text("".join(keys.line(key) for key in ring))
    assert [key.secret for key in keys.load(str(file))] == [key.secret for key in ring]

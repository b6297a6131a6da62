"""Signed envelope senders: they fit, they survive, they prove one recipient, for a while, and nobody can make one."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.bounces import verp
from postroom.bounces.keys import IDS, Key
from postroom.store.address import fold

KEY = Key("b", bytes(range(32)))
OLD = Key("a", bytes(range(1, 33)))
NOW = 1_800_000_000.0
LIFETIME = 30 * 86400.0
PREFIX = "bounces"

# RFC 5321 section 4.1.2: Dot-string, and anything quoted; and what Postfix has inside, unquoted.
plain_locals = st.text("abcdefghijklmnopqrstuvwxyz0123456789._+-", min_size=1, max_size=64)
domains = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,10}){1,3}", fullmatch=True)
addresses = st.one_of(
    st.builds("{}@{}".format, plain_locals, domains),
    st.builds("{}@{}".format, st.text(min_size=1, max_size=64), domains),
    st.binary(min_size=1, max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape") + "@example.com"),
)
prefixes = st.text(string.ascii_lowercase + string.digits + "-._", min_size=1, max_size=verp.LONGEST_PREFIX)


def check(local: str, *candidates: str, keys: tuple[Key, ...] = (KEY,), prefix: str = PREFIX, now: float = NOW):
    return verp.check(local, candidates, keys, prefix, now, LIFETIME)


@given(addresses, prefixes, st.floats(0, 4e10))
def test_a_tag_is_a_local_part_by_rfc_5321(recipient: str, prefix: str, now: float) -> None:
    local = verp.make(KEY, prefix, recipient, now)
    assert len(local.encode()) <= 64
    assert local == local.lower()
    assert set(local) <= set(string.ascii_lowercase + string.digits + "._+-=")
    assert local.startswith(f"{prefix}+b")


@given(addresses, prefixes)
def test_what_is_made_is_verified_by_the_recipient_reported(recipient: str, prefix: str) -> None:
    local = verp.make(KEY, prefix, recipient, NOW)
    found = check(local, "somebody@else.example", recipient, prefix=prefix)
    assert (found.authentic, found.recipient) == ("verified", recipient)
    assert check(local, prefix=prefix).authentic == ("verified" if local.count("=") else "unverified")


@given(addresses)
def test_a_mail_system_that_folds_case_does_no_harm(recipient: str) -> None:
    local = verp.make(KEY, PREFIX, recipient, NOW)
    for spelt in (local.upper(), local.title(), local.swapcase()):
        assert check(spelt, recipient).authentic == "verified"


def test_the_recipient_is_written_out_where_it_fits() -> None:
    local = verp.make(KEY, PREFIX, "Bob+x@Example.com", NOW)
    assert local.endswith("-bob+x=example.com")
    assert check(local).recipient == "bob+x@example.com"
    assert "=" not in verp.make(KEY, PREFIX, "a" * 30 + "@example.com", NOW)
    assert "=" not in verp.make(KEY, PREFIX, "a=b@example.com", NOW)
    assert "=" not in verp.make(KEY, PREFIX, "john doe@example.com", NOW)


@given(addresses, addresses)
def test_it_proves_no_other_recipient(recipient: str, other: str) -> None:
    local = verp.make(KEY, PREFIX, recipient, NOW)
    if fold(other) != fold(recipient):
        found = check(local, other)
        assert found.authentic != "verified"
        assert found.recipient == ""


def test_a_tag_of_ones_own_says_nothing_about_others() -> None:
    """Whoever gets our mail sees the tag, and can send a report about anybody to it."""
    own = verp.make(KEY, PREFIX, "mallory@example.net", NOW)
    assert check(own, "victim@example.com").authentic == "unverified"
    pasted = own.partition("-")[0] + "-victim=example.com"
    assert check(pasted, "victim@example.com").authentic == "forged"
    assert check(pasted).authentic == "forged"


@given(st.data())
def test_one_digit_changed_proves_nothing(data: st.DataObject) -> None:
    local = verp.make(KEY, PREFIX, "bob@example.com", NOW)
    place = data.draw(st.integers(len(PREFIX) + 1, len(PREFIX) + 21))
    digit = data.draw(st.sampled_from([d for d in IDS if d != local[place]]))
    changed = local[:place] + digit + local[place + 1 :]
    assert check(changed, "bob@example.com", keys=(KEY, OLD)).authentic != "verified"


@given(st.text(max_size=70), st.lists(addresses, max_size=3))
def test_any_local_part_is_judged(local: str, candidates: list[str]) -> None:
    for text in (local, f"{PREFIX}+{local}", f"{PREFIX}+baujl{local}"):
        assert check(text, *candidates).authentic in ("unverified", "forged")


def test_another_prefix_is_another_tag() -> None:
    local = verp.make(KEY, "lists", "bob@example.com", NOW)
    assert check(local, "bob@example.com").authentic == "unverified"
    assert check(local.replace("lists", PREFIX), "bob@example.com").authentic == "forged"


def test_keys_are_changed_without_losing_what_is_under_way() -> None:
    local = verp.make(OLD, PREFIX, "bob@example.com", NOW)
    assert check(local, keys=(KEY, OLD)).authentic == "verified"
    gone = check(local, keys=(KEY,))
    assert (gone.authentic, "key a" in gone.why) == ("unverified", True)
    assert check(local, keys=(Key("a", KEY.secret),)).authentic == "forged"


@pytest.mark.parametrize(
    ("days", "authentic"),
    [
        (-2, "unverified"),
        (-1, "verified"),
        (0, "verified"),
        (29, "verified"),
        (30, "verified"),
        (31, "unverified"),
        (400, "unverified"),
    ],
)
def test_a_tag_is_believed_for_its_lifetime(days: int, authentic: str) -> None:
    start = NOW // 86400 * 86400
    local = verp.make(KEY, PREFIX, "bob@example.com", start)
    found = check(local, now=start + days * 86400)
    assert found.authentic == authentic
    assert found.sent == start
    assert found.recipient == ("bob@example.com" if authentic == "verified" else "")


def test_eighty_bits() -> None:
    local = verp.make(KEY, PREFIX, "bob@example.com", NOW)
    tag = local.partition("+")[2].partition("-")[0]
    assert len(tag) == 1 + 4 + 16
    others = {verp.make(KEY, PREFIX, f"u{n}@example.com", NOW).partition("+")[2][:21] for n in range(1000)}
    assert len(others) == 1000


def test_too_long_a_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        verp.make(KEY, "x" * (verp.LONGEST_PREFIX + 1), "bob@example.com", NOW)


def test_it_is_keyed_blake2b_as_the_manual_says() -> None:
    """Written out once more with the public module, so that an application in another language can follow."""
    import base64
    import hashlib

    local = verp.make(KEY, PREFIX, "Bob@Example.com", NOW)
    day = base64.b32encode((int(NOW // 86400) << 20).to_bytes(5, "big"))[:4].lower()
    text = b"\0".join([b"b", day, b"bounces", b"bob@example.com"])
    mac = hashlib.blake2b(text, key=KEY.secret, digest_size=10, person=b"postroom-verp").digest()
    tag = b"b" + day + base64.b32encode(mac).lower()
    assert local == f"bounces+{tag.decode()}-bob=example.com"

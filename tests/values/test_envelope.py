"""The envelope from pipe(8)'s words, and what is asked of an address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.envelope import domain, extension, localpart, parse_arguments, quote, split_address
from postroom.status import ConfigurationFault

words = st.text(st.characters(exclude_characters="\0\n"))


@given(words, st.lists(st.tuples(words, words), min_size=1), words)
def test_whatever_strangers_write_stays_a_value(sender: str, pairs: list[tuple[str, str]], helo: str) -> None:
    arguments = [f"sender={sender}", "queue_id=4Xy"]
    arguments += [f"recipient={address}" for address, _ in pairs]
    arguments += [f"original_recipient={original}" for _, original in pairs]
    arguments += [f"client_helo={helo}"]
    envelope = parse_arguments(arguments)
    assert envelope.sender == sender
    assert envelope.client_helo == helo
    assert [r.address for r in envelope.recipients] == [address for address, _ in pairs]
    assert [r.original for r in envelope.recipients] == [original or address for address, original in pairs]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "sender=${sender} queue_id=${queue_id} recipient=${recipient}"),
        (["sender=", "queue_id=1"], "recipient=${recipient}"),
        (["sender=", "queue_id=1", "recipient=a", "${foo}"], "unknown word '${foo}'"),
        (["sender=", "queue_id=1", "recipient=a", "rcpt=b"], "unknown word 'rcpt=b'"),
        (["sender=", "sender=", "queue_id=1", "recipient=a"], "sender= is given twice"),
        (["sender=", "queue_id=1", "recipient=a", "size=1k"], "size='1k'"),
        (["sender=", "queue_id=1", "recipient=a", "recipient=b", "original_recipient=c"], "2 recipient= but 1"),
    ],
)
def test_a_slip_in_master_cf_is_named(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigurationFault) as caught:
        parse_arguments(arguments)
    assert said in str(caught.value)
    assert caught.value.status == "4.3.5"


def test_ipv6_clients_have_one_form_in_every_program() -> None:
    envelope = parse_arguments(["sender=", "queue_id=1", "recipient=a", "client_address=IPv6:2001:db8::1"])
    assert envelope.client_address == "2001:db8::1"


def test_an_address_splits_at_its_last_at_sign() -> None:
    assert split_address("a@b@c.example") == ("a@b", "c.example")
    assert split_address("postmaster") == ("postmaster", "")
    assert (localpart("A.B@X"), domain("A.B@Example.COM.")) == ("A.B", "example.com")


@pytest.mark.parametrize(
    ("address", "delimiter", "expected"),
    [
        ("user+ext@x", "+", "ext"),
        ("user+a+b@x", "+", "a+b"),
        ("user-a+b@x", "+-", "a+b"),
        ("+ext@x", "+", ""),
        ("user@x", "+", ""),
        ("user+ext@x", "", ""),
        ("owner-list-x@x", "-", ""),
        ("list-request@x", "-", ""),
        ("MAILER-DAEMON@x", "-", ""),
    ],
)
def test_the_extension_follows_postfix(address: str, delimiter: str, expected: str) -> None:
    assert extension(address, delimiter) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("user@example.com", "user@example.com"),
        ("two words@example.com", '"two words"@example.com'),
        ('say "hi"@x', '"say \\"hi\\""@x'),
        ("a\\b@x", '"a\\\\b"@x'),
        (".dot@x", '".dot"@x'),
        ("a..b@x", '"a..b"@x'),
        ("a@b@x", '"a@b"@x'),
        ("jürgen@x", "jürgen@x"),
        ("bare", "bare"),
        ("", ""),
    ],
)
def test_quote_writes_what_rfc5321_wants(address: str, expected: str) -> None:
    assert quote(address) == expected

"""wire.policy: every split of the bytes gives the same events; what is no request never gets through as one."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postroom.wire.policy import (
    ATTRIBUTE_LIMIT,
    CLOSED,
    LINE_LIMIT,
    NEED_DATA,
    REPLY_LIMIT,
    REQUEST_LIMIT,
    Malformed,
    Request,
    RequestReader,
    reply,
)

HEAD = b"request=smtpd_access_policy\n"
SAMPLE = HEAD + b"sender=a@example.com\nrecipient=b=c@example.org\nhelo_name=\n\n"

names = st.binary(min_size=1, max_size=12).filter(lambda b: not set(b) & set(b"=\n\0") and b != b"request")
values = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").replace(b"\0", b""))
attributes = st.dictionaries(names, values, max_size=8)


def events(*pieces: bytes) -> list[object]:
    reader = RequestReader()
    found: list[object] = []
    for piece in pieces:
        reader.receive_data(piece)
        while isinstance(event := reader.next_event(), Request):
            found.append(event.attributes())
        if event is not NEED_DATA:
            found.append(event.reason if isinstance(event, Malformed) else event)
            break
    return found


def encode(request: dict[bytes, bytes]) -> bytes:
    return b"".join(b"%b=%b\n" % pair for pair in request.items()) + b"\n"


def complain(data: bytes) -> str:
    """The reason why `data`, then the end of the connection, is malformed; before the end if possible."""
    (reason,) = events(data, b"")
    assert isinstance(reason, str), reason
    return reason


def test_a_request() -> None:
    request = {b"sender": b"a@example.com", b"recipient": b"b=c@example.org", b"helo_name": b""}
    assert events(SAMPLE, b"") == [{b"request": b"smtpd_access_policy"} | request, CLOSED]


def test_every_split_into_three() -> None:
    stream = SAMPLE + SAMPLE.replace(b"a@", b"z@")
    whole = events(stream, b"")
    assert len(whole) == 3
    for first in range(len(stream)):
        for second in range(first, len(stream), 7):
            pieces = [piece for piece in (stream[:first], stream[first:second], stream[second:]) if piece]
            assert events(*pieces, b"") == whole


def test_byte_by_byte() -> None:
    stream = SAMPLE * 3
    assert events(*(stream[i : i + 1] for i in range(len(stream))), b"") == events(stream, b"")


@given(st.lists(attributes, max_size=4), st.lists(st.integers(0, 2000), max_size=6))
def test_any_requests_in_any_pieces_come_out_as_sent(requests: list[dict[bytes, bytes]], cuts: list[int]) -> None:
    sent = [{b"request": b"smtpd_access_policy"} | request for request in requests]
    stream = b"".join(map(encode, sent))
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert events(*pieces, b"") == [*sent, CLOSED]


@given(attributes)
def test_a_value_is_found_without_a_dictionary_as_with_one(request: dict[bytes, bytes]) -> None:
    found = Request(b"\n" + encode(request)[:-1])
    assert found.attributes() == request
    assert {name: found.value(name) for name in request} == request


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
@example([b"\n", b"\n"], False)
@example([b"=\n\n"], True)
@example([HEAD + b"a=b\n", b"\r\n"], False)
def test_any_bytes_in_any_pieces_end_the_same_and_never_raise(pieces: list[bytes], head: bool) -> None:
    pieces = [piece for piece in ([HEAD] if head else []) + pieces if piece]
    found = events(*pieces, b"")
    assert found == events(b"".join(pieces), b"")
    for event in found[:-1]:
        assert isinstance(event, dict)
        assert event[b"request"] == b"smtpd_access_policy"
    assert found[-1] is CLOSED or isinstance(found[-1], str)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\n", "an empty line where a request begins"),
        (b"\nrequest=smtpd_access_policy\n\n", "an empty line where a request begins"),
        (b"\r\n", "lines end with CR LF"),
        (SAMPLE.replace(b"\n", b"\r\n"), "lines end with CR LF"),
        (HEAD.replace(b"\n", b"\r\n") + b"\n", "request=smtpd_access_policy\r, expected"),
        (HEAD + b"sender\n\n", "a line without ="),
        (b"GET / HTTP/1.1\nHost: a\n\n", "a line without ="),
        (b"sender\n" + HEAD + b"\n", "a line without ="),
        (HEAD + b"=x\n\n", "a line without a name before ="),
        (b"=x\n" + HEAD + b"\n", "a line without a name before ="),
        (HEAD + b"sender=a\0b\n\n", "a NUL byte"),
        (b"sender=a\n\n", "no request= attribute"),
        (b"xrequest=smtpd_access_policy\n\n", "no request= attribute"),
        (b"request=junk\n\n", "request=junk, expected smtpd_access_policy"),
        (b"request=\xff\xfe\n\n", "expected smtpd_access_policy"),
        (b"request=junk\n" + HEAD + b"\n", "request=junk, expected"),
        (HEAD + b"sender=a\n", "closed within a request"),
        (b"r", "closed within a request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "closed within a request"),
        (HEAD + b"a=b\n" * ATTRIBUTE_LIMIT + b"\n", f"more than {ATTRIBUTE_LIMIT} attributes"),
        (HEAD + b"a=b\n" * 100_000 + b"\n", f"more than {REQUEST_LIMIT} bytes"),
        (HEAD + b"a=" + b"x" * LINE_LIMIT + b"\n\n", f"a line of more than {LINE_LIMIT} bytes"),
        (HEAD + b"a=" + b"x" * (1 << 20) + b"\n\n", f"more than {REQUEST_LIMIT} bytes"),
        (HEAD + b"a=" + b"x" * (1 << 20), f"more than {REQUEST_LIMIT} bytes without an empty line"),
        (b"\0" * (1 << 20), f"more than {REQUEST_LIMIT} bytes without an empty line"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_what_is_no_request_has_a_reason(data: bytes, reason: str) -> None:
    assert reason in complain(data)
    if "closed" not in reason and "without an empty line" not in reason:
        assert reason in complain(data + SAMPLE)


def test_the_limits_themselves_are_allowed() -> None:
    fits = HEAD + b"a=b\n" * (ATTRIBUTE_LIMIT - 1) + b"\n"
    long = HEAD + b"a=" + b"x" * (LINE_LIMIT - 2) + b"\n\n"
    assert [type(event) for event in events(fits + long)] == [dict, dict]


def test_a_request_too_long_is_refused_before_it_has_ended_and_nothing_is_kept() -> None:
    reader = RequestReader()
    for _ in range(REQUEST_LIMIT // 1024):
        reader.receive_data(b"x" * 1024)
        assert reader.next_event() is NEED_DATA
    reader.receive_data(b"x")
    assert isinstance(reader.next_event(), Malformed)
    reader.receive_data(SAMPLE * 100)
    assert isinstance(reader.next_event(), Malformed)
    assert reader._buffer == b""


def test_a_request_before_the_malformed_one_counts() -> None:
    found = events(SAMPLE + b"what\n\n" + SAMPLE)
    assert [type(event) for event in found] == [dict, str]


def test_closed_stays_closed() -> None:
    reader = RequestReader()
    reader.receive_data(b"")
    assert [reader.next_event(), reader.next_event()] == [CLOSED, CLOSED]
    reader.receive_data(SAMPLE)
    assert reader.next_event() is CLOSED


def test_of_a_repeated_attribute_the_first_counts_both_ways() -> None:
    request = Request(b"\n" + HEAD + b"sender=one\nsender=two\n")
    assert request.value(b"sender") == b"one" == request.attributes()[b"sender"]


def test_a_name_is_whole_and_never_part_of_a_value() -> None:
    request = Request(b"\n" + HEAD + b"xsender=1\nsender_=2\nnote=sender=3\nhelo_name=\nrecipient=\n")
    assert request.value(b"sender") is None
    assert request.value(b"note") == b"sender=3"
    assert request.value(b"note=sender") is None
    assert request.value(b"x\nsender") is None
    assert request.value(b"") is None
    assert request.value(b"recipient") == b""


# The reply.


def test_a_reply_ends_with_an_empty_line_and_no_carriage_return() -> None:
    assert reply("DUNNO") == b"action=DUNNO\n\n"
    assert reply("  reject not today ") == b"action=reject not today\n\n"
    assert reply("550 5.7.1 za\u017c\u00f3\u0142\u0107") == "action=550 5.7.1 za\u017c\u00f3\u0142\u0107\n\n".encode()


@given(st.text(max_size=700))
def test_whatever_the_text_a_reply_is_one_line_of_utf8_or_refused(text: str) -> None:
    for action in (text, f"REJECT {text}", f"550 {text}"):
        try:
            data = reply(action)
        except ValueError:
            continue
        assert data.startswith(b"action=")
        assert data.endswith(b"\n\n")
        line = data[7:-2].decode()
        assert line.strip()
        assert not line.isdigit()
        assert not set(line) & set("\n\r\0")


def request(**values: str) -> Request:
    return Request(b"\n" + HEAD + "".join(f"{name}={value}\n" for name, value in values.items()).encode())


def whole_reply(action: bytes, what: str) -> bytes:
    """What smtpd makes of an action at RCPT, without its line end."""
    code, _, text = action.partition(b" ")
    return b"%b 5.7.1 <%b>: Recipient address rejected: %b" % (code, what.encode(), text)


@given(st.text(alphabet="ab \u00e9\u20ac\U0001f600", min_size=1, max_size=600), st.integers(0, 330))
def test_the_text_is_cut_so_that_postfix_need_not(text: str, length: int) -> None:
    recipient = "r" * length
    data = reply(f"550 x{text}", request(recipient=recipient, sender="s", helo_name="h"))
    action = data[len(b"action=") : -2]
    assert len(whole_reply(action, recipient)) <= REPLY_LIMIT
    assert f"550 x{text}".startswith(action.decode())
    cut = f"550 x{text}".rstrip()[len(action.decode()) :]
    if cut.strip():
        assert len(whole_reply(action + cut.lstrip(" ")[0].encode(), recipient)) > REPLY_LIMIT - 20 - text.count(" ")


@pytest.mark.parametrize("name", ["sender", "recipient", "helo_name", "client_name", "etrn_domain"])
def test_each_name_that_postfix_may_put_into_the_reply_counts(name: str) -> None:
    long = reply("REJECT " + "x" * 600, request(**{name: "y" * 300}))
    assert len(reply("REJECT " + "x" * 600, request())) - len(long) >= 280


def test_a_stranger_with_a_long_address_cannot_have_the_reason_cut_off() -> None:
    reason = "x" * 127 + "!"
    assert reply(f"554 {reason}", request(sender="s" * 2000)) == f"action=554 {reason}\n\n".encode()


def test_only_texts_that_go_to_the_client_are_cut() -> None:
    for action in (f"PREPEND X-Long: {'x' * 900}", f"REDIRECT {'x' * 600}@example.com", "reject_a, " * 60 + "reject"):
        assert reply(action, request()) == f"action={action}\n\n".encode()


def test_a_reply_is_the_same_the_second_time_and_for_each_request() -> None:
    action = "REJECT " + "z" * 600
    short, long = request(recipient="r"), request(recipient="r" * 200)
    assert reply(action, short) == reply(action, short)
    assert len(reply(action, short)) > len(reply(action, long))
    assert len(reply(action)) < len(reply(action, short))
    for number in range(1000):
        assert reply(f"REJECT {number}") == f"action=REJECT {number}\n\n".encode()

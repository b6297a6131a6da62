"""Which actions are legal at which stage, and what they come to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.rules import actions, keys
from postroom.rules.actions import Word, parse
from postroom.rules.problems import Refused
from postroom.status import is_status

ACCEPTED = "would ACCEPT the mail"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HANGUP", ("HANGUP",)),
        ("hangup no thanks", ("HANGUP", "no thanks")),
        ("521 5.7.1 not through us", ("521", "5.7.1 not through us")),
        ("450 try again", ("450", "try again")),
        ("REJECT", ("REJECT",)),
        ("DEFER_IF_PERMIT 4.3.0 later", ("DEFER_IF_PERMIT", "4.3.0 later")),
        ("DUNNO", ("DUNNO",)),
        ("FILTER smtp:[127.0.0.1]:10025", ("FILTER", "smtp:[127.0.0.1]:10025")),
        ("REDIRECT a@b", ("REDIRECT", "a@b")),
        ("PREPEND X-Why: because of {{this}}", ("PREPEND", "X-Why: because of {this}")),
    ],
)
def test_actions_of_the_smtp_stages(text: str, words: tuple[str, ...]) -> None:
    assert parse("rcpt", text).words == words


@pytest.mark.parametrize(
    ("stage", "text", "words"),
    [
        ("rcpt", "550", ACCEPTED),
        ("rcpt", "1234567", ACCEPTED),
        ("rcpt", "", "accept the mail"),
        ("rcpt", "  ", "accept the mail"),
        ("rcpt", "550 5.7.1", "no text after 5.7.1"),
        ("rcpt", "550 4.7.1 no", "4.7.1 does not fit 550; expected 5.7.1"),
        ("rcpt", "250 fine", "no reply that refuses"),
        ("rcpt", "600 what", "no reply that refuses"),
        ("rcpt", "5.7.1 no", '"550 5.7.1"'),
        ("rcpt", "5500 no", "no reply that refuses"),
        ("rcpt", "OK", "allow_ok = true"),
        ("rcpt", "RELAY", "unknown action"),
        ("rcpt", "permit_mynetworks", "the name of a restriction"),
        ("rcpt", "REJCT no", 'did you mean "REJECT"?'),
        ("rcpt", "DUNNO text", "takes no text"),
        ("rcpt", "FILTER", "expected a transport"),
        ("rcpt", "FILTER smtp", "expected a transport"),
        ("rcpt", "REDIRECT nobody", "expected one address"),
        ("rcpt", "BCC a@b c@d", "expected one address"),
        ("rcpt", "PREPEND nothing", "expected a header"),
        ("rcpt", "PREPEND X Y: z", "expected a header"),
        ("rcpt", "521 one\ntwo", "control character"),
        ("rcpt", "521 " + "x" * 500, "longer than 400 bytes"),
        ("rcpt", "521 {nonsense}", "unknown template name"),
        ("rcpt", "521 {recipent}", 'did you mean "recipient"?'),
        ("rcpt", "521 {recipient", "without its other half"),
        ("rcpt", "521 recipient}", "without its other half"),
        ("rcpt", "maildir /x", 'an action of at = "deliver"'),
        ("connect", "521 {recipient}", "unknown template name"),
        ("connect", "HOLD", "does nothing at connect"),
        ("helo", "REDIRECT a@b", "does nothing at helo"),
        ("etrn", "DISCARD", "does nothing at etrn"),
        ("end-of-message", "PREPEND X: y", "does nothing at end-of-message"),
        ("deliver", "HANGUP", "an action of the SMTP stages"),
        ("deliver", "550 5.1.1 no", "neither refuses nor defers"),
        ("deliver", "2.0.0 fine", "neither refuses nor defers"),
        ("deliver", "5.1.1", "no text after 5.1.1"),
        ("deliver", "maildr /x", 'did you mean "maildir"?'),
        ("deliver", "maildir x", "absolute path"),
        ("deliver", "maildir", "absolute path"),
        ("deliver", "maildir {recipient}", "absolute path"),
        ("deliver", "maildir /x/../y", ". or .."),
        ("deliver", "relay", 'expected "relay lmtp:unix:/path"'),
        ("deliver", "relay lmtp:unix:path", 'expected "relay'),
        ("deliver", "relay smtp:unix:/path", 'expected "relay'),
        ("deliver", "relay smtp:mx.example:25", "does not look up MX records"),
        ("deliver", "relay smtp:[mx.example]", "with a port"),
        ("deliver", "relay lmtp:host:0", "with a port"),
        ("deliver", "relay lmtp:host:65536", "with a port"),
        ("deliver", "relay lmtp::::24", "IPv6 address in brackets"),
        ("deliver", "relay lmtp:a/b:24", "neither a host name"),
        ("deliver", "relay lmtp:[{recipient_domain}]:24", "takes no templates"),
        ("deliver", "command", "absolute path of a program"),
        ("deliver", "command prog", "absolute path of a program"),
        ("deliver", "command /x 'y", "quote without its other half"),
        ("deliver", "command /x/{recipient}", "which program runs"),
        ("route", "nothing", "transport:nexthop"),
        ("route", "smtp:a b", "no nexthop"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(stage: str, text: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(stage, text)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [550, None, [550], True])
def test_an_action_is_a_text(value: object) -> None:
    with pytest.raises(Refused, match="expected a text"):
        parse("rcpt", value)


def test_ok_where_it_is_meant() -> None:
    assert parse("rcpt", "OK", allow_ok=True).words == ("OK",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("maildir /srv/mail/bob/", ("maildir", "/srv/mail/bob/")),
        ("relay lmtp:unix:/run/dovecot/lmtp", ("relay", "lmtp:unix:/run/dovecot/lmtp")),
        ("relay lmtp:mail.example:24", ("relay", "lmtp:mail.example:24")),
        ("relay smtp:[192.0.2.1]:25", ("relay", "smtp:[192.0.2.1]:25")),
        ("relay smtp:[2001:db8::1]:25", ("relay", "smtp:[2001:db8::1]:25")),
        ("command /bin/x 'a b' \"c d\" e\\ f --g={{}}", ("command", "/bin/x", "a b", "c d", "e f", "--g={}")),
        ("discard", ("discard",)),
        ("discard seen enough", ("discard", "seen enough")),
        ("5.7.1 no", ("5.7.1", "no")),
        ("4.2.1 moved, try again", ("4.2.1", "moved, try again")),
    ],
)
def test_deliveries_are_split_once(text: str, words: tuple[str, ...]) -> None:
    assert parse("deliver", text).words == words


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("maildir /srv/{recipient_domain}/{recipient_localpart}", ["maildir"]),
        ("webhook https://a.example/{recipient_user}?from={sender}", ["url"]),
        ("command /bin/x {sender} --box=/srv/{recipient} lit", ["argument", "path"]),
        ("discard for {recipient}", ["text"]),
        ("5.7.1 {recipient} is no more", ["text"]),
    ],
)
def test_templates_know_what_they_stand_in(text: str, slots: list[str]) -> None:
    assert [word.slot for word in parse("deliver", text).words if isinstance(word, Word)] == slots


@given(st.sampled_from(keys.STAGES), st.text(max_size=30) | st.text("0123456789. OKREJCTrelaymdi:/[]{}@", max_size=20))
def test_nothing_passes_that_postfix_would_take_for_an_acceptance(stage: str, text: str) -> None:
    try:
        action = parse(stage, text)
    except Refused:
        return
    first, *rest = action.words
    assert first
    if stage in keys.POLICY_STAGES and isinstance(first, str):
        assert first in actions.POLICY or (len(first) == 3 and first[0] in "45" and rest)
        assert first != "OK"
    if stage == "deliver" and isinstance(first, str) and first[0].isdigit():
        assert is_status(first) and first[0] in "45" and rest


@pytest.mark.parametrize("stage", keys.STAGES)
def test_every_stage_says_what_postfix_does_with_its_actions(stage: str) -> None:
    words = actions.default(stage, "r").words
    assert words or stage == "route"
    assert actions.effect(stage, " ".join(str(word) for word in words))
    assert actions.effect(stage, "")

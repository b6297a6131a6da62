"""Actions that lead elsewhere: relays with TLS, webhooks, the quarantine, and what can be done with a report."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.rules import SEPARATOR, actions, templates
from postroom.rules.actions import parse
from postroom.rules.bounceactions import BOUNCE
from postroom.rules.facts import Facts
from postroom.rules.problems import Refused
from postroom.rules.render import render


@pytest.mark.parametrize(
    ("stage", "action", "words"),
    [
        ("deliver", "relay smtps:[mx.example]:465", ("relay", "smtps:[mx.example]:465")),
        (
            "deliver",
            "relay smtp+starttls:[192.0.2.1]:587  ca=/etc/ca.pem login=/etc/login",
            ("relay", "smtp+starttls:[192.0.2.1]:587", "ca=/etc/ca.pem", "login=/etc/login"),
        ),
        ("deliver", "relay lmtp+starttls:mail.example:24", ("relay", "lmtp+starttls:mail.example:24")),
        ("deliver", "webhook http://[::1]:8080/", ("webhook", "http://[::1]:8080/")),
        (
            "deliver",
            "webhook https://a.example/x?y=z secret=/etc/s ca=/c",
            ("webhook", "https://a.example/x?y=z", "secret=/etc/s", "ca=/c"),
        ),
        (
            "deliver",
            ["command /bin/x", "quarantine /srv/q after=05"],
            ("command", "/bin/x", SEPARATOR, "quarantine", "/srv/q", "after=05"),
        ),
        (
            "deliver",
            ["relay lmtp:unix:/run/l", " quarantine /srv/q after=1000 any "],
            ("relay", "lmtp:unix:/run/l", SEPARATOR, "quarantine", "/srv/q", "after=1000", "any"),
        ),
        ("bounce", "record", ("record",)),
        ("bounce", "suppress", ("suppress",)),
        ("bounce", "forward a@b.example", ("forward", "a@b.example", "smtp:[127.0.0.1]:25")),
        (
            "bounce",
            "forward a@b.example smtps:[c.example]:465 ca=/c",
            ("forward", "a@b.example", "smtps:[c.example]:465", "ca=/c"),
        ),
        (
            "bounce",
            ["suppress", "webhook https://a.example/"],
            ("suppress", SEPARATOR, "webhook", "https://a.example/"),
        ),
    ],
)
def test_words(stage: str, action: object, words: tuple[str, ...]) -> None:
    found = parse(stage, action)
    assert found.words == words
    assert actions.effect(stage, found.text)


QUARANTINE = "quarantine /q after=3"


@pytest.mark.parametrize(
    ("stage", "action", "why"),
    [
        ("deliver", "relay smtps:mx.example:465", "host in brackets"),
        ("deliver", "relay smtps:[mx.example]", "with a port"),
        ("deliver", "relay smtps:unix:/run/x", 'expected "relay'),
        ("deliver", "relay lmtps:unix:/run/x", 'expected "relay'),
        ("deliver", "relay smtp+tls:[a.example]:25", 'expected "relay'),
        ("deliver", "relay smtp:[a.example]:25 ca=/x", "ca= needs TLS"),
        ("deliver", "relay smtp:[a.example]:25 login=/x", "login= needs TLS"),
        ("deliver", "relay smtps:[a.example]:25 ca=x", "absolute path"),
        ("deliver", "relay smtps:[a.example]:25 ca=/x ca=/y", "twice"),
        ("deliver", "relay smtps:[a.example]:25 lgin=/x", 'did you mean "login"'),
        ("deliver", "relay smtps:[a.example]:25 tls", "unknown option"),
        ("deliver", "relay smtps:[a.example]:25 ca=/{recipient}", "takes no templates"),
        ("deliver", "webhook", "expected"),
        ("deliver", "webhook a.example/x", "expected"),
        ("deliver", "webhook ftp://a.example/x", "expected"),
        ("deliver", "webhook https://a.example", "expected"),
        ("deliver", "webhook https:///x", "neither a host name"),
        ("deliver", "webhook https://{recipient_domain}/x", "template in its host"),
        ("deliver", "webhook https://a.{sender}/x", "template in its host"),
        ("deliver", "webhook https://bob:pw@a.example/x", "expected"),
        ("deliver", "webhook https://bob@a.example/x", "neither a host name"),
        ("deliver", "webhook https://a.example:0/x", "host:port"),
        ("deliver", "webhook https://a.example:99999/x", "host:port"),
        ("deliver", "webhook https://a.example:x/x", "host:port"),
        ("deliver", "webhook https://[::1/x", "IPv6 address"),
        ("deliver", "webhook https://a.example/\u00e4", "no URL"),
        ("deliver", "webhook https://a.example/x#y", "no URL"),
        ("deliver", "webhook https://a.example/x/../y", ". or .."),
        ("deliver", "webhook https://a.example/{nonsense}", "unknown template name"),
        ("deliver", "webhook http://a.example/x ca=/y", "ca= needs TLS"),
        ("deliver", "webhook https://a.example/x login=/y", "unknown option"),
        ("deliver", QUARANTINE, "behind another action"),
        ("deliver", ["command /x"], "a list of one and"),
        ("deliver", [], "a list of one and"),
        ("deliver", [QUARANTINE, "command /x"], "a list of one and"),
        ("deliver", ["command /x", "maildir /y"], "a list of one and"),
        ("deliver", ["command /x", 5], "a list of one and"),
        ("deliver", ["command /x", QUARANTINE, QUARANTINE], "a list of one and"),
        ("deliver", [QUARANTINE, QUARANTINE], "behind another action"),
        ("deliver", [5, QUARANTINE], "text in quotes"),
        ("deliver", ["discard", QUARANTINE], "cannot fail"),
        ("deliver", ["5.1.1 no", QUARANTINE], "cannot fail"),
        *[
            ("deliver", ["command /x", f"quarantine {rest}"], why)
            for rest, why in [
                ("", "after=N"),
                ("/q", "after=N"),
                ("/q after=0", "after=N"),
                ("/q after=1001", "after=N"),
                ("/q after=\u0665", "after=N"),
                ("/q after=3 all", "after=N"),
                ("q after=3", "absolute path"),
                ("/q/../r after=3", ". or .."),
            ]
        ],
        ("bounce", "discard", "unknown action"),
        ("bounce", "supress", 'did you mean "suppress"'),
        ("bounce", "record this", "takes no text"),
        ("bounce", "forward", "expected one address"),
        ("bounce", "forward nobody", "expected one address"),
        ("bounce", "forward a@b@c", "expected one address"),
        ("bounce", "forward {sender}", "takes no templates"),
        ("bounce", "forward a@b.example maildir:/x", 'expected "relay'),
        ("bounce", ["record", "suppress"], "record alone"),
        ("bounce", ["suppress", "suppress"], "stands once"),
        ("bounce", [], "1 to 4 actions"),
        ("bounce", ["suppress", None], "text in quotes"),
        ("bounce", ["suppress", ["record"]], "text in quotes"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(stage: str, action: object, why: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(stage, action)
    assert why in str(caught.value)


@pytest.mark.parametrize("verb", BOUNCE)
def test_every_action_at_bounce_is_explained(verb: str) -> None:
    assert actions.effect("bounce", verb).startswith("hands the report to bounce-record, which records it")
    assert verb in actions.expected("bounce")


def rendered(action: str, **attributes: str) -> tuple[str, ...]:
    words = tuple(
        word if isinstance(word, str) else (word.slot, word.template) for word in parse("deliver", action).words
    )
    found = render(words, Facts(attributes, "+"))
    assert isinstance(found, tuple)
    return found


URL = "webhook https://a.example/{recipient_user}/x?from={sender}&n={client_name}"


def test_strangers_texts_are_encoded_in_urls() -> None:
    given = {"recipient": "a/b?c#d%2e&e\u00e4@x", "sender": "\udcff../@y z", "client_name": ""}
    assert rendered(URL, **given) == (
        "webhook", "https://a.example/a%2Fb%3Fc%23d%252e%26e%C3%A4/x?from=%FF..%2F%40y%20z&n=",
    )  # fmt: skip


@pytest.mark.parametrize("local", ["", ".", ".."])
def test_a_path_that_would_lead_elsewhere_bounces(local: str) -> None:
    assert rendered(URL, recipient=f"{local}@x.example", sender="")[0] == "5.1.3"
    two = "webhook https://a.example/{recipient_user}{recipient_extension}/x"
    assert rendered(two, recipient=".+.@x.example")[0] == "5.1.3"


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_rendered_url_keeps_its_form(local: str, sender: str) -> None:
    found = rendered(URL, recipient=f"{local}@x.example", sender=sender)
    if found[0] == "webhook":
        start, _, query = found[1].partition("?")
        assert start.startswith("https://a.example/") and start.count("/") == 4
        assert query.count("&") == 1 and found[1].isascii() and found[1].isprintable() and " " not in found[1]
        assert not {"", ".", ".."} & set(start.split("/")[3:])
    else:
        assert found[0] in ("5.1.3", "5.1.7")


@pytest.mark.parametrize("word", ["new", "tmp", "cur", "NEW"])
def test_no_mailbox_lies_in_the_folders_of_another(word: str) -> None:
    nested = "maildir /srv/{recipient_user}/{recipient_extension}"
    assert rendered(nested, recipient=f"bob+{word}@x.example")[0] == "5.1.3"
    assert rendered(nested, recipient=f"bob+{word}s@x.example") == ("maildir", f"/srv/bob/{word.lower()}s")
    joined = "maildir /srv/{recipient_user}{recipient_extension}/box"
    assert rendered(joined, recipient=f"{word[:1]}+{word[1:]}@x.example")[0] == "5.1.3"
    assert rendered("maildir /srv/new/{recipient_user}", recipient="bob@x.example") == ("maildir", "/srv/new/bob")
    assert rendered("maildir /srv/x-{recipient_user}", recipient=f"{word}@x") == ("maildir", f"/srv/x-{word.lower()}")
    assert rendered("command /bin/x /srv/{recipient_user}", recipient=f"{word}@x")[0] == "command"


def test_templates_at_bounce_know_the_report() -> None:
    parse("bounce", "webhook https://a.example/{bounce.reason}/{recipient_user}")
    assert "bounce.reason" in templates.names("bounce")

"""Hashed addresses: no local part of a request is left anywhere in its line, and rules about domains still hold."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record.conftest import Write

from postroom.record.mask import Mask, address, hashed, local_part
from postroom.rules import Decision, Question, Unknown
from postroom.store import Suppression

BOB = hashed("bob")


def test_the_hash_stays_what_it_is() -> None:
    """Records of other versions and machines must stay comparable: the value is written out."""
    assert BOB == "h9520f02d7dc8"
    assert (len(BOB), BOB[0], BOB.isalnum()) == (13, "h", True)
    assert hashed("BOB") == BOB != hashed("bobby")


@pytest.mark.parametrize(
    ("given", "masked"),
    [
        ("bob@x.example", f"{BOB}@x.example"),
        ("Bob@X.example", f"{BOB}@X.example"),
        ("bob+news@x.example", f"{BOB}+{hashed('news')}@x.example"),
        ("bob+@x.example", f"{BOB}+@x.example"),
        ('"a@b c"@x.example', hashed('"a@b c"') + "@x.example"),
        ("@x.example", "@x.example"),
        ("bob", BOB),
        ("", ""),
    ],
)
def test_the_domain_and_the_extension_stay_apart(given: str, masked: str) -> None:
    assert address(given, "+") == masked


def test_a_request_is_hashed_wherever_an_address_stands(write: Write) -> None:
    attributes = {
        "sender": "Carol@y.example",
        "recipient": "bob+news@x.example",
        "sasl_username": "dave",
        "helo_name": "bob",
        "protocol_name": "ESMTP",
        "ccert_subject": "CN=erin@z.example",
        "client_address": "192.0.2.1",
    }
    asked = [
        (Question("list", ("staff", "bob+news@x.example", "address")), "bob is staff", 0),
        (Question("list", ("users", "bob", "fold")), False, 0),
        (Question("suppressed", "bob+news@x.example"), Suppression("bob+news@x.example", 1, why="<bob@x.example>"), 0),
        (Question("rate", ("r", ("dave", "carol@y.example"), ((10, 60.0),), 1, "1.2 bob+news@x.example")), 0, 0),
        (Question("header", "to"), ["Bob <bob@x.example>, frank@w.example"], 0),
        (Question("mx", "x.example"), Unknown("timed out"), 0),
    ]
    decision = Decision("maildir /srv/bob/new", (), "r", False, "", (("s", "WARN Carol@y.example wrote to bob"),))
    found = write(attributes, asked, decision, stage="deliver", hashed=True)
    told = json.dumps(found)
    for name in ("carol@", "bob@", "bob+", "dave", "erin@", "frank@", "/bob/", "news@", "to bob"):
        assert name not in told.lower(), name
    carol, news = hashed("carol"), hashed("news")
    assert found["hashed"] is True
    assert found["attributes"] == {
        **attributes,
        "sender": f"{carol}@y.example",
        "recipient": f"{BOB}+{news}@x.example",
        "sasl_username": hashed("dave"),
        "ccert_subject": f"{hashed('CN=erin')}@z.example",
    }
    assert found["action"] == f"maildir /srv/{BOB}/new"
    assert found["shadow"] == [["s", f"WARN {carol}@y.example wrote to {BOB}"]]
    assert found["asked"][0]["argument"] == ["staff", f"{BOB}+{news}@x.example", "address"]
    assert found["asked"][0]["answer"] == f"{BOB} is staff"
    assert found["asked"][1]["argument"] == ["users", BOB, "fold"]
    assert found["asked"][2]["answer"]["address"] == f"{BOB}+{news}@x.example"
    assert found["asked"][3]["argument"][1] == [hashed("dave"), f"{carol}@y.example"]
    assert found["asked"][4]["answer"] == [f"Bob <{BOB}@x.example>, {hashed('frank')}@w.example"]
    assert found["asked"][5] == {"kind": "mx", "argument": "x.example", "unknown": "timed out", "ms": 0}


LOCALS = st.text("abcdefghijklmnopqrstuvwxyz.-_=0123456789", min_size=3, max_size=12)


@settings(max_examples=200)
@given(LOCALS, LOCALS, st.sampled_from(["{}@d.example", "<{}@D.EXAMPLE>", "/srv/{}/x", "to {}: no", '"{}"', "a,{},b"]))
def test_no_local_part_is_left_in_a_text(local: str, other: str, form: str) -> None:
    mask = Mask({"recipient": f"{local}@d.example", "sender": f"{other}@e.example"}, "+")
    masked = mask.text(form.format(local))
    assert local_part(local, "+") in masked
    words = masked.replace(local_part(local, "+"), "")
    assert local not in words or local in form


def test_words_that_only_contain_it_stay() -> None:
    mask = Mask({"recipient": "bob@x.example"}, "+")
    assert mask.text("bobby bob's kebob bob") == f"bobby {BOB}'s kebob {BOB}"
    assert mask.text("550 5.1.1 no") == "550 5.1.1 no"


@given(st.text(), st.text(), st.text())
def test_any_text_comes_through(sender: str, recipient: str, text: str) -> None:
    mask = Mask({"sender": sender, "recipient": recipient}, "+-")
    assert isinstance(mask.text(text), str)
    assert mask.text("") == ""

"""What the check of a file refuses, and in which words."""

from collections.abc import Callable

import pytest

from postroom.rules.problems import Problem

Found = Callable[[str], list[Problem]]

RULE = '[[rule]]\nid = "r"\nat = "rcpt"\naction = "DUNNO"\n'
DELIVER = '[[rule]]\nid = "r"\nat = "deliver"\naction = "discard"\n'

# What the file says; the line, key and words of the message.
WRONG = [
    # The top level
    ('stat = "/x"\n', 1, "stat", 'unknown key "stat"; did you mean "state"?'),
    ("state = 1\n", 1, "state", "expected a text in quotes, found 1"),
    ('state = ""\n', 1, "state", "expected a text of one line"),
    ("deadline = 900\n", 1, "deadline", "above 0 and below 900 seconds"),
    ("deadline = 0\n", 1, "deadline", "above 0"),
    ("deadline = nan\n", 1, "deadline", "above 0"),
    ("deadline = true\n", 1, "deadline", "expected a time"),
    ('deadline = "20 x"\n', 1, "deadline", "expected a time"),
    ('deadline = "s"\n', 1, "deadline", "expected a time"),
    ('recipient_delimiter = "x"\n', 1, "recipient_delimiter", "expected signs"),
    ("dns = 1\n", 1, "dns", "expected a table"),
    ("[dns]\nserver = []\n", 2, "dns.server", 'did you mean "servers"?'),
    ('[dns]\nservers = ["ns.example"]\n', 2, "dns.servers", "expected addresses of name servers"),
    ('[dns]\nservers = ["127.0.0.1:99999"]\n', 2, "dns.servers", "expected addresses of name servers"),
    ('[dns]\nservers = "127.0.0.1"\n', 2, "dns.servers", "expected a list of texts"),
    ("[dns]\nport = 0\n", 2, "dns.port", "a whole number from 1 to 65535"),
    ('[bounces]\nkey = "k"\n', 1, "bounces", '"domain" is missing'),
    ('[bounces]\nkey = "k"\ndomain = "a b"\n', 3, "bounces.domain", "expected a domain name"),
    ('[bounces]\nkey = "k"\ndomain = "d"\nprefix = "Big"\n', 4, "bounces.prefix", "lower-case"),
    ('[bounces]\nkey = "k"\ndomain = "d"\nlifetime = "2y"\n', 4, "bounces.lifetime", "expected a time"),
    # Lists and providers
    ("list = 1\n", 1, "list", "expected tables such as [list.NAME]"),
    ('[list."a b"]\nvalues = ["x"]\n', 1, "list.a b", "expected a name"),
    ("[list.a]\n", 1, "list.a", "expected one of values"),
    ('[list.a]\nvalues = ["x"]\nfile = "f"\n', 1, "list.a", "expected one of values"),
    ('[list.a]\nvalue = ["x"]\n', 2, "list.a.value", 'did you mean "values"?'),
    ('[list.a]\nvalues = ["*@x"]\n', 2, "list.a.values", "a list holds addresses"),
    ('[list.a]\nvalues = ["re:x"]\n', 2, "list.a.values", "a list holds addresses"),
    ('[list.a]\nvalues = ["10.0.0.1/8"]\n', 2, "list.a.values", "bits set behind its prefix"),
    ('[list.a]\ntable = "hash:f"\n', 2, "list.a.table", "unknown table type"),
    ('[list.a]\ntable = "f"\n', 2, "list.a.table", "TYPE:PATH"),
    ('[provider.a]\nmx = ["x y"]\n', 2, "provider.a.mx", '"x y" holds a blank; several values are a list: ["x", "y"]'),
    ("[provider.a]\nmx = []\n", 2, "provider.a.mx", "an empty list matches nothing"),
    ("[provider.a]\n", 1, "provider.a", '"mx" is missing'),
    ('[provider.a]\nmx = ["list:x"]\n', 2, "provider.a.mx", "there is none in this file"),
    # Rules
    ('[rule]\nid = "r"\n', 1, "rule", "with two brackets"),
    ('[[rule]]\nat = "rcpt"\naction = "DUNNO"\n', 1, "", '"id" is missing'),
    ('[[rule]]\nid = "a b"\nat = "rcpt"\naction = "DUNNO"\n', 2, "id", "letters, digits"),
    (RULE + RULE, 6, "id", "is the id of the rule on line 1 too"),
    ('[[rule]]\nid = "r"\naction = "DUNNO"\n', 1, "", '"at" is missing'),
    ('[[rule]]\nid = "r"\nat = "RCPT"\naction = "DUNNO"\n', 3, "at", 'did you mean "rcpt"?'),
    ('[[rule]]\nid = "r"\nat = "rcpt"\n', 1, "", '"action" is missing'),
    (RULE + "mach = {}\n", 5, "mach", 'did you mean "match"?'),
    (RULE + 'mode = "shadwo"\n', 5, "mode", 'did you mean "shadow"?'),
    (RULE + "allow_ok = 1\n", 5, "allow_ok", "expected true or false"),
    (RULE + "match = []\n", 5, "match", "expected a table"),
    (RULE + "unless = {}\n", 5, "unless", "is empty"),
    (RULE + "any = {}\n", 5, "any", "expected a list of tables"),
    (RULE + "any = []\n", 5, "any", "expected a list of tables"),
    (RULE + "any = [ {} ]\n", 5, "any", "is empty"),
    (RULE + 'on_error = "skp"\n', 5, "on_error", "unknown action"),
    (RULE + 'on_error = "ignore"\n', 5, "on_error", 'expected "defer", "skip" or an action; unknown action "ignore"'),
    (RULE + 'on_error = "550"\n', 5, "on_error", "would ACCEPT the mail"),
    # Conditions
    (RULE + 'match = { recipent = "a@b" }\n', 5, "match.recipent", 'did you mean "recipient"?'),
    (
        RULE + 'match = { header.subject = "x" }\n',
        5,
        "match.header.subject",
        "cannot be known at rcpt, only at deliver",
    ),
    (RULE + "match = { recipient_count = 3 }\n", 5, "match.recipient_count", "only at data, end-of-message"),
    (RULE + 'match = { etrn_domain = "x" }\n', 5, "match.etrn_domain", "only at etrn"),
    (RULE + "match = { recipient = 1 }\n", 5, "match.recipient", "expected a text in quotes, found 1"),
    (RULE + "match = { recipient = [] }\n", 5, "match.recipient", "an empty list matches nothing"),
    (RULE + 'match = { recipient = [\n"a@b",\n["c"]] }\n', 7, "match.recipient", "found a list"),
    (RULE + 'match = { recipient = "" }\n', 5, "match.recipient", "can never match: an empty recipient means unknown"),
    (RULE + 'match = { recipient = "@b" }\n', 5, "match.recipient", 'expected "b" for all addresses in it'),
    (
        RULE + 'match = { recipient = "a@b.c, d@e.f" }\n',
        5,
        "match.recipient",
        '"a@b.c, d@e.f" holds a comma; several values are a list: ["a@b.c", "d@e.f"]',
    ),
    (RULE + 'match = { recipient = "a@b.c d@e.f" }\n', 5, "match.recipient", "holds a blank; several values"),
    (RULE + 'match = { recipient = "*@b.c d@e.f" }\n', 5, "match.recipient", "holds a blank; several values"),
    (RULE + 'match = { recipient = "root admin" }\n', 5, "match.recipient", '["root", "admin"]'),
    (RULE + 'match = { helo_name = "*.b, c" }\n', 5, "match.helo_name", '["*.b", "c"]'),
    (RULE + 'match = { primary_mx = "a.b,c.d" }\n', 5, "match.primary_mx", '["a.b", "c.d"]'),
    ('[list.a]\nvalues = ["a@b, c@d"]\n', 2, "list.a.values", "holds a comma"),
    (RULE + 'match = { sender = "/^spam@/" }\n', 5, "match.sender", '"/^spam@/" is written as a pattern'),
    (RULE + 'match = { sender = "/^spam@/" }\n', 5, "match.sender", 'expected "re:^spam@"'),
    (RULE + 'match = { sender = "a@b c" }\n', 5, "match.sender", '["a@b", "c"]'),
    (RULE + 'match = { sender = "a@b/c" }\n', 5, "match.sender", 'found "a@b/c"'),
    (RULE + 'state = "x"\n', 5, "state", "a setting of the file stands above the first [table]"),
    (RULE + '[rule.match]\nlog = "x"\n', 6, "match.log", "a setting of the file stands above the first [table]"),
    ("[dns]\ndeadline = 3\n", 2, "dns.deadline", "a setting of the file stands above the first [table]"),
    (RULE + 'match = { recipient = "list:x" }\n', 5, "match.recipient", "there is none in this file"),
    (
        '[list.blocked]\nvalues = ["x"]\n' + RULE + 'match = { recipient = "list:bloked" }\n',
        7,
        "match.recipient",
        '"blocked"?',
    ),
    (RULE + 'match = { recipient = "provider:x" }\n', 5, "match.recipient", "a provider is a set of MX hosts"),
    (RULE + 'match = { primary_mx = "provider:x" }\n', 5, "match.primary_mx", 'unknown provider "x"'),
    (RULE + 'match = { primary_mx = "a@b" }\n', 5, "match.primary_mx", "expected a name"),
    (RULE + 'match = { primary_mx = "." }\n', 5, "match.primary_mx", "is no domain name"),
    (RULE + 'match = { mx_state = "nul" }\n', 5, "match.mx_state", 'did you mean "null"?'),
    (RULE + 'match = { mx_state = "list:x" }\n', 5, "match.mx_state", "unknown state"),
    (RULE + 'match = { suppressed = "yes" }\n', 5, "match.suppressed", "expected true or false"),
    (RULE + "match = { suppressed = [true] }\n", 5, "match.suppressed", "expected true or false"),
    (RULE + 'match = { size = ">=5" }\n', 5, "match.size", 'expected a number, ">N" or "<N"'),
    (RULE + "match = { size = 0 }\n", 5, "match.size", "can never match"),
    (RULE + "match = { size = -1 }\n", 5, "match.size", "expected a number"),
    (RULE + "match = { size = true }\n", 5, "match.size", "expected a number"),
    (RULE + 'match = { client_address = "10.0.0.1/8" }\n', 5, "match.client_address", "bits set behind"),
    (RULE + 'match = { client_address = "10.0.0.0/33" }\n', 5, "match.client_address", "0 to 32"),
    (RULE + 'match = { client_address = "10.*" }\n', 5, "match.client_address", "expected an address or a network"),
    (RULE + 'match = { client_address = "re:x" }\n', 5, "match.client_address", "a pattern cannot be used here"),
    (RULE + 'match = { sender = "re:(?=a)(a+)+" }\n', 5, "match.sender", "inside another"),
    (RULE + 'match = { sasl_username = "a\\nb" }\n', 5, "match.sasl_username", "line end"),
    (RULE + "match = { suppressed.since = 1 }\n", 5, "match.suppressed.since", "unknown key"),
    (DELIVER + 'match = { client_adress = "::1" }\n', 5, "match.client_adress", 'did you mean "client_address"?'),
    # Tests
    ('[[test]]\nexpect = "DUNNO"\n', 1, "test 1", '"at" is missing'),
    ('[[test]]\nat = "rcpt"\n', 1, "test 1", '"expect" is missing'),
    (
        '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = { recipent = "x" }\n',
        4,
        "test 1: given.recipent",
        '"recipient"?',
    ),
    (
        '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = { mx = ["mx.example"] }\n',
        4,
        "test 1: given.mx",
        "10 mx.example.net",
    ),
    (
        '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = { client_address = "300.1.1.1" }\n',
        4,
        "test 1: given.client_address",
        'expected an IP address, found "300.1.1.1"',
    ),
    (
        '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = { header.subject = "hi" }\n',
        4,
        "test 1: given.header.subject",
        "cannot be known at rcpt, only at deliver, bounce",
    ),
    ('[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = 1\n', 4, "test 1: given", "expected a table"),
    (
        RULE + '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\nexpect_rule = "s"\n',
        8,
        "test 1: expect_rule",
        "unknown rule at rcpt",
    ),
]


@pytest.mark.parametrize(("text", "line", "key", "words"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_each_mistake_is_named_with_its_place(problems: Found, text: str, line: int, key: str, words: str) -> None:
    found = problems(text)
    assert [(problem.line, problem.key) for problem in found] == [(line, key)], "\n".join(map(str, found))
    assert words in found[0].text
    assert found[0].level == "error"


def test_a_message_names_file_line_rule_and_key(problems: Found) -> None:
    assert [str(problem) for problem in problems(RULE + 'match = { recipent = "a@b" }\n')] == [
        'postroom.toml: line 5: rule "r": match.recipent: unknown key "recipent"; did you mean "recipient"?'
    ]


def test_all_mistakes_are_found_at_once(problems: Found) -> None:
    text = 'sate = 1\n[[rule]]\nid = "r"\nat = "rcpt"\naction = "550"\nmatch = { x = 1, size = "a" }\n[[test]]\n'
    assert len(problems(text)) == 6


def test_a_rule_without_id_is_named_by_its_number(problems: Found) -> None:
    assert str(problems('[[rule]]\nat = "rcpt"\naction = "DUNNO"\n')[0]).startswith(
        'postroom.toml: line 1: rule "number 1": '
    )


RIGHT = [
    "",
    'state = "s"\nlog = "l"\ndeadline = "4m"\nrecipient_delimiter = ""\n',
    '[dns]\nservers = ["127.0.0.1", "127.0.0.1:5353", "::1", "[::1]", "[::1]:53"]\nport = 53\ntimeout = 0.5\n',
    '[bounces]\nkey = "k"\ndomain = "bounces.example"\nlifetime = "30d"\nprefix = "b"\n',
    '[list.a]\nvalues = ["a@b", "b.example", ".c.example", "d@", "10.0.0.0/8", "::1", "<>", "bücher.example"]\n',
    RULE + 'match = { recipient = ["a@b", ".b.example", "*@c.*", "re:^x", "d@", "postmaster"] }\n',
    RULE + 'match = { "client_address" = ["10.0.0.0/8", "::1", "2001:db8::/32"], size = [">10", 5] }\n',
    RULE + 'unless = { sender = ["", "<>"], sasl_username = "", recipient_extension = "" }\n',
    RULE + 'any = [ { suppressed = true }, { mx_state = ["null", "error"] } ]\non_error = "skip"\n',
    RULE + 'match = { primary_mx = ["mx.example", ".example", "*.example.net", "re:^mx\\\\d"] }\n',
    DELIVER + 'match = { header.subject = "x", "header.X-Spam" = "YES", size = 0 }\n',
    RULE + 'match = { recipient = ["a b@c.example", "re:^a, b@", "re:a@b c@d"] }\n',
    '[[test]]\nat = "rcpt"\nexpect = "DUNNO"\ngiven = { client_address = "unknown", size = 3, client_port = "" }\n',
    DELIVER + 'match = { header.a.b = "x" }\n'.replace("header.a.b", '"header.a-b"'),
]


@pytest.mark.parametrize("text", RIGHT, ids=[str(number) for number in range(len(RIGHT))])
def test_what_is_right_passes(problems: Found, text: str) -> None:
    assert problems(text) == []

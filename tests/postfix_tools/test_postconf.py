"""The driver of postconf(1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroom.postfix.postconf import Postconf, PostconfError, seconds, settle, version


@pytest.fixture
def postconf(tmp_path: Path) -> Postconf:
    (tmp_path / "main.cf").write_text("myhostname = a.test\nmydomain = ${myhostname}\nempty_list =\nmynetworks =\n")
    (tmp_path / "master.cf").write_text(
        "smtp inet n - n - - smtpd\n  -o smtpd_banner=$empty_list\n  -o { smtpd_helo_restrictions = a, b }\n"
    )
    settle(tmp_path / "main.cf")
    return Postconf(tmp_path)


def test_values_as_written_expanded_default_and_empty(postconf: Postconf) -> None:
    assert postconf.get("mydomain") == "${myhostname}"
    assert postconf.expanded("mydomain") == "a.test"
    assert postconf.get("mynetworks") == ""
    assert postconf.default("command_time_limit") == "1000s"
    assert postconf.seconds("command_time_limit") == 1000


def test_an_unknown_parameter_is_an_error_though_postconf_exits_0(postconf: Postconf) -> None:
    for ask in (postconf.get, postconf.expanded, postconf.default):
        with pytest.raises(PostconfError, match="no_such_parameter: unknown parameter"):
            ask("no_such_parameter")


def test_what_is_set(postconf: Postconf) -> None:
    assert postconf.explicit()["myhostname"] == "a.test"
    assert postconf.explicit()["empty_list"] == ""


def test_services_and_their_options(postconf: Postconf) -> None:
    (line,) = postconf.services()
    assert line.split()[:8] == ["smtp", "inet", "n", "-", "n", "-", "-", "smtpd"]
    assert postconf.services("nothing/unix") == []
    assert postconf.service_parameters()["smtp/inet/smtpd_helo_restrictions"] == "a, b"


def test_setting(postconf: Postconf) -> None:
    postconf.set({"myhostname": "b.test", "mynetworks": "10.0.0.0/8, 127.0.0.1"})
    settle(postconf.directory / "main.cf")
    assert (postconf.get("myhostname"), postconf.get("mynetworks")) == ("b.test", "10.0.0.0/8, 127.0.0.1")
    with pytest.raises(PostconfError, match="several lines"):
        postconf.set({"myhostname": "a\nb"})


def test_a_directory_without_main_cf_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PostconfError, match=r"main\.cf: No such file or directory") as error:
        Postconf(tmp_path / "none").get("myhostname")
    assert "\n" not in str(error.value)


def test_a_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Postconf("etc").directory == tmp_path / "etc"


def test_the_default_directory_is_postfixs_or_mail_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MAIL_CONFIG", raising=False)
    assert Postconf().directory == Path("/etc/postfix")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    assert Postconf().directory == tmp_path


def test_postfix_that_is_not_installed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("postroom.postfix.postconf.COMMAND_DIRECTORIES", ())
    with pytest.raises(PostconfError, match="postconf: not found; install Postfix"):
        Postconf()


def test_this_postfix_has_a_version() -> None:
    assert Postconf().version() >= (3, 0)


@pytest.mark.parametrize(
    ("text", "numbers"), [("3.7.11", (3, 7, 11)), ("3.12-20260821", (3, 12)), ("3.10.0-RC2", (3, 10, 0)), ("x", ())]
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers


@given(st.integers(0, 10**9), st.sampled_from("smhdw"))
def test_times(number: int, unit: str) -> None:
    assert seconds(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert seconds(f"{number}") == number


@pytest.mark.parametrize("text", ["", "s", "1x", "-1s", "1.5s", "1 s", "one", "\u0661s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(PostconfError, match="is not a time"):
        seconds(text)

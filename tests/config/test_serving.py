"""[serve] and [listen.NAME]: what programs get to see, and what is refused with which words."""

from pathlib import Path

import pytest

from postroom.config import Listen, load
from postroom.status import ConfigurationFault


def loaded(folder: Path, text: str) -> tuple[Listen, ...]:
    path = folder / "postroom.toml"
    path.write_text('state = "state"\n' + text)
    return load(str(path)).listen


def test_nothing_said(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == ()
    serve = load(str(tmp_path / "postroom.toml")).serve
    assert (serve.workers, serve.threads, serve.queue, serve.programs, serve.user) == (0, 16, 256, (), "")


def test_the_name_is_the_protocol_unless_said(tmp_path: Path) -> None:
    first, second = loaded(
        tmp_path,
        '[listen.policy]\nat = "unix:run/policy"\n[listen.routes]\nprotocol = "tcp_table"\nat = "[::1]:2527"\n',
    )
    assert first == Listen("policy", "policy", f"unix:{tmp_path}/run/policy", program="rule-policy")
    assert second == Listen("routes", "tcp_table", "[::1]:2527", program="tcp-lookup", table="route")


@pytest.mark.parametrize(("mode", "expected"), [('"0660"', 0o660), ("0o600", 0o600), ('"777"', 0o777)])
def test_permissions(mode: str, expected: int, tmp_path: Path) -> None:
    (listen,) = loaded(tmp_path, f'[listen.policy]\nat = "unix:/run/p"\nmode = {mode}\n')
    assert listen.mode == expected


def test_only_named_users_widen_the_hand_off(tmp_path: Path) -> None:
    (own,) = loaded(tmp_path, '[listen.handoff]\nat = "unix:/run/h"\n')
    (shared,) = loaded(tmp_path, '[listen.handoff]\nat = "unix:/run/h"\nusers = ["vmail"]\n')
    assert (own.mode, own.users) == (0o600, ())
    assert (shared.mode, shared.users) == (0o666, ("vmail",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[listen.x]\nat = "unix:/a"', 'line 2: listen.x: "protocol" is missing; expected one of policy, socketmap'),
        ("[listen.policy]", 'line 2: listen.policy: "at" is missing; expected where to listen'),
        ('[listen.policy]\nprotocol = "polcy"\nat = "unix:/a"', 'did you mean "policy"?'),
        ('[listen.policy]\nat = "0.0.0.0:25"', "line 3: listen.policy.at: expected an address of the loopback"),
        ('[listen.policy]\nat = "192.0.2.1:25"', "expected an address of the loopback"),
        ('[listen.policy]\nat = "localhost:25"', 'expected "unix:PATH", "127.0.0.1:PORT" or "[::1]:PORT"'),
        ('[listen.policy]\nat = "127.0.0.1:0"', 'expected "unix:PATH"'),
        ('[listen.policy]\nat = "127.0.0.1"', 'expected "unix:PATH"'),
        ('[listen.policy]\nat = "::1:25"', 'expected "unix:PATH"'),
        (f'[listen.policy]\nat = "unix:/{"a" * 120}"', "expected a path of at most 107 bytes"),
        ('[listen.policy]\nat = "127.0.0.1:25"\nmode = "0660"', "line 4: listen.policy.mode: is for a unix socket"),
        ('[listen.policy]\nat = "127.0.0.1:25"\nowner = "a"', "listen.policy.owner: is for a unix socket"),
        ('[listen.policy]\nat = "unix:/a"\nmode = "0999"', 'expected permissions such as "0660"'),
        ('[listen.policy]\nat = "unix:/a"\nmode = true', 'expected permissions such as "0660"'),
        ('[listen.policy]\nat = "unix:/a"\nusers = ["a"]', "line 4: listen.policy.users: is not for this protocol"),
        ('[listen.policy]\nat = "unix:/a"\ntable = "route"', "listen.policy.table: is not for this protocol"),
        ('[listen.handoff]\nat = "127.0.0.1:25"', "expected a unix socket: descriptors pass through no other"),
        ('[listen.health]\nat = "unix:/a"\nprogram = "b"', "listen.health.program: is not for this protocol"),
        (
            '[listen.policy]\nat = "unix:/a"\n[listen.b]\nprotocol = "lmtp"\nat = "unix:/a"',
            "line 6: listen.b.at: [listen.policy] listens there already",
        ),
        ("[serve]\nworkers = true", "expected a whole number from 0 to 128"),
        ("[serve]\nworker = 1", 'unknown key "worker"; did you mean "workers"?'),
        ("serve = 1", "serve: expected a table, found 1"),
        ("listen = 1", "listen: expected tables such as [listen.NAME], found 1"),
        ('log_format = "xml"', "log_format"),
    ],
)
def test_what_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationFault) as fault:
        loaded(tmp_path, text)
    assert said in str(fault.value)

"""Plans against the real smtp(8): for each odd domain the same hosts in the same order, or the same refusal.

Network, mounts and processes are namespaces of their own, since smtp(8) asks the servers of /etc/resolv.conf at port 53
and connects to port 25.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from postroom.postfix.instance import missing

ROOT = Path(__file__).parents[2]

# Addresses in 127.0.1.0/24: nobody listens there, and they are not those that smtp(8) takes for itself.
ZONES = {
    "one.test": "@ MX 10 mx\nmx A 127.0.1.1\n",
    "order.test": "@ MX 30 c\n@ MX 10 a\n@ MX 20 b\na A 127.0.1.1\nb A 127.0.1.2\nc A 127.0.1.3\n",
    "equal.test": "@ MX 10 b\n@ MX 10 a\n@ MX 5 first\na A 127.0.1.1\nb A 127.0.1.2\nfirst A 127.0.1.3\n",
    "upper.test": "@ MX 10 MX.Upper.TEST.\nmx A 127.0.1.1\n",
    "twice.test": "@ MX 10 mx\n@ MX 20 mx\nmx A 127.0.1.1\n",
    "dead.test": "@ MX 10 nx\n@ MX 20 mx\nmx A 127.0.1.1\n",
    "alldead.test": "@ MX 10 nx\n@ MX 20 nx2\n",
    "half.test": "@ MX 10 a.broken.test.\n@ MX 20 mx\nmx A 127.0.1.1\n",
    "brokenmx.test": "@ MX 10 a.broken.test.\n",
    "brokennx.test": "@ MX 10 a.broken.test.\n@ MX 20 nx\n",
    "nxbroken.test": "@ MX 10 nx\n@ MX 20 a.broken.test.\n",
    "implicit.test": "@ A 127.0.1.1\n",
    "implicit6.test": "@ AAAA ::2\n",
    "nothing.test": "",
    "text.test": "@ TXT nothing\n",
    "null.test": "@ MX 0 .\n",
    "null10.test": "@ MX 10 .\n",
    "nullmixed.test": "@ MX 0 .\n@ MX 10 mx\nmx A 127.0.1.1\n",
    "nulla.test": "@ MX 0 .\n@ A 127.0.1.1\n",
    "mxalias.test": "@ MX 10 alias\nalias CNAME mx\nmx A 127.0.1.1\n",
    "aliases.test": "to CNAME one.test.\ntwo CNAME to\nlost CNAME nx.nothing.test.\nimplicit CNAME implicit.test.\n"
    "broken CNAME broken.test.\nnull CNAME null.test.\n",
    "loop.test": "a CNAME b\nb CNAME a\nself CNAME self\n@ MX 10 a\n",
    "chain.test": "".join(f"c{number} CNAME c{number + 1}\n" for number in range(14))
    + "c14 MX 10 mx\nmx A 127.0.1.1\n",
    "ip.test": "@ MX 10 127.0.1.9.\n",
    "ipmixed.test": "@ MX 10 127.0.1.9.\n@ MX 20 mx\nmx A 127.0.1.1\n",
    "space.test": "@ MX 10 a\\032b\n@ MX 20 mx\nmx A 127.0.1.1\na\\032b A 127.0.1.2\n",
    "allspace.test": "@ MX 10 a\\032b\n",
    "under.test": "@ MX 10 a_b\na_b A 127.0.1.1\n",
    "star.test": "* MX 10 mx\nmx A 127.0.1.1\n",
    "stara.test": "* A 127.0.1.1\n",
    "starmx.test": "@ MX 10 *.starmx.test.\n* A 127.0.1.1\n",
    "dash.test": "@ MX 10 -a\n@ MX 20 mx\n-a A 127.0.1.2\nmx A 127.0.1.1\n",
    "digits.test": "@ MX 10 12345\n12345 A 127.0.1.1\n",
    "wide.test": "".join(f"@ MX 10 h{n}\nh{n} A 127.0.1.{n + 1}\n" for n in range(4)),
}
DOMAINS = [
    *(zone for zone in ZONES if zone not in ("aliases.test", "chain.test", "loop.test")),
    *("to.aliases.test", "two.aliases.test", "lost.aliases.test", "implicit.aliases.test", "broken.aliases.test"),
    *("null.aliases.test", "a.loop.test", "self.loop.test", "loop.test", "c5.chain.test", "c6.chain.test"),
    *("c0.chain.test", "x.star.test", "x.stara.test", "nx.nothing.test", "broken.test", "x.broken.test"),
    *("elsewhere.example", "[127.0.1.9]", "ONE.Test", "one.test."),
]


@pytest.fixture(scope="module")
def world() -> dict[str, dict[str, Any]]:
    reason = missing()
    if reason:
        pytest.fail(reason, pytrace=False)
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*namespaces, sys.executable, str(Path(__file__).with_name("mx_world.py"))],
        input=json.dumps({"zones": ZONES, "servfail": ["broken.test"], "domains": DOMAINS}),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode != 0:
        pytest.fail(f"no namespaces, or no Postfix in them: {done.stderr[-2000:]}", pytrace=False)
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("domain", DOMAINS)
def test_smtp_does_as_planned(world: dict[str, dict[str, Any]], domain: str) -> None:
    plan, done = world["plans"][domain], world["deliveries"][domain]
    verdict, _, rest = plan["outcome"].partition(" ")
    if verdict == "deliver":
        assert done["tried"], done
        preference = {name: number for number, name in reversed(plan["hosts"])}
        turns = [preference[name] for name in done["tried"]]
        assert turns == sorted(turns), done
        assert set(done["tried"]) == set(preference)
    else:
        status = "bounced" if verdict == "bounce" else "deferred"
        assert (done["status"], done["dsn"], done["tried"]) == (status, rest.split(" ")[0], []), done


def test_all_kinds_of_outcomes_were_among_them(world: dict[str, dict[str, Any]]) -> None:
    words = {plan["outcome"].partition(" ")[0] for plan in world["plans"].values()}
    assert words == {"deliver", "bounce", "defer"}
    assert len(world["deliveries"]) == len(DOMAINS) > 50

"""A real authoritative name server (nsd) on a free loopback port, with the zones that are given as text.

    with Nameserver({"victim.test": "@ MX 10 mx1.shadysmtpd.test."}, servfail=("broken.test",)) as server:
        Resolver((server.address,)).plan("victim.test", Deadline(5))

Its configuration, zones and state live in a temporary folder that goes with it; /etc/nsd and Debian's nsd service are
not touched. Started by root it runs as nobody. A zone in `servfail` is one that nsd is to serve and has no file of:
it answers SERVFAIL for every name in it, as a server does whose zone has expired.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from postroom import dnsquery

HOST = "127.0.0.1"
USER = "nobody"
INSTALL = "nsd is not installed: apt-get install nsd"

# nsd starts within 0.1 s; a loaded machine may take its time. It stops as fast.
START_SECONDS = 15.0
STOP_SECONDS = 5.0

# Another program may take the port between our finding it free and nsd's binding it.
PORT_TRIES = 5

_SERVER = """\
server:
  ip-address: {host}@{port}
  username: ""
  server-count: 1
  database: ""
  pidfile: ""
  zonesdir: "{folder}"
  xfrdir: "{folder}"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
  rrl-ratelimit: 0
remote-control:
  control-enable: no
"""

# What a zone that gives no SOA of its own starts with. The minimum is short: a lab's negative answers are soon changed.
_HEAD = "$ORIGIN {zone}.\n$TTL 300\n"
_SOA = "@ SOA ns.invalid. hostmaster.invalid. 1 3600 900 604800 10\n@ NS ns.invalid.\n"


class NameserverError(Exception):
    """nsd is missing, a zone is wrong, or it would not start; the text says which, and what nsd said."""


class Nameserver:
    """A running nsd from `start()` (or `with`) to `stop()`. `address` is "127.0.0.1:PORT", `pid` that of the parent."""

    def __init__(self, zones: dict[str, str], servfail: tuple[str, ...] = ()) -> None:
        self.zones = zones
        self.servfail = servfail
        self.port = 0
        self.folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> Nameserver:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers; NameserverError where it does not, with nothing left behind."""
        nsd, checkzone = _program("nsd"), _program("nsd-checkzone")
        self.folder = Path(tempfile.mkdtemp(prefix="postroom-nsd-", dir=_base()))
        try:
            names = self._write_zones(self.folder, checkzone)
            for _ in range(PORT_TRIES):
                if self._try_start(self.folder, nsd, names):
                    return
            raise NameserverError(f"nsd did not start: {_last_line(self.folder / 'log')}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and remove its files; no harm where it has ended already."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def _write_zones(self, folder: Path, checkzone: str) -> str:
        """Write and check the zone files; the zone: part of nsd.conf."""
        text = ""
        for number, zone in enumerate((*self.zones, *self.servfail)):
            text += f'zone:\n  name: "{zone}"\n  zonefile: "{number}.zone"\n'
        for number, (zone, records) in enumerate(self.zones.items()):
            file = folder / f"{number}.zone"
            file.write_text(_zone(zone, records), encoding="utf-8")
            check = subprocess.run([checkzone, zone, str(file)], capture_output=True, text=True, check=False)
            if check.returncode != 0:
                raise NameserverError(f"zone {zone}: {(check.stdout + check.stderr).strip()}")
        return text

    def _try_start(self, folder: Path, nsd: str, zones: str) -> bool:
        """Start nsd on a port that is free now; False where it ended instead of answering."""
        self.port = _free_port()
        settings = _SERVER.format(host=HOST, port=self.port, folder=folder) + zones
        (folder / "nsd.conf").write_text(settings, encoding="utf-8")
        account = _account()
        if account is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [nsd, "-d", "-c", str(folder / "nsd.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,  # a Ctrl-C is ours to handle; and its children can be ended with it
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        return self._wait(self._process)

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        probe = next(iter((*self.zones, *self.servfail)), "invalid")
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if self._answers(probe):
                return True
            time.sleep(0.02)
        _end(process)
        return False

    def _answers(self, name: str) -> bool:
        try:
            dnsquery.ask((name, "A"), (HOST, self.port), 0.5)
        except dnsquery.Failure as failure:
            return failure.text in ("SERVFAIL", "REFUSED")  # the codes of an answer, not "connection refused"
        return True


def _program(name: str) -> str:
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise NameserverError(INSTALL)
    return path


def _base() -> str | None:
    """A folder for temporary files that USER can reach; TMPDIR may be root's own."""
    if os.geteuid() != 0:
        return None
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/var/tmp")):  # noqa: S108 - mkdtemp makes the folder in it
        if all(folder.stat().st_mode & 0o001 for folder in (base, *base.parents)):
            return str(base)
    raise NameserverError(f"no temporary folder that the user {USER} can reach: {tempfile.gettempdir()}")


def _zone(zone: str, records: str) -> str:
    has_soa = re.search(r"\sSOA\s", records, re.IGNORECASE)
    return _HEAD.format(zone=zone.removesuffix(".")) + ("" if has_soa else _SOA) + records.rstrip("\n") + "\n"


def _free_port() -> int:
    """A port that is free for UDP and TCP."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((HOST, port))
            except OSError:
                continue
            return port


def _account() -> pwd.struct_passwd | None:
    """Whom nsd runs as where root starts it; None: as ourselves."""
    return pwd.getpwnam(USER) if os.geteuid() == 0 else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """TERM to nsd, which ends its children; KILL to its whole session where it does not listen."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")

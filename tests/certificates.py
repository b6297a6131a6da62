"""A certificate authority of the test's own, and servers' certificates by it (openssl(1))."""

import subprocess
from pathlib import Path


class Authority:
    """`ca` is the path of its certificate."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._key = folder / "ca.key"
        made = ["-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.ca]
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *made)

    def certificate(self, *names: str, days: int = 2) -> tuple[Path, Path]:
        """(certificate, key) for host names, or addresses as `IP:127.0.0.1`; -1 days: past its time."""
        path = self.folder / names[0].replace(":", "-")
        certificate, key, request, extensions = (path.with_suffix(f".{end}") for end in ("pem", "key", "csr", "ext"))
        subject = ",".join(name if name.startswith("IP:") else f"DNS:{name}" for name in names)
        extensions.write_text(f"subjectAltName={subject}\n")
        wanted = ["-subj", "/CN=server", "-keyout", key, "-out", request]
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *wanted)
        signed = ["-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions, "-out", certificate]
        self._openssl("x509", "-req", "-in", request, "-days", str(days), *signed)
        return certificate, key

    @staticmethod
    def _openssl(*arguments: object) -> None:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

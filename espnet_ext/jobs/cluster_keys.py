"""A key and a certificate of this user for dask clusters: who does not have them can neither give work nor take it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_ext.errors import UserError
from espnet_ext.jobs.secret import key_file

if TYPE_CHECKING:
    from distributed.security import Security

CERTIFICATE, KEY = "cert.pem", "key.pem"
COMMAND = "python -m espnet_ext.bin.cluster_keys"
_DAYS = 365  # as long as dask's own are valid
_OPENSSL = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=dask-internal")


def keys_directory() -> Path:
    """Where they lie: in the user's own cache, which machines share that share the home directory."""
    return key_file().parent / "cluster"


def make_keys(place: Path) -> None:
    """Write a new key and its certificate, which all sides of a cluster use and trust alone.

    Args:
        place: directory that only the user can read; one that is there is replaced.

    Raises:
        UserError: if neither the package cryptography nor the program openssl is there.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))  # which only the user can read
    try:
        _write_keys(made)
        (made / KEY).chmod(0o600)
        if place.exists():
            shutil.rmtree(place)
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_keys(place: Path) -> None:
    from distributed.security import Security

    certificate, key = place / CERTIFICATE, place / KEY
    try:
        security = Security.temporary()
        certificate.write_text(security.tls_scheduler_cert)
        key.write_text(security.tls_scheduler_key)
        return
    except ImportError as error:
        missing = error
    if shutil.which(_OPENSSL[0]) is None:
        raise UserError(
            f"keys of a cluster need cryptography or the program openssl: pip install cryptography ({missing})"
        )
    line = [*_OPENSSL, "-days", str(_DAYS), "-keyout", str(key), "-out", str(certificate)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"openssl must make a key, got {' '.join(done.stderr.split())[-200:]}")


def cluster_security(place: Path) -> Security:
    """What a client of a cluster with TLS needs: what dask's own configuration names, else the user's keys.

    Args:
        place: directory of the keys.

    Returns:
        Keys for all roles; nothing without encryption is allowed.

    Raises:
        FileNotFoundError: if there are none.
        UserError: if others could read or write them.
    """
    from distributed.security import Security

    if Security().get_tls_config_for_role("client")["ca_file"]:
        return Security(require_encryption=True)
    certificate, key = str(place / CERTIFICATE), str(place / KEY)
    for path in (place, place / CERTIFICATE, place / KEY):
        if not path.exists():
            raise FileNotFoundError(f"keys of the cluster not found: {path} ({COMMAND} makes them)")
        state = path.stat()
        if state.st_uid != os.geteuid() or stat.S_IMODE(state.st_mode) & (0o022 if path.name == CERTIFICATE else 0o077):
            raise UserError(f"{path} must be only yours to read and write: {COMMAND} --force makes new keys")
    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_{kind}": path for role in roles for kind, path in (("cert", certificate), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=certificate, **files)

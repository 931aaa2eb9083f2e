"""The key that signs a run's bundles, kept in the run's folder.

It is another key than the one that signs messages: exporting needs no access to the
run's identities, and a key that is rotated does not orphan the bundles on the boards.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge_sdk.checkpoint import replace_file
from edge_sdk.identity.keys import key_pem
from edge_sdk.infer.signature import read_key
from edge_sdk.toml_file import load_toml

__all__ = ["PRIVATE", "PUBLIC", "make_run_key", "run_folder", "run_name"]

PRIVATE, PUBLIC = "models.key.pem", "models.pub.pem"


def make_run_key(folder: Path) -> None:
    """Makes the key of a run's bundles if it has none, and its public half.

    Raises:
        CheckpointError: If the folder cannot be written.
        IdentityError: If the key that is there is damaged.
    """
    path = folder / PRIVATE
    if path.exists():
        key = read_key(path)
    else:
        key = Ed25519PrivateKey.generate()
        replace_file(path, key_pem(key), mode=0o600)
    public = key.public_key().public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    )
    if not (folder / PUBLIC).exists() or (folder / PUBLIC).read_bytes() != public:
        replace_file(folder / PUBLIC, public)


def run_folder(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in; None if it lies elsewhere."""
    for folder in checkpoint.resolve().parents[:2]:  # RUN, or RUN/models
        if (folder / PRIVATE).is_file():
            return folder
    return None


def run_name(folder: Path) -> str:
    """The federation's name, as the run's settings have it.

    Raises:
        SettingsError: If they cannot be read.
    """
    return str(load_toml(folder / "run.toml").get("federation", folder.name))

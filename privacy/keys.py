"""Ed25519 keys that sign a release's manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dpsynth.privacy.errors import VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def new_keys(path: str | Path) -> tuple[Path, Path]:
    """Make a key pair: `path` (private, readable by its owner only) and `path`.pub. Raises VerificationError if one exists."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private, public = Path(path), Path(f"{path}.pub")
    if private.exists() or public.exists():
        raise VerificationError(f"{private} or {public} exists; keys are not overwritten")
    key = Ed25519PrivateKey.generate()
    try:
        handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise VerificationError(f"the keys cannot be written: {error.strerror}") from None
    return private, public


def sign(message: bytes, private_key: str | Path) -> bytes:
    """Ed25519 signature of a message by the private key in a PEM file."""
    return _private(private_key).sign(message)


def public_half(private_key: str | Path) -> str:
    """The public key that belongs to the private one in a PEM file, in hex."""
    return _private(private_key).public_key().public_bytes_raw().hex()


def public_hex(public_key: str | Path) -> str:
    """The public key in a PEM file, in hex."""
    return _public(public_key).public_bytes_raw().hex()


def _private(private_key: str | Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(Path(private_key).read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise VerificationError(f"{private_key} is not a readable private key (PEM)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise VerificationError(f"{private_key} is not an Ed25519 key; make one with: dpsynth keys new")
    return key


def is_signed(message: bytes, signature: bytes, public_key: str) -> bool:
    """Whether the signature is that of a public key, in hex."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _public(path: str | Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(Path(path).read_bytes())
    except (OSError, ValueError, TypeError):
        raise VerificationError(f"{path} is not a readable public key (PEM)") from None
    if not isinstance(key, Ed25519PublicKey):
        raise VerificationError(f"{path} is not an Ed25519 public key")
    return key

"""API keys: who may ask."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from lumi.errors import ConfigError

_SHORTEST = 16
_NEW_KEY = "make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


class Keys:
    """The keys that are let in; without any, everyone is.

    Kept as hashes, and each is compared with, so that the time that it takes says nothing about them.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for key in keys:
            if len(key) < _SHORTEST or not re.fullmatch(r"[!-~]+", key):
                raise ConfigError(
                    f"an API key has to have {_SHORTEST} characters or more, without blanks, in ASCII", _NEW_KEY
                )
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: str) -> int | None:
        """Return the number of the key in an Authorization header; None where it is none of ours."""
        kind, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        same = [hmac.compare_digest(digest, known) for known in self._digests]
        return same.index(True) if kind.lower() == "bearer" and any(same) else None


def read_keys(path: Path) -> list[str]:
    """Read keys, one a line; a line that begins with # is a remark.

    Raises:
        ConfigError: there is none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the API keys cannot be read: {error}", "check --api_keys_file") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"there is no key in {path}", f"write one on each line; {_NEW_KEY}")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf8", "surrogateescape")).digest()

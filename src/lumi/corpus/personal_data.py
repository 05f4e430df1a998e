"""Personal data: e-mail and IP addresses, telephone numbers and secret keys are masked.

Only what is surely one is taken: a number that may be a date, an ISBN or a version stays. Addresses that are nobody's
(loopback, private networks, netmasks, documentation) stay too, as texts about networks need them. FineWeb (Penedo
et al. 2024, arXiv:2406.17557) masks e-mail and public IP addresses; Dolma (Soldaini et al. 2024, arXiv:2402.00159)
telephone numbers too.

A text is first looked at by its shape, all digits taken as one, with searches that run at memory speed.
"""

import functools
import ipaddress
import re

_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_KEY_BYTES = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
_KEYS_ALIKE = bytes.maketrans(_KEY_BYTES, b"a" * len(_KEY_BYTES))
_SHORTEST_KEY = b"a" * 20

_EMAIL = re.compile(
    r"(?<![\w.%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"[A-Za-z]{2,24}(?![\w@-])"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_COLONS = re.compile(r":(?::[0-9A-Fa-f]|(?:[0-9A-Fa-f]{1,4}:){3})")  # quick: it begins with a rare one
_NUMBERED = re.compile(r"(?:version|ver|v|release|section|chapter|build|rev|firmware)\.? ?$", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"\+[1-9][0-9]{0,2}[ .-]?(?:\([0-9]{1,4}\)[ .-]?)?[0-9]{2,4}(?:[ .-]?[0-9]{2,4}){1,4}"
    r"|(?:1[ .-])?\([2-9][0-9]{2}\) ?[0-9]{3}[-.][0-9]{4}"
    r"|(?:1-)?[2-9][0-9]{2}-[0-9]{3}-[0-9]{4}"
    r")(?![\w/-]|\.[0-9])"
)
_DIGITS_OF_PHONE = range(9, 16)
_KEY = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|sk-(?:[a-z0-9]+-)?(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,}"
    r"|xox[abprs]-[A-Za-z0-9-]{15,}"
    r"|AIza[A-Za-z0-9_-]{35}"
    r"|eyJ[A-Za-z0-9_-]{17,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r")(?![A-Za-z0-9])"
)
_KEY_STARTS = ("AKIA", "ASIA", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "AIza", "eyJ")
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


@functools.lru_cache(maxsize=1)  # asked for several times, one text after the other
def _shape(text: str) -> bytes:
    """Return the text with all digits as 0."""
    return text.encode("utf8", "surrogatepass").translate(_DIGITS_ALIKE)


def mask_emails(text: str) -> str:
    """Write [email] for e-mail addresses."""
    if "@" not in text:
        return text
    return "\n".join([_EMAIL.sub("[email]", line) if "@" in line else line for line in text.split("\n")])


def mask_ips(text: str) -> str:
    """Write [ip] for public IP addresses."""
    shape = _shape(text)
    if any(middle in shape for middle in (b"0.0.0", b"0.00.0", b"0.000.0")):
        text = _IPV4.sub(_public, text)
    if _COLONS.search(text):
        text = "\n".join([_IPV6.sub(_public, line) if _COLONS.search(line) else line for line in text.split("\n")])
    return text


def _public(found: re.Match[str]) -> str:
    written = found[0]
    if ":" in written and (written.count(":") < 4 or not any(character.isdigit() for character in written)):
        return written  # a time, or names of a program
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return written
    before = found.string[max(0, found.start() - 12) : found.start()]
    return "[ip]" if address.is_global and not _NUMBERED.search(before) else written


def mask_phones(text: str) -> str:
    """Write [phone] for telephone numbers: international ones with +, North American ones with area code."""
    shape = _shape(text)
    if not any(part in shape for part in (b"000-0000", b"000.0000", b"+0")):
        return text
    return _PHONE.sub(_phone, text)


def _phone(found: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in found[0])
    return "[phone]" if digits in _DIGITS_OF_PHONE else found[0]


def mask_keys(text: str) -> str:
    """Write [key] for access keys of well-known services, web tokens and private keys."""
    if "PRIVATE KEY-----" in text:
        text = _PRIVATE_KEY.sub("[key]", text)
    if _SHORTEST_KEY not in _shape(text).translate(_KEYS_ALIKE):
        return text
    return _KEY.sub("[key]", text) if any(start in text for start in _KEY_STARTS) else text

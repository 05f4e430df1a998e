import pytest

from lumi.corpus.personal_data import mask_emails, mask_ips, mask_keys, mask_phones

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.mark.parametrize(
    "text, masked",
    [
        ("Write to ann.lee+x@mail.example.co.uk, or call.", "Write to [email], or call."),
        ("<bob@example.org>", "<[email]>"),
        ("mailto:a_b@c-d.io.", "mailto:[email]."),
        ("@decorator and user@host and a @ b.com", "@decorator and user@host and a @ b.com"),
        ("git@github.com:lumi/lab", "[email]:lumi/lab"),
    ],
)
def test_emails(text, masked):
    assert mask_emails(text) == masked


@pytest.mark.parametrize(
    "text, masked",
    [
        ("from 81.23.177.9 at noon, 8.8.8.8.", "from [ip] at noon, [ip]."),
        ("2a00:1450:4001:81b::200e and 2001:4860:4860:0:0:0:0:8888", "[ip] and [ip]"),
        ("127.0.0.1 192.168.1.20 10.0.0.1 255.255.255.0 ::1 fe80::1", None),
        ("version 4.12.33.1, v2.14.11.3, Section 12.10.3.4", None),
        ("1.2.3 12:30:45 1.2.3.4.5 999.10.20.30 10:20:30:40", None),
        ("std::vector a::b::c::d::e Foo::Bar::Baz::Qux", None),
    ],
)
def test_ips(text, masked):
    assert mask_ips(text) == (masked or text)


@pytest.mark.parametrize(
    "text, masked",
    [
        ("Call (212) 555-0147 or 415-555-2671.", "Call [phone] or [phone]."),
        ("1-800-555-0199; +44 20 7946 0958; +49 (0)30 901820", "[phone]; [phone]; [phone]"),
        ("+14155552671", "[phone]"),
        ("ISBN 978-0-306-40615-7, 0-306-40615-2", None),
        ("1914-1918, 2019-10-31, 51.5074-0.1278, 100-200-3000", None),
        ("x = a+12 345 678; 3 + 4 = 7; +5", None),
        ("SSN-like 123-45-6789, 12/415-555-2671/3", None),
    ],
)
def test_phones(text, masked):
    assert mask_phones(text) == (masked or text)


@pytest.mark.parametrize(
    "key",
    ["AKIA" + "IOSFODNN7EXAMPLE", "sk-" + "proj-" + LETTERS, "ghp_" + LETTERS, "xoxb-" + "123456789012-abc-def",
     "AIza" + LETTERS[:35], "eyJhbGciOiJIUzI1NiIsInR5.eyJzdWIiOiIx.SflKxwRJSMeKKF2QT4",
     "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----"],
)  # fmt: skip
def test_keys(key):
    assert mask_keys(f'token = "{key}"\n') == 'token = "[key]"\n'


def test_what_only_begins_like_a_key_stays():
    text = "risk-averse desk-top-publishing-systems sk-short AKIA eyJ ghp_x task-oriented-programming-language-1"
    assert mask_keys(text) == text


def test_placeholders_are_never_masked_again():
    text = "[email] [ip] [phone] [key]"
    for mask in (mask_emails, mask_ips, mask_keys, mask_phones):
        assert mask(text) == text

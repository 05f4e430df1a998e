"""API keys: which are let in, and which are none."""

import pytest

from lumi.errors import ConfigError
from lumi.serving.keys import Keys, read_keys

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


def test_each_key_has_its_number_and_others_none():
    keys = Keys([FIRST, SECOND])
    assert [keys.owner(f"Bearer {key}") for key in (FIRST, SECOND)] == [0, 1]
    assert keys.owner(f"bearer  {FIRST} ") == 0
    for wrong in (
        "",
        FIRST,
        f"Basic {FIRST}",
        "Bearer",
        "Bearer ",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        "Bearer \xe9",
    ):
        assert keys.owner(wrong) is None


def test_without_keys_there_are_none():
    assert not Keys()
    assert Keys([FIRST])


def test_every_key_is_compared_with(monkeypatch):
    """So that the time does not say which came near."""
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    assert Keys([FIRST, SECOND]).owner(f"Bearer {FIRST}") == 0
    assert len(compared) == 2
    assert all(len(one) == len(other) == 32 for one, other in compared)  # hashes


@pytest.mark.parametrize("key", ["short", "with a blank in it 0123", "umlaut-\xe4-0123456789", "line\nline-0123456789"])
def test_keys_that_are_none_are_refused_without_being_shown(key):
    with pytest.raises(ConfigError) as caught:
        Keys([key])
    assert key not in str(caught.value)


def test_a_file_has_a_key_on_each_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of Ada\n{FIRST}\n\n  {SECOND}  \n")
    assert read_keys(path) == [FIRST, SECOND]


@pytest.mark.parametrize("text", ["", "\n# none\n"])
def test_a_file_without_keys_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match="there is no key"):
        read_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")

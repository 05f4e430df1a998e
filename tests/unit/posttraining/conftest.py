import pytest
from tests.sft_runs import make_base, make_conversations


@pytest.fixture(scope="session")
def base(artifacts, tmp_path_factory):
    """A base model's checkpoint."""
    return make_base(tmp_path_factory.mktemp("base") / "final", artifacts / "tokenizer")


@pytest.fixture(scope="session")
def chats(artifacts, tmp_path_factory):
    """Prepared conversations."""
    return make_conversations(tmp_path_factory.mktemp("chats"), artifacts / "tokenizer")

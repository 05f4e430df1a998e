"""What becomes of one row of preferences: every fault by its name, both sides cleaned, pairs compared without order."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conversations import contents, conversations
from tests.corpora import PLAIN

from lumi.conversation import problem_of
from lumi.corpus import Document, prepare_corpus, read_documents
from lumi.corpus.contamination import Decontaminator
from lumi.corpus.rows import RawRow
from lumi.posttraining.conversations import conversation_outcomes, messages_in
from lumi.posttraining.preferences import PreferencesConfig, sides_of

ENGLISH = "The small boat came back to the harbour in the evening, and the people on the shore were glad to see it."
GERMAN = "Das kleine Boot kam am Abend in den Hafen, und die Leute am Ufer waren froh, dass sie es wieder sahen."
OTHER = "Nobody had expected the old engine to last for so long a journey, least of all the captain who had bought it."


class Held:
    """A shared value without workers."""

    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value


def config(source=None, **rules):
    values = {"name": "s", "kind": "jsonl", "files": ["x"], "licence": "none", **(source or {})}
    return PreferencesConfig.from_values(
        {"name": "c", "sources": [values], **PLAIN, "output_dir": "x", "num_workers": 1, **rules}, "test"
    )


def outcomes(rows, source=None, decontaminator=None, **rules):
    made = config(source, **rules)
    raw = [RawRow(f"x:{number}", row) for number, row in enumerate(rows, 1)]
    shared = Held(decontaminator) if decontaminator else None
    return conversation_outcomes(raw, config=made, source=made.sources[0], decontaminator=shared)


def outcome(row, source=None, **rules):
    (made,) = outcomes([row], source, **rules)
    return made


def pair(chosen="a", rejected="b", prompt="q", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def listed(*contents, roles="ua" * 9):
    named = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": named[role], "content": text} for role, text in zip(roles, contents, strict=False)]


def kept(made):
    """Return what stands before the answers, and both answers."""
    assert (made.reason, made.broken) == ("", "")
    chosen, rejected = sides_of(Document.from_line(made.line))
    assert chosen[:-1] == rejected[:-1]
    assert chosen[-1].role == rejected[-1].role == "assistant"
    return [message.content for message in chosen[:-1]], chosen[-1].content, rejected[-1].content


@pytest.mark.parametrize(
    "row, reason",
    [
        (pair("a", "a"), "identical_sides"),
        (pair(" a\r\n", "\x00a"), "identical_sides"),  # once they are clean
        (pair("", "b"), "empty_side"),
        (pair("a", " \n"), "empty_side"),
        (pair("", ""), "empty_side"),
        (pair("\x00\ufeff", "b"), "empty_side"),
        (pair("a", "b", prompt=" "), "empty_turn"),
        ({"chosen": [], "rejected": listed("q", "b")}, "empty_side"),
        ({"chosen": listed("q", ""), "rejected": listed("q", "b")}, "empty_side"),
        ({"chosen": listed("q", "a"), "rejected": listed("Q", "b")}, "prompts_differ"),
        ({"chosen": listed("q", "x", "r", "a"), "rejected": listed("q", "y", "r", "b")}, "prompts_differ"),
        ({"chosen": listed("q", "a"), "rejected": listed("q")}, "no_answer_at_the_end"),
        ({"chosen": listed("q", "a", "r"), "rejected": listed("q", "b", "r")}, "no_answer_at_the_end"),
        ({"chosen": listed("q", "r", "a", roles="uua"), "rejected": listed("q", "r", "b", roles="uua")},
         "roles_do_not_alternate"),
        ({"prompt": listed("x", "q", roles="au"), "chosen": listed("a", roles="a"), "rejected": listed("b", roles="a")},
         "begins_with_the_assistant"),
        ({"chosen": listed("q", "", "r", "a"), "rejected": listed("q", "", "r", "b")}, "empty_turn"),
        ({"chosen": "Human: q\n\nAssistant: a", "rejected": "Human: r\n\nAssistant: b"}, "prompts_differ"),
        ({"chosen": "Human: q\n\nAssistant: a", "rejected": "Human: q\n\nAssistant:"}, "empty_side"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, 1]}, "ratings_are_tied"),
        ({"prompt": "q", "responses": ["a", "a"], "scores": [1, 2]}, "identical_sides"),
        ({"prompt": "q", "responses": ["a", ""], "scores": [1, 2]}, "empty_side"),
        ({"prompt": "q", "responses": ["a"], "scores": [1]}, "fewer_than_two_answers"),
        ({"prompt": "q", "completions": []}, "fewer_than_two_answers"),
        (pair("N/A", "b"), "no_output"),
        (pair("Say this after me, please!", "b", "Say this after me, please!"), "answer_repeats_the_question"),
    ],
)  # fmt: skip
def test_what_is_no_preference_has_a_reason(row, reason):
    made = outcome(row)
    assert (made.reason, made.broken, made.line, made.digest) == (reason, "", b"", b"")


@pytest.mark.parametrize(
    "row, rules, reason",
    [
        (pair("a" * 11, "b"), {"answers": {"max_answer_characters": 10}}, "answer_too_long"),
        (pair("a", "b" * 11), {"answers": {"max_answer_characters": 10}}, "answer_too_long"),
        (pair("a" * 10, "b" * 10), {"answers": {"max_answer_characters": 10}}, ""),
        (pair("a", "b", "q" * 5), {"min_characters": 6}, "question_too_short"),
        (pair("a", "b", "q" * 7), {"max_characters": 6}, "question_too_long"),
        (pair("As an AI", "b"), {"answers": {"drop_answers_with": ["As an AI"]}}, "answer_named_in_config"),
        (pair("a", "As an AI"), {"answers": {"drop_answers_with": ["As an AI"]}}, ""),  # it is not to be imitated
        (pair("I will not say that again. " * 9, "b"), {}, "repetitive_answer"),
        (pair("a", "I will not say that again. " * 9), {}, ""),
        (pair("A", "a"), {}, ""),
    ],
)
def test_rules_for_questions_and_answers(row, rules, reason):
    assert outcome(row, **rules).reason == reason


@pytest.mark.parametrize(
    "row, broken",
    [
        ({"prompt": "q"}, "no known shape: its keys are prompt"),
        ({"prompt": "q", "chosen": "a"}, "no rejected"),
        (pair("a", 5), "rejected is int, not text"),
        (pair("a", "\ud800"), "not UTF-8"),
        (pair("\ud800", "b"), "not UTF-8"),
        (b'{"prompt": "q", "chosen": "a", "rejected": "\\udc00"}', "not UTF-8"),
        (b'{"prompt": "q", "chosen": "a", "rejected": "b"', "not JSON"),
        ({"prompt": "q", "responses": ["a", "b"], "scores": [1, None]}, "a score is None"),
    ],
    ids=range(8),
)
def test_what_cannot_be_read_is_broken_and_not_dropped(row, broken):
    made = outcome(row)
    assert made.broken.startswith(broken)
    assert (made.place, made.line, made.reason) == ("x:1", b"", "")


def test_both_sides_are_cleaned():
    made = outcome(pair(" a\r\nb \x07", "\n\nc\u2581d\n", "  q\n"))
    assert kept(made) == (["q"], "a\nb", "c_d")
    assert set(made.changed) == {
        "unify_newlines", "trim_blanks", "drop_control_characters", "replace_sentencepiece_marker"
    }  # fmt: skip
    assert len(made.changed) == 4  # each once, on however many sides
    mask = {"cleaning": {"mask_personal_data": True}}
    assert kept(outcome(pair("to ann@example.com", "to bob@example.com now"), **mask))[1:] == (
        "to [email]", "to [email] now",
    )  # fmt: skip
    assert outcome(pair("to ann@example.com", "to bob@example.com"), **mask).reason == "identical_sides"
    advert = {"drop_lines_with": ["ADVERT"]}
    assert kept(outcome(pair("a", "b\nADVERT"), advert))[2] == "b"
    assert outcome(pair("a", "ADVERT"), advert).reason == "empty_side"


def test_a_test_set_in_either_answer_drops_the_pair():
    test = " ".join(f"w{number}" for number in range(20))
    rows = [pair(), pair(chosen=f"a\n\n{test}"), pair(rejected=f"b\n\n{test}"), pair(prompt=f"q\n\n{test}")]
    made = outcomes(rows, decontaminator=Decontaminator({"mine": [test]}))
    assert [one.reason for one in made] == ["", "contaminated", "contaminated", "contaminated"]
    assert made[2].cuts[0][0] == "mine"


def test_a_pair_in_another_language_goes():
    languages = {"languages": ["en"], "language_confidence": 0.5}
    english, german = outcomes([pair(ENGLISH, OTHER, "What came?"), pair(GERMAN, GERMAN[:50], "Was kam?")], **languages)
    assert (english.reason, german.reason, german.language) == ("", "language", "de")


def test_what_is_kept_of_a_row():
    row = pair("Yes.", "No.", "Why  SO?", source="web", score_chosen=8.5, prompt_id="7", deep={"a": 1})
    made = outcome(row)
    digest = hashlib.sha256(b"why so? no. yes.").digest()
    assert json.loads(made.line) == {
        "id": digest.hex()[:32],
        "text": "Why  SO?\n\nNo.\n\nYes.",
        "source": "s",
        "metadata": {
            "source": "web", "score_chosen": 8.5, "prompt_id": "7", "num_messages": 2, "rejected": "No.",
            "messages": [{"role": "user", "content": "Why  SO?"}, {"role": "assistant", "content": "Yes."}],
        },
    }  # fmt: skip
    whole = "Why  SO?\n\nYes.\n\nNo."
    assert (made.digest, made.num_characters, made.excerpt) == (digest, len(whole), whole)
    short = outcome({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.25, "generator_1": "g"})
    assert set(Document.from_line(short.line).metadata) == {"generator_1", "num_messages", "messages", "rejected"}


class TestDedup:
    def test_a_pair_with_its_sides_swapped_is_the_same(self):
        same = outcome(pair("a", "b")).digest
        assert outcome(pair("b", "a")).digest == same
        assert outcome(pair(" A", "b\n", "Q")).digest == same
        assert outcome({"chosen": listed("q", "b"), "rejected": listed("q", "a")}).digest == same

    def test_another_answer_or_question_is_another_pair(self):
        rows = [pair(), pair("a", "c"), pair("c", "b"), pair(prompt="r"),
                {"chosen": listed("q", "x", "r", "a"), "rejected": listed("q", "x", "r", "b")}]  # fmt: skip
        assert len({one.digest for one in outcomes(rows)}) == len(rows)

    def test_near_ones_are_sought_in_questions_and_answers(self):
        near = {"near_duplicates": {"drop_near_duplicates": True}}
        one, swapped, other = outcomes([pair(ENGLISH, OTHER), pair(OTHER, ENGLISH), pair(ENGLISH, GERMAN)], **near)
        assert one.bands
        assert one.bands == swapped.bands != other.bands
        assert outcome(pair(ENGLISH, OTHER)).bands == b""

    def test_the_stage_keeps_the_first_of_each_and_counts_the_rest_by_name(self, tmp_path):
        first = pair(ENGLISH, OTHER, "Which is the better one of these?")
        rows = [
            first,
            pair(OTHER, ENGLISH, "Which is the better one of these?"),  # swapped
            first,
            pair(ENGLISH + " Then it rained.", OTHER, "Which is the better one of these?"),
            pair(GERMAN, OTHER, "Which is the better one of these?"),
            pair("a", "a"), pair("a", "a "), pair("", "b"),
            {"chosen": listed("q", "a"), "rejected": listed("r", "b")},
            {"prompt": "q", "responses": ["a", "b"], "scores": [1, 1]},
            {"prompt": "q", "responses": ["a"], "scores": [1]},
            {"chosen": listed("q"), "rejected": listed("q", "b")},
            {"prompt": "q", "chosen": 5, "rejected": "b"},
        ]  # fmt: skip
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"files": [str(tmp_path / "x.jsonl")]}
        made = config(source, output_dir=str(tmp_path / "out"), near_duplicates={"drop_near_duplicates": True})
        counts = prepare_corpus(made, conversation_outcomes).counts
        assert counts["rows_read"] == len(rows)
        assert counts["dropped"] == {
            "broken_row": 1, "empty_side": 1, "exact_duplicate": 2, "fewer_than_two_answers": 1, "identical_sides": 2,
            "near_duplicate": 1, "no_answer_at_the_end": 1, "prompts_differ": 1, "ratings_are_tied": 1,
        }  # fmt: skip
        found = [sides_of(document) for document in read_documents(tmp_path / "out")]
        assert [(chosen[-1].content, rejected[-1].content) for chosen, rejected in found] == [
            (ENGLISH + " Then it rained.", OTHER), (GERMAN, OTHER)  # the longest of near ones
        ]  # fmt: skip


def test_outcomes_keep_the_order_of_their_rows_and_no_row_matters_to_another():
    rows = [pair(), b"{", pair("a", "a"), pair(prompt="q3"), {"x": 1}, pair("c", "d")]
    together = outcomes(rows)
    assert [(bool(made.line), made.reason, bool(made.broken)) for made in together] == [
        (True, "", False), (False, "", True), (False, "identical_sides", False), (True, "", False),
        (False, "", True), (True, "", False),
    ]  # fmt: skip
    assert together == outcomes(rows[:3]) + [
        made.__class__(**{**{name: getattr(made, name) for name in made.__slots__}, "place": f"x:{number}"})
        for number, made in enumerate(outcomes(rows[3:]), 4)
    ]


@given(conversations(), contents)
def test_a_preference_of_any_text_is_kept_or_has_a_reason_that_fits(messages, rejected):
    before = [message.to_json() for message in messages[:-1]]
    row = {
        "chosen": [*before, messages[-1].to_json()],
        "rejected": [*before, {"role": "assistant", "content": rejected}],
    }
    made = outcome(row)
    if made.reason:
        assert made.reason in {
            "empty_turn", "empty_side", "identical_sides", "no_output", "answer_repeats_the_question",
            "repetitive_answer",
        }  # fmt: skip
        return
    asked, chosen, other = kept(made)
    assert chosen != other
    assert chosen.strip() == chosen != ""
    assert other.strip() == other != ""
    document = Document.from_line(made.line)
    for side in sides_of(document):
        assert problem_of(side) == ""
    assert [message.role for message in messages_in(document)] == [message.role for message in messages]
    swapped = outcome({"chosen": row["rejected"], "rejected": row["chosen"]})
    assert swapped.reason in ("", "no_output", "answer_repeats_the_question", "repetitive_answer")
    if not swapped.reason:
        assert swapped.digest == made.digest
        assert kept(swapped) == (asked, other, chosen)


KEYS = ["chosen", "rejected", "prompt", "instruction", "system", "history", "messages", "completions", "responses",
        "scores", "output_1", "output_2", "preference", "response", "score", "role", "content",
        "num_messages"]  # fmt: skip
WORDS = ["user", "assistant", "q", "a", "", "<nooutput>", "\ud800", "\x00", "\u2581", "Human: q\n\nAssistant: a"]
scalars = st.one_of(st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(-9, 9), st.floats())
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=10,
)
side = scalars | st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(WORDS[:2]), "content": st.sampled_from(WORDS)}), max_size=4
)
any_row = st.one_of(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), nested, max_size=6),
    st.fixed_dictionaries({"chosen": side, "rejected": side}, optional={"prompt": nested, "system": nested}),
)


@given(row=any_row, as_bytes=st.booleans())
def test_no_row_whatever_is_in_it_is_a_crash(row, as_bytes):
    made = outcome(json.dumps(row).encode() if as_bytes else row, languages=["en"])
    assert sum(map(bool, (made.line, made.reason, made.broken))) == 1
    if made.line:
        for messages in sides_of(Document.from_line(made.line)):
            assert problem_of(messages) == ""

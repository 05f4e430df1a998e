"""What becomes of one row of conversations: every fault by its name, cleaning message by message, and never a crash."""

import hashlib
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.conversations import conversations
from tests.corpora import PLAIN

from lumi.conversation import Message, problem_of
from lumi.corpus import Document
from lumi.corpus.contamination import Decontaminator
from lumi.corpus.rows import RawRow
from lumi.posttraining.conversations import ConversationsConfig, conversation_outcomes, messages_in
from lumi.posttraining.shapes import SHAPES

ENGLISH = "The small boat came back to the harbour in the evening, and the people on the shore were glad to see it."
GERMAN = "Das kleine Boot kam am Abend in den Hafen, und die Leute am Ufer waren froh, dass sie es wieder sahen."


class Held:
    """A shared value without workers."""

    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value


def config(source=None, **rules):
    values = {"name": "s", "kind": "jsonl", "files": ["x"], "licence": "none", **(source or {})}
    return ConversationsConfig.from_values(
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


def talk(*contents, roles="ua" * 9, **more):
    named = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": named.get(role, role), "content": text} for role, text in zip(roles, contents, strict=False)]
    return {"messages": messages, **more}


def kept(made):
    assert (made.reason, made.broken) == ("", "")
    return [(message.role[0], message.content) for message in messages_in(Document.from_line(made.line))]


@pytest.mark.parametrize(
    "row, reason",
    [
        (talk(), "no_messages"),
        (talk("be brief", roles="s"), "no_messages"),
        (talk("nobody answers"), "no_messages"),
        (talk("s", "nobody answers", roles="su"), "no_messages"),
        (talk("one", "two", roles="uu"), "no_answer_at_the_end"),
        (talk("q", " \n"), "empty_turn"),
        (talk("", "a"), "empty_turn"),
        (talk("\x00\ufeff", "a"), "empty_turn"),
        (talk("q", "a", "", "a2"), "empty_turn"),
        (talk("q", "none", "q2", "a"), "no_output"),
        (talk("Twenty characters...", "Twenty characters..."), "answer_repeats_the_question"),
        (talk("q", "s", "a", roles="usa"), "system_message_inside"),
        (talk("s", "s", "q", "a", roles="ssua"), "system_message_inside"),
        (talk("a", "q", "a", roles="aua"), "begins_with_the_assistant"),
        (talk("s", "a", roles="sa"), "begins_with_the_assistant"),
        (talk("q", "q", "a", roles="uua"), "roles_do_not_alternate"),
        (talk("q", "a", "a", roles="uaa"), "roles_do_not_alternate"),
        ({"prompt": "q", "completion": "<nooutput>"}, "no_output"),
        ({"prompt": "q", "completion": " N/A\n"}, "no_output"),
        (talk("q", "a", "q2", "None"), "no_output"),
        (talk("Say this after me, please!", "Say this after me, please!"), "answer_repeats_the_question"),
        (talk("q", "a", "The very same words again.", " The very same words again.\n"), "answer_repeats_the_question"),
    ],
)
def test_what_is_no_conversation_or_no_answer_has_a_reason(row, reason):
    made = outcome(row)
    assert (made.reason, made.broken, made.line, made.digest) == (reason, "", b"", b"")


@pytest.mark.parametrize(
    "row, rules, reason",
    [
        (talk("q" * 5, "a"), {"min_characters": 6}, "question_too_short"),
        (talk("q" * 6, "a"), {"min_characters": 6}, ""),
        (talk("q" * 7, "a"), {"max_characters": 6}, "question_too_long"),
        (talk("qqqq", "a", "qqqq", "a"), {"max_characters": 9}, "question_too_long"),  # questions stand two lines apart
        (talk("q", "yes"), {"answers": {"min_answer_characters": 4}}, "answer_too_short"),
        (talk("q", "long", "q", "no"), {"answers": {"min_answer_characters": 4}}, "answer_too_short"),
        (talk("q", "yes!"), {"answers": {"min_answer_characters": 4}}, ""),
        (talk("q", "a" * 11), {"answers": {"max_answer_characters": 10}}, "answer_too_long"),
        (talk("q" * 50, "a" * 10), {"answers": {"max_answer_characters": 10}}, ""),
        (talk("q", "As an AI, I am"), {"answers": {"drop_answers_with": ["As an AI"]}}, "answer_named_in_config"),
        (talk("As an AI?", "No."), {"answers": {"drop_answers_with": ["As an AI"]}}, ""),
        (talk("Yes!", "Yes!"), {}, ""),
        (talk("Nineteen characters", "Nineteen characters"), {}, ""),
        (talk("q", "none of these"), {}, ""),
    ],
)
def test_rules_for_questions_and_answers(row, rules, reason):
    assert outcome(row, **rules).reason == reason


def test_a_repetitive_answer_goes_and_a_repetitive_question_stays():
    again = "I will not say the same thing over and over. " * 6
    assert outcome(talk("Write lines.", again)).reason == "repetitive_answer"
    assert outcome(talk("Write lines.", again), answers={"max_repetition": 1}).reason == ""
    assert outcome(talk(again, ENGLISH)).reason == ""
    # each answer is new, together they are not
    assert outcome(talk("q", ENGLISH, "r", ENGLISH, "s", ENGLISH, "t", ENGLISH)).reason == "repetitive_answer"


def test_rows_named_in_the_config_go_whatever_they_hold():
    source = {"drop_where": {"lang": ["de", "fr"]}}
    assert outcome(talk("q", "a", lang="de"), source).reason == "named_in_config"
    assert outcome(talk(lang="fr"), source).reason == "named_in_config"
    assert outcome(talk("q", "a", lang="en"), source).reason == ""
    assert outcome(talk("q", "a", lang=["de"]), source).reason == ""


def test_another_language_goes():
    languages = {"languages": ["en"], "language_confidence": 0.5}
    english, german = outcomes([talk(ENGLISH, ENGLISH[:50]), talk(GERMAN, GERMAN[:50])], **languages)
    assert (english.reason, english.language) == ("", "en")
    assert (german.reason, german.language) == ("language", "de")
    assert outcome(talk(ENGLISH, "yes"), languages=["en"], language_confidence=1.0).reason == "language"


@pytest.mark.parametrize("turn", range(3))
def test_a_test_set_in_any_turn_drops_the_whole_conversation(turn):
    test = " ".join(f"w{number}" for number in range(20))
    contents = ["Be kind.", "What is it?", "Nothing."]
    contents[turn] += f"\n\n{test}"
    clean = talk("Be kind.", "What?", "This.", roles="sua")
    first, second, third = outcomes(
        [clean, talk(*contents, roles="sua"), clean], decontaminator=Decontaminator({"mine": [test]})
    )
    assert (first.reason, second.reason, third.reason) == ("", "contaminated", "")
    assert [name for name, _ in second.cuts] == ["mine"]
    assert second.cuts[0][1].endswith(test)
    assert second.line == b""


@pytest.mark.parametrize(
    "row, broken",
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "unknown role 'tool'"),
        ({"prompt": "q"}, "no known shape: its keys are prompt"),
        ({"prompt": "q", "completion": 5}, "completion is int, not text"),
        ({"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "a"}]}, "not UTF-8"),
        (b'{"prompt": "q", "completion": "\\udc00"}', "not UTF-8"),
        (b'{"prompt": "q", "completion": "a", "title": "\\udc00"}', "metadata are not UTF-8"),
        (b'{"prompt": "q", "completion": "a"', "not JSON"),
        (b'["q", "a"]', "not a JSON object"),
        (b'{"prompt": "q", "completion": "\xff"}', "not UTF-8"),
    ],
    ids=range(9),
)
def test_what_cannot_be_read_is_broken_and_not_dropped(row, broken):
    made = outcome(row)
    assert made.broken.startswith(broken)
    assert (made.place, made.line, made.reason) == ("x:1", b"", "")
    assert made.excerpt


def test_the_shape_that_the_config_names_is_read():
    row = {"messages": [{"role": "user", "content": "m"}, {"role": "assistant", "content": "n"}],
           "prompt": "q", "completion": "a"}  # fmt: skip
    assert kept(outcome(row)) == [("u", "m"), ("a", "n")]
    assert kept(outcome(row, {"shape": "prompt_completion"})) == [("u", "q"), ("a", "a")]
    assert outcome(row, {"shape": "turns"}).broken.startswith("no list of messages")
    spoken = {"turns": [{"speaker": "Kunde", "text": "q"}, {"speaker": "KI", "text": "a"}]}
    assert kept(outcome(spoken, {"roles": {"kunde": "user", "ki": "assistant"}})) == [("u", "q"), ("a", "a")]


def test_a_trailing_question_goes_and_is_counted():
    made = outcome(talk("q", "a", "and then?"))
    assert kept(made) == [("u", "q"), ("a", "a")]
    assert made.changed == ("unanswered_question",)
    assert Document.from_line(made.line).metadata["num_messages"] == 2
    assert outcome(talk("q", "a")).changed == ()
    assert made.digest == outcome(talk("q", "a")).digest


def test_each_message_is_cleaned_on_its_own():
    made = outcome(talk("s\r\n", "  a\r\nb \x07", "\n\nc\u2581d\n", roles="sua"))
    assert kept(made) == [("s", "s"), ("u", "a\nb"), ("a", "c_d")]
    assert set(made.changed) == {
        "unify_newlines", "trim_blanks", "drop_control_characters", "replace_sentencepiece_marker"
    }  # fmt: skip
    assert len(made.changed) == 4  # each once, in however many messages
    mask = {"cleaning": {"mask_personal_data": True}}
    assert kept(outcome(talk("write to ann@example.com", "to bob@example.com"), **mask)) == [
        ("u", "write to [email]"), ("a", "to [email]"),
    ]  # fmt: skip
    assert kept(outcome(talk("q\nADVERT here", "a\nADVERT"), {"drop_lines_with": ["ADVERT"]})) == [
        ("u", "q"), ("a", "a"),
    ]  # fmt: skip
    assert outcome(talk("q", "ADVERT"), {"drop_lines_with": ["ADVERT"]}).reason == "empty_turn"


def test_special_tokens_that_somebody_typed_stay_text():
    spelled = "<|im_end|>\n<|im_start|>assistant\n</s>"
    assert kept(outcome(talk(spelled, spelled + " yes"))) == [("u", spelled), ("a", spelled + " yes")]


def test_what_is_kept_of_a_row():
    row = talk("Be brief.", "Why  SO?", "So.", roles="sua", lang="en", n=3, share=0.5, long="x" * 100, deep={"a": 1})
    made = outcome(row)
    digest = hashlib.sha256(b"why so?").digest()
    assert json.loads(made.line) == {
        "id": digest.hex()[:32],
        "text": "Why  SO?",
        "source": "s",
        "metadata": {"lang": "en", "n": 3, "share": 0.5, "num_messages": 3, "messages": row["messages"]},
    }
    whole = "Be brief.\n\nWhy  SO?\n\nSo."
    assert (made.digest, made.num_characters, made.num_bytes) == (digest, len(whole), len(whole))
    assert made.excerpt == whole


def test_the_same_questions_have_the_same_digest():
    def digest(*contents, **more):
        return outcome(talk(*contents, **more)).digest

    same = digest("Why so?", "a", "And\nthen?", "b")
    assert digest(" why  SO?", "c", "and then?", "d") == same
    assert digest("s", "Why so?", "a", "And then?", "b", roles="suaua") == same
    assert digest("Why so?", "a", "And now?", "b") != same
    assert digest("Why so?", "a") != same


def test_near_duplicates_are_sought_only_where_that_is_asked_for():
    near = {"near_duplicates": {"drop_near_duplicates": True}}
    first, second, other = outcomes([talk(ENGLISH, "a"), talk(ENGLISH, "b"), talk(GERMAN, "a")], **near)
    assert first.bands
    assert first.bands == second.bands != other.bands  # by what the user says
    assert outcome(talk(ENGLISH, "a")).bands == b""


def test_outcomes_keep_the_order_of_their_rows_and_no_row_matters_to_another():
    rows = [talk("q1", "a1"), b"{", talk("q2", ""), talk("q3", "a3"), {"x": 1}, talk("q4", "a4", "q5")]
    together = outcomes(rows)
    assert [(bool(made.line), made.reason, bool(made.broken)) for made in together] == [
        (True, "", False), (False, "", True), (False, "empty_turn", False), (True, "", False), (False, "", True),
        (True, "", False),
    ]  # fmt: skip
    for number, row in enumerate(rows):
        alone = outcome(row)
        assert (alone.digest, alone.line, alone.reason, alone.broken) == (
            together[number].digest, together[number].line, together[number].reason, together[number].broken
        )  # fmt: skip
    assert outcomes([]) == []


@given(conversations())
def test_a_conversation_of_any_text_is_kept_or_has_a_reason_that_fits(messages):
    made = outcome({"messages": [message.to_json() for message in messages]})
    if made.reason:
        assert made.reason in {"empty_turn", "no_output", "answer_repeats_the_question", "repetitive_answer"}
        return
    found = [Message({"s": "system", "u": "user", "a": "assistant"}[role], text) for role, text in kept(made)]
    assert [message.role for message in found] == [message.role for message in messages]
    assert problem_of(found) == ""
    assert all(message.content == message.content.strip() for message in found)
    assert outcome({"messages": [message.to_json() for message in found]}).line == made.line  # clean stays clean


KEYS = ["messages", "conversations", "turns", "instruction", "input", "output", "system", "history", "prompt",
        "completion", "tree", "message_id", "parent_id", "rank", "deleted", "role", "from", "content", "value", "text",
        "num_messages", "lang"]  # fmt: skip
WORDS = ["user", "assistant", "system", "gpt", "human", "agent_1", "agent_2", "q", "What is it?", "", "<nooutput>",
         "\ud800", "\x00", "\u2581"]  # fmt: skip
scalars = st.one_of(st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9))
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
turn = st.fixed_dictionaries({"role": st.sampled_from(WORDS[:4]), "content": scalars})
any_row = st.one_of(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), nested, max_size=6),
    st.fixed_dictionaries({"messages": st.lists(turn, max_size=6)}, optional={"lang": nested, "system": nested}),
    st.fixed_dictionaries({"tree": st.lists(st.dictionaries(st.sampled_from(KEYS), nested, max_size=6), max_size=4)}),
)


@settings(max_examples=200)
@given(row=any_row, shape=st.sampled_from(["auto", *SHAPES]), as_bytes=st.booleans())
@example(row={"tree": [{"message_id": []}]}, shape="auto", as_bytes=True)
def test_no_row_whatever_is_in_it_is_a_crash(row, shape, as_bytes):
    data = json.dumps(row).encode() if as_bytes else row
    made = outcome(data, {"shape": shape, "drop_where": {"lang": ["de"]}}, languages=["en"])
    assert sum(map(bool, (made.line, made.reason, made.broken))) == 1
    if made.line:
        assert problem_of(messages_in(Document.from_line(made.line))) == ""


def test_the_first_reason_stays():
    test = " ".join(f"w{number}" for number in range(20))
    made = outcome(talk(f"Was?\n\n{test}", GERMAN), decontaminator=Decontaminator({"mine": [test]}), languages=["en"])
    assert made.reason == "contaminated"


def test_short_values_are_kept_beside_the_messages():
    made = outcome(talk("q", "a", title="t" * 79, long="t" * 80, rating=4))
    found = Document.from_line(made.line).metadata
    assert (found["title"], found["rating"]) == ("t" * 79, 4)
    assert "long" not in found

"""The chat page in a real browser: with the real server, and with a scripted one for what a server seldom does.

Every page is watched: a request to any other origin, an error in the console or one that nobody caught fails its test.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")
pytest.importorskip("fastapi")

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PAGE = Path(__file__).parents[2] / "src/lumi/serving/page.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.slow]

Script = Callable[["Handler", dict[str, Any]], None]
A = {"id": "lab/alpha", "lumi": {"context": 256, "chats": True, "parameters": 2_098_304}}
B = {"id": "lab/beta", "lumi": {"context": 512, "chats": True, "parameters": 23_070_000}}
BASE = {"id": "lab/base", "lumi": {"context": 256, "chats": False, "parameters": 2_098_304}}
WINDOW: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}


def policy(text: str) -> str:
    """Return the strictest policy that the page can live with: its own script and style, no HTML made of text."""
    parts = ["default-src 'none'", "connect-src 'self'", "img-src data:", "form-action 'none'", "base-uri 'none'"]
    for kind in ("script", "style"):
        (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        parts.append(f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'")
    return "; ".join([*parts, "require-trusted-types-for 'script'"])


class Handler(BaseHTTPRequestHandler):
    """One request to the scripted server."""

    server: "ScriptedServer"

    def do_GET(self) -> None:
        if self.path == "/":
            text = PAGE.read_text()
            self.answer(200, text.encode(), {"Content-Type": "text/html", "Content-Security-Policy": policy(text)})
        elif self.path == "/v1/models" and self.lets_in():
            self.answer(200, json.dumps({"object": "list", "data": self.server.models}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.lets_in():
            return
        self.server.bodies.append(body)
        with self.server.lock:
            script = self.server.scripts.pop(0) if self.server.scripts else says("Yes, it is.")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            script(self, body)

    def lets_in(self) -> bool:
        if self.server.key in (None, self.headers["Authorization"]):
            return True
        self.refuse(401, "an API key is needed here")
        return False

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str, headers: dict[str, str] | None = None, **error: str) -> None:
        self.answer(status, json.dumps({"error": {"message": message, **error}}).encode(), headers)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None: ...


class ScriptedServer(ThreadingHTTPServer):
    """Serves the page, lists models, and answers each request by the next script."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.models: list[dict[str, Any]] = [A]
        self.key: str | None = None
        self.scripts: list[Script] = []
        self.bodies: list[dict[str, Any]] = []


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def token(name: str, spelled: bytes | None = None, logprob: float = -0.7) -> dict[str, Any]:
    """Return a token as chat answers describe it."""
    spelled = name.encode() if spelled is None else spelled
    others = [("one", -1.2), ("two", -2.5), ("three", -4.0), ("<four>", -5.0)]
    likeliest = [{"token": name, "bytes": list(spelled), "logprob": logprob}] + [
        {"token": other, "bytes": list(other.encode()), "logprob": value} for other, value in others
    ]
    return {"token": name, "bytes": list(spelled), "logprob": logprob, "top_logprobs": likeliest}


def delta(text: str, tokens: list[dict[str, Any]] | None = None, finish: str | None = None) -> bytes:
    logprobs = None if tokens is None else {"content": tokens}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": finish}
    return event({"choices": [choice]})


def usage(prompt: int, completion: int) -> bytes:
    details = {"cached_tokens": 4}
    told = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return event({"choices": [], "usage": told}) + b"data: [DONE]\n\n"


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S{1,12}|\s+", text)


def stream_of(text: str, prompt: int = 20) -> list[bytes]:
    """Return the events of an answer, one a token."""
    parts = pieces(text)
    events = [delta(part, [token(part, logprob=-0.3 * (number % 9))]) for number, part in enumerate(parts)]
    return [*events, delta("", [], "stop"), usage(prompt, len(parts))]


def says(text: str, seconds: float = 0, prompt: int = 20) -> Script:
    def script(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for part in stream_of(text, prompt):
            handler.write(part)
            time.sleep(seconds)

    return script


def sends(*parts: bytes | float) -> Script:
    """Answer with these bytes, and pauses, as they are."""

    def script(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for part in parts:
            if isinstance(part, bytes):
                handler.write(part)
            else:
                time.sleep(part)

    return script


def refuses(status: int, message: str, headers: dict[str, str] | None = None, **error: str) -> Script:
    return lambda handler, body: handler.refuse(status, message, headers, **error)


def continues(text: str) -> Script:
    """Answer as completions do."""

    def script(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for part in pieces(text):
            logprobs = {"tokens": [part], "token_logprobs": [-0.5], "top_logprobs": [{part: -0.5, "one": -1.5}]}
            handler.write(event({"choices": [{"text": part, "logprobs": logprobs, "finish_reason": None}]}))
        handler.write(event({"choices": [{"text": "", "logprobs": None, "finish_reason": "length"}]}))
        handler.write(usage(5, len(pieces(text))))

    return script


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def fake() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    """One page for all tests that need no other: each server is an origin of its own, with a storage of its own."""
    context = browser.new_context(**WINDOW)
    page = context.new_page()
    page.set_default_timeout(8000)
    yield page
    context.close()


class Visitor:
    """Opens pages and watches them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._endings = contextlib.ExitStack()
        self.wrong: list[str] = []

    def open(self, url: str, page: Page | None = None, context: BrowserContext | None = None, **options: Any) -> Page:
        """Open the page: in a window of its own, or in another one of the same browser, or in one that is there."""
        if page is None:
            if context is None:
                context = self._browser.new_context(**{**WINDOW, **options})
                self._endings.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(8000)
            self._endings.callback(page.close)
        listeners: dict[str, Callable[[Any], None]] = {
            "request": lambda request: self._see(request.url, url),
            "pageerror": lambda error: self.wrong.append(f"{error}\n{error.stack}"),
            "console": lambda said: self._hear(said.type, said.text),
            "dialog": lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        }
        for name, listener in listeners.items():
            page.on(name, listener)
            self._endings.callback(page.remove_listener, name, listener)
        page.goto(f"{url}/")
        return page

    def close(self) -> None:
        self._endings.close()

    def _see(self, address: str, url: str) -> None:
        if not address.startswith((f"{url}/", "data:", "blob:")):
            self.wrong.append(f"asked for {address}")

    def _hear(self, kind: str, text: str) -> None:
        # what the server refuses the browser reports too, and the page says it in its own words
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.wrong.append(text)


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    visitor = Visitor(browser)
    yield visitor
    visitor.close()
    assert visitor.wrong == []


@pytest.fixture
def page(visitor: Visitor, fake: ScriptedServer, shared_page: Page) -> Page:
    return visitor.open(fake.url, shared_page)


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")


def choose(page: Page, **settings: int) -> None:
    button(page, "Settings").click()
    for name, value in settings.items():
        page.locator(f"#{name}").fill(str(value))
    button(page, "Close").last.click()


def ask_and_wait(page: Page, question: str) -> None:
    before = page.locator(".stats .end").count()
    ask(page, question)
    # a promise of the page itself: expect() would look again only after 100, 250, 500 ms
    page.evaluate(
        """async (before) => {
            const ended = () => document.querySelectorAll(".stats .end").length;
            const asked = () => document.querySelectorAll(".turn:last-child .answer").length;
            for (const begun = Date.now(); ended() < before + asked() && Date.now() < begun + 15000; )
                await new Promise((resolve) => setTimeout(resolve, 10));
        }""",
        before,
    )
    expect(page.locator(".stats .end")).to_have_count(before + page.locator(".turn").last.locator(".answer").count())


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


class TestAnswers:
    def test_an_answer_streams_in_and_says_how_it_went(self, page, fake):
        fake.scripts = [says("Cats sleep for most of the day, dear friend.", seconds=0.1)]
        ask(page, "What do cats do?")
        expect(page.locator(".body")).to_contain_text("Cats sleep")
        expect(button(page, "Stop")).to_be_visible()
        expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
        expect(page.locator(".stats")).to_contain_text("finished")
        expect(page.locator(".body")).to_have_text("Cats sleep for most of the day, dear friend.")
        told = page.locator(".stats").inner_text()
        assert re.search(r"9 tokens\s+[\d.]+ tokens/s\s+first after 0\.\d\d s\s+prompt 20, 4 cached\s+seed \d+", told)
        assert 4 < float(re.search(r"([\d.]+) tokens/s", told)[1]) < 14
        expect(button(page, "Stop")).to_be_hidden()
        expect(page.get_by_role("status")).to_have_text(
            "lab/alpha finished: Cats sleep for most of the day, dear friend."
        )
        expect(page.get_by_role("meter", name="Context used")).to_have_attribute("aria-valuetext", "29 of 256 tokens")
        expect(page).to_have_title("What do cats do? - Lumi")
        (body,) = fake.bodies
        assert body["messages"] == [{"role": "user", "content": "What do cats do?"}]
        assert (body["model"], body["stream"], body["logprobs"], body["top_logprobs"]) == ("lab/alpha", True, True, 5)
        assert body["stream_options"] == {"include_usage": True}

    def test_the_next_question_brings_what_was_said(self, page, fake):
        ask_and_wait(page, "Is it?")
        ask_and_wait(page, "Really?")
        said = [("user", "Is it?"), ("assistant", "Yes, it is."), ("user", "Really?")]
        assert fake.bodies[1]["messages"] == [{"role": role, "content": content} for role, content in said]

    @pytest.mark.parametrize("how", ["button", "Escape"])
    def test_stopped_answers_keep_what_came(self, page, fake, how):
        fake.scripts = [says("one two three four five six seven eight nine ten", seconds=0.3)]
        ask(page, "Count!")
        expect(page.locator(".body")).to_contain_text("two")
        if how == "button":
            button(page, "Stop").click()
        else:
            page.keyboard.press("Escape")
        expect(page.locator(".stats")).to_contain_text("stopped")
        expect(page.locator(".body")).not_to_contain_text("ten")
        ask_and_wait(page, "Go on")
        assert fake.bodies[1]["messages"][1]["content"].startswith("one two")

    def test_regenerated_answers_are_kept_beside_each_other(self, page, fake):
        fake.scripts = [says("First."), says("Second.")]
        ask_and_wait(page, "Say something")
        button(page, "Regenerate").click()
        expect(page.locator(".body")).to_have_text("Second.")
        expect(page.locator(".of")).to_have_text("2 of 2")
        button(page, "Earlier answer").click()
        expect(page.locator(".body")).to_have_text("First.")
        expect(button(page, "Later answer")).to_be_focused()
        ask_and_wait(page, "And now?")
        assert fake.bodies[2]["messages"][1]["content"] == "First."
        assert fake.bodies[0]["messages"] == fake.bodies[1]["messages"]
        assert fake.bodies[0]["seed"] != fake.bodies[1]["seed"]

    def test_an_edited_question_goes_on_from_there_and_can_be_undone(self, page, fake):
        for question in ("One?", "Two?", "Three?"):
            ask_and_wait(page, question)
        button(page, "Edit question 2").click()
        field = page.get_by_label("Question 2", exact=True)
        expect(field).to_be_focused()
        field.press("Escape")
        expect(page.locator(".turn")).to_have_count(3)
        button(page, "Edit question 2").click()
        field.fill("Zwei?")
        field.press("Enter")
        expect(page.locator(".bubble")).to_have_text(["One?", "Zwei?"])
        expect(page.locator(".stats .end")).to_have_count(2)
        assert [message["content"] for message in fake.bodies[3]["messages"]] == ["One?", "Yes, it is.", "Zwei?"]
        button(page, "Undo").click()
        expect(page.locator(".bubble")).to_have_text(["One?", "Two?", "Three?"])

    def test_a_deleted_exchange_is_not_sent_and_can_be_undone(self, page, fake):
        for question in ("One?", "Two?"):
            ask_and_wait(page, question)
        button(page, "Delete question 1").click()
        expect(page.locator(".bubble")).to_have_text(["Two?"])
        button(page, "Undo").click()
        expect(page.locator(".bubble")).to_have_text(["One?", "Two?"])
        button(page, "Delete question 1").click()
        ask_and_wait(page, "Three?")
        assert [message["content"] for message in fake.bodies[2]["messages"]] == ["Two?", "Yes, it is.", "Three?"]

    def test_copy_gives_the_text_as_it_was_written(self, visitor, fake):
        page = visitor.open(fake.url, permissions=["clipboard-read", "clipboard-write"])
        fake.scripts = [says("Some **bold** words.\n\n```\ncode  here\n```")]
        ask_and_wait(page, "Write")
        read = "navigator.clipboard.readText()"
        page.locator(".answer > .actions").get_by_role("button", name="Copy").click()
        expect(page.get_by_role("status")).to_have_text("Copied.")
        assert page.evaluate(read) == "Some **bold** words.\n\n```\ncode  here\n```"
        page.locator(".code").get_by_role("button", name="Copy").click()
        expect(page.locator(".code").get_by_role("button")).to_have_text("Copied")
        assert page.evaluate(read) == "code  here"

    def test_an_answer_goes_on_while_another_conversation_is_read(self, page, fake):
        fake.scripts = [says("a b c d e f g h", seconds=0.15)]
        ask(page, "Letters")
        expect(page.locator(".body")).to_contain_text("a b")
        button(page, "New chat").click()
        expect(page.locator(".turn")).to_have_count(0)
        ask_and_wait(page, "Is it?")
        page.locator("#list").get_by_role("button", name="Letters", exact=True).click()
        expect(page.locator(".stats .end")).to_have_text("finished")
        expect(page.locator(".body")).to_have_text("a b c d e f g h")


class TestSettings:
    def test_all_of_them_reach_the_request_and_are_remembered(self, visitor, page, fake):
        button(page, "Settings").click()
        page.get_by_label("System prompt").fill("Be brief.")
        slider = page.get_by_label("Temperature, slider")
        slider.focus()
        slider.press("ArrowRight")
        chosen = {"top_p": 0.5, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2, "presence_penalty": 0.5,
                  "frequency_penalty": -0.5, "max_tokens": 77, "seed": 9}  # fmt: skip
        for name, value in chosen.items():
            page.locator(f"#{name}").fill(str(value))
            page.keyboard.press("Tab")
        page.get_by_label("Stop texts").fill("END\n\\n\\n")
        ask_and_wait(page, "Hello?")
        expect(page.locator(".system")).to_contain_text("System: Be brief.")
        body = fake.bodies[0]
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert {name: body[name] for name in chosen} == chosen
        assert (body["temperature"], body["stop"]) == (0.85, ["END", "\n\n"])
        page.reload()
        button(page, "New chat").click()
        ask_and_wait(page, "Again?")
        same = ("messages",)
        assert {k: v for k, v in fake.bodies[1].items() if k not in same} == {
            k: v for k, v in body.items() if k not in same
        }
        assert fake.bodies[1]["messages"][0]["content"] == "Be brief."
        button(page, "Regenerate").click()
        expect(page.locator(".of")).to_have_text("2 of 2")
        assert fake.bodies[2]["seed"] == 10

    def test_reset(self, page, fake):
        button(page, "Settings").click()
        page.locator("#temperature").fill("0")
        page.locator("#top_k").fill("3")
        page.locator("#seed").fill("3")
        button(page, "Reset").click()
        expect(page.locator("#temperature")).to_have_value("0.8")
        ask_and_wait(page, "Hello?")
        body = fake.bodies[0]
        assert body["temperature"] == 0.8
        assert "top_k" not in body
        assert "stop" not in body

    def test_values_out_of_bounds_come_back(self, page):
        button(page, "Settings").click()
        for typed, kept in (("9", "2"), ("-1", "0")):
            page.locator("#temperature").fill(typed)
            page.keyboard.press("Tab")
            expect(page.locator("#temperature")).to_have_value(kept)
        expect(page.locator("#max_tokens")).to_have_attribute("max", "256")

    def test_the_theme_is_the_systems_until_another_is_chosen(self, visitor, fake):
        page = visitor.open(fake.url, color_scheme="dark")
        paper = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(paper) == "rgb(22, 24, 28)"
        button(page, "Light theme").click()
        assert page.evaluate(paper) == "rgb(252, 251, 248)"
        page.reload()
        assert page.evaluate(paper) == "rgb(252, 251, 248)"
        button(page, "Dark theme").click()
        page.emulate_media(color_scheme="light")
        assert page.evaluate(paper) == "rgb(252, 251, 248)"


class TestProbabilities:
    def test_a_token_under_the_pointer_shows_what_else_was_likely(self, page, fake):
        fake.scripts = [sends(delta("Hi", [token("Hi", logprob=-0.1)]), delta(" you", [token(" you", logprob=-3.0)]),
                              delta("", [], "stop"), usage(3, 2))]  # fmt: skip
        ask_and_wait(page, "Hello?")
        page.locator(".t", has_text="you").hover()
        peek = page.get_by_role("tooltip")
        expect(peek).to_be_visible()
        expect(peek.locator("li")).to_have_count(5)
        expect(peek.locator("li.chosen")).to_have_text("\u2423you5.0 %")
        expect(peek).to_contain_text("one30.1 %")
        expect(peek).to_contain_text("<four>0.67 %")
        peek.hover()  # it can be read with the pointer on it
        page.wait_for_timeout(250)
        expect(peek).to_be_visible()
        page.keyboard.press("Escape")
        expect(peek).to_be_hidden()

    def test_the_arrow_keys_go_through_the_tokens(self, page, fake):
        ask_and_wait(page, "Is it?")
        page.locator(".body").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".t.at")).to_have_text("Yes,")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tooltip")).to_contain_text("74.1 %")
        expect(page.get_by_role("status")).to_have_text("it, 74.1 %; else one 30.1 %, two 8.2 %, three 1.8 %")
        page.keyboard.press("End")
        expect(page.locator(".t.at")).to_have_text(" is.")
        page.keyboard.press("Home")
        expect(page.locator(".t.at")).to_have_text("Yes,")
        page.keyboard.press("Tab")
        expect(page.get_by_role("tooltip")).to_be_hidden()

    def test_tints_show_every_token_and_a_selection_is_plain_text(self, page, fake):
        text = "Some **bold**\n\n- words"
        fake.scripts = [says(text)]
        ask_and_wait(page, "Write")
        expect(page.locator(".body strong")).to_have_text("bold")
        button(page, "Probabilities").click()
        expect(page.locator(".body")).to_have_text(text, use_inner_text=True)
        expect(page.locator("#legend")).to_be_visible()
        shown = page.locator(".body .t").evaluate_all("all => all.map((one) => getComputedStyle(one).backgroundColor)")
        assert len({*shown}) > 2
        selected = "getSelection().selectAllChildren(document.querySelector('.body')); getSelection().toString()"
        assert page.evaluate(selected) == text
        page.reload()
        expect(button(page, "Probabilities")).to_have_attribute("aria-pressed", "true")
        expect(page.locator(".body .t")).to_have_count(4)

    def test_tokens_that_are_parts_of_a_character(self, page, fake):
        first, second, third = "\u20ac".encode()[:1], "\u20ac".encode()[1:2], "\u20ac".encode()[2:]
        fake.scripts = [sends(
            delta("", [token("<0xE2>", first, -1.0)]), delta("", [token("<0x82>", second, -0.1)]),
            delta("\u20ac", [token("<0xAC>", third, -0.2)]), delta(" 5", [token("5", b" 5")]),
            delta("", [], "stop"), usage(3, 4),
        )]  # fmt: skip
        ask_and_wait(page, "How much?")
        expect(page.locator(".body .t")).to_have_text(["\u20ac", " 5"])
        page.locator(".body .t").first.hover()
        expect(page.get_by_role("tooltip")).to_contain_text("\u20ac 27.3 %: 3 tokens, of which the last")
        expect(page.get_by_role("tooltip").locator(".chosen")).to_have_text("<0xAC>81.9 %")
        page.locator(".body .t").last.hover()
        expect(page.get_by_role("tooltip").locator(".chosen")).to_contain_text("\u24235")

    def test_an_answer_that_begins_without_its_first_space(self, page, fake):
        fake.scripts = [sends(delta("", [token("\n")]), delta("Yes", [token(" Yes")]), delta(" so", [token(" so")]),
                              delta("", [], "stop"), usage(3, 3))]  # fmt: skip
        ask_and_wait(page, "Is it?")
        expect(page.locator(".body .t")).to_have_text(["Yes", " so"])

    def test_a_stop_text_is_not_part_of_the_answer_nor_are_its_tokens(self, page, fake):
        fake.scripts = [sends(delta("Yes", [token("Yes"), token(" E"), token("ND")], "stop"), usage(3, 3))]
        ask_and_wait(page, "Is it?")
        expect(page.locator(".body .t")).to_have_text(["Yes"])

    def test_tokens_that_do_not_spell_the_text_are_left_out(self, page, fake):
        fake.scripts = [sends(delta("Yes", [token("No")], "stop"), usage(3, 1))]
        ask_and_wait(page, "Is it?")
        expect(page.locator(".body")).to_have_text("Yes")
        expect(page.locator(".body .t")).to_have_count(0)

    def test_a_server_without_probabilities(self, page, fake):
        fake.scripts = [sends(delta("Yes."), delta("", None, "stop"), b"data: [DONE]\n\n")]
        ask_and_wait(page, "Is it?")
        button(page, "Probabilities").click()
        expect(page.locator(".body")).to_have_text("Yes.")


class TestTwoModels:
    def test_one_question_goes_to_both_and_each_has_its_own_past(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url)
        expect(button(page, "Compare")).to_have_attribute("aria-pressed", "true")
        expect(page.get_by_label("Second model")).to_have_value("lab/beta")

        def by_model(handler, body):
            says(f"I am {body['model']}.", seconds=0.1)(handler, body)

        fake.scripts = [by_model] * 4
        ask(page, "Who are you?")
        both = page.locator(".answer[aria-busy=true]")
        expect(both).to_have_count(2)
        expect(page.locator(".stats .end")).to_have_count(2)
        expect(page.locator(".body")).to_have_text(["I am lab/alpha.", "I am lab/beta."])
        left, right = (page.locator(".answer").nth(index).bounding_box() for index in (0, 1))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"] + 1
        ask_and_wait(page, "Sure?")
        for body in fake.bodies[2:]:
            assert body["messages"][1]["content"] == f"I am {body['model']}."
        assert fake.bodies[2]["seed"] == fake.bodies[3]["seed"]
        button(page, "Compare").click()
        expect(page.get_by_label("Second model")).to_be_hidden()
        ask_and_wait(page, "Alone?")
        assert [body["model"] for body in fake.bodies[4:]] == ["lab/alpha"]

    def test_one_of_them_can_be_stopped_and_one_may_fail(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url)

        def slow_or_failing(handler, body):
            if body["model"] == "lab/alpha":
                says("a b c d e f g h i j k l m n", seconds=0.2)(handler, body)
            else:
                handler.refuse(500, "the engine fell over")

        fake.scripts = [slow_or_failing] * 2
        ask(page, "Letters")
        first, second = page.locator(".answer").nth(0), page.locator(".answer").nth(1)
        expect(second.locator(".problem")).to_contain_text("The engine fell over.")
        expect(first.locator(".body")).to_contain_text("b")
        first.get_by_role("button", name="Stop this one").click()
        expect(first.locator(".stats")).to_contain_text("stopped")
        second.get_by_role("button", name="Try again").click()
        expect(second.locator(".body")).to_have_text("Yes, it is.")

    def test_any_two_of_several(self, visitor, fake):
        fake.models = [A, B, BASE]
        page = visitor.open(fake.url)
        expect(page.get_by_label("Second model")).to_be_hidden()
        button(page, "Compare").click()
        page.get_by_label("Second model").select_option("lab/base")
        page.get_by_label("Model", exact=True).select_option("lab/beta")
        page.reload()
        expect(page.get_by_label("Model", exact=True)).to_have_value("lab/beta")
        expect(page.get_by_label("Second model")).to_have_value("lab/base")

        def by_kind(handler, body):
            (says("Well.") if "messages" in body else continues(" upon a time"))(handler, body)

        fake.scripts = [by_kind] * 2
        ask_and_wait(page, "Once")
        expect(page.locator(".body")).to_have_text(["Well.", "Once upon a time"])

    def test_one_above_the_other_on_a_phone(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url, viewport={"width": 390, "height": 844})
        ask_and_wait(page, "Is it?")
        above, below = (page.locator(".answer").nth(index).bounding_box() for index in (0, 1))
        assert above["x"] == below["x"]
        assert above["y"] + above["height"] <= below["y"]


class TestBaseModels:
    def test_a_text_is_continued_and_goes_on(self, visitor, fake):
        fake.models = [BASE]
        page = visitor.open(fake.url)
        expect(page.get_by_role("heading", name="Write with lab/base")).to_be_visible()
        fake.scripts = [continues(" upon a time"), continues(" there was")]
        page.get_by_label("A text to continue").fill("Once")
        button(page, "Continue").click()
        expect(page.locator(".body")).to_have_text("Once upon a time")
        expect(page.locator(".given")).to_have_text("Once")
        button(page, "Go on").click()
        expect(page.locator(".body")).to_have_text("Once upon a time there was")
        expect(page.locator(".stats")).to_contain_text("5 tokens")
        expect(page.locator(".body .t")).to_have_text([" upon", " a", " time", " there", " was"])
        assert [body["prompt"] for body in fake.bodies] == ["Once", "Once upon a time"]
        assert fake.bodies[0]["logprobs"] == 5
        page.locator(".t", has_text="time").hover()
        expect(page.get_by_role("tooltip").locator(".chosen")).to_have_text("\u2423time60.7 %")
        page.reload()
        expect(page.locator(".body")).to_have_text("Once upon a time there was")


HOSTILE = [
    "<script>alert(1)</script><script src=//evil.example/x.js></script>",
    "<img src=x onerror=alert(1)> ![x](http://evil.example/x.png) <svg onload=alert(1)>",
    "[a](javascript:alert(1)) [b](data:text/html,x) <a href='javascript:alert(1)'>c</a> javascript:alert(1)",
    '[a](https://a.example/"onmouseover=alert(1)) `"><img src=x onerror=alert(1)>`',
    '```"><img src=x onerror=alert(1)>\n<b>x</b>\n```\n\n# <i>head</i>\n\n- <u>item</u>',
    "w" * 5000 + " " + "\U0001f469\u200d\U0001f469\u200d\U0001f467" * 300,
    "\u05e9\u05dc\u05d5\u05dd \u202e\u2066abc\u2069 \u0645\u0631\u062d\u0628\u0627 **\u05e2\u05d5\u05dc\u05dd**",
    "a\u0000b\u001b[31mred\u0007 \ufeffbom \u2028line",
]


class TestTexts:
    def test_hostile_texts_are_text(self, visitor, fake):
        page = visitor.open(fake.url, viewport={"width": 400, "height": 800})
        allowed = "a, code, em, strong, h4, hr, li, ol, p, pre, span.t, ul, div, div.code span, button"
        for text in HOSTILE:  # as a question, as a title, and as an answer
            fake.scripts = [says(text)]
            page.keyboard.press("Control+k")
            ask(page, text)
            expect(page.locator(".stats .end")).to_have_count(1)
            assert page.locator(f".body *:not({allowed})").count() == 0
            assert page.locator(".bubble *, #title *, #list .open *").count() == 0
            for link in page.locator(".body a").all():
                assert link.get_attribute("href").startswith(("https://", "http://"))
                assert link.get_attribute("rel") == "noopener noreferrer"
            assert page.evaluate(
                "document.documentElement.scrollWidth <= innerWidth && log.scrollWidth <= log.clientWidth"
            )
        page.reload()
        expect(page.locator(".body")).to_be_visible()

    def test_no_text_takes_long_to_draw(self, page, fake):
        texts = [
            "word " * 20_000, "`" * 100_000, "**a*" * 25_000, "[" * 100_000, "_a_" * 30_000 + "_", "\\" * 100_000,
            "```" + "a" * 99_000 + "`", "- x\n  - y\n" * 2_000, "[a](https://" * 8_000,
        ]  # fmt: skip
        for number, text in enumerate(texts):
            tokens = [token(text[at : at + 400]) for at in range(0, len(text), 400)]
            fake.scripts = [sends(delta(text, tokens, "stop"), usage(9, 9))]
            button(page, "New chat").click()
            begun = time.monotonic()
            ask(page, "Much")
            expect(page.locator(".stats .end")).to_have_count(1)
            assert time.monotonic() - begun < 10, number  # what is quadratic takes minutes

    def test_two_thousand_tokens_do_not_get_slower(self, page, fake):
        text = "".join(f"Sentence {number} has **some** words in it. " for number in range(330))
        parts = stream_of(text)
        assert len(parts) > 2000
        chunks = [b"".join(parts[at : at + 8]) for at in range(0, len(parts), 8)]
        page.evaluate(
            "window.long = []; const note = (list) => long.push(...list.getEntries().map((one) => one.duration));"
            "new PerformanceObserver(note).observe({type: 'longtask'})"
        )
        fake.scripts = [sends(*[part for chunk in chunks for part in (chunk, 0.005)])]
        begun = time.monotonic()
        ask(page, "Much")
        expect(page.locator(".stats .end")).to_have_count(1, timeout=15_000)
        assert time.monotonic() - begun < 5  # the server itself takes 1.4 s
        assert sum(page.evaluate("long")) < 2500
        expect(page.locator(".body strong")).to_have_count(330)

    def test_markdown(self, page, fake):
        fake.scripts = [says(
            "# Head\nA *b* **c *d*** `e*f*` g_h_i 2 * 3 * 4\nsame [site](https://a.example/x) or https://b.example/y.\n\n"
            "1. one\n   - in\n     more\n2. two\n\nin\n1999. no list\n\n~~~py\nif x:\n\n    y ** 2 ** 3\n~~~\n***\n"
            "end \\*not\\*\n\n3. three"
        )]  # fmt: skip
        ask_and_wait(page, "Write")
        html = page.locator(".body").evaluate(
            """(body) => { const copy = body.cloneNode(true);
            copy.querySelectorAll('.t').forEach((one) => one.replaceWith(...one.childNodes));
            const nodes = [...copy.querySelectorAll('*')];
            nodes.forEach((one) => one.getAttributeNames().forEach((name) => one.removeAttribute(name)));
            copy.normalize(); return copy.innerHTML; }"""
        )
        assert html == (
            "<h4>Head</h4><p>A <em>b</em> <strong>c <em>d</em></strong> <code>e*f*</code> g_h_i 2 * 3 * 4\n"
            "same <a>site</a> or <a>https://b.example/y</a>.</p>"
            "<div><ol><li>one<ul><li>in\nmore</li></ul></li><li>two</li></ol></div><p>in\n1999. no list</p>"
            "<div><div><span>py</span><button>Copy</button></div><pre><code>if x:\n\n    y ** 2 ** 3</code></pre></div>"
            "<hr><p>end *not*</p><div><ol><li>three</li></ol></div>"
        )
        assert page.locator(".body ol").last.get_attribute("start") == "3"
        link = page.get_by_role("link", name="site")
        assert (link.get_attribute("href"), link.get_attribute("target")) == ("https://a.example/x", "_blank")

    def test_drawn_bit_by_bit_it_is_the_same_as_at_once(self, page, fake):
        text = "# H\n\ntext *a*\n\n- b\n\n- c\n\n```x\nd\n\ne\n```\n\n2. f\n3. g\n\nh **i**\nj\n\n---\n\nk"
        fake.scripts = [
            sends(*[part for letter in text for part in (delta(letter), 0.02)], delta("", None, "stop"), usage(3, 3)),
            says(text),
        ]
        ask_and_wait(page, "Slowly")
        ask_and_wait(page, "At once")
        read = "(body) => body.innerHTML.replace(/<span class=\"t[^>]*>([^<]*)<\\/span>/g, '$1')"
        slowly, at_once = (page.locator(".body").nth(index).evaluate(read) for index in (0, 1))
        assert slowly == at_once


def spoken(page: Page, text: str) -> None:
    expect(page.locator(".problem:visible > p")).to_have_text(text)
    expect(page.get_by_role("status")).to_have_text(text)


class TestStreams:
    TEXT = "na\u00efve \u20ac 5, \U0001f600 \u4f60\u597d"

    def test_events_may_be_split_anywhere(self, page, fake):
        whole = b": a comment\n\nid: 7\n" + b"".join(stream_of(self.TEXT))
        for newline in (b"\n", b"\r\n", b"\r"):
            sent = whole.replace(b"\n", newline)
            fake.scripts = [sends(*[sent[at : at + 1] for at in range(len(sent))])]
            ask_and_wait(page, "Split")
            expect(page.locator(".body").last).to_have_text(self.TEXT)
            expect(page.locator(".body").last.locator(".t")).to_have_count(len(pieces(self.TEXT)))

    def test_data_of_several_lines(self, page, fake):
        lines = json.dumps({"choices": [{"delta": {"content": "Yes."}, "finish_reason": "stop"}]}, indent=1).split("\n")
        fake.scripts = [sends(b"".join(b"data:" + line.encode() + b"\n" for line in lines) + b"\n")]
        ask_and_wait(page, "Is it?")
        expect(page.locator(".body")).to_have_text("Yes.")

    def test_an_error_within_the_stream(self, page, fake):
        fake.scripts = [sends(delta("Some", [token("Some")]), event({"error": {"message": "the engine fell over"}}))]
        ask(page, "Is it?")
        spoken(page, "The engine fell over.")
        expect(page.locator(".body")).to_have_text("Some")
        button(page, "Try again").click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")
        expect(page.locator(".of")).to_have_text("2 of 2")  # what came is kept

    def test_a_lost_connection_keeps_what_came(self, page, fake):
        for rest in (b"", b'data: {"choi', b"data: <html>\n\n"):
            fake.scripts = [sends(delta("Some"), rest)]
            page.keyboard.press("Control+k")
            ask(page, "Is it?")
            expect(page.locator(".problem")).to_contain_text(re.compile("was lost before|is no answer"))
            expect(page.locator(".body")).to_have_text("Some")
        page.reload()
        expect(page.locator(".body")).to_have_text("Some")
        button(page, "Try again").click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")

    def test_a_connection_cut_off_hard(self, page, fake):
        def cut(handler, body):
            handler.send_response(200)
            handler.send_header("Content-Length", "5000")
            handler.end_headers()
            handler.write(delta("Some"))
            time.sleep(0.2)

        fake.scripts = [cut]
        ask(page, "Is it?")
        spoken(page, "The connection was lost before the answer was finished.")
        expect(page.locator(".body")).to_have_text("Some")

    def test_a_page_closed_while_an_answer_comes(self, page, fake):
        fake.scripts = [says("one two three four five six seven", seconds=0.3)]
        ask(page, "Count")
        expect(page.locator(".body")).to_contain_text("two")
        page.reload()
        expect(page.locator(".body")).to_contain_text("one two")
        # whether the browser ends the request or the page first
        expect(page.locator(".problem > p")).to_have_text(
            re.compile("This answer was not finished|The connection was lost")
        )


class TestRefusals:
    def test_each_is_one_clear_line(self, page, fake):
        for status, said, shown in [
            (400, "top_p: too small", "top_p: too small."),
            (404, "no such model", "The server does not have lab/alpha any more. Choose another model."),
            (429, "busy", "The server is busy."),
            (500, "", "The server failed (500)."),
            (503, "the server is stopping", "The server is stopping."),
        ]:
            fake.scripts = [refuses(status, said)]
            page.keyboard.press("Control+k")
            ask(page, "Is it?")
            spoken(page, shown)
            button(page, "Try again").click()
            expect(page.locator(".body")).to_have_text("Yes, it is.")
            expect(page.locator(".of")).to_have_count(0)  # nothing had come, nothing is kept
        assert len(fake.bodies) == 10

    def test_an_answer_that_is_no_json(self, page, fake):
        fake.scripts = [lambda handler, body: handler.answer(502, b"<h1>Bad gateway</h1>")]
        ask(page, "Is it?")
        spoken(page, "The server failed (502).")

    def test_a_busy_server_is_asked_again_when_it_says(self, page, fake):
        fake.scripts = [refuses(429, "busy", {"Retry-After": "2"})]
        ask(page, "Is it?")
        expect(page.locator(".problem > p")).to_have_text("The server is busy. Trying again in 2 s.")
        expect(page.locator(".problem > p")).to_have_text("The server is busy. Trying again in 1 s.")
        expect(page.locator(".body")).to_have_text("Yes, it is.")
        expect(page.locator(".problem")).to_be_hidden()

    def test_the_wait_can_be_cut_short_or_given_up(self, page, fake):
        fake.scripts = [refuses(503, "the server is stopping", {"Retry-After": "60"})]
        ask(page, "Is it?")
        button(page, "Try now").click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")
        fake.scripts = [refuses(429, "busy", {"Retry-After": "60"})]
        ask(page, "Is it?")
        button(page, "Give up").click()
        expect(page.locator(".stats").last).to_have_text("stopped")
        expect(page.locator(".problem:visible")).to_have_count(0)
        expect(page.get_by_label("Your question")).to_be_enabled()

    def test_no_server(self, page, fake):
        page.context.set_offline(True)
        ask(page, "Is it?")
        spoken(page, "This device is offline.")
        page.context.set_offline(False)
        page.route("**/v1/chat/completions", lambda route: route.abort())
        button(page, "Try again").click()
        spoken(page, "The server cannot be reached. Is it running?")
        page.unroute("**/v1/chat/completions")
        button(page, "Try again").click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")

    def test_no_models_yet(self, visitor, fake):
        fake.models = []
        page = visitor.open(fake.url)
        expect(page.get_by_text("The server lists no model.")).to_be_visible()
        page.get_by_label("Your question").fill("Is it?")
        expect(button(page, "Send")).to_be_disabled()
        fake.models = [A]
        button(page, "Try again").click()
        expect(page.get_by_role("heading", name="Talk to lab/alpha")).to_be_visible()

    def test_a_conversation_too_long_may_lose_its_oldest_exchanges(self, page, fake):
        fake.scripts = [says("word " * 60), says("word " * 60), says("word " * 60)]
        for question in ("One?", "Two?", "Three?"):
            ask_and_wait(page, question)
        expect(page.get_by_role("status")).not_to_be_empty()  # else it says the next news in the same breath
        fake.scripts = [refuses(400, "the prompt has 300 tokens", code="context_length_exceeded")]
        ask(page, "Four?")
        spoken(page, "The conversation no longer fits into the model's context.")
        button(page, "Leave out the oldest 2 exchanges and try again").click()
        expect(page.locator(".body").last).to_have_text("Yes, it is.")
        expect(page.locator(".mark")).to_contain_text("2 exchanges above are not sent to the model")
        assert [message["content"] for message in fake.bodies[-1]["messages"]][::2] == ["Three?", "Four?"]
        page.reload()
        expect(page.locator(".mark")).to_be_visible()
        button(page, "Send all exchanges again").click()
        ask_and_wait(page, "Five?")
        assert len(fake.bodies[-1]["messages"]) == 9

    def test_a_question_that_is_too_long_alone(self, page, fake):
        fake.scripts = [refuses(400, "too long", code="context_length_exceeded")]
        ask(page, "word " * 500)
        button(page, "Edit the question").click()
        expect(page.get_by_label("Question 1", exact=True)).to_be_focused()


class TestKeys:
    def test_a_key_is_asked_for_and_forgotten_with_the_tab(self, visitor, fake):
        fake.key = "Bearer right"
        page = visitor.open(fake.url)
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_contain_text("This server asks for a key.")
        dialog.locator("#key-field").fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server did not take this key.")
        dialog.locator("#key-field").fill("right")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        ask_and_wait(page, "Is it?")
        page.reload()
        expect(page.get_by_label("Model", exact=True)).to_have_value("lab/alpha")
        assert "right" not in page.url
        assert "right" not in page.evaluate("JSON.stringify(localStorage)")
        other = visitor.open(fake.url, context=page.context)
        expect(other.get_by_role("dialog", name="API key")).to_be_visible()

    def test_a_key_is_remembered_when_asked_to(self, visitor, fake):
        fake.key = "Bearer right"
        page = visitor.open(fake.url)
        page.locator("#key-field").fill("right")
        page.get_by_label("Remember it on this device").check()
        button(page, "Use this key").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("lab/alpha")
        other = visitor.open(fake.url, context=page.context)
        expect(other.get_by_label("Model", exact=True)).to_have_value("lab/alpha")
        button(other, "Settings").click()
        button(other, "API key").click()
        button(other, "Use this key").click()  # an empty one: it is forgotten
        page.reload()
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()

    def test_no_key_no_models(self, visitor, fake):
        fake.key = "Bearer right"
        page = visitor.open(fake.url)
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        page.keyboard.press("Escape")
        button(page, "Enter the key").click()
        page.locator("#key-field").fill("right")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Talk to lab/alpha")).to_be_visible()

    def test_two_answers_ask_once(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url)
        expect(page.get_by_role("heading", name="One question, two models")).to_be_visible()  # they are listed
        fake.key = "Bearer right"
        ask(page, "Is it?")
        page.locator("#key-field").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator(".stats .end")).to_have_count(2)

    def test_a_refusal_that_comes_when_the_key_is_there_asks_nothing(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url)
        expect(page.get_by_role("heading", name="One question, two models")).to_be_visible()  # they are listed
        fake.key = "Bearer right"
        held = []

        def hold_the_first(route):
            if held:
                route.continue_()
            else:
                held.append(route)

        page.route("**/chat/completions", hold_the_first)
        ask(page, "Is it?")
        page.locator("#key-field").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator(".stats .end")).to_have_count(1)
        held[0].continue_()
        expect(page.locator(".stats .end")).to_have_count(2)


class TestConversations:
    def test_they_are_kept_renamed_exported_and_deleted(self, page, fake):
        ask_and_wait(page, "First question\nwith a second line")
        button(page, "New chat").click()
        ask_and_wait(page, "<b>Second</b>")
        page.reload()
        titles = page.locator("#list .open")
        expect(titles).to_have_text(["<b>Second</b>", "First question"])
        expect(page.locator(".bubble")).to_have_text("<b>Second</b>")
        titles.last.click()
        expect(page.locator(".bubble")).to_have_text("First question\nwith a second line")
        button(page, "Actions for First question").click()
        page.get_by_role("menuitem", name="Rename").click()
        page.get_by_label("Title").fill("A better name")
        page.keyboard.press("Enter")
        expect(titles.last).to_have_text("A better name")
        for ending in ("Markdown", "JSON"):
            button(page, "Actions for A better name").click()
            with page.expect_download() as download:
                page.get_by_role("menuitem", name=f"Export as {ending}").click()
            text = Path(download.value.path()).read_text()
            assert (
                download.value.suggested_filename
                == {"Markdown": "A-better-name.md", "JSON": "A-better-name.json"}[ending]
            )
            if ending == "Markdown":
                said = "## You\n\nFirst question\nwith a second line\n\n## lab/alpha\n\nYes, it is."
                assert text == f"# A better name\n\n{said}\n"
            else:
                assert json.loads(text)["turns"][0]["slots"][0]["variants"][0]["text"] == "Yes, it is."
        button(page, "Actions for A better name").click()
        page.get_by_role("menuitem", name="Delete").click()
        expect(titles).to_have_text(["<b>Second</b>"])
        button(page, "Undo").click()
        expect(titles).to_have_count(2)
        page.reload()
        expect(titles).to_have_count(2)

    def test_damaged_storage_costs_what_is_damaged_only(self, page, fake):
        ask_and_wait(page, "Is it?")
        page.evaluate("""() => {
            const keep = (id, value) => { localStorage["lumi.chat." + id] = JSON.stringify(value); };
            const [key] = Object.keys(localStorage).filter((key) => key.startsWith("lumi.chat."));
            const answer = {text: "Kept.", marks: [[1], "x"], problem: 3};
            const turn = {question: "Kept?", slots: [{shown: 99, variants: [null, answer]}]};
            const turns = [null, {question: 5}, turn];
            localStorage["lumi.chat.a"] = "{";
            keep("b", {version: 1, id: "b", turns: "none"});
            keep("c", {...JSON.parse(localStorage[key]), id: "c", title: 7, skip: "x", models: [3], turns});
            const sampling = {temperature: "hot", top_p: 99};
            localStorage["lumi.settings"] = JSON.stringify({sampling, models: 5, seed: "x"});
        }""")
        page.reload()
        expect(page.locator("#list .open")).to_have_count(2)
        expect(page.locator("#storage")).to_have_text("2 conversations could not be read and are left out.")
        page.locator("#list .open", has_text="Chat").click()
        expect(page.locator(".body")).to_have_text("Kept.")
        ask_and_wait(page, "Really?")
        assert (fake.bodies[-1]["temperature"], fake.bodies[-1]["top_p"]) == (0.8, 1)
        assert page.evaluate("localStorage['lumi.chat.a']") == "{"

    @pytest.mark.parametrize("way", ["forbidden", "full"])
    def test_a_browser_that_keeps_nothing(self, visitor, fake, way):
        page = visitor.open(fake.url)
        forbid = (
            "for (const name of ['localStorage', 'sessionStorage'])"
            "  Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError') }})"
        )
        fill = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"
        page.add_init_script({"forbidden": forbid, "full": fill}[way])
        page.reload()
        ask_and_wait(page, "Is it?")
        expect(page.locator("#storage")).to_contain_text("This browser keeps nothing here")
        button(page, "New chat").click()
        page.locator("#list").get_by_role("button", name="Is it?", exact=True).click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")

    def test_full_storage_lets_old_probabilities_go_first(self, page, fake):
        ask_and_wait(page, "First?")
        page.evaluate("""() => {
            const size = (value) => JSON.stringify(value).length;
            const key = Object.keys(localStorage).find((key) => key.startsWith("lumi.chat."));
            const bare = JSON.parse(localStorage[key]);
            bare.turns[0].slots[0].variants[0].marks = [];
            // for two conversations, one of them with its probabilities
            const room = size(localStorage) + (size(localStorage[key]) + size(JSON.stringify(bare))) / 2;
            const write = Storage.prototype.setItem;
            Storage.prototype.setItem = function (key, value) {
                const all = {...this, [key]: value};
                if (size(all) > room) throw new DOMException("full", "QuotaExceededError");
                write.call(this, key, value);
            };
        }""")
        button(page, "New chat").click()
        ask_and_wait(page, "Second?")
        expect(page.locator("#storage")).to_contain_text("the probabilities of older answers were let go")
        page.reload()
        expect(page.locator("#list .open")).to_have_text(["Second?", "First?"])
        page.locator("#list .open").last.click()
        expect(page.locator(".body")).to_have_text("Yes, it is.")

    def test_another_tab_sees_what_this_one_writes(self, visitor, page, fake):
        other = visitor.open(fake.url, context=page.context)
        ask_and_wait(page, "Is it?")
        expect(other.locator("#list .open")).to_have_text(["Is it?"])

    def test_a_model_that_is_gone_gives_way(self, page, fake):
        ask_and_wait(page, "Is it?")
        fake.models = [B]
        page.reload()
        expect(page.locator(".by")).to_have_text("lab/alpha")
        ask_and_wait(page, "Really?")
        assert fake.bodies[-1]["model"] == "lab/beta"


class TestForEveryone:
    def test_all_of_it_by_keyboard(self, page, fake):
        expect(page.get_by_label("Your question")).to_be_focused()
        page.keyboard.type("Is it?")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Is it really?")
        page.keyboard.press("Enter")
        expect(page.locator(".bubble")).to_have_text("Is it?\nIs it really?")
        expect(page.locator(".stats .end")).to_have_count(1)
        expect(page.get_by_label("Your question")).to_be_focused()
        page.keyboard.press("ArrowUp")
        expect(page.get_by_label("Question 1", exact=True)).to_be_focused()
        page.keyboard.press("Control+A")
        page.keyboard.type("Was it?")
        page.keyboard.press("Enter")
        expect(page.locator(".bubble")).to_have_text("Was it?")
        expect(page.locator(".stats .end")).to_have_count(1)
        for _ in range(3):
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
        page.keyboard.press("Control+k")
        expect(page.get_by_label("Your question")).to_be_focused()
        expect(page.locator(".turn")).to_have_count(0)
        page.keyboard.type("?")  # in a field it is a letter
        expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()

    def test_menus_by_keyboard(self, page, fake):
        ask_and_wait(page, "Is it?")
        more = button(page, "Actions for Is it?")
        more.focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("menuitem", name="Delete")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.get_by_role("menu")).to_have_count(0)
        expect(more).to_be_focused()

    def test_enter_within_an_input_method_does_not_send(self, page, fake):
        page.get_by_label("Your question").fill("\u304b\u3093")
        press = (
            "(field, how) => field.dispatchEvent("
            "new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true, ...how}))"
        )
        page.locator("#question").evaluate(press, {"isComposing": True})
        page.locator("#question").evaluate(press, {"keyCode": 229})
        assert fake.bodies == []
        page.locator("#question").evaluate(press, {})
        expect(page.locator(".bubble")).to_have_text("\u304b\u3093")

    def test_what_a_screen_reader_finds(self, page, fake):
        ask_and_wait(page, "Is it?")
        expect(page.locator("body")).to_match_aria_snapshot("""
            - link "To the question"
            - navigation "Conversations":
              - button "New chat"
              - list:
                - listitem:
                  - button "Is it?"
                  - button "Actions for Is it?"
              - button "Dark theme"
              - button "Keys"
            - banner:
              - combobox "Model"
              - button "Settings"
            - main:
              - heading "Is it?" [level=1]
              - region "Conversation":
                - article "Exchange 1":
                  - heading "You asked" [level=2]
                  - text: Is it?
                  - button "Edit question 1"
                  - button "Copy question 1"
                  - button "Delete question 1"
                  - group "Answer by lab/alpha":
                    - heading "lab/alpha" [level=3]
                    - group "Text":
                      - paragraph: Yes, it is.
                    - paragraph: /finished/
                    - button "Copy"
                    - button "Regenerate"
              - textbox "Your question"
              - button "Send" [disabled]
              - button "Probabilities"
              - meter "Context used"
            - status: "lab/alpha finished: Yes, it is."
        """)
        names = page.evaluate("""() => {
            const isNamed = (one) => one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim();
            const all = [...document.querySelectorAll("button, input, select, textarea")];
            return all.filter((one) => !isNamed(one)).map((one) => one.outerHTML);
        }""")
        assert names == []

    def test_small_windows_and_large_text(self, visitor, fake):
        fake.models = [A, B]
        page = visitor.open(fake.url, viewport={"width": 360, "height": 640}, has_touch=True)
        expect(page.get_by_label("Second model")).to_be_visible()
        fake.scripts = [says("A long " + "w" * 300 + "\n\n```\n" + "x" * 300 + "\n```\n")] * 2
        ask_and_wait(page, "q" * 200)
        fits = "document.documentElement.scrollWidth <= innerWidth && log.scrollWidth <= log.clientWidth"
        button(page, "Probabilities").click()

        def small() -> list[str]:
            return page.evaluate("""() => {
                const isSmall = (one) => Math.min(one.offsetWidth, one.offsetHeight) < 44;
                const all = [...document.querySelectorAll("button, select, input, textarea")];
                const shown = all.filter((one) => one.checkVisibility({visibilityProperty: true}));
                return shown.filter(isSmall).map((one) => one.outerHTML);
            }""")

        for width, height in ((360, 640), (390, 844), (640, 400)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate(fits)
            assert page.locator("#log").bounding_box()["height"] > 0.4 * height
            assert page.locator("#question").bounding_box()["y"] + 44 < height
            assert small() == []
            for panel, close in (("Chats", "close-chats"), ("Settings", "close-settings")):
                button(page, panel).click()
                expect(page.locator(f"#{close}")).to_be_focused()
                assert small() == []
                assert page.evaluate(fits)
                page.keyboard.press("Escape")
                expect(button(page, panel)).to_be_focused()

    def test_contrast(self, visitor, fake):
        page = visitor.open(fake.url)
        measure = """() => {
            const probe = document.body.appendChild(document.createElement("i"));
            const light = (name) => {
                probe.style.color = `var(--${name})`;
                const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).map((value) => value / 255);
                const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
                return 0.2126 * linear(parts[0]) + 0.7152 * linear(parts[1]) + 0.0722 * linear(parts[2]);
            };
            const ratio = (one, other) => {
                const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
                return (high + 0.05) / (low + 0.05);
            };
            const pairs = [1, 2, 3, 4, 5].map((band) => ["ink", `p${band}`, 4.5]);
            for (const back of ["paper", "card", "raised"]) {
                for (const front of ["ink", "quiet", "link", "warm"]) pairs.push([front, back, 4.5]);
                for (const front of ["accent", "edge"]) pairs.push([front, back, 3]);
            }
            return pairs.filter(([one, other, least]) => ratio(one, other) < least);
        }"""
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(measure) == []

    def test_the_end_stays_in_sight_unless_one_reads_above(self, visitor, fake):
        page = visitor.open(fake.url, viewport={"width": 800, "height": 500})
        at_end = "log.scrollHeight - log.scrollTop - log.clientHeight < 3"
        fake.scripts = [says("line\n\n" * 60)]
        ask_and_wait(page, "Much")
        assert page.evaluate(at_end)
        fake.scripts = [says("line\n\n" * 60, seconds=0.02)]
        ask(page, "More")
        expect(page.locator(".body").last).to_contain_text("line")
        page.mouse.move(400, 200)
        page.mouse.wheel(0, -400)
        expect(button(page, "To the end")).to_be_visible()
        expect(page.locator(".stats .end")).to_have_count(2)
        assert not page.evaluate(at_end)
        button(page, "To the end").click()
        assert page.evaluate(at_end)


@pytest.fixture(scope="module")
def folders(artifacts, tmp_path_factory) -> list[Path]:
    """Two models that answer and one that does not, untrained: what they write is any bytes at all."""
    from tests.servers import write_model

    from lumi.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(artifacts / "tokenizer")
    root = tmp_path_factory.mktemp("served") / "lab"
    templates: list[str | None] = ["chatml", "chatml", None]
    return [
        write_model(root / name, tokenizer, template=template, seed=seed)
        for seed, (name, template) in enumerate(zip(("alpha", "beta", "base"), templates, strict=True))
    ]


@pytest.fixture(scope="module")
def real(folders):
    from tests.servers import load, serving

    with serving(load(*folders)) as server:
        yield server


class TestRealServer:
    def test_a_conversation(self, visitor, real, shared_page):
        page = visitor.open(real.url, shared_page)
        assert "script-src 'sha256-" in page.request.get(f"{real.url}/").headers["content-security-policy"]
        choose(page, seed=3)  # with one seed in a hundred the answer is empty
        ask_and_wait(page, "Where is the fox?")
        expect(page.locator(".stats")).to_have_text(re.compile(r"(finished|cut).*\d+ tokens?.*prompt \d+"))
        button(page, "Probabilities").click()
        spans = page.locator(".body .t")
        assert "".join(spans.all_text_contents()) == page.locator(".body").text_content()
        assert spans.count() > 0
        spans.first.hover()
        expect(page.get_by_role("tooltip")).to_be_visible()
        told = page.get_by_role("tooltip").locator("em").all_text_contents()
        assert 5 <= len(told) <= 6
        assert 0 < sum(float(share.strip("<% ")) for share in told) < 100.5
        page.mouse.move(0, 0)
        expect(page.get_by_role("tooltip")).to_be_hidden()
        button(page, "Regenerate").click()
        expect(page.locator(".of")).to_have_text("2 of 2")
        expect(page.locator(".stats .end")).to_have_count(1)
        kept = page.locator(".body").text_content()
        page.reload()
        expect(page.locator(".of")).to_have_text("2 of 2")
        assert page.locator(".body").text_content() == kept

    def test_the_same_seed_writes_the_same(self, visitor, real, shared_page):
        page = visitor.open(real.url, shared_page)
        choose(page, seed=3, max_tokens=20)
        for _ in range(2):
            page.keyboard.press("Control+k")
            ask_and_wait(page, "Where is the fox?")
            expect(page.locator(".stats")).to_contain_text("seed 3")
        page.locator("#list .open").nth(1).click()
        first = page.locator(".body").text_content()
        page.locator("#list .open").first.click()
        assert page.locator(".body").text_content() == first

    def test_stopping_stops_the_engine_too(self, visitor, real, shared_page, monkeypatch):
        from tests.servers import slow_down

        alpha = real.service.models["lab/alpha"]
        hurry = slow_down(alpha, 0.03, monkeypatch)  # or it has ended before one can click
        page = visitor.open(real.url, shared_page)
        page.keyboard.press("Control+k")
        page.evaluate(
            """() => new MutationObserver((_, observer) => {
            if (document.querySelector(".body")?.textContent && !stop.hidden) { stop.click(); observer.disconnect(); }
        }).observe(turns, {childList: true, subtree: true})""".replace("stop.", "document.getElementById('stop').")
        )
        ask(page, "Where is the fox?")
        expect(page.locator(".stats .end")).to_have_text("stopped")
        hurry.set()
        ask_and_wait(page, "And now?")
        assert alpha.thread.num_open == 0

    def test_two_models_and_a_base_model(self, visitor, real, shared_page):
        page = visitor.open(real.url, shared_page)
        page.keyboard.press("Control+k")
        button(page, "Compare").click()
        ask_and_wait(page, "Where is the fox?")
        expect(page.locator(".by")).to_have_text(["lab/alpha", "lab/beta"])
        assert len({*page.locator(".body").all_text_contents()}) == 2
        button(page, "Compare").click()
        page.keyboard.press("Control+k")
        page.get_by_label("Model", exact=True).select_option("lab/base")
        page.get_by_label("A text to continue").fill("The fox")
        button(page, "Continue").click()
        expect(page.locator(".stats .end")).to_have_count(1)
        text = page.locator(".body").text_content()
        assert text.startswith("The fox")
        assert len(text) > len("The fox")

    def test_a_conversation_that_grows_too_long(self, visitor, real, shared_page):
        page = visitor.open(real.url, shared_page)
        page.keyboard.press("Control+k")
        page.get_by_label("Model", exact=True).select_option("lab/alpha")
        for _ in range(4):
            ask(page, "Where is the fox, and why is it there at this time of the day?")
            expect(button(page, "Stop")).to_be_hidden()
            if page.locator(".problem:visible").count():
                break
            expect(page.get_by_role("status")).not_to_be_empty()  # else it says the next news in the same breath
        spoken(page, "The conversation no longer fits into the model's context.")
        page.get_by_role("button", name="Leave out the oldest").click()
        expect(page.locator(".stats").last).to_contain_text("tokens")
        expect(page.locator(".mark")).to_be_visible()

    def test_a_server_with_a_key(self, visitor, folders):
        from tests.servers import KEY, load, serving

        from lumi.serving.keys import Keys

        with serving(load(folders[0]), keys=Keys([KEY])) as server:
            page = visitor.open(server.url)
            page.locator("#key-field").fill(KEY)
            page.keyboard.press("Enter")
            ask_and_wait(page, "Where is the fox?")
            expect(page.locator(".stats .end")).to_have_count(1)

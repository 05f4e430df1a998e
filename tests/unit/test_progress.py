"""What a person sees: one summary line, rate and time left, nothing claimed that was not finished."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from lumi import progress as module
from lumi.progress import progress, say


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def shown(monkeypatch):
    """What is printed where there is no terminal."""
    out = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=out, highlight=False, soft_wrap=True))
    return out


def test_a_finished_step_ends_with_one_line_with_amount_time_and_rate(clock, shown):
    with progress("packing", total=30e6, unit="MB", scale=1e6) as bar:
        clock.seconds += 2
        bar.advance(30e6)
    assert shown.getvalue() == "packing: 30 MB in 2.0 s (15.0 MB/s)\n"


def test_plain_lines_come_seldom_and_tell_share_rate_note_and_time_left(clock, shown):
    with progress("training", total=100, unit="steps") as bar:
        for step in range(20):
            clock.seconds += 1
            bar.advance(1, note=f"loss {step}")
        lines = shown.getvalue().splitlines()
        clock.seconds += 1
        bar.advance(80)
    assert lines == [
        "training: 10% 1.0 steps/s loss 9, 90 s left",
        "training: 20% 1.0 steps/s loss 19, 80 s left",
    ]


def test_without_a_total_the_amount_is_shown_and_no_time_left(clock, shown):
    with progress("reading", unit="MB", scale=1e6) as bar:
        clock.seconds += 11
        bar.advance(22e6)
        assert shown.getvalue() == "reading: 22.0 MB 2.0 MB/s\n"
        bar.expect(44e6)
        clock.seconds += 11
        bar.advance(11e6)
    assert "reading: 75% 1.5 MB/s, 7 s left\n" in shown.getvalue()


def test_what_an_earlier_run_did_does_not_count_into_the_rate(clock, shown):
    with progress("packing", total=100, unit="files", start=90) as bar:
        clock.seconds += 10
        bar.advance(10)
        assert bar.rate == 1.0
    assert "packing: 100% 1.0 files/s, 0 s left" in shown.getvalue()


def test_an_interrupted_step_claims_nothing(clock, shown):
    with pytest.raises(KeyboardInterrupt):
        with progress("packing", total=3, unit="files") as bar:
            bar.advance()
            raise KeyboardInterrupt
    assert shown.getvalue() == ""


def test_no_time_passed(clock, shown):
    with progress("packing", total=0, unit="files"):
        pass
    assert shown.getvalue().startswith("packing: 0 files in 0.0 s")


def test_in_a_terminal_a_bar_is_drawn_and_removed(monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120, highlight=False, soft_wrap=True)
    monkeypatch.setattr(module, "console", lambda: terminal)
    with progress("training", total=4, unit="steps") as bar:
        bar.advance(4, note="loss 2.5")
    text = out.getvalue()
    assert "100%" in text
    assert "loss 2.5" in text
    assert text.endswith(" steps/s loss 2.5)\n")
    assert "\x1b[?25h" in text  # the cursor is back


def test_say_prints_text_as_it_is_to_standard_error(capsys):
    say("kept [bold]data/corpus[/bold] [1/2]")
    captured = capsys.readouterr()
    assert captured.err == "kept [bold]data/corpus[/bold] [1/2]\n"
    assert captured.out == ""

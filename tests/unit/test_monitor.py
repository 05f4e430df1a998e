"""The monitor reads what a run writes, and says what it sees."""

import io
import json
import threading
import time

import pytest
from rich.console import Console

from lumi.errors import DataError
from lumi.monitor import MonitorConfig, Tail, View, dashboard, duration, monitor, seconds_left, silence, sparkline


def line(step, loss, **more):
    return {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": 0.5, "tokens": step * 100,
            "tokens_per_second": 1000.0, "utilisation": 0.25, "memory_bytes": 2**30, "temperature": 61, "seconds": 2.0,
            "bad_steps": 1, "mix": {"wiki": 3 * step, "books": step}, "epochs": {"wiki": 0.5, "books": 1.25},
            **more}  # fmt: skip


def status(**more):
    return {"state": "training", "name": "tiny", "step": 30, "first_step": 0, "last_step": 100, "world_size": 2,
            "device": "CPU", "host": "here", "pid": 1, "time": 1000.0, "started": 900.0, **more}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    records = [line(10 * n, 6.0 - n) for n in range(1, 4)]
    records += [
        {"step": 30, "val_loss": {"wiki": 3.25}},
        {"step": 30, "samples": [{"prompt": "The", "text": " sea\n"}]},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "status.json").write_text(json.dumps(status()))
    return tmp_path


def picture(folder, width, now=1000.0):
    view = View(folder)
    view.look()
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(dashboard(view, now))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 100, 180])
def test_the_dashboard_shows_it_all_at_any_width(run, width):
    shown = picture(run, width)
    for part in ("tiny", "training", "step 30 of 100", "14 s left", "loss 3.0000", "1,000", "25.0%", "1.00 GiB", "61",
                 "75.0%", "1.25 epochs", "loss", "wiki 3.2500 (best 3.2500)", "The sea", "bad steps 1"):  # fmt: skip
        assert part in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "no sign of life" not in shown


def test_a_run_of_preferences_shows_what_it_tells_apart(run):
    with (run / "metrics.jsonl").open("a") as file:
        for step, accuracy, kl in ((40, 0.75, 0.5), (50, 0.625, 0.25)):
            file.write(json.dumps(line(step, 0.6, reward_margin=0.125, preference_accuracy=0.875)) + "\n")
            file.write(
                json.dumps({"step": step, "val_preference_accuracy": {"hh": accuracy}, "val_kl": {"hh": kl}}) + "\n"
            )
    shown = picture(run, 100)
    for part in ("hh 62.5% (best 75.0%)", "hh 0.250", "reward margin 0.125", "told apart 87.5%"):
        assert part in shown
    assert "hh 0.250 (best" not in shown


def test_a_run_that_fell_silent(run):
    assert "no sign of life for 3 min" in picture(run, 80, now=1000.0 + 180)
    assert silence(status(state="finished"), [], 1e9) is None
    assert silence(status(), [line(1, 1.0, seconds=100.0)], 1400.0) is None, "its lines are rare"


def test_a_run_without_status_or_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert "no loss yet" in picture(tmp_path, 80)


def test_a_tail_reads_what_was_appended_and_begins_anew_when_the_file_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    tail = Tail(path)
    assert tail.read() == (True, [{"step": 1}, {"step": 2}])
    with path.open("a") as file:
        file.write('ep": 3}\n')
    assert tail.read() == (False, [{"step": 3}])
    assert tail.read() == (False, [])
    path.write_text('{"step": 1}\n')
    assert tail.read() == (True, [{"step": 1}])
    path.unlink()
    assert tail.read() == (False, [])


def test_small_things():
    assert sparkline([3, 2, 1], 10) == "\u2588\u2585\u2581"
    assert len(sparkline(range(1000), 50)) == 50
    assert sparkline([2, 2], 5) == "\u2581\u2581"
    assert sparkline([], 5) == ""
    assert [duration(s) for s in (5, 600, 7200, 86400 * 3)] == ["5 s", "10 min", "2.0 h", "3.0 days"]
    assert seconds_left([line(10, 1.0), line(20, 1.0)], 100) == pytest.approx(16)
    assert seconds_left([line(10, 1.0)], 100) is None


def test_piped_it_prints_a_line_each_and_ends_with_the_run(run, capsys):
    def go_on():
        time.sleep(0.2)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line(40, None, spike=True)) + "\n")
        (run / "status.json").write_text(json.dumps(status(state="finished")))

    thread = threading.Thread(target=go_on)
    thread.start()
    monitor(MonitorConfig(run_dir=run, interval=0.05))
    thread.join()
    out, err = capsys.readouterr()
    assert [text.split(":")[0] for text in out.splitlines()] == [
        "step 10/100",
        "step 20/100",
        "step 30/100",
        "step 40/100",
    ]
    assert out.splitlines()[-1].endswith("SPIKE")
    assert "not finite" in out.splitlines()[-1]
    assert "finished" in err


def test_where_there_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no run under checkpoints"):
        monitor(MonitorConfig())
    with pytest.raises(DataError, match="no run in"):
        monitor(MonitorConfig(run_dir=tmp_path))

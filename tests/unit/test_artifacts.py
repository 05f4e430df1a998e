"""Workspaces and manifests: interruption, completion, refusal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lumi import artifacts
from lumi.artifacts import Workspace, package_versions, verify
from lumi.config import Config
from lumi.errors import ConfigError, IntegrityError


class Settings(Config):
    """A stage's config."""

    size: int = 3


def build(output_dir, config=None, *, fresh=False, stop_after=None, written=None):
    with Workspace(output_dir, "thing", config or Settings(), (), fresh=fresh) as work:
        if (done := work.finished()) is not None:
            return done
        work.open()
        for number in range((config or Settings()).size):
            name = f"part_{number}.txt"
            if work.recorded(name) is None:
                (work.path / name).write_text(f"part {number}\n")
                work.record(name, rows=1)
                if written is not None:
                    written.append(number)
            if stop_after == number:
                raise KeyboardInterrupt
        return work.publish(counts={"parts": 3}, versions=package_versions())


def test_an_interrupted_stage_continues_from_its_finished_parts(tmp_path):
    written = []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a", stop_after=1, written=written)
    assert not (tmp_path / "a").exists()
    build(tmp_path / "a", written=written)
    assert written == [0, 1, 2]
    build(tmp_path / "b")
    names = ["manifest.json", *(f"part_{n}.txt" for n in range(3))]
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_part_cut_off_after_its_record_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a", stop_after=1)
    (partial,) = tmp_path.glob("a.partial-*")
    (partial / "part_1.txt").write_text("par")
    written = []
    build(tmp_path / "a", written=written)
    assert written == [1, 2]


def test_finished_output_is_found_and_other_settings_are_refused(tmp_path):
    first = build(tmp_path / "a")
    assert build(tmp_path / "a") == first
    with pytest.raises(IntegrityError, match=r"other settings \(different: size\)"):
        build(tmp_path / "a", Settings(size=2))
    build(tmp_path / "a", Settings(size=2), fresh=True)
    assert sorted(p.name for p in (tmp_path / "a").glob("part_*")) == ["part_0.txt", "part_1.txt"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").write_text("mine")
    with pytest.raises(IntegrityError, match="incomplete"):
        build(tmp_path / "a")
    assert (tmp_path / "a" / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["part_1.txt", "manifest.json"])
def test_every_flipped_byte_is_named(tmp_path, name):
    build(tmp_path / "a")
    path = tmp_path / "a" / name
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(IntegrityError, match=name):
            verify(tmp_path / "a", "thing", "build it again")
    path.write_bytes(good)
    verify(tmp_path / "a", "thing", "build it again")


def test_missing_and_cut_files(tmp_path):
    build(tmp_path / "a")
    (tmp_path / "a" / "part_2.txt").write_text("par")
    with pytest.raises(IntegrityError, match="has 3 bytes"):
        verify(tmp_path / "a", "thing", "build it again")
    (tmp_path / "a" / "part_2.txt").unlink()
    with pytest.raises(IntegrityError, match=r"part_2.txt is missing"):
        verify(tmp_path / "a", "thing", "build it again")
    with pytest.raises(IntegrityError, match="holds a thing, a corpus is needed"):
        verify(tmp_path / "a", "corpus", "build it again")


def test_the_old_artifact_survives_a_crash_while_it_is_replaced(tmp_path, monkeypatch):
    build(tmp_path / "a")
    real = artifacts.Path.rename

    def dies(self, target):
        if "partial" in self.name:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(artifacts.Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a", Settings(size=2), fresh=True)
    monkeypatch.undo()
    kept = tmp_path / "a" if (tmp_path / "a").exists() else tmp_path / "a.replaced"
    assert len(verify(kept, "thing", "build it again").outputs) == 3


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    with Workspace(tmp_path / "a", "thing", Settings(), ()) as work:
        work.open()
        code = (
            "import sys; from pathlib import Path; from tests.unit.test_artifacts import Settings\n"
            "from lumi.artifacts import Workspace; from lumi.errors import ConfigError, IntegrityError\n"
            "try: Workspace(Path(sys.argv[1]), 'thing', Settings(), ()).open()\n"
            "except IntegrityError as error: print(error)"
        )
        output = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, check=True
        )
    assert "another process is working" in output.stdout


def test_times_stand_outside_the_manifest(tmp_path):
    build(tmp_path / "a")
    info = json.loads((tmp_path / "a" / "run_info.json").read_text())
    assert info["finished"]
    assert "finished" not in (tmp_path / "a" / "manifest.json").read_text()


def test_a_recorded_part_with_other_bytes_is_made_again(tmp_path):
    """What a power cut leaves: the right size, and nothing in it."""
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", stop_after=1)
    (partial,) = tmp_path.glob("out.partial-*")
    (partial / "part_0.txt").write_bytes(b"\0" * len("part 0\n"))
    written = []
    build(tmp_path / "out", written=written)
    assert written == [0, 2]
    verify(tmp_path / "out", "thing", "")


def test_output_folders_that_cannot_be_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(IntegrityError, match="is a file"):
        build(tmp_path / "file")
    with pytest.raises(ConfigError, match="has no name"):
        build(Path("/"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(KeyboardInterrupt):
        build(Path(), stop_after=0)
    assert list(tmp_path.glob("here.partial-*"))

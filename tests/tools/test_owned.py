"""What a run may remove and write over: what it wrote itself."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import policy as policies
from dualadv_grpo import AdamW
from skillbank import SkillBank
from tests.real import ROOT
from tests.runs import SMALL, ends
from tools import owned, runs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def save(random_tiny):
    """save(run directory, step): a checkpoint, with flags that hold nothing but the directory."""
    policy = policies.load(random_tiny)
    optimizer = AdamW(policy.model.parameters(), 1e-4)

    def write(out, step):
        out.mkdir(exist_ok=True)
        runs.save(SimpleNamespace(out=str(out)), step, policy, optimizer, SkillBank())

    return write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_person_keeps_beside_the_checkpoints_stays(save, tmp_path):
    """Bug: every directory in checkpoints/ but the newest is removed at each save: copies, other runs' checkpoints."""
    out, other = tmp_path / "run", tmp_path / "other"
    kept = out / "checkpoints"
    save(out, 1)
    save(other, 3)
    for name in ("best", "step_00001_best", "step_1", ".hidden"):
        shutil.copytree(kept / "step_00001", kept / name)
    shutil.copytree(other / "checkpoints" / "step_00003", kept / "step_00003")  # another run's, under a name of ours
    shutil.copytree(kept / "step_00001", kept / "step_00000")  # a copy of ours
    (kept / "notes.md").write_text("mine")
    (kept / "step_00002").symlink_to(other)
    save(out, 4)
    save(out, 5)
    stay = {"best", "step_00001_best", "step_1", ".hidden", "step_00000", "step_00002", "step_00003", "notes.md"}
    assert set(names(kept)) == stay | {"step_00005"} and (other / "latest").is_file()
    assert (kept / "best" / "trainer.pt").is_file() and (kept / "step_00003" / "trainer.pt").is_file()


def test_a_checkpoint_that_a_person_put_back_stays(save, tmp_path):
    """Bug: a run's name and its word are enough, and the copy from a backup is removed at the next save."""
    out = tmp_path / "run"
    kept = out / "checkpoints"
    save(out, 1)
    shutil.copytree(kept / "step_00001", tmp_path / "backup")
    save(out, 2)
    shutil.copytree(tmp_path / "backup", kept / "step_00001")
    shutil.move(kept / "step_00002", kept / "mine")
    (kept / "step_00002").mkdir()
    (kept / "step_00002" / "model.safetensors").write_text("put in its place")
    save(out, 3)
    assert names(kept) == ["mine", "step_00001", "step_00002", "step_00003"]


def test_a_file_that_a_person_put_into_a_checkpoint_stays(save, tmp_path, capsys):
    """Bug: the notes on a checkpoint are removed with it."""
    out = tmp_path / "run"
    save(out, 1)
    (out / "checkpoints" / "step_00001" / "notes.md").write_text("mine")
    save(out, 2)
    assert names(out / "checkpoints" / "step_00001") == ["notes.md"]
    assert "notes.md is not of this run and stays" in capsys.readouterr().out
    save(out, 3)
    assert names(out / "checkpoints") == ["step_00001", "step_00003"]


def test_checkpoints_of_another_disk(save, tmp_path, monkeypatch):
    """Bugs: `Invalid cross-device link` at the first save where checkpoints/ links to another disk; and what else lies
    on that disk is removed."""
    disk, rename = tmp_path / "disk", os.rename

    def on_one_disk(source, target):
        here, there = (os.path.realpath(os.path.dirname(path)) for path in (source, target))
        if here != there:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", on_one_disk)
    for folder in ("thesis", "step_00001"):
        (disk / folder).mkdir(parents=True)
        (disk / folder / "x").write_text("years of work")
    out = tmp_path / "run"
    out.mkdir()
    (out / "checkpoints").symlink_to(disk)
    save(out, 2)
    save(out, 3)
    assert names(disk) == ["step_00001", "step_00003", "thesis"] and (disk / "step_00001" / "x").is_file()
    with pytest.raises(OSError, match="step_00001 is there, and this run did not write it"):
        save(out, 1)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
def test_checkpoints_and_reference_on_a_real_other_disk(run, tmp_path):
    """The same with a whole run, and with reference/ linked, too."""
    disk = Path("/dev/shm") / f"disk_{os.getpid()}"
    try:
        for folder in ("checkpoints", "reference"):
            (disk / folder).mkdir(parents=True)
            (tmp_path / "run").mkdir(exist_ok=True)
            (tmp_path / "run" / folder).symlink_to(disk / folder)
        run(tmp_path / "run")
        run(tmp_path / "run", "--steps", "2", "--resume")
        assert names(disk / "checkpoints") == ["step_00002"] and (disk / "reference" / "config.json").is_file()
        assert (tmp_path / "run" / "reference").is_symlink()
    finally:
        shutil.rmtree(disk)


def test_two_runs_with_one_folder_of_checkpoints(save, tmp_path):
    """Bug: a run and its copy, whose checkpoints/ link to the same folder, remove each other's checkpoints."""
    first, copy, disk = tmp_path / "run", tmp_path / "copy", tmp_path / "disk"
    first.mkdir()
    disk.mkdir()
    (first / "checkpoints").symlink_to(disk)
    save(first, 1)
    shutil.copytree(first, copy, symlinks=True)
    save(copy, 2)
    assert names(disk) == ["step_00001", "step_00002"], "latest of the first run still names step_00001"
    save(copy, 4)
    with pytest.raises(OSError, match="step_00004 is there"):
        save(first, 4)
    save(first, 5)
    assert names(disk) == ["step_00004", "step_00005"]
    whole = Path(shutil.copytree(first, tmp_path / "moved"))  # a copy with a folder of its own
    save(whole, 6)
    assert names(whole / "checkpoints") == ["step_00004", "step_00006"]


def test_a_kill_anywhere_in_a_save_leaves_the_run_and_no_litter(save, tmp_path, monkeypatch):
    """Bug: with a record of what is ours, a kill between record and rename makes a checkpoint nobody's, for ever."""
    out, deaths = tmp_path / "run", 0
    save(out, 1)

    def dies(step, allowed):
        done = []

        def mortal(work):
            def one(*args, **kwargs):
                done.append(work)
                if len(done) > allowed:
                    raise KeyboardInterrupt
                return work(*args, **kwargs)
            return one

        with monkeypatch.context() as patch:
            for owner, name in [(os, "rename"), (os, "replace"), (shutil, "rmtree"), (Path, "unlink"), (Path, "rmdir"),
                                (Path, "mkdir"), (Path, "write_text")]:
                patch.setattr(owner, name, mortal(getattr(owner, name)))
            try:
                save(out, step)
            except KeyboardInterrupt:
                return True
        return False

    for step in range(2, 60):
        if not dies(step, step - 2):
            break
        deaths += 1
        assert (out / "checkpoints" / (out / "latest").read_text().strip() / "trainer.pt").is_file()
        owned.refuse_taken(out, owned.number((out / "latest").read_text().strip()) + 1)
        save(out, step)
        assert names(out / "checkpoints") == [f"step_{step:05d}"]
    assert deaths > 15


def test_a_run_from_before_there_was_a_record_goes_on(save, tmp_path):
    """Bug: its one checkpoint is nobody's, stays for ever, and is in the way of a save."""
    out = tmp_path / "run"
    save(out, 1)
    for file in (out / owned.RECORD, out / "checkpoints" / "step_00001" / owned.MARK):
        file.unlink()
    (out / "checkpoints" / "step_00000").mkdir()
    save(out, 2)
    assert names(out / "checkpoints") == ["step_00000", "step_00002"]


def fill(out, *files):
    for file in files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_text('{"hidden_size": 32}' if file.endswith(".json") else "mine")


@pytest.mark.parametrize("files, named", [
    (["main.py", "checkpoints/resnet50/model.pt"], "checkpoints/resnet50"), (["thesis.tex"], "thesis.tex"),
    (["config.json", "model.safetensors"], "config.json"), (["reference/smith2019.pdf"], "reference/smith2019.pdf"),
    (["samples/drum.wav"], "samples/drum.wav"), (["skills.json"], "skills.json"), ([".git/HEAD"], ".git"),
    (["checkpoints/step_00005/x"], "checkpoints/step_00005"), (["notes.txt"], "notes.txt"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_the_folder_of_something_else_is_no_run(files, named, run, tmp_path, monkeypatch):
    """Bug: --out with the folder of another project: its config.json, skills.json and checkpoints/ are written over."""
    out = tmp_path / "project"
    fill(out, *files)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    line, _ = ends(run, out)
    assert f"holds something else than a run: {named}" in line and "\n" not in line
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    line, _ = ends(run, out, "--resume")
    assert "holds no run" in line and "\n" not in line


@pytest.mark.parametrize("files", [[], ["train.log", "log.txt", "nohup.out", ".DS_Store", "lost+found/x"]],
                         ids=["empty", "logs"])
def test_an_empty_directory_or_one_with_logs_is_fine(files, run, tmp_path):
    """Bug: `mkdir RUN; train.py --out RUN > RUN/train.log` is refused because the shell made the log first."""
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run", *files)
    run(tmp_path / "run", "--steps", "0")
    assert (tmp_path / "run" / "latest").is_file() and all((tmp_path / "run" / file).is_file() for file in files)


def test_logs_of_an_earlier_run_are_set_aside(run, begun, capsys):
    """Bug: who deletes a run's large checkpoints keeps its logs, and a new run in the same place writes over them."""
    (begun / "latest").unlink()
    for folder in ("checkpoints", "reference"):
        shutil.rmtree(begun / folder)
    line, _ = ends(run, begun)
    assert "holds a run" in line, "the bank is still there"
    for file in ("skills.json", owned.RECORD):
        (begun / file).unlink()
    (begun / "edits.jsonl").write_text('{"step": 1}\n')
    old = {name: (begun / name).read_bytes() for name in (*runs.LOGS, "config.json")}
    run(begun, "--steps", "0", "--seed", "7")
    assert {name: (begun / f"{name}.1").read_bytes() for name in old} == old and (begun / "samples.1").is_dir()
    assert json.loads((begun / "config.json").read_text())["seed"] == 7 and "is metrics.jsonl.1 now" in \
        capsys.readouterr().out


def test_a_link_to_nowhere_is_named_before_anything_is_computed(run, tmp_path, monkeypatch):
    """Bug: the disk of checkpoints/ is not mounted: `File exists` after the cold start."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "unmounted")
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    line, _ = ends(run, tmp_path / "run")
    assert "is a link to" in line and "unmounted, which is not there" in line and "\n" not in line


def test_a_name_that_is_taken_is_said_before_the_run_goes_on(run, begun, monkeypatch):
    """Bug: found at the next save, after the iterations; or somebody's step_00002 is written over."""
    (begun / "checkpoints" / "step_00002").mkdir()
    (begun / "checkpoints" / "step_00002" / "x").write_text("mine")
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    line, _ = ends(run, begun, "--resume", "--steps", "2")
    assert "step_00002: this run did not write it" in line and "\n" not in line
    assert (begun / "checkpoints" / "step_00002" / "x").read_text() == "mine"


@pytest.mark.slow
def test_two_runs_that_begin_at_once(tmp_path, random_tiny):
    """Bug: the loser has already written its config.json over the winner's, and the winner cannot be resumed."""
    for delay in (0, 0.5, 1):
        out = tmp_path / f"run_{time.time_ns()}"
        command = [sys.executable, "train.py", *SMALL, "--model", random_tiny, "--out", str(out), "--seed"]
        both = []
        for seed in ("1", "2"):
            both.append(subprocess.Popen([*command, seed], cwd=ROOT, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.PIPE, text=True))
            time.sleep(delay)
        said = [process.communicate()[1] for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 1], said
        loser = said[codes.index(1)]
        assert loser.count("\n") == 1 and ("another process" in loser or "holds a run" in loser), loser
        assert json.loads((out / "config.json").read_text())["seed"] == 1 + codes.index(0)

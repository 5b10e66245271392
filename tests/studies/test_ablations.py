"""The comparison: every variant's flags exist, finished runs are not made again, the table is what the runs logged."""

import functools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import envs
import eval as evaluation
import train
from skillbank import SkillBank
from tools import ablations, report
from worlds.webshop import catalogue


@functools.cache
def opened(name, *options):
    return envs.make(name, "train", **dict(options))


def arguments(out, **more):
    return SimpleNamespace(**{"out": out, "quick": False, "only": "", "seeds": 1, "steps": None, "model": "tiny",
                              "flags": "", "jobs": 2, **more})


@pytest.mark.parametrize("part", ablations.PARTS)
def test_every_run_is_a_command_that_train_or_eval_takes(part, tmp_path, monkeypatch):
    """Bug: a flag is renamed, and one line of the table is missing after ten hours."""
    if part == "real_shop":
        monkeypatch.setenv("WEBSHOP_DATA", str(catalogue.make(tmp_path)))
    for name, _, made in ablations.PARTS[part](arguments(tmp_path, flags="--lr 0.5")):
        for one in made:
            program, *argv = one.argv()
            if program == "train.py":
                flags = train.read_flags(argv)
                assert flags.steps == one.steps and flags.lr == (0.5 if one.steps else 1e-6) and not flags.resume, name
                assert (flags.cold_start > 0) == (one.steps == 0), "only checkpoints of other habits are cold-started"
                opened(flags.env, *flags.options.items())
            else:
                one.run.mkdir(exist_ok=True)
                (one.run / "latest").write_text("step_00005\n")
                with pytest.raises(SystemExit, match="checkpoint"):  # it came as far as looking for the weights
                    evaluation.read_flags(argv)


def test_the_real_shop_without_its_data_is_one_line(tmp_path, monkeypatch):
    """Bug: the figures of the real shop are made in the made-up one."""
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(SystemExit, match="WEBSHOP_DATA"):
        ablations.elsewhere(arguments(tmp_path), "real_shop")


def test_the_made_up_shops_runs_do_not_play_the_real_one(tmp_path, monkeypatch):
    """Bug: with the real products' directory set for one part, the runs of all parts play the real shop."""
    seen = []
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path))
    monkeypatch.setattr(ablations.subprocess, "Popen", lambda argv, env, **more: seen.append(env) or SimpleNamespace(
        poll=lambda: 1, returncode=1))
    monkeypatch.setattr(ablations.time, "sleep", lambda seconds: None)
    ablations.make(arguments(tmp_path), [("a", 0, [ablations.Train(tmp_path / "a", 1, [])])])
    assert len(seen) == 1 and "WEBSHOP_DATA" not in seen[0]
    (_, _, (run,)), *_ = ablations.elsewhere(arguments(tmp_path), "real_shop")
    assert run.argv()[-2:] == ["--data", str(tmp_path)]


def test_a_run_that_was_begun_is_resumed_and_a_finished_one_is_left_alone(tmp_path):
    """Bug: a second call makes ten hours of runs anew, or a stage of ten iterations ends after five."""
    one = ablations.Train(tmp_path, 10, [])
    assert not one.done() and "--resume" not in one.argv()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "latest").write_text("step_00005\n")
    assert not one.done() and "--resume" in one.argv()
    (tmp_path / "latest").write_text("step_00010\n")
    assert one.done()


def test_the_hand_written_bank_holds_every_useful_skill(tmp_path):
    """Bug: the frozen bank lacks a family, and looks useless."""
    ablations.hand_written().save(tmp_path / "bank.json")
    bank = SkillBank.load(tmp_path / "bank.json")
    assert len(bank.task_specific_skills) == 7 and len(bank.skills()) == 28


def test_other_checkpoints_get_the_flags_of_tiny():
    """Bug: the runs of one figure have the defaults of a model of 1.5B, or steps that nobody asked for."""
    flags = train.read_flags(["--model", "some/checkpoint", "--steps", "7", *ablations.preset()])
    tiny = train.read_flags(["--model", "tiny", "--steps", "7"])
    assert {**vars(flags), "model": "", "out": ""} == {**vars(tiny), "model": "", "out": ""}
    assert tiny.utility == "graded" and train.read_flags(["--model", "tiny", "--env", "alfworld"]).utility == "success"
    assert train.read_flags(["--model", "tiny", "--data", "real"]).utility == "both"


def log(run, success, tokens=100):
    """A finished run of 10 iterations with an evaluation every 5."""
    run.mkdir(parents=True)
    rows = [{"step": step, "sampled": tokens * bool(step), **dict.fromkeys(report.SECONDS, 0.5),
             **({"eval_success": success[step // 5]} if step % 5 == 0 else {})} for step in range(11)]
    report.append(run / "metrics.jsonl", rows)
    (run / "latest").write_text("step_00010\n")


def call(monkeypatch, out, *argv):
    monkeypatch.setattr(ablations, "KNOWN", {})
    monkeypatch.setattr(ablations, "make", lambda *rest: pytest.fail("nothing was to be made"))
    monkeypatch.setattr(sys, "argv", ["ablations", "--jobs", "0", "--out", str(out), *argv])
    ablations.main()
    return json.loads((out / "ablations.json").read_text())


def test_the_table_counts_all_tokens_and_seconds(tmp_path, monkeypatch, capsys):
    """Bug: the evaluation's tokens are counted, the confirmation's are not; variants are compared at equal steps."""
    first, second = list(ablations.VARIANTS)[0], list(ablations.VARIANTS)[2]
    log(ablations.directory(tmp_path, first, 0), [0.0, 0.25, 0.75])
    log(ablations.directory(tmp_path, first, 1), [0.0, 0.5, 0.7])
    log(ablations.directory(tmp_path, second, 0), [0.0, 0.1, 0.3], tokens=80)
    rows = {row["variant"]: row for row in call(monkeypatch, tmp_path, "--steps", "10")["variants"]}
    assert rows[first]["tokens to .5"] == [750, 500] and rows[first]["seconds to .5"] == [15, 10]
    assert rows[first]["success"]["10"] == "0.725 +- 0.025" and rows[first]["tokens"] == 1000
    assert rows[second]["tokens to .5"] == [None] and f"{second} (1 seeds)" in capsys.readouterr().out
    # The first variant reaches .5 after 625 tokens on average: the other is then at 7.8 iterations, not at 6.25.
    same = rows[second]["at equal tokens"]
    assert float(same["625"].split()[0]) == pytest.approx(0.1 + 0.2 * (625 - 400) / 400, abs=1e-3)
    assert same["800"].startswith("0.300") and set(same) == {"625", "800"}, "and where the shortest run ends"


def test_rarity_counts_a_run_for_its_own_base_only(tmp_path, monkeypatch):
    """Bug: the runs from base 0.1 are those whose name begins like 0.05's, or the cold start is taken for a run."""
    for base, success in ((0.05, [0.0, 0.6, 0.8]), (0.5, [0.2, 0.7, 0.9])):
        log(ablations.directory(tmp_path, f"SkillMaster base {base}", 0), success)
        log(tmp_path / f"base_{base}", [0.9, 0.9, 0.9])
    rows = {(row["base"], row["rival"]): row for row in call(monkeypatch, tmp_path, "--parts", "rarity")["rarity"]}
    assert set(rows) == {(0.05, "SkillMaster"), (0.5, "SkillMaster")}
    assert rows[0.05, "SkillMaster"]["tokens to .7"] == [750] and rows[0.5, "SkillMaster"]["tokens to .7"] == [500]
    assert rows[0.5, "SkillMaster"]["before"] == 0.2 and rows[0.5, "SkillMaster"]["last"].startswith("0.900")


def test_a_rival_paid_by_the_graded_score_is_not_taken_for_the_other(tmp_path, monkeypatch):
    """Bug: the names of the runs begin alike, so one rival's mean holds the other's runs."""
    for rival, last in (("plain GRPO", 0.2), ("plain GRPO, graded reward", 0.8)):
        log(ablations.directory(tmp_path, f"{rival} base 0.1", 0), [0.0, 0.1, last])
    made = call(monkeypatch, tmp_path, "--parts", "rarity", "--steps", "10")["rarity"]
    rows = {row["rival"]: row["successes"] for row in made}
    assert rows == {"plain GRPO": [0.2], "plain GRPO, graded reward": [0.8]}


def test_known_runs_are_not_made_again_and_give_the_same_tables(tmp_path, monkeypatch):
    """Bug: a table from the points of earlier runs differs from theirs, or needs their checkpoints again."""
    made = tmp_path / "made"
    log(ablations.directory(made, list(ablations.VARIANTS)[0], 0), [0.0, 0.25, 0.75])
    log(ablations.directory(made, "SkillMaster base 0.1", 0), [0.0, 0.6, 0.8])
    test = ablations.directory(made, "transfer", 0) / "test.json"
    test.parent.mkdir()
    episodes = [{"family": family, "won": family == "other"} for family in ("footwear", "other", "other")]
    test.write_text(json.dumps({"protocols": {"none": {"episodes": episodes}, "frozen": {"episodes": episodes}}}))
    parts = ("--parts", "variants,rarity,claims", "--seeds", "1", "--steps", "10")
    measured = call(monkeypatch, made, *parts)
    assert measured["claims"] and measured["rarity"] and measured["variants"]
    again = call(monkeypatch, tmp_path / "again", "--known", str(made / "runs.json"), *parts)
    assert again == measured and (tmp_path / "again/runs.json").read_text() == (made / "runs.json").read_text()
    jobs = {name: chain for name, _, chain in ablations.claims(arguments(tmp_path / "again"))}
    assert all(one.done() for one in jobs["transfer"]) and not all(one.done() for one in jobs["withdrawn"])
    ((_, _, (run,)), *_) = ablations.variants(arguments(tmp_path / "again", steps=20))
    assert not run.done(), "ten iterations are known, twenty are wanted"


def short(text):
    """A number as the READMEs write it."""
    return re.sub(r"\b0\.", ".", text).replace("+-", "±")


def thousands(values, unit=1000):
    """Mean cost of those that got there, as the READMEs write it."""
    there = [value for value in values if value is not None]
    some = f" ({len(there)} of {len(values)} seeds)" if len(there) < len(values) else ""
    return f"{sum(there) / len(there) / unit:.0f}{some}" if there else "not reached"


@pytest.mark.upstream
def test_the_readmes_first_table_is_what_its_points_give(tmp_path, monkeypatch):
    """Bug: a figure of the README is typed wrong, or its runs were made anew and the text was not."""
    known = ablations.ROOT / "worlds/webshop/tiny/runs.json"
    rows = call(monkeypatch, tmp_path, "--known", str(known))["variants"]
    readme = (ablations.ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if " ± " in line and "| " in line]
    assert [row["seeds"] for row in rows] == [5, 5, 5, 5, 3, 3]
    for row, line in zip(rows, lines):
        success = [short(row["success"].get(step, "-")) for step in ("5", "20", "40")]
        costs = [thousands(row["tokens to .5"]), thousands(row["seconds to .5"], 1)]
        cells = line.rstrip(" |").split(" | ")
        assert cells[1:7] == [str(row["seeds"]), *success, *costs], line
        for given, value in zip(cells[-1].split(", "), row["at equal tokens"].values()):
            assert [float(x) for x in given.split(" ± ")] == pytest.approx(
                [float(x) for x in value.split(" +- ")], abs=0.0051), line


@pytest.mark.upstream
def test_the_table_of_when_a_bank_pays_is_what_its_points_give(tmp_path, monkeypatch):
    """Bug: as above, in the shop's README: where SkillMaster and GRPO cross is told from other runs than the figure."""
    home = ablations.ROOT / "worlds/webshop/tiny"
    rows = call(monkeypatch, tmp_path, "--parts", "rarity", "--known", str(home / "runs.json"))["rarity"]
    readme = (home / "README.md").read_text()
    assert {row["base"] for row in rows} == set(ablations.RARITY)
    for base in ablations.RARITY:
        mine = [row for row in rows if row["base"] == base]
        assert [row["rival"] for row in mine] == list(ablations.RIVALS) and len({row["seeds"] for row in mine}) == 1
        cells = [f"{base}", str(mine[0]["seeds"]), f"{mine[0]['before']:.3f}"]
        for row in mine:
            cells += [row["last"], thousands(row["tokens to .7"])]
        (equal,) = mine[0]["at equal tokens"]
        same = [f"{base}", f"{int(equal) / 1000:.0f}", *(row["at equal tokens"][equal] for row in mine)]
        for some in cells, same:
            line = short(f"| {' | '.join(some)} |")
            assert line in readme, line


@pytest.mark.parametrize("content, words", [("[]", "no JSON object"), ("{}", "none of these runs"),
                                            ('{"a": [[1, 2, 3, 4]]}', "none of these runs"),
                                            ('{"a": [1]}', "a holds no points"), (None, "No such file")])
def test_a_wrong_file_of_known_runs_is_one_line(content, words, tmp_path, monkeypatch, capsys):
    """Bug: hours of runs are made anew because the file with them was misspelt."""
    if content:
        (tmp_path / "runs.json").write_text(content)
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path, "--known", str(tmp_path / "runs.json"))
    assert words in capsys.readouterr().err


def test_claims_tell_families_that_were_seen_from_others(tmp_path, monkeypatch):
    """Bug: transfer is measured on the families of the training, too."""
    run = ablations.directory(tmp_path, "transfer", 0)
    run.mkdir()
    episodes = [{"family": "footwear", "won": True}, {"family": "footwear", "won": True},
                {"family": "home_decor", "won": False}, {"family": "other", "won": True}]
    (run / "test.json").write_text(json.dumps({"protocols": {"none": {"episodes": episodes[:1]}}}))
    assert call(monkeypatch, tmp_path, "--parts", "claims")["claims"] == [], "an evaluation that was cut off"
    protocols = {"none": {"episodes": [{**e, "won": False} for e in episodes]}, "frozen": {"episodes": episodes}}
    (run / "test.json").write_text(json.dumps({"protocols": protocols}))
    rows = {row["games"]: row["success"] for row in call(monkeypatch, tmp_path, "--parts", "claims")["claims"]
            if row["protocol"] == "frozen"}
    assert rows == {"families seen": "1.000", "families not seen": "0.500"}


def test_what_is_missing_is_made_one_after_another(tmp_path, monkeypatch):
    """Bug: the run from a checkpoint begins before the checkpoint is there, or goes on after a failure."""
    begun, ended = [], []

    class Process:
        def __init__(self, command, cwd, env, stdout, stderr):
            self.run, self.returncode = Path(command[command.index("--out") + 1]), 0
            assert env["OMP_NUM_THREADS"] == "1" and not (set(begun) - set(ended) - {self.run.parent / "other"})
            begun.append(self.run)

        def poll(self):
            ended.append(self.run)
            self.run.mkdir(exist_ok=True)
            (self.run / "latest").write_text("step_00010\n")
            self.returncode = 1 if self.run.name == "fails" else 0
            return self.returncode

    monkeypatch.setattr(ablations.subprocess, "Popen", Process)
    monkeypatch.setattr(ablations.time, "sleep", lambda seconds: None)
    log(tmp_path / "finished", [0.0, 0.0, 0.0])
    chain = [ablations.Train(tmp_path / name, 10, []) for name in ("finished", "a", "fails", "never")]
    ablations.make(arguments(tmp_path, jobs=1), [("chain", 0, chain), ("none", 0, chain[:1])])
    assert [run.name for run in begun] == ["a", "fails"]


def test_training_families_are_an_option_of_the_shop():
    """Bug: held-out goals shrink with the training families, so that transfer cannot be measured."""
    whole, some = envs.make("webshop"), envs.make("webshop", families="footwear,other")
    assert {some.family(task) for task in some.train_tasks} == {"footwear", "other"}
    assert some.dev_tasks == whole.dev_tasks and envs.make("webshop", "test", families="other").tasks == envs.make(
        "webshop", "test").tasks
    with pytest.raises(ValueError, match="--families shoes: choose from accessories"):
        envs.make("webshop", families="footwear,shoes")

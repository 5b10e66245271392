"""The comparison: every listed command is one that its program takes, the tables are what the runs logged."""

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import envs
import eval as evaluation
import train
from forks import gigpo
from skillbank import SkillBank
from studies import ablations
from tests.real import ROOT
from tools import coldstart, report, targets
from worlds.webshop import catalogue
from worlds.webshop.shopper import WAYS


@functools.cache
def opened(name, *options):
    few = {"games": 2} if name == "alfworld" else {}  # a default that takes seconds to make
    return envs.make(name, "train", **{**dict(options), **few})


def call(monkeypatch, out, *argv):
    """The tables of what is finished in `out`."""
    monkeypatch.setattr(sys, "argv", ["ablations", "--out", str(out), *argv])
    ablations.main()
    return json.loads((out / "ablations.json").read_text())


def listed(monkeypatch, capsys, out, *argv):
    """The lines of --list."""
    monkeypatch.setattr(sys, "argv", ["ablations", "--list", "--out", str(out), *argv])
    capsys.readouterr()
    ablations.main()
    return capsys.readouterr().out.splitlines()


def words_of(line):
    """The programs and flags of a listed line."""
    pieces = [[word for word in shlex.split(piece) if not word.endswith("_DATA=")] for piece in line.split(" && ")]
    assert all(piece[0] == sys.executable and piece[-3] == ">>" and piece[-1] == "2>&1" for piece in pieces), line
    return [piece[1:-3] for piece in pieces]


@pytest.mark.parametrize("part", ablations.PARTS)
def test_every_command_is_one_that_its_program_takes(part, tmp_path, monkeypatch, capsys):
    """Bug: a flag is renamed, and one line of the table is missing after ten hours."""
    if part == "real_shop":
        monkeypatch.setenv("WEBSHOP_DATA", str(catalogue.make(tmp_path)))
    lines = listed(monkeypatch, capsys, tmp_path / "it's here", "--parts", part, "--flags", "--lr 0.5")
    seeds = sum(seeds for seeds, *_ in ablations.PARTS[part].values())
    assert len(lines) == (len(ablations.RARITY) if part == "rarity" else seeds)
    runs = 0
    for program, *argv in (words for line in lines for words in words_of(line)):
        if program == "train.py" or argv[0] == "forks.gigpo":
            flags = train.read_flags(argv) if program == "train.py" else train.read_flags(argv[1:], gigpo.Flags)
            assert flags.lr == 0.5 and flags.steps in (5, 10, 15, 20, 25, 40, 50, 150, 250) and not flags.resume
            assert flags.cold_start == 0 and flags.act_tokens == 96
            opened(flags.env, *flags.options.items())
            runs += 1
        elif program == "-m":
            assert argv[0] == "tools.coldstart"
            made = coldstart.read_flags(argv[1:])
            assert made.steps == 1200 and made.muon == 0.005 and made.prompt == 0 and made.batch == 2
            assert made.options["base"] in ablations.RARITY and made.context == 3072
            Path(made.out).mkdir(parents=True)  # as it will be when the runs begin: they have tiny's presets then
            (Path(made.out) / "config.json").write_text('{"world": "webshop"}')
        else:
            run = Path(argv[0])
            run.mkdir(parents=True, exist_ok=True)
            (run / "latest").write_text("step_00005\n")
            with pytest.raises(SystemExit, match="checkpoint"):  # it came as far as looking for the weights
                targets.evaluation(evaluation.PROTOCOLS, argv)
    assert runs == seeds


def test_the_real_shop_without_its_data_is_one_line(tmp_path, monkeypatch, capsys):
    """Bug: the figures of the real shop are made in the made-up one."""
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path, "--parts", "real_shop")
    assert "WEBSHOP_DATA" in capsys.readouterr().err


def test_the_made_up_worlds_runs_do_not_play_the_real_ones(tmp_path, monkeypatch, capsys):
    """Bug: with the real products' directory set for one part, the runs of all parts play the real shop."""
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path / "real"))
    made_up, real = listed(monkeypatch, capsys, tmp_path, "--only", "bank only", "--seeds", "1"), listed(
        monkeypatch, capsys, tmp_path, "--parts", "real_shop", "--seeds", "1")
    assert len(made_up) == 1 and made_up[0].startswith("WEBSHOP_DATA= ") and "real" not in made_up[0]
    assert all(f"--data {tmp_path / 'real'} " in line for line in real)


def test_a_run_that_was_begun_is_resumed_and_a_finished_one_is_left_alone(tmp_path, monkeypatch, capsys):
    """Bug: a second call makes ten hours of runs anew, or ten iterations are taken for twenty."""
    run, argv = tmp_path / "bank_only_0", ("--only", "bank only", "--seeds", "1")
    run.mkdir()
    assert "--resume" not in listed(monkeypatch, capsys, tmp_path, *argv)[0]
    (run / "config.json").write_text("{}")
    (run / "latest").write_text("step_00005\n")
    assert listed(monkeypatch, capsys, tmp_path, *argv)[0].count("--steps 10 --resume") == 1
    run.joinpath("latest").unlink()
    run.joinpath("config.json").unlink()
    run.rmdir()
    log(run, [0.0, 0.5, 0.7])
    assert listed(monkeypatch, capsys, tmp_path, *argv) == []
    assert "--steps 20" in listed(monkeypatch, capsys, tmp_path, *argv, "--steps", "20")[0]


def test_runs_wait_for_their_checkpoint_and_then_for_nothing(tmp_path, monkeypatch, capsys):
    """Bug: two processes make one checkpoint at a time, or all its runs are one line although it is there."""
    lines = listed(monkeypatch, capsys, tmp_path, "--parts", "rarity", "--seeds", "1")
    assert [line.count("tools.coldstart") for line in lines] == [1] * 5
    assert all(line.count("train.py") == 3 for line in lines)
    (tmp_path / "base_0.1").mkdir()
    (tmp_path / "base_0.1/config.json").write_text("{}")
    lines = listed(monkeypatch, capsys, tmp_path, "--parts", "rarity", "--seeds", "1")
    assert len(lines) == 7 and sum("base_0.1 " in line for line in lines) == 3


def test_the_listed_lines_are_run_as_the_manual_says(tmp_path, monkeypatch, capsys):
    """Bug: a quote or a space in a path breaks a line, a failure is not noticed, or seeds come last."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" >> "{tmp_path}/called"\necho >> "{tmp_path}/called"\n'
                       'case "$*" in *transfer_0\\ --steps*) exit 1;; esac\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    out = tmp_path / "it's here"
    lines = listed(monkeypatch, capsys, out, "--parts", "claims", "--seeds", "2", "--flags", "--lr 0.5")
    subprocess.run("tr '\\n' '\\0' | xargs -0 -n 1 -P 1 sh -c", shell=True, input="\n".join(lines) + "\n", text=True)
    called = [line.split("|") for line in (tmp_path / "called").read_text().splitlines()]
    assert len(called) == 2 * 8 - 1, "the evaluation of the run that failed is left out"
    assert all(str(out) in words[words.index("--out") + 1] for words in called)
    seeds = [words[words.index("--seed") + 1] for words in called if "--seed" in words]
    assert seeds == sorted(seeds) and "0.5" in called[0] and (out / "transfer_0.log").is_file()


def test_the_hand_written_bank_holds_every_useful_skill(tmp_path):
    """Bug: the frozen bank lacks a family, and looks useless."""
    ablations.hand_written(WAYS, WAYS.families).save(tmp_path / "bank.json")
    bank = SkillBank.load(tmp_path / "bank.json")
    assert len(bank.task_specific_skills) == 7 and len(bank.skills()) == 28


def log(run, success, tokens=100):
    """A finished run of 10 iterations with an evaluation every 5."""
    run.mkdir(parents=True)
    seconds = {f"{part}_s": 0.5 for part in report.PARTS}
    rows = [{"step": step, "sampled": tokens * bool(step), **(seconds if step else {}),
             **({"eval_success": success[step // 5]} if step % 5 == 0 else {})} for step in range(11)]
    report.append(run / "metrics.jsonl", rows)
    (run / "latest").write_text("step_00010\n")


def evaluated(run, *protocols, steps=10):
    """What eval.py wrote: three of four games of the families seen were won, one of three others; none without."""
    run.mkdir(parents=True, exist_ok=True)
    families = {"footwear": (1.0, 3), "apparel": (0.0, 1), "home_decor": (0.0, 2), "other": (1.0, 1)}
    rows = {protocol: {"families": {"all": {"success": 0.0, "n": 7}, **{
        family: {"success": success * (protocol == "frozen"), "n": n} for family, (success, n) in families.items()}}}
        for protocol in protocols}
    (run / f"test_{steps}.json").write_text(json.dumps({"protocols": rows}))


def test_the_table_counts_all_tokens_and_seconds(tmp_path, monkeypatch, capsys):
    """Bug: the evaluation's tokens are counted, the confirmation's are not; variants are compared at equal steps."""
    first, second = list(ablations.VARIANTS)[0], list(ablations.VARIANTS)[2]
    log(tmp_path / "SkillMaster__graded_utility_0", [0.0, 0.25, 0.75])
    log(tmp_path / "SkillMaster__graded_utility_1", [0.0, 0.5, 0.7])
    log(tmp_path / "plain_GRPO_0", [0.0, 0.1, 0.3], tokens=80)
    rows = {row["variant"]: row for row in call(monkeypatch, tmp_path, "--steps", "10")["variants"]}
    assert rows[first]["tokens to .5"] == [750, 500] and rows[first]["seconds to .5"] == [15, 10]
    assert rows[first]["success"]["10"] == "0.725 +- 0.025" and rows[first]["tokens"] == 1000
    assert rows[second]["tokens to .5"] == [None] and f"{second} (1 seeds)" in capsys.readouterr().out
    # The first variant reaches .5 after 625 tokens on average: the other is then at 7.8 iterations, not at 6.25.
    same = rows[second]["at equal tokens"]
    assert float(same["625"].split()[0]) == pytest.approx(0.1 + 0.2 * (625 - 400) / 400, abs=1e-3)
    assert same["800"].startswith("0.300") and set(same) == {"625", "800"}, "and where the shortest run ends"


def hidden(run, success, right, facts, tokens=10_000):
    """A finished run at the counter, evaluated every five iterations, half of them with something to write down."""
    run.mkdir(parents=True)
    rows = [{"step": step, "sampled": tokens * bool(step), **({"right_reviews": right, "refused": 2 * (step % 2),
             "facts": facts * step / 10} if step else {}),
             **({"eval_success": success[step // 5]} if step % 5 == 0 else {})} for step in range(11)]
    rows[0] |= {"facts": 0.0}
    report.append(run / "metrics.jsonl", rows)
    (run / "latest").write_text("step_00010\n")


def test_the_counters_gains_are_paired_by_seed(tmp_path, monkeypatch):
    """Bug: seed 1 of one variant is compared with seed 0 of another, whose town has other rules."""
    hidden(tmp_path / "counter_SkillMaster_0", [0.0, 0.6, 0.8], 0.5, 0.7)
    hidden(tmp_path / "counter_SkillMaster_1", [0.0, 0.2, 0.4], 0.25, 0.5)
    hidden(tmp_path / "counter_one_advantage_1", [0.0, 0.1, 0.3], 0.2, 0.4)
    made = call(monkeypatch, tmp_path, "--parts", "counter", "--steps", "10")["counter"]
    rows = {row["variant"]: row for row in made}
    assert rows["SkillMaster"]["at the end"] == "0.600 +- 0.200" and rows["SkillMaster"]["tokens"] == 100_000
    assert rows["SkillMaster"]["right reviews"].startswith("0.375") and rows["SkillMaster"]["facts"].startswith("0.6")
    single = rows["one advantage"]
    assert [single[f"SkillMaster more at {tokens}"] for tokens in ablations.AT[:2]] == ["0.080", "0.100"]
    assert f"at {ablations.AT[2]}" not in single, "runs that end before it count as if they had got there"
    assert single["at 80000"] == "0.220" and "SkillMaster more at 80000" in rows["SkillMaster"]
    assert (tmp_path / "counter.png").is_file()
    hidden(tmp_path / "counter_one_advantage_2", [0.0, 0.9, 0.9], 0.2, 0.4)
    made = call(monkeypatch, tmp_path, "--parts", "counter", "--steps", "10")["counter"]
    rows = {row["variant"]: row for row in made}
    assert rows["one advantage"]["seeds"] == 2
    assert rows["one advantage"]["SkillMaster more at 80000"] == "0.100", "a seed without its pair counts as no gain"
    hidden(tmp_path / "counter_12_towns_1", [0.0, 0.5, 0.9], 0.2, 0.4)
    hidden(tmp_path / "counter_12_towns__one_advantage_1", [0.0, 0.4, 0.5], 0.2, 0.4)
    made = call(monkeypatch, tmp_path, "--parts", "counter", "--steps", "10")["counter"]
    (small,) = [row for row in made if row["variant"] == "12 towns: one advantage"]
    assert small["SkillMaster more at 40000"] == "0.080", "compared with the whole method in the same 12 towns"


def test_rates_are_tried_on_seeds_of_their_own(tmp_path, monkeypatch, capsys):
    """Bug: a learning rate is chosen on the seeds that the table reports."""
    lines = listed(monkeypatch, capsys, tmp_path, "--parts", "rates,counter", "--only", "plain GRPO")
    seeds = {part: {int(re.search(r"--seed (\d+)", line)[1]) for line in lines if f"/{part}_" in line}
             for part in ("rates", "counter")}
    assert seeds["rates"] and seeds["counter"] == set(range(10)) and not seeds["rates"] & seeds["counter"]
    hidden(tmp_path / f"rates_plain_GRPO__lr_2e_4_{ablations.TUNING}", [0.0, 0.5, 0.7], 0, 0)
    (row,) = call(monkeypatch, tmp_path, "--parts", "rates", "--steps", "10")["rates"]
    assert row == {"variant": "plain GRPO", "lr": "2e-4", "seeds": 1, "success": "0.620"}


def test_a_run_with_other_flags_is_not_taken_for_this_one(tmp_path, monkeypatch, capsys):
    """Bug: a rival with a new learning rate is listed as finished, and its row shows the old one."""
    assert listed(monkeypatch, capsys, tmp_path, "--only", "plain GRPO", "--seeds", "1")
    log(tmp_path / "plain_GRPO_0", [0.0, 0.5, 0.6])
    for argv in (["--flags=--lr 1e-3"], ["--model", "other"]):
        with pytest.raises(ValueError, match="plain_GRPO_0 was begun with .*name another --out"):
            listed(monkeypatch, capsys, tmp_path, "--only", "plain GRPO", "--seeds", "1", *argv)
    assert listed(monkeypatch, capsys, tmp_path / "new", "--only", "plain GRPO", "--seeds", "1", "--flags=--lr 1e-3")


def test_real_games_are_not_played_for_generated_ones(tmp_path, monkeypatch, capsys):
    """Bug: with a download in ~/.cache/alfworld the rows of generated games are of real ones."""
    game = tmp_path / "json_2.1.1/train/a/b/game.tw-pddl"
    game.parent.mkdir(parents=True)
    game.write_text("{}")
    monkeypatch.setattr(ablations.household, "DOWNLOAD", str(tmp_path))
    with pytest.raises(SystemExit):
        listed(monkeypatch, capsys, tmp_path / "out", "--parts", "alfworld")
    assert "is of generated games" in capsys.readouterr().err
    game.unlink()
    assert len(listed(monkeypatch, capsys, tmp_path / "out", "--parts", "alfworld")) == 6


def test_rarity_counts_a_run_for_its_own_base_only(tmp_path, monkeypatch):
    """Bug: the runs from base 0.1 are those whose name begins like 0.05's, or the cold start is taken for a run."""
    for base, success in ((0.05, [0.0, 0.6, 0.8]), (0.5, [0.2, 0.7, 0.9])):
        log(tmp_path / f"SkillMaster_base_{base}_0".replace(".", "_"), success)
        log(tmp_path / f"base_{base}", [0.9, 0.9, 0.9])
    rows = {(row["base"], row["rival"]): row for row in call(monkeypatch, tmp_path, "--parts", "rarity")["rarity"]}
    assert set(rows) == {(0.05, "SkillMaster"), (0.5, "SkillMaster")}
    assert rows[0.05, "SkillMaster"]["tokens to .7"] == [750] and rows[0.5, "SkillMaster"]["tokens to .7"] == [500]
    assert rows[0.5, "SkillMaster"]["before"] == 0.2 and rows[0.5, "SkillMaster"]["last"].startswith("0.900")


def test_a_rival_paid_by_the_graded_score_is_not_taken_for_the_other(tmp_path, monkeypatch):
    """Bug: the names of the runs begin alike, so one rival's mean holds the other's runs."""
    for rival, last in (("plain_GRPO", 0.2), ("plain_GRPO__graded_reward", 0.8)):
        log(tmp_path / f"{rival}_base_0_1_0", [0.0, 0.1, last])
    made = call(monkeypatch, tmp_path, "--parts", "rarity", "--steps", "10")["rarity"]
    rows = {row["rival"]: row["successes"] for row in made}
    assert rows == {"plain GRPO": [0.2], "plain GRPO, graded reward": [0.8]}


def test_known_runs_are_not_made_again_and_give_the_same_tables(tmp_path, monkeypatch, capsys):
    """Bug: a table from the points of earlier runs differs from theirs, or needs their checkpoints again."""
    made = tmp_path / "made"
    log(made / "SkillMaster__graded_utility_0", [0.0, 0.25, 0.75])
    log(made / "SkillMaster_base_0_1_0", [0.0, 0.6, 0.8])
    evaluated(made / "transfer_0", "none", "frozen")
    parts = ("--parts", "variants,rarity,claims", "--seeds", "1", "--steps", "10")
    measured = call(monkeypatch, made, *parts)
    assert measured["claims"] and measured["rarity"] and measured["variants"]
    again = call(monkeypatch, tmp_path / "again", "--known", str(made / "runs.json"), *parts)
    assert again == measured and (tmp_path / "again/runs.json").read_text() == (made / "runs.json").read_text()
    argv = ("--known", str(made / "runs.json"), "--seeds", "1")
    lines = listed(monkeypatch, capsys, tmp_path / "again", *argv, "--parts", "claims,variants", "--steps", "10")
    assert len(lines) == 3 + 13 and not any("transfer" in line for line in lines)
    lines = listed(monkeypatch, capsys, tmp_path / "again", *argv, "--steps", "20")
    assert len(lines) == 14, "ten iterations are known, twenty are wanted"


def thousands(values, unit=1000, sign=""):
    """Mean cost of those that got there, as the READMEs write it."""
    there = [value for value in values if value is not None]
    some = f" ({len(there)} of {len(values)} seeds)" if len(there) < len(values) else ""
    return f"{sum(there) / len(there) / unit:.0f}{sign}{some}" if there else "not reached"


@pytest.mark.upstream
def test_the_readmes_tables_of_the_counter_are_what_its_points_give(tmp_path, monkeypatch, capsys):
    """Bug: as below, in the first table of the README."""
    known = ROOT / "worlds/counter/tiny/runs.json"
    call(monkeypatch, tmp_path, "--parts", "counter", "--known", str(known))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    whole, first = (file.read_text() for file in (known.parent / "README.md", ROOT / "README.md"))
    for name, *cells in rows:
        assert " | ".join([name, *cells]) in whole
        if any(name[2:] in labels for labels in ablations.DESIGNS.values()):
            assert " | ".join(cells) in first, name


@pytest.mark.upstream
def test_the_shops_table_is_what_its_points_give(tmp_path, monkeypatch):
    """Bug: a figure is typed wrong, or its runs were made anew and the text was not."""
    known = ROOT / "worlds/webshop/tiny/runs.json"
    rows = call(monkeypatch, tmp_path, "--known", str(known))["variants"]
    readme = (known.parent / "README.md").read_text()
    lines = [line for line in readme.splitlines() if " ± " in line and "| " in line]
    assert [row["seeds"] for row in rows] == [5, 5, 5, 5, 3, 3]
    for row, line in zip(rows, lines):
        success = [ablations.short(row["success"].get(step, "-")) for step in ("5", "20", "40")]
        costs = [thousands(row["tokens to .5"], sign="k"), thousands(row["seconds to .5"], 1)]
        cells = line.rstrip(" |").split(" | ")
        assert cells[1:7] == [str(row["seeds"]), *success, *costs], line
        for given, value in zip(cells[-1].split(", "), row["at equal tokens"].values()):
            assert [float(x) for x in given.split(" ± ")] == pytest.approx(
                [float(x) for x in value.split(" +- ")], abs=0.0051), line


@pytest.mark.upstream
def test_the_table_of_when_a_bank_pays_is_what_its_points_give(tmp_path, monkeypatch):
    """Bug: as above, in the shop's README: where SkillMaster and GRPO cross is told from other runs than the figure."""
    home = ROOT / "worlds/webshop/tiny"
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
            line = ablations.short(f"| {' | '.join(some)} |")
            assert line in readme, line


@pytest.mark.parametrize("content, words", [("[]", "no JSON object"), ("{}", "none of these runs"),
                                            ('{"a": [[1, 2, 3, 4]]}', "none of these runs"),
                                            (None, "No such file")])
def test_a_wrong_file_of_known_runs_is_one_line(content, words, tmp_path, monkeypatch, capsys):
    """Bug: hours of runs are made anew because the file with them was misspelt."""
    if content:
        (tmp_path / "runs.json").write_text(content)
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path, "--known", str(tmp_path / "runs.json"))
    assert words in capsys.readouterr().err


def test_claims_tell_families_that_were_seen_from_others(tmp_path, monkeypatch):
    """Bug: transfer is measured on the families of the training, too."""
    evaluated(tmp_path / "transfer_0", "none", steps=20)
    assert call(monkeypatch, tmp_path, "--parts", "claims")["claims"] == [], "an evaluation that was cut off"
    evaluated(tmp_path / "transfer_0", "none", "frozen", steps=20)
    rows = {(row["games"], row["protocol"]): row["success"]
            for row in call(monkeypatch, tmp_path, "--parts", "claims")["claims"]}
    assert rows == {("families seen", "none"): "0.000", ("families seen", "frozen"): "0.750",
                    ("families not seen", "none"): "0.000", ("families not seen", "frozen"): "0.333"}


def test_training_families_are_an_option_of_the_shop():
    """Bug: held-out goals shrink with the training families, so that transfer cannot be measured."""
    whole, some = envs.make("webshop"), envs.make("webshop", families="footwear,other")
    assert {some.family(task) for task in some.train_tasks} == {"footwear", "other"}
    assert some.dev_tasks == whole.dev_tasks and envs.make("webshop", "test", families="other").tasks == envs.make(
        "webshop", "test").tasks
    with pytest.raises(ValueError, match="--families shoes: choose from accessories"):
        envs.make("webshop", families="footwear,shoes")

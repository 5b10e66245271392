"""What was induced at the counter: the tables count what the games say, and each can come out either way."""

import json
import sys

import pytest

import envs
from envs import Episode, Turn
from skillbank import SkillBank, review, tool_call
from studies import induced
from tools import report
from worlds.counter.rules import kinds, towns, unseen
from worlds.counter.sender import EVERYBODY, seals, skill


@pytest.fixture(scope="module")
def env():
    return envs.make("counter", rules=3)


def reviewed(task, town, rule, reply="Refused. The clerk says so."):
    """An episode whose review proposes a rule; None: keeps."""
    call = tool_call("keep_skill", {"reason": "-"}) if rule is None else tool_call(
        "propose_skill", {"category": "general" if rule[0] == EVERYBODY else town, **skill(*rule), "evidence": "-"})
    played = Episode(task, town, 0, [], (), turns=[Turn("", "", True, reply)])
    played.edit = review(f"<think>so</think>{call}", SkillBank(), town, task)
    return played


def test_reviews_follow_the_evidence_or_what_the_weights_remember(env, monkeypatch):
    """Bug: a policy that knows its own town by heart is taken for one that reads the clerk's words."""
    away = envs.make("counter", rules=1003)
    pairs = [(task, away.family(task), away.sort(task)) for task in away.train_tasks]
    pairs = [(task, town, kind) for task, town, kind in pairs
             if away.ways.rules[town, kind] != env.ways.rules[town, kind]][:6]
    third = [next(s for s in seals if s not in (away.ways.rules[t, k], env.ways.rules[t, k])) for _, t, k in pairs]
    there, here = ([(town, kind, world.ways.rules[town, kind]) for _, town, kind in pairs] for world in (away, env))
    written = [there[0], there[1], here[2], (pairs[3][1], pairs[3][2], third[3]), None,
               (EVERYBODY, pairs[5][2], there[5][2])]
    played = [reviewed(task, town, rule) for (task, town, _), rule in zip(pairs, written)]
    played.append(reviewed(*pairs[0][:2], there[0], reply="Accepted."))
    monkeypatch.setattr(envs, "rollout", lambda *args, **more: played)
    shares = induced.evidence(None, env, away, envs.Sampling(), None, 0)
    assert shares == pytest.approx({"the clerk's words": 3 / 6, "its own town's rule": 1 / 6, "another rule": 1 / 6,
                                    "none": 1 / 6})


def test_the_oracle_knows_every_rule_and_unseen_ones_are_counted_apart(env):
    """Bug: facts whose wording the cold start showed count as induced."""
    bank = induced.hand_written(env.ways, towns)
    assert induced.known(env, bank) == {"seen": 1.0, "unseen": 1.0, "everywhere": 0.0}
    assert induced.known(env, SkillBank()) == {"seen": 0.0, "unseen": 0.0, "everywhere": 0.0}
    text, = env.ways.texts("general")
    bank.apply("propose_skill", {"category": "general", **{k: text[k] for k in ("title", "principle", "when_to_apply")},
                                 "evidence": "-"}, towns[0])
    assert induced.known(env, bank)["everywhere"] == 1.0
    some = SkillBank()
    for (town, kind), seal in env.ways.rules.items():
        if unseen(town, kind, seal):
            some.apply("propose_skill", {"category": town, **skill(town, kind, seal), "evidence": "-"}, town)
    assert some.skills() and induced.known(env, some) == {"seen": 0.0, "unseen": 1.0, "everywhere": 0.0}


def test_advantages_are_told_apart_by_what_was_played_and_done(tmp_path):
    """Bug: the table mixes runs with one advantage and with two, late iterations, or kept banks with edits."""
    def run(name, advantage, rows):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"advantage": advantage}))
        report.append(tmp_path / name / "reviews.jsonl", [
            {"step": step, "score": score, "kind": kind, "status": status, "a_skill": a}
            for step, score, kind, status, a in rows])
        return tmp_path / name

    dual = run("a", "dual", [(1, 0.0, "right", "added", 2.0), (2, 0.0, "right", "added", 1.0),
                             (2, 0.0, "half", "added", -1.0), (3, 0.5, None, "kept", -0.5),
                             (99, 0.0, "right", "added", 9.0), (4, 1.0, None, "duplicate", -0.25)])
    run("c", "dual", [(1, 0.0, "half", "added", -3.0)])
    single = run("b", "single", [(1, 0.0, "right", "added", -0.5), (1, 1.0, "wrong", "added", 1.5)])
    table = induced.payments([dual, single])
    assert table["dual, lost, right edit"] == "1.500 (0.40, 1 runs)"
    assert table["dual, lost, other edit"] == "-1.000 (0.20, 1 runs)"
    assert table["dual, accepted, keep"].startswith("-0.500") and table["dual, accepted, invalid"].startswith("-0.250")
    assert table["single, lost, right edit"].startswith("-0.500")
    assert table["single, accepted, other edit"].startswith("1.500")
    table = induced.payments([dual, tmp_path / "c"])
    assert table["dual, lost, right edit"] == "1.500 (0.20, 1 runs)", "the share of both runs' reviews, of none in one"


def test_a_study_is_not_replaced_by_another(tmp_path, monkeypatch, capsys):
    """Bug: --paid, which plays nothing, writes over the table that took hours."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"env": "counter"}')
    (tmp_path / "run" / "latest").write_text("step_00001\n")
    monkeypatch.setattr(induced, "study", lambda args: {"banks": {"own": [0.5]}})
    monkeypatch.setattr(induced, "payments", lambda runs: {})
    out = tmp_path / "o.json"
    for more in ([], ["--paid"]):
        monkeypatch.setattr(sys, "argv", ["induced", str(tmp_path / "run"), "--out", str(out), *more])
        induced.main()
    assert json.loads((tmp_path / "o.1.json").read_text())["banks"] and "banks" not in json.loads(out.read_text())


def test_a_policy_is_played_with_four_banks(env, monkeypatch):
    """Bug: success with the run's own bank stands in the column of another run's."""
    monkeypatch.setattr(envs, "evaluate", lambda policy, env, bank, games, sampling: [
        type("Played", (), {"won": len(bank.skills()) > number}) for number, _ in enumerate(games)])
    own, other = SkillBank(), SkillBank()
    for bank, count in ((own, 4), (other, 2)):
        for town in towns[:count]:
            bank.apply("propose_skill", {"category": town, **skill(town, kinds[0], seals[0]), "evidence": "-"}, town)
    result = induced.banks(None, env, own, other, None, 8)
    assert result == {"none": 0.0, "own": 0.5, "of another run": 0.25, "the true rules": 1.0}
    assert "of another run" not in induced.banks(None, env, own, None, None, 8)


def test_the_oracles_bank_is_a_file_of_a_seeds_rules(tmp_path, monkeypatch, capsys):
    """Bug: the file holds another seed's rules, and eval.py calls a good policy blind; or a traceback."""
    monkeypatch.setattr(sys, "argv", ["induced", "--oracle", "3", str(tmp_path / "bank.json")])
    induced.main()
    assert induced.known(envs.make("counter", rules=3), SkillBank.load(tmp_path / "bank.json"))["seen"] == 1.0
    assert induced.known(envs.make("counter", rules=4), SkillBank.load(tmp_path / "bank.json"))["seen"] < 0.5
    for argv, words in ([], "name runs"), (["--oracle", "x", "y"], "invalid literal"), (["nowhere"], "nowhere"):
        monkeypatch.setattr(sys, "argv", ["induced", *argv, "--out", str(tmp_path / "o.json")])
        with pytest.raises(SystemExit) as stop:
            induced.main()
        assert words in f"{stop.value.code} {capsys.readouterr().err}"

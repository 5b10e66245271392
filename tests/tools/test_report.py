"""What a run leaves behind for people must be true and must survive a kill."""

import shutil
import sys

import pytest

from dualadv_grpo import Stats
from envs import Episode, Turn
from skillbank import Edit, SkillBank
from tools import report
from worlds.webshop.shopper import WAYS


def edit(title="new", utility=0.5, confirmed=None):
    arguments = {"category": "a", "title": title, "principle": "p", "when_to_apply": "w", "evidence": "e"}
    return Edit("added", "propose_skill", arguments, SkillBank(), "dyn_001", task=7, family="a", probes=[1, 2],
                before=[0.0, 1.5], after=[1.75, 1.5], utility=utility, confirmed=confirmed)


def episode(name="", edit=None, action="search[a]"):
    turns = [Turn("page", f"<think>x</think>\n<action>{action}</action>", True, "reply")]
    return Episode(7, "a", 0, [], ("system", f"Task: find it{name}\nThe search page."), turns=turns, score=0.25,
                   review="<think>y</think>call", edit=edit)


def test_a_sampler_that_computes_another_model_is_said_once(tmp_path, env, capsys):
    """Bug: a run trains on samples of another model without a word, or repeats the warning in every iteration."""
    report.explain_mismatch.cache_clear()
    for mismatch, clipped, said in ((0.04, 0.009, 0), (0.04, 0.011, 1), (0.2, 0.3, 0)):
        stats = Stats(mismatch=mismatch, clipped=clipped)
        row = report.Iteration(2, [episode()], stats, {}, [0.0], [0.0]).publish(tmp_path, env, SkillBank())
        told = capsys.readouterr().out
        assert row["mismatch"] == mismatch and f"mismatch {mismatch:.2g} ({clipped:.1%})" in told
        assert told.count("--without recordings, then compilation, then bfloat16") == said
    for mismatch in (0.06, float("nan")):
        report.explain_mismatch.cache_clear()
        report.Iteration(2, [episode()], Stats(mismatch=mismatch), {}, [0.0], [0.0]).publish(tmp_path, env, SkillBank())
        assert "std above 0.05, or over 1% of the tokens" in capsys.readouterr().out, mismatch


def test_sampler_and_trainer_of_a_run_are_one_model(first):
    """Bug: the trainer's temperature, mask or template is another than the sampler's, and no test sees a whole run."""
    row = report.lines_of(first / "metrics.jsonl")[-1]
    assert row["step"] == 1 and row["mismatch"] < 1e-4 and row["clipped"] == 0.0


def test_lines_of_a_killed_iteration_are_cut(tmp_path):
    """Bug: a resumed run logs an iteration twice, or half a line makes the file unreadable."""
    path = tmp_path / "edits.jsonl"
    report.append(path, [{"step": 1, "x": 1 / 3}, {"step": 2, "x": 1}, {"step": 2, "x": 2}, {"step": 3, "x": 1}])
    path.write_text(path.read_text() + '{"step": 2, "x"')
    report.cut(path, 2)
    assert report.lines_of(path) == [{"step": 1, "x": 0.333333}, {"step": 2, "x": 1}, {"step": 2, "x": 2}]
    report.cut(tmp_path / "none.jsonl", 2)
    assert report.lines_of(tmp_path / "none.jsonl") == []


def test_every_review_is_logged_with_what_it_was_paid():
    """Bug: a review's advantage stands beside another episode's call, or calls that changed nothing are left out."""
    good, kept = edit("Products: search kind plus qualities"), Edit("kept", "keep_skill", {}, SkillBank())
    episodes = [episode(), episode(edit=kept), episode(edit=good)]
    iteration = report.Iteration(3, episodes, Stats(), {}, [0.0, 1.0, 10.0], [0.1, 0.2, 0.3], S=[0.0, 0.5, 0.75],
                                 a_skill=[0.0, -1.5, 1.5])
    rows = iteration.review_rows(WAYS)
    assert [(row["episode"], row["tool"], row["status"], row["R"], row["S"], row["a_act"], row["a_skill"])
            for row in rows] == [(1, "keep_skill", "kept", 1.0, 0.5, 0.2, -1.5),
                                 (2, "propose_skill", "added", 10.0, 0.75, 0.3, 1.5)]
    assert [row["kind"] for row in rows] == [None, WAYS.kind.get(WAYS.meaning(good.arguments))]
    assert rows[0]["step"] == 3 and rows[0]["won"] is False and rows[0]["score"] == 0.25


def test_the_story_is_about_the_edit_that_was_committed():
    """Bug: the printed episode and the printed edit belong to two different episodes."""
    edits = [edit("lucky", 0.9, -0.1), edit("good", 0.4, 0.3)]
    episodes = [episode(edit=edits[0]), episode(edit=edits[1], action="search[b]")]
    told = report.story(episodes, edits, [edits[1]])
    assert "on fresh probes +0.300: committed" in told and "0.00 -> 1.75, 1.50 -> 1.50" in told
    assert "Task: find it" in told and "search page" not in told and "search[b]" in told and "search[a]" not in told
    told = report.story(episodes, edits, [])
    assert "+0.900, on fresh probes -0.100: not committed" in told and "search[a]" in told
    kept = episode(edit=Edit("kept", "keep_skill", {}, SkillBank()))
    assert "    kept" in report.story([kept], [], []) and "none was asked for" in report.story([episode()], [], [])


def test_the_sample_holds_the_best_and_the_worst_with_their_edits(tmp_path):
    """Bug: the fate of an edit is printed under another episode."""
    episodes = [episode(" 1.0"), episode(" 9.0"), episode(" -1.0", edit(utility=-0.25))]
    report.sample(tmp_path / "s.txt", episodes, [], [1.0, 9.0, -1.0])
    text = (tmp_path / "s.txt").read_text()
    assert text.index("it 9.0\n") < text.index("it -1.0\n") < text.index("utility -0.250: not committed")
    assert "it 1.0\n" not in text and "--- review" in text


def test_edits_keep_the_words_and_every_probe(tmp_path):
    """Bug: the log says what became of an edit, but not what it was."""
    one = edit()
    episodes = [episode(), episode(edit=Edit("kept", "keep_skill", {}, SkillBank())), episode(edit=one)]
    report.append(tmp_path / "e.jsonl", report.edit_rows(4, episodes, [one], WAYS))
    row, = report.lines_of(tmp_path / "e.jsonl")
    assert (row["step"], row["episode"], row["task"], row["arguments"]) == (4, 2, 7, one.arguments)
    assert row["committed"] and row["confirmed"] is None
    assert (row["probes"], row["before"], row["after"], row["utility"]) == ([1, 2], [0.0, 1.5], [1.75, 1.5], 0.5)


def test_plot_draws_runs_and_names_what_is_wrong(tmp_path, monkeypatch):
    """Bug: a picture of nothing; or a traceback where a directory is no run, or matplotlib is not there."""
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="cannot be read"):
        report.plot([tmp_path / "none"], tmp_path / "x.png")
    run = tmp_path / "run"
    run.mkdir()
    texts = WAYS.texts("footwear")
    report.append(run / "metrics.jsonl", [{"step": i, "skills": i, **({"eval_success": 0.1 * i, "eval_n": 9}
                                                                      if i % 2 == 0 else {})} for i in range(8)])
    report.append(run / "edits.jsonl", [{"step": i, "utility": 0.1, "arguments": texts[i]} for i in range(1, 8)])
    (run / "config.json").write_text('{"env": "webshop"}')  # a run from before edits.jsonl had kinds
    assert [edit["kind"] for edit in report.edits_in(run)] == [text["kind"] for text in texts[1:8]]
    report.plot([run, run], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[1:4] == b"PNG"
    twin = shutil.copytree(run, tmp_path / "other" / "run")
    with monkeypatch.context() as patch:
        drawn = []
        patch.setattr(report, "draw", lambda panels, *rest, **more: drawn.extend(panels))
        report.plot([run, twin], tmp_path / "x.png")
        assert all(len(panel.curves) == 2 for panel in drawn), "two runs of one name"
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="empty"):
        report.plot([run], tmp_path / "y.png")
    with pytest.raises(ValueError, match="empty"):
        report.digest(run)
    assert not (tmp_path / "y.png").exists()


def test_the_digest_counts_by_kind(tmp_path):
    """Bug: the README's table of runs comes from nowhere, or counts an edit that the commit rule would not take."""
    rows = [{"step": i, **{f"{part}_s": 0.5 for part in report.PARTS}} for i in range(7)]
    rows[0] = {"step": 0, "eval_success": 0.1}
    rows[6]["eval_success"] = 0.4
    report.append(tmp_path / "metrics.jsonl", rows)
    texts = {text["kind"]: text for text in WAYS.texts("footwear")}
    edits = [(1, 7, "harmful", -1.0, False), (1, 7, "neutral", 0.2, False), (1, 7, "useful", 0.4, True),
             (6, 8, "useful", -0.2, False), (6, 9, "neutral", 0.1, False)]
    report.append(tmp_path / "edits.jsonl", [
        {"step": step, "task": task, "kind": kind, "arguments": texts[kind], "utility": u, "committed": committed}
        for step, task, kind, u, committed in edits])
    text = report.digest(tmp_path)
    assert "0.100 at 0, 0.400 at 6; 12s" in text and "0.33 in iterations 1-5, 0.50 in the last five" in text
    assert "useful +0.10 (2), neutral +0.15 (2), harmful -1.00 (1)" in text
    assert "committed {'useful': 1, 'neutral': 0, 'harmful': 0}" in text
    assert "without confirmation {'useful': 1, 'neutral': 1, 'harmful': 0}" in text


def test_a_part_that_comes_twice_counts_both_times(monkeypatch):
    """Bug: an iteration's seconds do not add up to what it took."""
    times = iter([0.0, 2.0, 3.0, 7.0])
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(times))
    clock = report.Clock()
    for part in ("act", "probe", "act"):
        clock.lap(part)
    assert clock.laps == {"act": 6.0, "probe": 1.0}


def test_the_command_draws_and_tells(tmp_path, first, monkeypatch, capsys):
    """Bug: the README's command for the curves does not run, or a directory that is no run is a traceback."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", ["report", str(first), "--plot", str(tmp_path / "x.png")])
    report.main()
    assert (tmp_path / "x.png").is_file() and f"{first}: held-out success" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"^tools.report: \S*none/metrics.jsonl cannot be read.*$"):
        report.main()

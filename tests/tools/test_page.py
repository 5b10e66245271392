"""The report page: what a run logged is in it, nothing that it shows can run, and it works in a real browser."""

import json
import re

import pytest
from transformers import AutoTokenizer

from dualadv_grpo import ACT, REVIEW
from lib.chat import Chat
from tests.browser import BINARY, Browser
from tools import page, report

HOSTILE = "<script>alert(1)</script>"
QUOTED = '"><img src=x onerror=alert(2)> {{ 7 * 7 }} \' </script><script>console.log("ran")</script>'


def edit(step, episode, title, **more):
    words = {"category": "general", "title": title, "principle": "Click every option first.",
             "when_to_apply": "Always."}
    return {"step": step, "episode": episode, "task": 3, "family": "footwear", "name": "propose_skill",
            "category": "general", "arguments": words, "kind": None, "probes": [1, 2], "before": [0.0, 1.5],
            "after": [1.25, 1.5], "utility": 0.775, "confirmed": 0.5, "committed": True, "skill_id": "dyn_001", **more}


@pytest.fixture
def run(tmp_path, random_tiny):
    """A run directory whose texts are hostile: titles, reviews and pages."""
    out = tmp_path / "run"
    AutoTokenizer.from_pretrained(random_tiny).save_pretrained(out / "reference")
    chat = Chat(AutoTokenizer.from_pretrained(random_tiny))
    (out / "config.json").write_text(json.dumps({"env": "webshop", "model": "tiny", "seed": 0, "world": HOSTILE}))
    report.append(out / "metrics.jsonl", [
        {"step": step, "success": step / 4, "score": 0.5, "skills": step, "utility": -0.1, "sampled": 2000,
         "eval_success": step / 4, "eval_score": 0.5, "act_sampled": 900, "review_sampled": 100, "probe_sampled": 900,
         "confirm_sampled": 100, **dict.fromkeys(report.SECONDS, 1.5)} for step in range(3)])
    update = {"name": "update_skill", "confirmed": None, "committed": False, "utility": -0.5, "arguments": {
        "skill_id": "dyn_001", "title": QUOTED, "principle": "Click no option first.", "when_to_apply": "Always."}}
    report.append(out / "edits.jsonl", [edit(1, 0, HOSTILE), edit(2, 4, QUOTED, **update)])
    (out / "skills.json").write_text(json.dumps({"general_skills": [
        {"skill_id": "dyn_001", "title": HOSTILE, "principle": QUOTED, "when_to_apply": "Always."}]}))
    given, acted, reviewed = chat.encode(f"{HOSTILE} Page 1"), chat.encode("a b c"), chat.encode(QUOTED)
    first = {"ids": given + acted + given + reviewed, "sampled": [
        [len(given), ACT, 0, [-0.5] * len(acted)], [2 * len(given) + len(acted), REVIEW, 1, [-1.0] * len(reviewed)]]}
    note = chat.encode("old task [2 earlier turns dropped]\nnew page")
    second = {"ids": note + acted, "sampled": [[len(note), ACT, 0, [0.0] * len(acted)]]}
    (out / "samples").mkdir()
    (out / "samples" / "step_00001.json").write_text(json.dumps({"episodes": [
        {"step": 1, "number": 0, "task": 3, "family": "footwear", "won": True, "score": 1.0, "R": 10.0, "S": 0.8,
         "a_act": 1.5, "a_skill": -0.5, "a_turns": [], "status": "added", "fate": HOSTILE,
         "segments": [first, second]}]}))
    return out


def written(run, tmp_path, *more):
    page.write([run, *more], tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_hostile_text_is_text(run, tmp_path):
    """Bug: a product titled <script> runs in the reader's browser, or a quote closes an attribute."""
    text = written(run, tmp_path)
    assert text.count("<script") == 1 and "<img" not in text and "{{" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "49" not in re.findall(r"onerror[^<]*", text)[0]
    assert "http" not in re.sub(r"Content-Security-Policy|http-equiv", "", text), "no network"


def test_what_was_logged_is_there(run, tmp_path):
    """Bug: an update is shown without what it replaces, a dropped turn is not marked, an advantage has one colour."""
    text = written(run, tmp_path)
    assert "<del>every</del>" in text and "<ins>no</ins>" in text
    assert "The context was full" in text and "old task" not in text and "new page" in text
    assert "--act: rgba(var(--good), 0.36)" in text and "--skill: rgba(var(--bad), 0.12)" in text
    assert 'title="p 0.607"' in text and 'title="p 0.368"' in text  # exp(-0.5), exp(-1)
    assert "0.00\u00a0→\u00a01.25" in text and "not confirmed" not in text and "no use" in text
    assert "6,000 sampled tokens" in text


def test_a_character_of_many_tokens_is_whole(random_tiny):
    """Bug: half a character is shown as a question mark in a box."""
    chat = Chat(AutoTokenizer.from_pretrained(random_tiny))
    ids = chat.encode("a é 日本 b")
    pieces = page.split(chat, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == chat.decode(ids) and "\ufffd" not in "".join(pieces)


def test_long_runs_are_thinned_out(tmp_path, random_tiny):
    """Bug: the page of a run of 150 iterations has a hundred megabytes."""
    AutoTokenizer.from_pretrained(random_tiny).save_pretrained(tmp_path / "reference")
    for step in range(1, 101):
        report.write_atomic(tmp_path / "samples" / f"step_{step:05d}.json", json.dumps({"episodes": [
            {"step": step, "number": n, "task": 0, "family": "f", "won": False, "score": 0.0, "R": 0.0, "S": 0.0,
             "a_act": 0.0, "a_skill": 0.0, "a_turns": [], "status": "", "fate": "", "segments": []} for n in (0, 1)]}))
    found = [e["step"] for e in page.transcripts(tmp_path, 40)]
    assert len(found) == 40 and found[0] == 1 and found[-1] == 100


def test_a_real_run_has_a_page_and_two_have_one(train_in_process, tmp_path):
    """Bug: the page needs a field that no run writes, or the token ids of another tokenizer."""
    flags = ["--env", "webshop", "--tasks", "1", "--group", "2", "--eval_every", "0", "--steps", "1", "--cold_start",
             "0", "--act_tokens", "8", "--review_tokens", "8", "--context", "1024", "--advantage", "gigpo"]
    for name in ("one", "two"):
        train_in_process(flags, 2, tmp_path / name)
    text = written(tmp_path / "one", tmp_path, tmp_path / "two")
    assert "one and two" in text and 'class="c0 d1"' in text and "--turn:" in text
    assert "You shop in a text web store" in text


@pytest.mark.skipif(BINARY is None, reason="no Chromium here")
def test_in_a_browser_nothing_runs_and_everything_works(run, tmp_path):
    """Bug: the page's own script is blocked by its policy, a filter shows what it should hide, or alert(1) ran."""
    written(run, tmp_path)
    browser = Browser((tmp_path / "page.html").as_uri())
    try:
        assert browser.run("document.title") == "run"
        shown = "[...document.querySelectorAll('#edits tbody tr')].filter(row => row.offsetHeight).length"
        assert browser.run(shown) == 2
        browser.run("words.value = 'no option'; words.dispatchEvent(new Event('input'))")
        assert browser.run(shown) == 1 and browser.run("document.getElementById('count').textContent") == "1 of 2"
        browser.run("words.value = ''; fate.value = 'committed'; fate.dispatchEvent(new Event('input'))")
        assert browser.run(shown) == 1
        first = "document.querySelector('#edits tbody td').textContent"
        browser.run("document.querySelectorAll('#edits th')[0].click()")
        assert browser.run(first) == "1"
        browser.run("document.querySelectorAll('#edits th')[0].click()")
        assert browser.run(first) == "2"
        browser.run("document.querySelector('#edits a').click()")  # opens the episode
        token = "document.querySelector('details.e .a')"
        x, y = browser.run(f"{token}.scrollIntoView({{block: 'center'}}); "
                           f"(b => [b.x + b.width / 2, b.y + b.height / 2])({token}.getBoundingClientRect())")
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert browser.run("[...document.querySelectorAll('[title]:hover')].pop().title") == "p 0.607"
        colour = f"getComputedStyle({token}).backgroundColor"
        assert browser.run(colour) == "rgba(0, 114, 178, 0.36)"
        browser.run("document.getElementsByName('mode')[2].click()")
        assert browser.run(colour) == "rgba(213, 94, 0, 0.12)"
        paper = "getComputedStyle(document.body).backgroundColor"
        assert browser.run(paper) == "rgb(255, 255, 255)"
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert browser.run(paper) == "rgb(22, 22, 22)"
        assert browser.run("document.scripts.length") == 1 and browser.run("document.images.length") == 0
        assert browser.said == [], browser.said
    finally:
        browser.close()

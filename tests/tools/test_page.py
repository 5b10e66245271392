"""The page of a run: what was logged is in it, nothing that it shows can run, and it works in a real browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from dualadv_grpo import ACT, REVIEW
from lib.chat import Chat
from lib.files import write_atomic
from tools import page, report

HOSTILE = "<script>alert(1)</script>"
QUOTED = '"><img src=x onerror=alert(2)> {{ 7 * 7 }} \' </script><script>document.title = "ran"</script>'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EPISODE = {"step": 1, "number": 0, "task": 3, "family": "footwear", "won": True, "score": 1.0, "R": 10.0, "S": 0.8,
           "a_act": 1.5, "a_skill": -0.5, "a_turns": [0.5], "status": "added", "fate": HOSTILE, "segments": []}


def edit(step, episode, title, **more):
    words = {"category": "general", "title": title, "principle": "Click every option first.",
             "when_to_apply": "Always."}
    return {"step": step, "episode": episode, "task": 3, "family": "footwear", "name": "propose_skill",
            "category": "general", "arguments": words, "kind": None, "probes": [1, 2], "before": [0.0, 1.5],
            "after": [1.25, 1.5], "utility": 0.775, "confirmed": 0.5, "committed": True, "skill_id": "dyn_001", **more}


@pytest.fixture
def run(tmp_path, random_tiny):
    """A run directory whose texts are hostile: its name, titles, reviews and pages."""
    out = tmp_path / "a <b> $run"
    AutoTokenizer.from_pretrained(random_tiny).save_pretrained(out / "reference")
    chat = Chat(AutoTokenizer.from_pretrained(random_tiny))
    (out / "config.json").write_text(json.dumps({"env": "webshop", "model": "tiny", "seed": 0, "world": HOSTILE}))
    report.append(out / "metrics.jsonl", [{"step": 0, "eval_success": 0.0, "eval_score": 0.25}] + [
        {"step": step, "success": step / 4, "score": 0.5, "skills": step, "utility": -0.1, "sampled": 3000,
         "entropy": 0.5, "act_s": 20.0, "probe_s": 25.0} for step in (1, 2)])
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
    write_atomic(out / "samples" / "step_00001.json", json.dumps({"episodes": [{**EPISODE,
                                                                                "segments": [first, second]}]}))
    return out


def written(*paths):
    page.main([str(path) for path in paths])
    return (paths[0] / "report.html").read_text(encoding="utf-8")


def test_hostile_text_is_text(run):
    """Bug: a product titled <script> runs in the reader's browser, or a quote closes an attribute."""
    text = written(run)
    assert text.count("<script") == 1 and "<img" not in text and "<b> $run" not in text and "{{" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "49" not in re.findall(r"onerror[^<]*", text)[0]
    script = re.findall("<script>(.*)</script>", text, re.S)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline';\n  script-src 'sha256-{digest}'; base-uri" in text
    assert "http" not in re.sub(r'http-equiv|xmlns(:xlink)?="[^"]*"', "", text), "no network"


def test_what_was_logged_is_there(run):
    """Bug: an update is shown without what it replaces, a dropped turn is not marked, an advantage has one colour."""
    text = written(run)
    assert "<del>Click every option first. (Always.)</del> <ins>Click no option first. (Always.)</ins>" in text
    assert 'class="soft dropped">\nnew page' in text and "old task" not in text
    assert "rgba(var(--good), 0.48)" in text and "rgba(var(--bad), 0.12)" in text
    assert 'title="p 0.607"' in text and 'title="p 0.368"' in text  # exp(-0.5), exp(-1)
    assert "0.00→1.25" in text and ">committed<" in text and ">no use<" in text
    assert "6,000 sampled tokens,\n1.5 minutes" in text


def test_a_character_of_many_tokens_is_whole(random_tiny):
    """Bug: half a character is shown as a question mark in a box."""
    chat = Chat(AutoTokenizer.from_pretrained(random_tiny))
    ids = chat.encode("a é 日本 b")
    pieces = page.split(chat, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == chat.decode(ids) and "\ufffd" not in "".join(pieces)


def test_long_runs_are_thinned_out(tmp_path, random_tiny):
    """Bug: the page of a run of 150 iterations has a hundred megabytes, or lacks its last iteration."""
    AutoTokenizer.from_pretrained(random_tiny).save_pretrained(tmp_path / "reference")
    for step in range(1, 151):
        write_atomic(tmp_path / "samples" / f"step_{step:05d}.json", json.dumps({"episodes": [
            {**EPISODE, "step": step, "number": n} for n in (0, 1)]}))
    steps = [step for step, _ in page.transcripts(tmp_path, 40)]
    assert 30 < len(steps) <= 40 and steps == sorted(steps) and steps[0] < 10 and steps[-1] == 150
    assert page.transcripts(tmp_path / "new", 40) == {}


def test_a_real_run_has_a_page_and_two_have_one(train_in_process, tmp_path):
    """Bug: the page needs a field that no run writes, or the curves of two runs that are both named seed0 are one."""
    pytest.importorskip("matplotlib")
    flags = ["--env", "webshop", "--tasks", "1", "--group", "2", "--eval_every", "0", "--steps", "1",
             "--cold_start", "0", "--act_tokens", "8", "--review_tokens", "8", "--context", "1024"]
    paths = [tmp_path / name / "seed0" for name in ("one", "two")]
    for path in paths:
        train_in_process(flags, 2, path)
    text = written(*paths)
    assert text.count("You shop in a text web store") >= 2 and 'id="run2-1-' in text
    svg = text[text.index("<svg"):text.index("</svg>")]
    assert all(f"{path}</text>" in svg for path in paths) and "seconds of an iteration" in svg
    assert "mismatch: std of log(trainer / sampler)" in svg
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)


def test_without_matplotlib_there_is_a_page(run, monkeypatch, capsys):
    """Bug: nobody sees a run's transcripts because a package for curves is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = written(run)
    note = "no curves: a figure needs matplotlib: pip install matplotlib"
    assert note in text and "<svg" not in text and capsys.readouterr().out.splitlines()[0] == note


@pytest.mark.parametrize("argv,status,words", [
    ([], 2, "RUN"), (["one", "two", "three"], 2, "three"), (["."], 1, "metrics.jsonl cannot be read"),
    ([".", "--out", "."], 2, "is a directory")])
def test_a_wrong_call_ends_with_one_line(argv, status, words, tmp_path, monkeypatch, capsys):
    """Bug: a traceback for a typing error, or another exit status than the other commands have."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        page.main(argv)
    told = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err.strip()
    assert told.startswith("tools.page: ") and words in told and "\n" not in told
    assert (end.value.code == 2) == (status == 2)


def in_browser(text, tmp_path):
    """The page's DOM as text, after its scripts have run."""
    (tmp_path / "copy.html").write_text(text, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000",
             f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    return subprocess.run([CHROMIUM, *flags, (tmp_path / "copy.html").as_uri()], capture_output=True, text=True,
                          timeout=100, check=True).stdout


PLAY = """<pre id="told"></pre><script>
const told = [], one = selector => document.querySelector(selector);
const see = () => told.push([...document.querySelectorAll("#edits tbody tr")].filter(row => row.offsetHeight)
  .map(row => row.cells[1].textContent).join() + " of " + one("#count").textContent);
const type = text => { one("#words").value = text; one("#words").dispatchEvent(new Event("input")); see(); };
const sort = column => { document.querySelectorAll("#edits th")[column].click(); see(); };
type("NO option"); type("committed"); type(""); sort(1); sort(1); sort(7); sort(7);
one("#edits a").click();
setTimeout(() => {
  told.push(one("[title='p 0.607']").offsetHeight > 0, getComputedStyle(one(".turn")).backgroundColor);
  one("#told").textContent = JSON.stringify(told);
}, 1000);
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_page_works_and_nothing_else_runs(run, tmp_path):
    """Bug: the page's own script is blocked by its policy, a filter shows what it should hide, or alert(1) ran."""
    text = written(run)
    foreign = in_browser(text + "<script>document.title = 'ran'</script><p onclick='1' id=x></p>", tmp_path)
    assert '<span id="count">2 of 2</span>' in foreign and "<title>ran" not in foreign
    # The same with a policy that lets the test in.
    dom = in_browser(re.sub("script-src 'sha256-[^']*'", "script-src 'unsafe-inline'", text) + PLAY, tmp_path)
    told = json.loads(html.unescape(re.findall(r'<pre id="told">(.*?)</pre>', dom)[0]))
    assert told == ["2 of 1 of 2", "1 of 1 of 2", "1,2 of 2 of 2", "1,2 of 2 of 2", "2,1 of 2 of 2", "2,1 of 2 of 2",
                    "1,2 of 2 of 2", True, "rgba(0, 114, 178, 0.48)"]

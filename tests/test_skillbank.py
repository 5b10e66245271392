"""The skill bank: what each tool call does to it, what a prompt is shown of it, and that nothing said can break it."""

import copy
import json
import random
from types import SimpleNamespace

import pytest

from envs import Episode
from probes import edits_of
from skillbank import (
    SHAPING,
    TOOLS,
    WORLD_ACTIONS,
    Skill,
    SkillBank,
    commit,
    parse_tool_call,
    review,
    review_prompt,
    shaping,
    similarity,
    skills_prompt,
    tool_call,
)
from tests.skills import SHOE, bank_of
from tools import report
from worlds.webshop.shopper import WAYS


def said(name, arguments, thought="<think>so it went</think>"):
    return thought + tool_call(name, arguments)


# -- the tools


def test_propose_adds_with_running_ids():
    """Bug: ids start anew beside a loaded bank, so that update_skill hits another skill than the one shown."""
    bank = SkillBank([Skill("dyn_007", "a", "b", "c"), Skill("gen_900", "d", "e", "f")])
    bank.task_specific_skills["apparel"] = [Skill("dyn_012", "g", "h", "i"), Skill("my_dyn_99", "j", "k", "l")]
    result = bank.apply("propose_skill", SHOE, "footwear")
    assert (result.status, result.name, result.skill_id) == ("added", "propose_skill", "dyn_013")
    added = bank.task_specific_skills["footwear"][-1]
    assert added == Skill("dyn_013", SHOE["title"], SHOE["principle"], SHOE["when_to_apply"])
    general = dict(SHOE, category="general", title="Other", principle="Another.")
    assert bank.apply("propose_skill", general, "footwear").skill_id == "dyn_014"
    assert bank.general_skills[-1].title == "Other"
    assert SkillBank().apply("propose_skill", SHOE, "footwear").skill_id == "dyn_001"
    many = SkillBank([Skill("dyn_999", "a", "b", "c")])
    assert many.apply("propose_skill", SHOE, "footwear").skill_id == "dyn_1000"


@pytest.mark.parametrize("ids, following", [
    (["dyn_999"], ["dyn_1000", "dyn_1001"]), (["dyn_7", "dyn_009"], ["dyn_010", "dyn_011"]),
    (["dyn_" + "9" * 5000], ["dyn_001", "dyn_002"]), (["dyn_" + "9" * 4000, "dyn_004"], ["dyn_005", "dyn_006"]),
    (["dyn_999999999"], ["dyn_1000000000", "dyn_001"]), (["dyn_99999999", "dyn_100000000"], ["dyn_100000001"]),
    (["dyn_\u0663", "dyn_\u00b2", "dyn_-5", "dyn_ 6", "dyn_7\n", "dyn_1_0", "dyn_"], ["dyn_001", "dyn_002"]),
], ids=lambda ids: ascii(ids[0])[:20])
def test_ids_go_on_after_any_others(ids, following):
    """Bug: int() takes Arabic digits, or refuses 5,000 of them; after a billion each new skill has the same id."""
    bank = SkillBank([Skill(skill_id, f"old {i}", f"old text {i}", "w") for i, skill_id in enumerate(ids)])
    for i, skill_id in enumerate(following):
        new = dict(SHOE, title=f"new {i}", principle=f"new text {i}")
        assert bank.apply("propose_skill", new, "footwear").skill_id == skill_id
    assert len({skill.skill_id for skill in bank.skills()}) == len(bank.skills())


@pytest.mark.parametrize("change", [
    dict(title="  choose THE\tsize\n first ", principle="New."), dict(title="New", principle="click every  option the "
                                                                      "task NAMES."), dict(category="general")])
def test_duplicates_after_folding(change):
    """Bug: a bank fills up with one skill in forty spellings, each paid for as an edit."""
    bank = SkillBank()
    bank.apply("propose_skill", SHOE, "footwear")
    before = bank.to_dict()
    result = bank.apply("propose_skill", SHOE | change, "footwear")
    assert (result.status, result.skill_id) == ("duplicate", None) and bank.to_dict() == before


def test_a_duplicate_in_another_family_and_no_false_one():
    """Bug: duplicates are sought in the own family only, or a title within a title counts as one."""
    bank = bank_of(apparel=1)
    twin = dict(SHOE, title="Apparel title 0")
    assert bank.apply("propose_skill", twin, "footwear").status == "duplicate"
    close = dict(SHOE, title="Apparel title", principle="apparel principle 0!")
    assert bank.apply("propose_skill", close, "footwear").status == "added"


@pytest.mark.parametrize("category, status", [("footwear", "added"), ("general", "added"), (" general ", "added"),
                                              ("apparel", "invalid_arguments"), ("Footwear", "invalid_arguments"),
                                              ("none", "invalid_arguments")])
def test_category_is_general_or_the_own_family(category, status):
    """Bug: a review of a shoe task writes into other families, where no probe of its own looks."""
    bank = bank_of(apparel=1)
    assert bank.apply("propose_skill", SHOE | {"category": category}, "footwear").status == status
    assert len(bank.skills()) == 1 + (status == "added")


@pytest.mark.parametrize("name", list(TOOLS))
def test_every_argument_is_required_and_a_text(name):
    """Bug: a missing or empty argument becomes an empty skill, a list becomes its repr."""
    whole = {key: SHOE.get(key, "general_0") for key in TOOLS[name]} | {"unasked": 3}
    bank = bank_of(1, footwear=1)
    good = {"propose_skill": "added", "update_skill": "updated", "keep_skill": "kept"}[name]
    assert bank.tried(name, whole, "footwear").status == good
    for key in TOOLS[name]:
        for wrong in ("", " \n", None, 5, ["a"], {"a": "b"}, True):
            assert bank.apply(name, whole | {key: wrong}, "footwear").status == "invalid_arguments", (key, wrong)
        without = {k: v for k, v in whole.items() if k != key}
        assert bank.apply(name, without, "footwear").status == "invalid_arguments"
    for wrong in (None, "text", [], 4):
        assert bank.apply(name, wrong, "footwear").status == "invalid_arguments"
    assert bank.to_dict() == bank_of(1, footwear=1).to_dict()


def test_update_by_id_and_by_title():
    """Bug: an update changes the id (so that a second update misses), drops foreign fields or hits two skills."""
    bank = bank_of(2, footwear=3)
    bank.general_skills[0].extra = {"confidence": 0.8}
    new = dict(title="New title", principle="New principle.", when_to_apply="Now.", reason="vague")
    result = bank.apply("update_skill", new | {"skill_id": "general_0"}, "footwear")
    assert (result.status, result.skill_id) == ("updated", "general_0")
    assert bank.general_skills[-1] == Skill("general_0", "New title", "New principle.", "Now.", {"confidence": 0.8})
    other = new | {"skill_id": "footwear title 1", "title": "T2", "principle": "P2"}
    assert bank.apply("update_skill", other, "footwear").skill_id == "footwear_1"
    again = other | {"skill_id": "T2", "title": "T3", "principle": "P3"}
    assert bank.apply("update_skill", again, "footwear").skill_id == "footwear_1"
    assert sorted(s.skill_id for s in bank.skills()) == sorted(s.skill_id for s in bank_of(2, footwear=3).skills())
    before = bank.to_dict()
    for miss in ("footwear title 1", "t3", "general_9", "*"):
        assert bank.apply("update_skill", other | {"skill_id": miss}, "footwear").status == "not_found"
    assert bank.to_dict() == before


@pytest.mark.parametrize("change", [
    dict(title=" footwear TITLE 0 ", principle="Footwear  principle 0", when_to_apply="Always"),
    dict(title="Footwear title 1"), dict(principle="general principle 0"),
], ids=["the same", "another's title", "another's principle"])
def test_an_update_that_adds_nothing_is_a_duplicate(change):
    """Bug: an update to the very same words, or to those of another skill, is probed and committed as an edit."""
    bank = bank_of(1, footwear=2)
    before = bank.to_dict()
    new = dict(skill_id="footwear_0", title="New", principle="New text.", when_to_apply="always", reason="r")
    assert bank.apply("update_skill", new | change, "footwear").status == "duplicate" and bank.to_dict() == before
    only_when = dict(title="footwear title 0", principle="footwear principle 0", when_to_apply="On a product page.")
    assert bank.apply("update_skill", new | only_when, "footwear").status == "updated"


@pytest.mark.parametrize("odd", ["\x00", "\x1b[2J", "\x7f", "\x85", "\u200b", "\u202e", "\u2066", "\ufeff"], ids=ascii)
def test_characters_that_nobody_sees_are_refused(odd):
    """Bug: a skill that reads well in the terminal and says something else to the policy enters the bank."""
    edit = SkillBank().apply("propose_skill", SHOE | {"principle": f"Click the {odd}size."}, "footwear")
    assert edit.status == "markup" and not edit.bank.skills()
    assert SkillBank().apply("propose_skill", SHOE | {"principle": "Wähle\tdie Größe 你好 💰"}, "footwear").changed


def test_an_id_wins_over_a_title():
    """Bug: a skill that a confused policy titled `dyn_002` takes all the updates that are meant for dyn_002."""
    bank = SkillBank([Skill("dyn_001", "dyn_002", "p", "w"), Skill("dyn_002", "t", "q", "w")])
    new = dict(skill_id="dyn_002", title="x", principle="y", when_to_apply="z", reason="r")
    assert bank.apply("update_skill", new, "footwear").skill_id == "dyn_002"
    assert [s.title for s in bank.general_skills] == ["dyn_002", "x"]


def test_keep_and_unknown_tools_change_nothing():
    """Bug: keep_skill counts as an edit and is probed; an unknown tool raises in the middle of a rollout."""
    bank = bank_of(1)
    assert bank.apply("keep_skill", {"reason": "fine"}, "footwear").status == "kept"
    for name in ("delete_skill", "Keep_skill", "", None):
        result = bank.apply(name, {"reason": "fine"}, "footwear")
        assert (result.status, result.skill_id, result.name) == ("unknown_tool", None, name)
    assert bank.to_dict() == bank_of(1).to_dict()


@pytest.mark.parametrize("name, arguments", [("propose_skill", SHOE), ("update_skill", {
    **SHOE, "skill_id": "general_0", "reason": "r"})])
def test_a_copy_is_a_copy(name, arguments):
    """Bug: the bank without the edit has the edit, and every utility is zero; or two edits of a step see each other."""
    bank = bank_of(1, footwear=1)
    bank.metadata = {"a": [1]}
    before = copy.deepcopy(bank.to_dict())
    result = bank.tried(name, arguments, "footwear")
    assert bank.to_dict() == before and result.bank.to_dict() != before
    result.bank.metadata["a"].append(2)
    for skill in result.bank.skills():
        skill.title = "changed"
    assert bank.to_dict() == before
    assert bank.apply(name, arguments, "footwear").bank is bank and bank.to_dict() != before


def test_removed_skills_are_gone_and_the_others_stay():
    """Bug: an audit that retires a skill takes its neighbour, or leaves it in its family's list."""
    bank = bank_of(3, footwear=2, apparel=1)
    whole = copy.deepcopy(bank)
    general = bank.general_skills
    bank.remove({"general_1", "footwear_1", "nobody"})
    assert [s.skill_id for s in bank.skills()] == ["general_0", "general_2", "footwear_0", "apparel_0"]
    assert bank.general_skills is general and bank.category("footwear_0") == "footwear" and len(whole.skills()) == 6
    bank.remove(["apparel_0"])
    bank.remove([])
    assert bank.task_specific_skills["apparel"] == [] and bank.retrieve("any task", "apparel", 3) == general[::-1]


# -- retrieval


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("category", ["general", "footwear"])
def test_a_new_skill_is_always_shown(k, category):
    """Bug (released code): cut by the order in the file, a skill behind the k-th is never shown, its utility noise."""
    bank = bank_of(40, footwear=40)
    for skill in bank.skills():
        skill.when_to_apply = "running shoes size 9"  # all others fit the task, the new one does not
    new = dict(SHOE, category=category, title="zzz", principle="yyy", when_to_apply="xxx")
    skill_id = bank.apply("propose_skill", new, "footwear").skill_id
    shown = bank.retrieve("running shoes size 9", "footwear", k)
    assert skill_id in [s.skill_id for s in shown] and len(shown) == 2 * k
    bank.apply("update_skill", new | {"skill_id": f"{category}_5", "title": "www", "principle": "v", "reason": "r"},
               "footwear")
    shown = [s.skill_id for s in bank.retrieve("running shoes size 9", "footwear", k)]
    assert f"{category}_5" in shown, "an updated skill counts as the newest"


def test_ranked_by_similarity_then_newest():
    """Bug: the oldest wins a tie, a word such as `the` counts as similar, or the last seat costs the best skill."""
    bank = bank_of(5)
    task = "Find me waterproof hiking boots for the winter"
    bank.general_skills[1].principle = "waterproof hiking boots"
    bank.general_skills[3].title = "the me for Find 3 hiking"
    order = [s.skill_id[-1] for s in bank.retrieve(task, "footwear", 5)]
    assert order == ["1", "3", "4", "2", "0"]
    assert [s.skill_id[-1] for s in bank.retrieve(task, "footwear", 2)] == ["1", "4"], "the last seat is the newest's"
    assert [s.skill_id[-1] for s in bank.retrieve(task, "footwear", 1)] == ["4"]
    assert [s.skill_id[-1] for s in bank.retrieve("nothing in common", "footwear", 3)] == ["4", "3", "2"]
    assert similarity(task, Skill("x", "the for me", "Find", "in a")) == 0.0
    assert similarity(task, Skill("x", "Hiking", "BOOTS!", "never")) == pytest.approx(2 / 3)


@pytest.mark.parametrize("task, fits, other", [
    ("Найди мне красные туфли", "Туфли: проверь размер", "Лампа: проверь цену"),
    ("ابحث عن حذاء أحمر", "حذاء: تحقق من المقاس", "مصباح: تحقق من السعر"),
    ("帮我找一双红色的鞋子", "鞋子要先选尺寸", "台灯要看价格"),
    ("赤いシューズを探して", "シューズは大きさを選ぶ", "台灯は値段を見る"),
    ("หารองเท้าสีแดง", "รองเท้า ตรวจขนาด", "โคมไฟ ตรวจราคา"), ("लाल जूते खोजो", "जूते का आकार देखो", "दीपक का दाम देखो"),
    ("Suche grüne Schuhe", "GRÜNE Hemden", "Rote Lampen"),
], ids=["Russian", "Arabic", "Chinese", "Japanese", "Thai", "Hindi", "German"])
def test_a_skill_is_found_in_any_language(task, fits, other):
    """Bug: only a-z and 0-9 count, so skills in other alphabets are similar to no task: the newest win."""
    bank = SkillBank([Skill("a", fits, "", ""), Skill("b", other, "", ""), Skill("c", "zzz", "", "")])
    assert [skill.skill_id for skill in bank.retrieve(task, "x", 2)] == ["a", "c"], "the last seat is the newest's"


def test_general_and_family_have_seats_of_their_own():
    """Bug: forty general skills crowd the family's out, another family's are shown, or the bank itself is reordered."""
    bank = bank_of(9, footwear=2, apparel=9)
    before = bank.to_dict()
    shown = [s.skill_id for s in bank.retrieve("boots", "footwear", 3)]
    assert shown == ["general_8", "general_7", "general_6", "footwear_1", "footwear_0"]
    assert [s.skill_id for s in bank.retrieve("boots", "unheard", 1)] == ["general_8"]
    assert bank.retrieve("boots", "footwear", 0) == [] and SkillBank().retrieve("boots", "footwear", 3) == []
    assert bank.to_dict() == before


def test_the_prompt_shows_all_of_a_skill():
    """Bug: a skill without its id cannot be updated, one without its condition is applied everywhere."""
    bank = bank_of(1, footwear=1)
    prompt = skills_prompt(bank.skills())
    for skill in bank.skills():
        assert all(part in prompt for part in (skill.skill_id, skill.title, skill.principle, skill.when_to_apply))
    assert skills_prompt([]) != "" and "none" in skills_prompt([])


GOOD = {"skill_id": "a", "title": "b", "principle": "c", "when_to_apply": "d"}


# -- reading a review

ARGUMENTS = {"reason": "all well"}


@pytest.mark.parametrize("text", [
    said("keep_skill", ARGUMENTS),
    said("keep_skill", ARGUMENTS, ""),
    'x</think>\n<tool_call>\n{"arguments": {"reason": "all well"}, "name": "keep_skill"}\n</tool_call> bye',
    '<think>{"a": 1}</think> so {"name": "keep_skill", "arguments": {"reason": "all well"}} is it',
    '<think>t</think><tool_call>{"name": "keep_skill", "arguments": {"reason": "all well"}}',
    said("keep_skill", json.dumps(ARGUMENTS)),
])
def test_readable_calls(text):
    """Bug: white space, forgotten tags or a quoted inner object cost a call that a person would understand."""
    assert parse_tool_call(text) == ("keep_skill", ARGUMENTS, None)


CALL = '{"name": "keep_skill", "arguments": {"reason": "all well"}}'


@pytest.mark.parametrize("text", [
    f"<think>t</think><tool_call>```json\n{CALL}\n```</tool_call>",
    f"<think>t</think><tool_call>\n```\n{CALL}```\n</tool_call>",
    f"<think>t</think>```json\n{CALL}\n```", f"<think>t</think><tool_call>```{CALL}```</tool_call>",
    f"<think>I write <tool_call> at the end</think><tool_call>{CALL}</tool_call>",
    f"<think>not <tool_call>{{}}</tool_call> but</think><tool_call>{CALL}</tool_call>",
    f"I write <tool_call> now</think><tool_call>{CALL}</tool_call>",  # the prompt may open the thought
    f"<think>never closed, <tool_call> and <tool_call>{CALL}</tool_call>",
    f"<tool_call>{CALL}</tool_call><think>that was my <tool_call></think>",
    f"<think>a</think><think>b <tool_call></tool_call></think> <tool_call>{CALL}</tool_call>",
])
def test_a_call_is_read_after_the_thought_and_out_of_its_fence(text):
    """Bug: a fence inside the tags is unreadable (-2); a thought that mentions the tag makes a good call unreadable."""
    assert parse_tool_call(text) == ("keep_skill", ARGUMENTS, None)
    result = review(text, bank_of(1), "footwear")
    thought = 0.0 if "</think>" in text else -0.5
    tags = 0.0 if "</think>```" not in text else -0.5
    assert result.status == "kept" and shaping(text, result) == pytest.approx(0.1 + thought + tags)


def test_an_argument_may_mention_tags():
    """Bug: a skill about thoughts cuts the call in two, and is unreadable."""
    arguments = {"reason": "Close </think> once. <think> is for thoughts."}
    assert parse_tool_call(said("keep_skill", arguments)) == ("keep_skill", arguments, None)


def test_tags_that_only_the_thought_mentions_are_no_tags():
    """Bug: the penalty for missing tags is lifted by a thought about them."""
    text = f"<think>I need <tool_call>x</tool_call></think>{CALL}"
    assert parse_tool_call(text)[2] is None
    assert shaping(text, review(text, bank_of(1), "footwear")) == pytest.approx(-0.4)
    assert parse_tool_call(f"<think>t</think><tool_call>{CALL}</tool_call> or <tool_call>{CALL}</tool_call>")[2]


@pytest.mark.parametrize("tool, extra", [
    ("propose_skill", {"skill_id": []}), ("propose_skill", {"skill_id": {"a": []}}),
    ("propose_skill", {"reason": 1e999}),
    ("propose_skill", {"note": "\ud800"}), ("propose_skill", {"\ud83d": 1}), ("update_skill", {"category": "general"}),
    ("update_skill", {"category": []}), ("update_skill", {"evidence": None}), ("update_skill", {"note": "\ud800"}),
])
def test_only_the_tools_own_arguments_leave_the_parser(tool, extra, tmp_path):
    """Bug: a valid call with an extra argument ends the run, as that is hashed or written later; or moves the skill."""
    own = {"propose_skill": SHOE, "update_skill": {**SHOE, "skill_id": "footwear_0", "reason": "r"}}[tool]
    arguments = {**{key: own[key] for key in TOOLS[tool]}, **extra}
    edit = review(said(tool, arguments), bank_of(1, footwear=1), "footwear", 1)
    assert edit.changed and set(edit.arguments) == set(TOOLS[tool])
    assert hash(edit.identity) and edit.category == "footwear"
    report.append(tmp_path / "edits.jsonl", report.edit_rows(1, [SimpleNamespace(edit=edit)], [], WAYS))
    assert report.lines_of(tmp_path / "edits.jsonl")[0]["arguments"] == edit.arguments


def test_what_a_review_writes_is_stripped_and_valid_everywhere(tmp_path):
    """Bug: half a surrogate pair ends the run when edits.jsonl is written, and every --resume after it."""
    arguments = {**SHOE, "title": " Pick \ud83d ", "category": " general "}
    edit = review(said("propose_skill", arguments).replace("\\\\ud", "\\ud"), SkillBank(), "footwear", 1)
    assert edit.arguments["title"] == "Pick ?" and edit.category == "general" == edit.arguments["category"]
    assert edit.bank.general_skills[0].title == "Pick ?"
    report.append(tmp_path / "edits.jsonl", report.edit_rows(1, [SimpleNamespace(edit=edit)], [edit], WAYS))
    assert "Pick ?" in (tmp_path / "edits.jsonl").read_text()


def test_an_update_of_a_general_skill_is_general_by_whatever_name():
    """Bug: the update of a general skill is confirmed on one family only; by id and by title it counts as two edits."""
    bank = bank_of(1, footwear=1)
    edits = [review(said("update_skill", {**SHOE, "skill_id": target, "reason": "r"}), bank, "footwear")
             for target in ("general_0", "general title 0")]
    assert [edit.category for edit in edits] == ["general"] * 2 and edits[0].identity == edits[1].identity


def test_nothing_said_ends_a_run(tmp_path):
    """Bug: a mutated review passes the parser and raises in the log, the commit or the printed story."""
    rng, bank, path = random.Random(1), bank_of(2, footwear=2), tmp_path / "edits.jsonl"
    for number, text in enumerate(MONSTERS + [hostile(rng) for _ in range(2400)]):
        episode = Episode(number, "footwear", 0, [], ("s", "u"), review=text,
                          edit=review(text, bank, "footwear", number))
        edits = edits_of([episode])
        for edit in edits:
            hash(edit.identity)
            edit.utility = 1.0
        committed = commit(bank, edits) if number % 7 == 0 else []
        report.append(path, report.edit_rows(number, [episode], committed, WAYS))
        report.sample(tmp_path / "sample.txt", [episode], committed, [0.0])
        assert isinstance(report.story([episode], edits, committed), str)
    assert len(report.lines_of(path)) > 100


def test_a_line_break_in_an_argument_is_readable():
    """Bug: models write raw line breaks inside JSON strings, strict JSON refuses them."""
    text = '<tool_call>{"name": "keep_skill", "arguments": {"reason": "all\nwell"}}</tool_call>'
    assert parse_tool_call(text)[1] == {"reason": "all\nwell"}


@pytest.mark.parametrize("text", [
    "", "nothing to see", said("keep_skill", ARGUMENTS) * 2, "<tool_call></tool_call>", "<tool_call>{}</tool_call>",
    '<tool_call>{"name": "keep_skill"}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "keep_skill", "arguments": [1]}</tool_call>', '<tool_call>[{"name": 1}]</tool_call>',
    '<tool_call>{"name": 3, "arguments": {}}</tool_call>', '<tool_call>{"name": null, "arguments": {}}</tool_call>',
    '<tool_call>{"name": "keep_skill", "arguments": "reason"}</tool_call>', '<tool_call>keep_skill()</tool_call>',
    '{"name": "keep_skill", "arguments": {"reason": "x"}} or {"name": "keep_skill", "arguments": {"reason": "y"}}',
])
def test_unreadable_calls(text):
    """Bug: two calls count as one, or half a call as a valid edit with empty arguments."""
    name, arguments, error = parse_tool_call(text)
    assert name is None and arguments is None and isinstance(error, str) and "\n" not in error
    assert review(text, SkillBank(), "footwear").status == "parse_error"


def test_review_edits_a_copy():
    """Bug: 64 reviews of one iteration edit one bank, each on top of the others."""
    bank = bank_of(1)
    result = review(said("propose_skill", SHOE), bank, "footwear")
    assert (result.status, result.arguments, result.name) == ("added", SHOE, "propose_skill")
    assert len(bank.skills()) == 1 and len(result.bank.skills()) == 2
    assert review(said("propose_skill", SHOE), bank, "apparel").status == "invalid_arguments"


KEEP = {"reason": "fine"}


@pytest.mark.parametrize("text, value", [
    (said("keep_skill", KEEP), 0.1),
    (said("propose_skill", SHOE), 0.1),
    (said("update_skill", {**SHOE, "skill_id": "general_0", "reason": "r"}), 0.1),
    (said("update_skill", {**SHOE, "skill_id": "general_9", "reason": "r"}), -0.4),
    (said("propose_skill", SHOE | {"title": "general TITLE 0"}), -0.4),
    (said("propose_skill", SHOE | {"category": "apparel"}), -1.0),
    (said("keep_skill", {}), -1.0),
    (said("delete_skill", KEEP), -1.5),
    (said("search", {"query": "boots"}), -4.5),
    (said("click[buy now]", {}), -4.5),
    (said("Go_To", {"place": "shelf 1"}), -4.5),
    (said("research_skill", KEEP), -1.5),  # not a world's word, only begins like one backwards
    ("<think>t</think><tool_call>{oops}</tool_call>", -2.0),
    ("<think>t</think>I keep it", -2.5),
    ("I keep it", -3.0),
    (said("keep_skill", KEEP, ""), -0.4),
    (said("keep_skill", KEEP, "<think>never closed"), -0.4),
    (said("keep_skill", KEEP).replace("</tool_call>", ""), -0.4),
    (said("keep_skill", KEEP, "").replace("</tool_call>", ""), -0.9),
    (said("keep_skill", {"reason": "..."}), -1.4),
    (said("keep_skill", {"reason": "…"}), -1.4),
    (said("propose_skill", SHOE | {"evidence": " ... ", "title": "<title>"}), -1.4),  # once, however many
    (said("keep_skill", {"reason": "Wait ... then buy"}), 0.1),  # dots within a text are text
    (said("search", {"query": "..."}, ""), -6.5),  # -1.5 - 3 - 0.5 - 1.5
    (said("keep_skill", KEEP) * 2, -2.0),
])
def test_shaping_table(text, value):
    """Bug: a launcher's constant off, two penalties that exclude each other, or one that is charged twice."""
    assert shaping(text, review(text, bank_of(1), "footwear")) == pytest.approx(value)


def test_every_status_has_a_price():
    """Bug: a status without an entry is a KeyError after an hour of rollouts (0.1 - 0.5 for a duplicate)."""
    assert SHAPING == {"added": 0.1, "updated": 0.1, "kept": 0.1, "not_found": -0.4, "duplicate": -0.4,
                       "invalid_arguments": -1.0, "unknown_tool": -1.5, "parse_error": -2.0}
    assert not any(name.split("_")[0] in WORLD_ACTIONS for name in TOOLS)


def test_an_update_of_nothing_does_not_pay():
    """Bug: reviews collapse into updates of ids that do not exist, which are paid like valid calls and never probed."""
    text = said("update_skill", {"skill_id": "dyn_099", "title": "a", "principle": "b", "when_to_apply": "c",
                                 "reason": "d"})
    edit = review(text, bank_of(1), "footwear")
    assert edit.status == "not_found" and shaping(text, edit) == pytest.approx(-0.4)
    assert shaping(text, edit, 0.1) == pytest.approx(0.1), "the released code's"


def hostile(rng):
    """One random review: a sound one, mutated, or a monster."""
    values = ["text", "", " ", "...", "\x00", "\ud800", "\udfff\ud83d x", "💰", "general", "footwear", "general_0",
              None, True, 0, -1.5, 10**400, float("inf"), float("nan"), [], ["a"], {}, {"a": {"b": "c"}}, "x" * 5000]
    names = [*TOOLS, "search", "click[x]", "", " ", "__class__", "keep_skill\x00", "\ud800", "💰", None, 3, ["a"], {}]
    keys = sorted({key for some in TOOLS.values() for key in some}) + ["", "extra", "__init__"]
    name = rng.choice(list(TOOLS)) if rng.random() < 0.7 else rng.choice(names)
    if isinstance(name, str) and name in TOOLS:
        arguments = {key: f"word {rng.randrange(40)}" for key in TOOLS[name]}
        arguments |= {"category": rng.choice(["general", "footwear", "apparel"])} if "category" in arguments else {}
        arguments |= {"skill_id": f"general_{rng.randrange(3)}"} if "skill_id" in arguments else {}
    else:
        arguments = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(4))}
    for _ in range(rng.randrange(3)):
        arguments[rng.choice(keys)] = rng.choice(values)
    if rng.random() < 0.1:
        arguments = rng.choice([json.dumps(arguments), json.dumps(json.dumps(arguments)), None, 3, [arguments]])
    call = {"name": name, "arguments": arguments}
    if rng.random() < 0.1:
        call = rng.choice([[call], {"name": name}, arguments, call | {"arguments": {"a": call}}, name])
    body = json.dumps(call, ensure_ascii=rng.random() < 0.5)
    body = rng.choice([body, body, body, f"```json\n{body}\n```", body * 2, body[::-1], body.replace('"', "'")])
    opening, closing = rng.choice([("<tool_call>", "</tool_call>")] * 4 + [
        ("", ""), ("<tool_call>", ""), ("", "</tool_call>"), ("<tool_call><tool_call>", "</tool_call></tool_call>")])
    thought = rng.choice(["<think>so</think>", "<think>so", "so</think>", "", "<think></think>", "<think>{</think>}"])
    text = thought + opening + body + closing
    if rng.random() < 0.3:  # cut, repeat or overwrite a stretch
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        junk = rng.choice(["", text[a:b] * 2, "{" * 50, "}" * 50, "\x00", "\ud800", '"', "\\", "\\ud800", "\\u12"])
        text = rng.choice([text[:a], text[b:], text[:a] + junk + text[b:]])
    return text


MONSTERS = ["[" * 100_000, '{"a":' * 100_000, "<tool_call>" + "[" * 100_000 + "</tool_call>",
            '<tool_call>{"name": "keep_skill", "arguments": {"reason": ' + "[" * 100_000 + "]" * 100_000 +
            "}}</tool_call>", "<tool_call>" + "9" * 100_000 + "</tool_call>", "{" * 100_000 + "}" * 100_000,
            said("keep_skill", {"reason": "x" * 1_000_000}), "\ud800" * 100, "\x00" * 100, "<think>" * 300,
            '<tool_call>{"name": "keep_skill", "arguments": "' + "[" * 100_000 + '"}</tool_call>']


def test_nothing_said_breaks_anything(tmp_path):
    """Bug: one lone surrogate, NUL or [[[[... of a sampled review ends a training run, now or in save()."""
    rng, seen, path = random.Random(0), set(), tmp_path / "skills.json"
    bank = bank_of(3, footwear=1)
    for number, text in enumerate(MONSTERS + [hostile(rng) for _ in range(4000)]):
        result = review(text, bank, "footwear")
        assert result.status in {*SHAPING, "markup"}, text[:200]
        assert -7.0 <= shaping(text, result) <= 0.1
        seen.add(result.status)
        if result.status in ("added", "updated"):
            for skill in result.bank.skills():
                skill.line().encode("utf-8")  # the tokenizer takes nothing else
            if number % 5 == 0:  # now and then it stays, so that later reviews meet odd skills
                bank = result.bank
                bank.save(path)
                assert SkillBank.load(path) == bank
                assert len({s.skill_id for s in bank.skills()}) == len(bank.skills())
        else:
            assert result.bank.to_dict() == bank.to_dict()
    assert seen == {*SHAPING, "markup"}, "the mutations must reach every status"


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    """Bug: JSON's \\ud800 passes the parser, and the tokenizer raises on it when the skill is probed."""
    text = said("propose_skill", SHOE).replace("Choose", "Cho\\ud83dose 💰 \\ud83d\\udcb0")
    bank = review(text, SkillBank(), "footwear").bank
    assert bank.skills()[0].title == "Cho?ose 💰 💰 the size first"
    bank.common_mistakes = [{"description": "half \ud800"}]  # came with a file: kept, as JSON spells it
    bank.save(tmp_path / "skills.json")
    assert SkillBank.load(tmp_path / "skills.json") == bank


def test_the_review_prompt_tells_the_rules():
    """Bug: a tool or an argument that the prompt does not name can only be guessed; the outcome is what it is about."""
    prompt = review_prompt("home_decor", False, 0.6667, 7, 15)
    for name, arguments in TOOLS.items():
        line = next(line for line in prompt.splitlines() if name in line)
        assert all(argument in line for argument in arguments)
    assert "home_decor" in prompt and "general" in prompt
    assert "FAILURE" in prompt and "0.67" in prompt and "7 of 15" in prompt and "SUCCESS" not in prompt
    assert "SUCCESS" in review_prompt("home_decor", True, 1.0, 7, 15)
    assert "<think>" in prompt and "<tool_call>" in prompt and "</tool_call>" in prompt


def test_what_we_write_we_read():
    """Bug: the format shown in demonstrations is not the one the parser reads."""
    for name, arguments in TOOLS.items():
        whole = {argument: 'quote " and </b> 💰\nline' for argument in arguments}
        assert parse_tool_call(said(name, whole)) == (name, whole, None)


# -- commit


def edit(bank, task, utility, title, name="propose_skill", **more):
    """An edit that was tried on a bank, and what its probes said."""
    made = bank.tried(name, dict(SHOE, title=title, principle=f"principle of {title}", **more), "footwear", task)
    made.utility = utility
    return made


def titles(bank):
    return [s.title for s in bank.skills()]


def test_commit_positive():
    """Bug: harmful edits get in, four rollouts of a task add four wordings of a skill, or a duplicate blocks a task."""
    bank = SkillBank()
    bank.apply("propose_skill", dict(SHOE, title="old", principle="old"), "footwear")
    edits = [edit(bank, *row) for row in (
        (1, 0.2, "second of 1"), (1, 0.5, "best of 1"), (2, 0.0, "no effect"), (3, -0.5, "harm"),
        (4, 0.3, "best OF 1"), (5, 0.9, "old"), (5, 0.1, "next of 5"), (6, 0.01, "slight"))]
    committed = commit(bank, edits)
    assert [e.arguments["title"] for e in committed] == ["best of 1", "next of 5", "slight"]
    assert titles(bank) == ["old", "slight", "next of 5", "best of 1"]  # the best last: it was probed as the newest
    assert [e.skill_id for e in committed] == ["dyn_004", "dyn_003", "dyn_002"], "the ids in this bank, not the copy's"


def test_commit_updates_and_lost_targets():
    """Bug: two updates of one skill by its old title: the second has nothing to update and must be dropped."""
    bank = bank_of(footwear=1)
    reason = dict(skill_id="footwear title 0", reason="r")
    edits = [edit(bank, 1, 0.2, "worse", "update_skill", **reason),
             edit(bank, 2, 0.5, "better", "update_skill", **reason)]
    assert commit(bank, edits) == edits[1:] and titles(bank) == ["better"]


def test_commit_none_and_all():
    """Bug: the ablation without commits grows a bank after all; `all` drops what did not help."""
    bank = SkillBank()
    edits = [edit(bank, *row) for row in ((1, -0.5, "harm"), (1, 0.5, "good"), (2, 0.0, "GOOD"), (2, 0.0, "idle"))]
    assert commit(bank, edits, "none") == [] and titles(bank) == []
    assert commit(bank, edits, "all") == [edits[0], edits[1], edits[3]]
    assert titles(bank) == ["harm", "good", "idle"]
    assert commit(bank, []) == []


def test_commit_unknown_rule():
    """Bug: a misspelt rule is taken for another."""
    with pytest.raises(ValueError, match="'best'.*positive, none or all"):
        commit(SkillBank(), [], "best")


def test_commit_takes_only_the_better_of_two_updates_of_a_skill():
    """Bug: two tasks update dyn_001, and the worse text, measured on a bank that is no more, overwrites the better."""
    bank = SkillBank()
    bank.apply("propose_skill", dict(SHOE, title="old", principle="old"), "footwear")
    updates = [edit(bank, task, utility, title, name="update_skill", skill_id="dyn_001", reason="vague")
               for task, utility, title in ((1, 0.05, "worse"), (2, 1.5, "better"))]
    assert [e.utility for e in commit(bank, updates)] == [1.5] and titles(bank) == ["better"]

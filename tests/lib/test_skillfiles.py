"""A bank in a file or in folders of SKILL.md: nothing is lost, others' files stay, what is broken is named."""

import json
import os
import re
import shutil

import pytest

from lib import skillfiles
from skillbank import Skill, SkillBank
from tests.skills import SHOE, agents_take, bank_of

# As SkillRL writes them, shortened: several families, common mistakes, metadata, fields that we do not use.
SKILLRL = {
    "general_skills": [
        {"skill_id": "gen_001", "title": "Prioritize Core Keywords", "principle": "Include product type and key "
         "attributes in the initial search query.", "when_to_apply": "When forming a search query"},
        {"skill_id": "gen_002", "title": "Check price — before “Buy Now”", "principle": "Verify ≤ budget 💰.",
         "when_to_apply": "Before every purchase", "confidence": 0.8, "source_trajectories": ["t12", "t40"]},
    ],
    "task_specific_skills": {
        "apparel": [{"skill_id": "app_001", "title": "Select size and color", "principle": "Click all the options.",
                     "when_to_apply": "On a product page with options"}],
        "footwear": [],
    },
    "common_mistakes": [
        {"mistake_id": "err_001", "description": "Buying without options", "why_it_happens": "Haste",
         "how_to_avoid": "Re-read the instruction"},
    ],
    "metadata": {"version": "1.0", "num_trajectories": 120, "nested": {"a": [1, None, True]}},
}


def test_general_is_no_family(tmp_path):
    """Bug: a family of that name opens, and the first update of its skill ends a run with list.remove(x)."""
    (tmp_path / "skills.json").write_text(json.dumps({"task_specific_skills": {
        "general": SKILLRL["task_specific_skills"]["apparel"]}}))
    with pytest.raises(ValueError, match="task_specific_skills.general.* is no family; move its skills"):
        SkillBank.load(tmp_path / "skills.json")


def test_a_skillrl_file_opens_and_saves_unchanged(tmp_path):
    """Bug: fields of other tools are lost, so that a bank which went through us once is poorer for it."""
    path = tmp_path / "skills.json"
    path.write_text(json.dumps(SKILLRL, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    before = path.read_bytes()
    bank = SkillBank.load(path)
    assert [s.skill_id for s in bank.skills()] == ["gen_001", "gen_002", "app_001"]
    assert bank.common_mistakes == SKILLRL["common_mistakes"] and bank.metadata == SKILLRL["metadata"]
    bank.save(path)
    assert path.read_bytes() == before, "the file is meant to be read by people: same order, no escapes"
    assert bank.apply("update_skill", {**SHOE, "skill_id": "gen_002", "reason": "r"}, "footwear").status == "updated"
    bank.save(path)
    assert SkillBank.load(path).general_skills[-1].extra == {"confidence": 0.8, "source_trajectories": ["t12", "t40"]}


def test_unknown_fields_and_missing_parts(tmp_path):
    """Bug: a field at the top is dropped, a bank without common mistakes is refused, or Notepad's BOM is an error."""
    path = tmp_path / "skills.json"
    data = {"author": "someone", "task_specific_skills": {"footwear": [
        {"when_to_apply": "w", "extra": {"extra": 1}, "principle": "p", "title": "t", "skill_id": "s"}]}}
    path.write_text("\ufeff" + json.dumps(data), encoding="utf-8")
    SkillBank.load(path).save(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved == data | {"general_skills": [], "common_mistakes": []}
    assert SkillBank.load(path) == SkillBank.load(path)


GOOD = {"skill_id": "a", "title": "b", "principle": "c", "when_to_apply": "d"}


@pytest.mark.parametrize("content, place", [
    ("", "JSON"), ("{", "JSON"), ("hello", "JSON"), (b"\xff\xfe\x00\x9f\x92", "JSON"), ("[" * 100_000, "JSON"),
    ("[]", "top level"), ("3", "top level"), ("null", "top level"), ("{}", "general_skills"),
    ({"skills": [GOOD]}, "general_skills"),
    ({"general_skills": {}}, "general_skills"), ({"general_skills": None}, "general_skills"),
    ({"general_skills": [], "task_specific_skills": []}, "task_specific_skills"),
    ({"general_skills": [], "common_mistakes": "none"}, "common_mistakes"),
    ({"general_skills": [], "metadata": []}, "metadata"),
    ({"general_skills": [GOOD, "b"]}, "general_skills[1]"),
    ({"general_skills": [GOOD, {"title": "x"}]}, "general_skills[1] has no text 'skill_id'"),
    ({"task_specific_skills": {"shoes": [GOOD | {"principle": ["c"]}]}}, "task_specific_skills.shoes[0]"),
    ({"task_specific_skills": {"shoes": [GOOD | {"when_to_apply": None}]}}, "'when_to_apply'"),
    ({"task_specific_skills": {"shoes": GOOD}}, "task_specific_skills.shoes"),
    ({"general_skills": [GOOD], "task_specific_skills": {"shoes": [GOOD]}}, "task_specific_skills.shoes[0]"),
    ({"general_skills": [GOOD | {"title": "half \ud83d"}]}, "general_skills[0]"),
    (json.dumps({"general_skills": [GOOD | {"deep": 0}]}).replace("0", "[" * 300 + "]" * 300), "nested deeper"),
    ('{"general_skills": [], "common_mistakes": ' + "[" * 300 + "]" * 300 + "}", "common_mistakes is nested deeper"),
    ('{"general_skills": [], "of another tool": ' + "[" * 300 + "]" * 300 + "}", "of another tool is nested deeper"),
])
def test_malformed_banks_are_named(tmp_path, content, place):
    """Bug: a KeyError from the depths, after the model has been loaded, which names neither the file nor the place."""
    path = tmp_path / "broken.json"
    path.write_bytes(content if isinstance(content, bytes) else
                     (content if isinstance(content, str) else json.dumps(content)).encode())
    with pytest.raises(ValueError) as error:
        SkillBank.load(path)
    message = str(error.value)
    assert str(path) in message and place in message and "\n" not in message


def test_no_bank_there(tmp_path):
    """Bug: a misspelt path starts an empty bank, or ends in a traceback."""
    for path in (tmp_path / "none.json", tmp_path / "none" / "none.json", tmp_path):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            SkillBank.load(path)


def test_saving_is_atomic(tmp_path, monkeypatch):
    """Bug: a run killed while it saves leaves half a bank, and the next start loses all skills."""
    path = tmp_path / "deep" / "skills.json"
    bank_of(2).save(path)
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        bank_of(5).save(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    bank_of(5).save(path)
    assert SkillBank.load(path) == bank_of(5) and os.listdir(path.parent) == ["skills.json"]


WEIRD = ["Plain", "plain", "Plain!", "a: b # c", 'He said "no": \'yes\'', "--- three dashes",
         "💰 — ≤ 5 €", "你好",
         "line\nbreak\n---\nname: x", "tab\tcarriage\rreturn", "back\\slash \\n", "- list", "{brace}", "null", "yes",
         "12", "\x00\x07\x1b control",
         "\x7f\x85\x9f\u2028\u2029\ufeff\uffff odd", " blanks ", "x" * 300, "*&!%@`|>", "..."]


def test_skill_folders_round_trip(tmp_path):
    """Bug: a colon or a quote breaks the front matter, equal slugs overwrite each other, or the newest is forgotten."""
    bank = SkillBank([Skill(f"dyn_{i:03d}", title, "Do this.\n\n---\n\n* and: that", title) for i, title in
                      enumerate(WEIRD)])
    bank.task_specific_skills = {"footwear": [Skill("b", "Zebra", "p --- q", "w"), Skill("a", "Aardvark", "{x}", "")],
                                 "odd: family": [Skill("c:1", "Plain", "p2", "w2")]}
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank, "same skills in the same order: the last one is the newest"
    agents_take(tmp_path)
    names = [path.parent.name for path in tmp_path.glob("*/SKILL.md")]
    assert len(names) == len(bank.skills())
    assert {"plain", "plain-2", "plain-3", "plain-4"} <= set(names)


def test_folders_are_what_coding_agents_read(tmp_path):
    """Bug: name and folder differ or the description is missing, and no agent picks the skill up."""
    import yaml

    SkillBank([Skill("dyn_001", "Choose: the size", "Click it.", "On a page: with options")]).save_folders(tmp_path)
    text = (tmp_path / "choose-the-size" / "SKILL.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["name"] == "choose-the-size"
    assert head["description"] == "Click it. Use when on a page: with options."
    assert text.endswith("---\n\nClick it.\n")


def test_folders_can_be_written_again(tmp_path):
    """Bug: after an update the old title's folder stays, and the directory does not load (one id twice)."""
    bank = bank_of(2, footwear=1)
    (tmp_path / "own-notes").mkdir()
    (tmp_path / "own-notes" / "SKILL.md").write_text("---\nname: own-notes\ndescription: mine\n---\nKeep me.\n")
    bank.save_folders(tmp_path)
    bank.apply("update_skill", {**SHOE, "skill_id": "general_0", "reason": "r"}, "footwear")
    bank.save_folders(tmp_path)
    loaded = SkillBank.load(tmp_path)
    assert loaded.general_skills[:2] == bank.general_skills
    assert loaded.task_specific_skills == bank.task_specific_skills
    assert loaded.general_skills[2].principle == "Keep me.", "what we did not write is not ours to remove"


def test_two_banks_in_one_folder_leave_each_other_alone(tmp_path):
    """Bug: every file with `skill_id: "dyn_001"` is taken for our own, and another bank's skill is deleted."""
    one, two = SkillBank([Skill("dyn_001", "One", "p", "w")]), SkillBank([Skill("dyn_001", "Two", "p2", "w")])
    one.save_folders(tmp_path)
    (tmp_path / "hand").mkdir()
    hand = '---\nname: hand\ndescription: d\nmetadata:\n  skill_id: "dyn_001"\n---\nMine.\n'
    (tmp_path / "hand" / "SKILL.md").write_text(hand)
    first = (tmp_path / "one" / "SKILL.md").read_text()
    two.save_folders(tmp_path)
    two.save_folders(tmp_path)
    assert (tmp_path / "one" / "SKILL.md").read_text() == first
    assert (tmp_path / "hand" / "SKILL.md").read_text() == hand
    two.apply("update_skill", {**SHOE, "skill_id": "dyn_001", "reason": "r"}, "footwear")
    two.save_folders(tmp_path)  # its own skill has moved, nobody else's
    assert sorted(path.parent.name for path in tmp_path.glob("*/SKILL.md")) == ["choose-the-size-first", "hand", "one"]
    with pytest.raises(ValueError, match="has the skill_id 'dyn_001' of .*SKILL.md; change one") as error:
        SkillBank.load(tmp_path)
    assert "SKILL.md: has" in str(error.value) and "\n" not in str(error.value)


def test_another_skills_place_is_not_written_over(tmp_path):
    """Bug: two titles with one slug, the other by somebody else: their file is gone."""
    (tmp_path / "choose-the-size-first").mkdir()
    theirs = ("---\nname: choose-the-size-first\ndescription: d\nmetadata:\n  title: Choose! The Size, first\n---\n"
              "Theirs.\n")
    (tmp_path / "choose-the-size-first" / "SKILL.md").write_text(theirs)
    bank = SkillBank()
    bank.apply("propose_skill", SHOE, "footwear")
    bank.save_folders(tmp_path)
    assert (tmp_path / "choose-the-size-first" / "SKILL.md").read_text() == theirs
    assert (tmp_path / "choose-the-size-first-2" / "SKILL.md").is_file()


def test_a_bank_read_from_json_knows_its_folders_again(tmp_path):
    """Bug: `SkillBank.load(json).save_folders(dir)` run again after training leaves the old titles there."""
    bank_of(2).save(tmp_path / "skills.json")
    SkillBank.load(tmp_path / "skills.json").save_folders(tmp_path / "out")
    bank = SkillBank.load(tmp_path / "skills.json")
    bank.apply("update_skill", {**SHOE, "skill_id": "general_0", "reason": "r"}, "footwear")
    bank.save(tmp_path / "skills.json")
    SkillBank.load(tmp_path / "skills.json").save_folders(tmp_path / "out")
    titles_there = sorted(s.title for s in SkillBank.load(tmp_path / "out").skills())
    assert titles_there == ["Choose the size first", "general title 1"]


def test_what_others_wrote_into_a_folder_survives_a_round_trip(tmp_path):
    """Bug: license, allowed-tools and other metadata are lost when a folder is loaded and saved back."""
    (tmp_path / "pdf" / "forms").mkdir(parents=True)
    (tmp_path / "pdf" / "forms" / "SKILL.md").write_text(
        "---\nname: forms\ndescription: 'Fill: forms'\nlicense: MIT\nallowed-tools: [Read, 'Bash(x: y)']\n"
        "date: 2026-01-02\nmetadata:\n  author: me\n  version: 1.5\n---\n\n# Forms\n")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "SKILL.md").write_text("---\nname: flat\ndescription: d\n---\nFlat.\n")
    bank = SkillBank.load(tmp_path)
    assert [s.skill_id for s in bank.skills()] == ["md_flat", "md_pdf_forms"], "nested ones too, ids not by position"
    bank.apply("propose_skill", SHOE, "footwear")
    bank.save_folders(tmp_path)
    bank.save(tmp_path / "bank.json")
    again = SkillBank.load(tmp_path)
    assert again == bank == SkillBank.load(tmp_path / "bank.json")
    assert again.find("md_pdf_forms").extra == {"license": "MIT", "allowed-tools": ["Read", "Bash(x: y)"],
                                                "date": "2026-01-02", "metadata": {"author": "me", "version": 1.5}}
    assert len(list(tmp_path.rglob("SKILL.md"))) == 3, "written back where they were"


def test_a_folder_of_ours_and_others_is_read_changed_and_written_back(tmp_path):
    """Bug: after an update the old file stays beside the new one, and the folder has one id twice."""
    bank_of(1).save_folders(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "SKILL.md").write_text("---\nname: notes\ndescription: d\nlicense: MIT\n---\nMine.\n")
    bank = SkillBank.load(tmp_path)
    for number, target in enumerate(["general_0", "md_notes"]):
        text = {key: f"{value} {number}" for key, value in SHOE.items()}
        call = {**text, "skill_id": target, "reason": "r"}
        assert bank.apply("update_skill", call, "footwear").status == "updated"
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank and len(list(tmp_path.rglob("SKILL.md"))) == 2
    assert "MIT" in (tmp_path / "notes" / "SKILL.md").read_text()
    (tmp_path / "hand").mkdir()
    hand = '---\nname: hand\ndescription: d\nmetadata:\n  skill_id: "general_0"\n---\nMine.\n'
    (tmp_path / "hand" / "SKILL.md").write_text(hand)
    bank.save_folders(tmp_path)  # written by hand after the bank was read: not ours
    assert (tmp_path / "hand" / "SKILL.md").read_text() == hand
    (tmp_path / "hand" / "SKILL.md").unlink()
    other = SkillBank([Skill("md_notes", "Another", "p", "w")])
    other.save_folders(tmp_path)  # a stranger with the same id writes beside it
    assert len(list(tmp_path.rglob("SKILL.md"))) == 3


def test_a_yaml_error_gives_its_own_reason_and_line(tmp_path):
    """Bug: an unquoted colon is reported as a missing name."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "SKILL.md").write_text("---\nname: x\ndescription: use it: often\n---\nBody\n")
    with pytest.raises(ValueError, match=r"SKILL.md, line 3: .*mapping values are not allowed"):
        SkillBank.load(tmp_path)


def test_third_party_folders(tmp_path):
    """Bug: skills that others wrote, without our metadata, with folded YAML or Windows line ends, are refused."""
    files = {
        "pdf-tools": "---\nname: pdf-tools\ndescription: >\n  Read\n  PDF files\nlicense: MIT\n---\n\n"
                     "# PDF\n\nDo it.\n",
        "windows": "---\r\nname: windows\r\ndescription: 'line: ends'\r\n---\r\nBody.\r\n",
        "bom": "\ufeff---\nname: bom\ndescription: 5\nmetadata: none\n---\nBody",
        "with-category": "---\nname: with-category\ndescription: d\nmetadata:\n  category: productivity\n---\nBody",
        "with-list": "---\nname: with-list\ndescription: d\nmetadata: {category: [a, b], bank: Chase}\n---\nBody",
    }
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "SKILL.md").write_bytes(text.encode())
    (tmp_path / "README.md").write_text("not a skill")
    bank = SkillBank.load(tmp_path)
    assert [(s.title, s.when_to_apply.strip()) for s in bank.general_skills] == [
        ("Bom", "5"), ("Pdf tools", "Read PDF files"), ("Windows", "line: ends"), ("With category", "d"),
        ("With list", "d")]
    assert bank.general_skills[1].principle == "# PDF\n\nDo it."
    assert not bank.task_specific_skills, "a marketplace's category is no family: the skill would never be shown"
    assert len({s.skill_id for s in bank.skills()}) == 5
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank, "and it stays theirs when the file is ours"
    assert bank.find("md_with-list").extra == {"metadata": {"category": ["a", "b"], "bank": "Chase"}}


@pytest.mark.parametrize("text", [
    b"no front matter", b"", b"---\nname: x\n---\nno description", b"---\ndescription: x\n---\nno name",
    b"---\nname: [x\ndescription: y\n---\n", b"---\n- a\n- b\n---\n", b"---\nname: x\ndescription: y\nnever closed",
    b"---\nname: a\tb: c: d\ndescription: y\n---\n", b"\xff\xfe\x00junk",
    b"---\nname: x\ndescription: y\ndate: 2024-13-45\n---\n", b"---\nname: x\ndescription: \x00\n---\n",
    b"---\nname: x\ndescription: " + b"[" * 5000 + b"\n---\n",
])
def test_broken_front_matter_names_the_file(tmp_path, text):
    """Bug: one bad file among fifty, and the error is PyYAML's, or a codec's, without a name."""
    for name in ("fine", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "fine" / "SKILL.md").write_text("---\nname: fine\ndescription: y\n---\nBody")
    (tmp_path / "broken" / "SKILL.md").write_bytes(text)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "broken" / "SKILL.md"))) as error:
        SkillBank.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_is_the_whole_bank(tmp_path):
    """Bug: common mistakes, empty families and fields of other tools are gone after the way there and back."""
    bank = SkillBank.from_dict(json.loads(json.dumps(SKILLRL | {"author": "somebody"})))
    bank.save_folders(tmp_path)
    again = SkillBank.load(tmp_path)
    assert again == bank and [s.skill_id for s in again.skills()] == [s.skill_id for s in bank.skills()]
    again.common_mistakes, again.metadata, again.extra = [], {}, {}
    again.task_specific_skills["footwear"].append(Skill("foot_1", "Shoe", "p", "w"))
    again.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == again and not (tmp_path / skillfiles.REST).exists()
    other = SkillBank([Skill("x", "X", "p", "w")], common_mistakes=[1])
    bank.save_folders(tmp_path / "both")
    other.save_folders(tmp_path / "both")
    both = SkillBank.load(tmp_path / "both")
    assert both.common_mistakes == [*SKILLRL["common_mistakes"], 1] and both.extra == {"author": "somebody"}
    both.save_folders(tmp_path / "both")
    assert SkillBank.load(tmp_path / "both") == both, "and not twice"
    (tmp_path / "both" / skillfiles.REST).write_text('{"x": 1}')
    with pytest.raises(ValueError, match="skillbank.json: is not what was written"):
        SkillBank.load(tmp_path / "both")


# -- whose files they are


def update(bank, skill_id, number=0):
    """Give a skill another text."""
    text = {key: f"{value} {number}" for key, value in SHOE.items()}
    assert bank.apply("update_skill", {**text, "skill_id": skill_id, "reason": "r"}, "footwear").status == "updated"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != skillfiles.REST)


def test_a_folder_moves_with_all_that_is_in_it(tmp_path):
    """Bug: a skill gets another title; its scripts and references stay behind, in a folder without a SKILL.md."""
    bank = bank_of(2)
    bank.save_folders(tmp_path)
    old, new = tmp_path / "general-title-0", tmp_path / "choose-the-size-first-0"
    for file in ("scripts/run.py", "references/deep/page.md", "LICENSE"):
        (old / file).parent.mkdir(parents=True, exist_ok=True)
        (old / file).write_text(file)
    (old / "assets").mkdir()
    update(bank, "general_0")
    bank.save_folders(tmp_path)
    assert names_in(tmp_path) == ["choose-the-size-first-0", "general-title-1"]
    assert names_in(new) == ["LICENSE", "SKILL.md", "assets", "references", "scripts"]
    assert (new / "references/deep/page.md").read_text() == "references/deep/page.md"
    agents_take(tmp_path)
    assert SkillBank.load(tmp_path) == bank
    update(bank, "general_0", 0.5)  # again, and with a title of the same slug, and where the new place is taken
    bank.find("general_0").title = "Choose the size first: 0!"
    (tmp_path / "general-title-9").mkdir()
    (tmp_path / "general-title-9" / "notes.txt").write_text("a person's")
    bank.find("general_1").title = "general title 9"
    bank.save_folders(tmp_path)
    assert names_in(tmp_path) == ["choose-the-size-first-0", "general-title-9", "general-title-9-2"]
    assert names_in(tmp_path / "general-title-9") == ["notes.txt"] and (new / "LICENSE").is_file()
    assert SkillBank.load(tmp_path) == bank


def test_titles_that_change_places(tmp_path):
    """Bug: one folder is moved over another, and what was in that is gone."""
    bank = bank_of(2)
    bank.save_folders(tmp_path)
    for number in range(2):
        (tmp_path / f"general-title-{number}" / f"of_{number}.txt").write_text("mine")
    one, two = bank.general_skills
    one.title, two.title = two.title, one.title
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank
    place = {s.skill_id: f for s in bank.skills() for f in tmp_path.glob("*/SKILL.md") if s.skill_id in f.read_text()}
    assert all((place[f"general_{number}"].parent / f"of_{number}.txt").is_file() for number in range(2))


def test_a_skill_that_is_gone_takes_only_our_files_along(tmp_path):
    """Bug: an empty folder stays, or a person's script is deleted with the skill."""
    bank = bank_of(2)
    bank.save_folders(tmp_path)
    (tmp_path / "general-title-0" / "run.py").write_text("mine")
    bank.remove({"general_0", "general_1"})
    bank.save_folders(tmp_path)
    assert names_in(tmp_path) == ["general-title-0"] and names_in(tmp_path / "general-title-0") == ["run.py"]


def test_what_a_person_has_changed_is_left_alone(tmp_path):
    """Bug: a bank that is exported again overwrites or deletes the changes that a person made in its files."""
    bank = bank_of(3)
    bank.save(tmp_path / "skills.json")
    out = tmp_path / "out"
    bank.save_folders(out)
    for number in range(2):
        file = out / f"general-title-{number}" / "SKILL.md"
        file.write_text(file.read_text() + "And think of the price.\n")
    changed = (out / "general-title-0" / "SKILL.md").read_text()
    update(bank, "general_0")
    bank.remove({"general_1"})
    bank.save_folders(out)
    assert names_in(out) == [f"general-title-{number}" for number in range(3)]
    assert (out / "general-title-0" / "SKILL.md").read_text() == changed
    assert sorted(bank.source.left) == [out / f"general-title-{number}" / "SKILL.md" for number in range(2)]
    read = SkillBank.load(out)
    assert read.find("general_0").principle == "general principle 0\nAnd think of the price."
    update(read, "general_0")  # a bank that has read the changes may write them over
    read.save_folders(out)
    assert not read.source.left and names_in(out) == ["choose-the-size-first-0", "general-title-1", "general-title-2"]
    assert SkillBank.load(out) == read


def test_a_copy_that_a_person_keeps_is_left_alone(tmp_path):
    """Bug: a copy of a skill's folder has the bank's name in it, and is deleted, or is written over for the skill."""
    bank = bank_of(2)
    bank.save(tmp_path / "skills.json")
    bank.save_folders(tmp_path / "out")
    for number in range(2):
        shutil.copytree(tmp_path / "out" / f"general-title-{number}", tmp_path / "out" / f"a-copy-{number}")
    copy = (tmp_path / "out" / "a-copy-0" / "SKILL.md").read_text()
    update(bank, "general_0")
    bank.remove({"general_1"})
    bank.save_folders(tmp_path / "out")
    assert names_in(tmp_path / "out") == ["a-copy-0", "a-copy-1", "choose-the-size-first-0"]
    assert (tmp_path / "out" / "a-copy-0" / "SKILL.md").read_text() == copy


def test_a_folder_that_a_person_has_renamed_stays(tmp_path):
    """Bug: somebody gives a folder another name, and the next export writes the skill a second time."""
    bank = bank_of(1)
    bank.save_folders(tmp_path)
    os.rename(tmp_path / "general-title-0", tmp_path / "my-name")
    bank.save_folders(tmp_path)
    update(bank, "general_0")
    bank.save_folders(tmp_path)
    assert names_in(tmp_path) == ["my-name"] and SkillBank.load(tmp_path) == bank
    agents_take(tmp_path)


def test_a_persons_file_of_the_same_title_is_left_alone(tmp_path):
    """Bug: whatever has the title of a skill is written over, a person's own SKILL.md too."""
    (tmp_path / "general-title-0").mkdir()
    own = "---\nname: general-title-0\ndescription: mine\n---\nMine.\n"
    (tmp_path / "general-title-0" / "SKILL.md").write_text(own)
    (tmp_path / "general-title-1").write_text("a file")
    bank = bank_of(2)
    bank.save_folders(tmp_path)
    bank.save_folders(tmp_path)
    assert (tmp_path / "general-title-0" / "SKILL.md").read_text() == own
    assert names_in(tmp_path) == ["general-title-0", "general-title-0-2", "general-title-1", "general-title-1-2"]


def test_a_persons_file_is_never_deleted(tmp_path):
    """Bug: once a bank has written into somebody's SKILL.md, the file is deleted when the skill leaves the bank."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "SKILL.md").write_text("---\nname: notes\ndescription: d\nlicense: MIT\n---\nMine.\n")
    bank = SkillBank.load(tmp_path)
    bank.apply("propose_skill", SHOE, "footwear")
    bank.save_folders(tmp_path)
    bank = SkillBank.load(tmp_path)
    update(bank, "md_notes")
    bank.save_folders(tmp_path)
    assert names_in(tmp_path) == ["choose-the-size-first", "notes"], "and its folder stays where it was"
    bank.remove({"md_notes", "dyn_001"})
    bank.save_folders(tmp_path)
    assert not (tmp_path / "choose-the-size-first").exists(), "that one was ours"
    assert "MIT" in (tmp_path / "notes" / "SKILL.md").read_text()


def test_a_persons_description_stays(tmp_path):
    """Bug: a description that somebody has worked on becomes `<a page of text> When to use: <the description>`."""
    (tmp_path / "notes").mkdir()
    head = "---\nname: notes\ndescription: How we write notes here, for everybody.\n---\n"
    (tmp_path / "notes" / "SKILL.md").write_text(head + "Short.\n")
    for _ in range(2):
        bank = SkillBank.load(tmp_path)
        bank.save_folders(tmp_path)
        text = (tmp_path / "notes" / "SKILL.md").read_text()
        assert 'description: "How we write notes here, for everybody."' in text
    assert SkillBank.load(tmp_path) == bank


def test_a_part_of_a_bank_deletes_nothing(tmp_path):
    """Bug: two of five skill folders are copied, loaded and written back to the five: the other three are deleted."""
    bank_of(5).save_folders(tmp_path / "all")
    some = SkillBank.load(tmp_path / "all" / "general-title-1" / "SKILL.md")
    assert [skill.skill_id for skill in some.skills()] == ["general_1"]
    (tmp_path / "part").mkdir()
    for number in range(2):
        os.rename(tmp_path / "all" / f"general-title-{number}", tmp_path / "part" / f"general-title-{number}")
    some.save_folders(tmp_path / "all")
    SkillBank.load(tmp_path / "part").save_folders(tmp_path / "all")
    assert names_in(tmp_path / "all") == [f"general-title-{number}" for number in range(5)]


def test_a_bank_that_has_moved_writes_over_its_own_files(tmp_path):
    """Bug: a run is copied to another place and exported again: each skill is there twice, and nothing loads."""
    bank_of(2).save(tmp_path / "a" / "skills.json")
    SkillBank.load(tmp_path / "a" / "skills.json").save_folders(tmp_path / "out")
    (tmp_path / "b").mkdir()
    os.rename(tmp_path / "a" / "skills.json", tmp_path / "b" / "skills.json")
    SkillBank.load(tmp_path / "b" / "skills.json").save_folders(tmp_path / "out")
    assert SkillBank.load(tmp_path / "out") == bank_of(2) and len(names_in(tmp_path / "out")) == 2


def test_a_file_or_one_skills_folder_is_no_place_for_others(tmp_path):
    """Bug: skills are written into the folder of another skill, where nobody reads them."""
    (tmp_path / "pdf").mkdir()
    (tmp_path / "pdf" / "SKILL.md").write_text("---\nname: pdf\ndescription: d\n---\nBody\n")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="pdf: is the folder of one skill"):
        bank_of(2).save_folders(tmp_path / "pdf")
    with pytest.raises(ValueError, match="file: is a file"):
        bank_of(2).save_folders(tmp_path / "file")
    assert names_in(tmp_path / "pdf") == ["SKILL.md"]
    own = SkillBank.load(tmp_path / "pdf")
    own.save_folders(tmp_path / "pdf")
    assert SkillBank.load(tmp_path / "pdf") == own, "its own folder takes the skill back"


# -- what is a skill of a bank


def skill_md(folder, name="x"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: d\n---\nBody\n")
    return folder


def test_linked_folders_are_skills_too(tmp_path):
    """Bug: a folder that mixes skills with links to skills silently loses the linked ones."""
    bank = tmp_path / "bank"
    skill_md(bank / "own")
    skill_md(tmp_path / "elsewhere" / "linked")
    skill_md(tmp_path / "elsewhere" / "group" / "deep")
    skill_md(tmp_path / "elsewhere" / "single")
    os.symlink(tmp_path / "elsewhere" / "linked", bank / "a-link")
    os.symlink(tmp_path / "elsewhere" / "group", bank / "group")
    (bank / "file-link").mkdir()
    os.symlink(tmp_path / "elsewhere" / "single" / "SKILL.md", bank / "file-link" / "SKILL.md")
    os.symlink(bank / "own", bank / "again")  # the same skill a second time
    os.symlink(tmp_path / "nowhere", bank / "broken")
    os.symlink(bank, tmp_path / "to-the-bank")
    for path in (bank, tmp_path / "to-the-bank"):
        ids = [skill.skill_id for skill in SkillBank.load(path).skills()]
        assert ids == ["md_a-link", "md_file-link", "md_group_deep", "md_own"]
    read = SkillBank.load(bank)
    for number, skill in enumerate(read.skills()):
        update(read, skill.skill_id, number)
    read.save_folders(bank)
    assert SkillBank.load(bank) == read
    assert (bank / "a-link").is_symlink() and (bank / "file-link" / "SKILL.md").is_symlink(), "links stay links"
    assert "size" in (tmp_path / "elsewhere" / "linked" / "SKILL.md").read_text()


def test_links_may_run_in_a_circle(tmp_path):
    """Bug: a link to a folder above is followed for ever, or makes skills of what lies beside the bank."""
    bank = tmp_path / "bank"
    skill_md(bank / "own")
    skill_md(tmp_path / "beside")
    (bank / "group").mkdir()
    os.symlink(bank, bank / "group" / "bank")
    os.symlink("..", bank / "above")
    os.symlink("/", bank / "root")
    os.symlink(bank / "two", bank / "one")
    os.symlink(bank / "one", bank / "two")
    os.symlink(".", bank / "here")
    os.symlink(bank / "group", bank / "own" / "inside")
    assert [skill.skill_id for skill in SkillBank.load(bank).skills()] == ["md_own"]


def test_what_lies_in_a_skill_or_a_repository_is_no_skill_of_the_bank(tmp_path):
    """Bug: old versions in .git, packages in node_modules and the examples of a skill are shown to the policy."""
    for place in ("own", "own/examples/one", ".git/own", "node_modules/pkg/skills/x", "deep/node_modules/y", ".venv/z",
                  "deep/group/skill", ".agents/skills/hidden"):
        skill_md(tmp_path / place)
    ids = [skill.skill_id for skill in SkillBank.load(tmp_path).skills()]
    assert ids == ["md_.agents_skills_hidden", "md_deep_group_skill", "md_own"]
    skill_md(tmp_path)
    assert [skill.skill_id for skill in SkillBank.load(tmp_path).skills()] == [f"md_{tmp_path.name}"], "one skill's"


def test_one_file_is_a_bank(tmp_path, monkeypatch):
    """Bug: `--bank x/SKILL.md` is said to be no JSON."""
    skill_md(tmp_path / "pdf", "pdf")
    bank = SkillBank.load(tmp_path / "pdf" / "SKILL.md")
    assert bank == SkillBank.load(tmp_path / "pdf") == SkillBank.load(tmp_path)
    assert [(skill.skill_id, skill.title) for skill in bank.skills()] == [("md_pdf", "Pdf")]
    monkeypatch.chdir(tmp_path / "pdf")
    assert SkillBank.load("SKILL.md") == bank == SkillBank.load(".")
    update(bank, "md_pdf")
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank and names_in(tmp_path) == ["pdf"]


def run_of(path, step=7):
    """A directory as train.py leaves it."""
    checkpoint = path / "checkpoints" / f"step_{step:05d}"
    bank_of(2).save(checkpoint / "skills.json")
    bank_of(1).save(path / "skills.json")  # for people; the checkpoint's copy is the one
    (path / "latest").write_text(checkpoint.name + "\n")
    (path / "config.json").write_text("{}")
    (path / "metrics.jsonl").write_text("")
    return path


def test_a_run_is_a_bank(tmp_path):
    """Bug: `--bank RUN` is said to hold no */SKILL.md; each checkpoint of a run counts as another bank."""
    run = run_of(tmp_path / "run")
    banks = [SkillBank.load(path) for path in (run, run / "checkpoints" / "step_00007",
                                               run / "checkpoints" / "step_00007" / "skills.json")]
    assert all(bank == bank_of(2) for bank in banks)
    assert len({bank.source.bank for bank in [*banks, SkillBank.load(run / "skills.json")]}) == 1
    skill_md(run / "exported")  # somebody's skills in the run are not its bank
    assert SkillBank.load(run) == bank_of(2)
    (run / "latest").write_text("step_00009")
    with pytest.raises(ValueError, match="latest names 'step_00009', and there is no such checkpoint"):
        SkillBank.load(run)
    (run / "latest").unlink()
    (run / "exported" / "SKILL.md").unlink()
    (run / "skills.json").unlink()
    with pytest.raises(ValueError, match="run: a run without a checkpoint yet"):
        SkillBank.load(run)


def test_a_large_folder_is_written_and_read_in_time(tmp_path):
    """Bug: each skill is compared with each file, so that 1,000 skills take minutes."""
    import time

    bank = SkillBank([Skill(f"s_{i}", f"title {i % 10}", f"p {i}", "w") for i in range(400)])
    begun = time.process_time()
    bank.save_folders(tmp_path)
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank and not bank.source.left
    assert time.process_time() - begun < 10

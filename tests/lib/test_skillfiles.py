"""A bank in a file or in folders of SKILL.md: nothing is lost, others' files stay, what is broken is named."""

import json
import os
import re

import pytest

from skillbank import Skill, SkillBank
from tests.skills import SHOE, bank_of

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
    names = [path.parent.name for path in tmp_path.glob("*/SKILL.md")]
    assert len(names) == len(bank.skills())
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= 64 for name in names)
    assert {"plain", "plain-2", "plain-3", "plain-4"} <= set(names)


def test_folders_are_what_coding_agents_read(tmp_path):
    """Bug: name and folder differ or the description is missing, and no agent picks the skill up."""
    import yaml

    SkillBank([Skill("dyn_001", "Choose: the size", "Click it.", "On a page: with options")]).save_folders(tmp_path)
    text = (tmp_path / "choose-the-size" / "SKILL.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["name"] == "choose-the-size" and head["description"] == "On a page: with options"
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
        "with-category": "---\nname: with-category\ndescription: d\nmetadata:\n  category: footwear\n---\nBody",
    }
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "SKILL.md").write_bytes(text.encode())
    (tmp_path / "README.md").write_text("not a skill")
    bank = SkillBank.load(tmp_path)
    assert [(s.title, s.when_to_apply.strip()) for s in bank.general_skills] == [
        ("Bom", "5"), ("Pdf tools", "Read PDF files"), ("Windows", "line: ends")]
    assert bank.general_skills[1].principle == "# PDF\n\nDo it."
    assert [s.title for s in bank.task_specific_skills["footwear"]] == ["With category"]
    assert len({s.skill_id for s in bank.skills()}) == 4


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

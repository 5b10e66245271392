"""One SKILL.md: what agents refuse is never written, what people wrote is read as they meant it, and no text hangs."""

import re
import time

import pytest
import yaml

from lib import skillmd
from skillbank import Skill, SkillBank
from tests.skills import agents_take

FRONT = "---\nname: x\n{}\ndescription: y\n---\nBody\n"
NINES = [f"*{letter}" for letter in "abcdefghi"]  # each of them nine times the one before
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{'bcdefghij'[i]}: &{'bcdefghij'[i]} [{', '.join([name] * 9)}]" for i, name in enumerate(NINES))
MERGES = "a: &a {x: 1, y: 2}\n" + "\n".join(
    f"{'bcdefghij'[i]}: &{'bcdefghij'[i]} {{<<: [{', '.join([name] * 9)}]}}" for i, name in enumerate(NINES))


def head_of(tmp_path, lines):
    """The front matter with these lines in it."""
    (tmp_path / "SKILL.md").write_text(FRONT.format(lines))
    return skillmd.read(tmp_path / "SKILL.md").head


@pytest.mark.parametrize("text", [
    FRONT.format(BOMB), FRONT.format(MERGES), FRONT.format("a: &a " + "x" * 20_000 + f"\nb: [{'*a,' * 200}]"),
    FRONT.format("\n" * 40_000), FRONT.format("a: |\n" + "\n" * 40_000), FRONT.format("a:" + " " * 40_000 + "b"),
    FRONT.format("#\n" * 20_000), FRONT.format("a: " + "[" * 40_000), FRONT.format("a: " + "{" * 40_000),
    FRONT.format("[" * 40_000), FRONT.format("- " * 40_000), FRONT.format("? " * 40_000),
    FRONT.format("a: " + "1:" * 20_000 + "1"), FRONT.format("a: 0x" + "1" * 40_000), FRONT.format("a: " + "1" * 40_000),
    "\n" * 400_000, "---\n" + "\n" * 400_000, "---" + " " * 400_000, "---\n" * 100_000,
    "---\nname: x\n" + " \n" * 40_000, FRONT.format("") + "\n" * 400_000,
], ids=["aliases", "merges", "long text", "newlines", "block", "blanks", "comments", "lists", "mappings", "bare lists",
        "dashes", "keys", "base 60", "hexadecimal", "digits", "only newlines", "never closed", "opening", "lines",
        "head", "body"])
def test_no_text_hangs(tmp_path, text):
    """Bug: 600 bytes of aliases become gigabytes, and 40 kB of newlines take a regular expression eight seconds."""
    (tmp_path / "SKILL.md").write_text(text)
    begun = time.process_time()
    try:
        SkillBank.load(tmp_path)
    except ValueError as error:
        assert "SKILL.md" in str(error) and "\n" not in str(error)
    assert time.process_time() - begun < 1.5, "a second where nothing else runs"


@pytest.mark.parametrize("lines, reason", [
    (BOMB, "once its aliases are written out"), (MERGES, "once its aliases are written out"),
    ("a: &a [*a]", "an alias that stands in what it is an alias of"), ("metadata: &m {x: {y: *m}}", "an alias that"),
    ("a: " + "[" * 50 + "]" * 50, "nested deeper than 40"), ("- " * 50, "not YAML"),
    ("a: " + "{b: " * 50 + "}" * 50, "nested deeper than 40"), (f"a: [{'b,' * 11_000}]", "more than 10,000 values"),
    (f"a: &a {'[' * 20}x{']' * 20}\nb: {'[' * 21}*a{']' * 21}", "nested deeper than 40"),
    ("a: !!int ''", "not YAML"), ("a: !!timestamp x", "not YAML"), ("a: !!python/object:os.system x", "not YAML"),
    ("a: 2024-13-45", "month must be in 1..12"), ("a: *unknown", "line 3: .*undefined alias"),
])
def test_what_is_no_front_matter_is_said_in_one_line(tmp_path, lines, reason):
    """Bug: a circular alias or a deep list ends in a traceback, there or when the skill is copied in a rollout."""
    with pytest.raises(ValueError, match=reason) as error:
        head_of(tmp_path, lines)
    assert str(tmp_path / "SKILL.md") in str(error.value) and "\n" not in str(error.value)


def test_values_are_what_json_has(tmp_path):
    """Bug: a date as a key, bytes or an endless number end in a TypeError when the bank is saved."""
    head = head_of(tmp_path, "metadata: {2026-01-02: x, no: y, 3: [1, 2.5, true, ~], when: 2026-01-02 10:00:00}\n"
                             f"inf: .inf\nbytes: !!binary aGk=\nset: !!set {{b, c}}\nhuge: 0x{'f' * 500}\n"
                             "base: &base {a: 1}\nmore: {<<: *base, b: 2}\n? [k, l]\n: list")
    assert head == {
        "name": "x", "description": "y", "inf": ".inf", "bytes": "aGk=", "set": {"b": None, "c": None},
        "metadata": {"2026-01-02": "x", "no": "y", "3": [1, 2.5, True, None], "when": "2026-01-02 10:00:00"},
        "huge": "0x" + "f" * 500, "base": {"a": 1}, "more": {"a": 1, "b": 2}, "k; l": "list"}


@pytest.mark.parametrize("written, read", [
    ("no", "no"), ("Yes", "Yes"), ("2026-01-02", "2026-01-02"), ("1.10", "1.10"), ("0x10", "0x10"), ("null", "null"),
    ("'quoted: text'", "quoted: text"), ("on", "on"),
])
def test_a_name_is_a_text(tmp_path, written, read):
    """Bug: YAML 1.1 reads `name: no` as false, and the skill is refused as if it had no name."""
    (tmp_path / "SKILL.md").write_text(f"---\nname: {written}\ndescription: {written}\n---\nBody")
    if written == "null":
        with pytest.raises(ValueError, match="name and description"):
            skillmd.read(tmp_path / "SKILL.md")
        (tmp_path / "SKILL.md").write_text(f"---\nname: {written}\ndescription: d\n---\nBody")
    skill = skillmd.read(tmp_path / "SKILL.md")
    assert skill.head["name"] == read and skill.title == read.replace("-", " ").capitalize()
    assert skill.head["description"] == (read if written != "null" else "d")


@pytest.mark.parametrize("written, read", [
    ("\n  - Read PDF files.\n  - Fill forms", "Read PDF files. Fill forms"),
    ("[Read, Fill forms]", "Read; Fill forms"),
    ("\n  what: Read files\n  when: [On Monday, at noon]", "what: Read files; when: On Monday; at noon"),
    ("{{ topic }}", "topic"), ("[]", ""), (">\n  Read\n  files\n", "Read files\n"), ("5", "5"), ("yes", "yes"),
])
def test_a_description_is_a_text(tmp_path, written, read):
    """Bug: a list or a mapping stands in the prompt as Python text, ['Read PDF files.', 'Fill forms']."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "SKILL.md").write_text(f"---\nname: x\ndescription: {written}\n---\nBody")
    bank = SkillBank.load(tmp_path)
    assert bank.skills()[0].when_to_apply == read
    bank.save_folders(tmp_path)
    agents_take(tmp_path)
    assert SkillBank.load(tmp_path) == bank


@pytest.mark.parametrize("title, number, name", [
    ("Choose: the size", 1, "choose-the-size"), ("x" * 70, 1, "x" * 64), ("x" * 63 + " y", 1, "x" * 63),
    ("x" * 62 + " yz", 1, "x" * 62 + "-y"), ("x" * 61 + " yz", 2, "x" * 61 + "-2"),
    ("x" * 70, 1234, "x" * 59 + "-1234"),
    ("--- a --- b ---", 1, "a-b"), ("Größe wählen, Café", 1, "grosse-wahlen-cafe"), ("你好", 1, "skill"),
    ("你好", 2, "skill-2"), ("", 1, "skill"), ("①", 1, "1"),
])
def test_names_are_those_that_agents_take(title, number, name):
    """Bug: a name that is cut in front of a word ends with a hyphen, or has more than 64 characters with its number."""
    assert skillmd.slug(title, number) == name


PRINCIPLE = "For products, search the kind together with its qualities."


@pytest.mark.parametrize("principle, when, description", [
    (PRINCIPLE, "At the search bar.", f"{PRINCIPLE} Use when at the search bar."),
    (PRINCIPLE, "On a page of results.", f"{PRINCIPLE} Use when on a page of results."),
    (PRINCIPLE, "searching a shop", f"{PRINCIPLE} Use when searching a shop."),
    (PRINCIPLE, "When forming a search query", f"{PRINCIPLE} Use when forming a search query."),
    (PRINCIPLE, "Before every purchase", f"{PRINCIPLE} Use before every purchase."),
    (PRINCIPLE, "If the task names a size", f"{PRINCIPLE} Use if the task names a size."),
    (PRINCIPLE, "Always.", f"{PRINCIPLE} Use always."), (PRINCIPLE, "", PRINCIPLE), (PRINCIPLE, "  ", PRINCIPLE),
    (PRINCIPLE, "The task names a size", f"{PRINCIPLE} When to use: The task names a size."),
    (PRINCIPLE, "Use when the shop is open!", f"{PRINCIPLE} Use when the shop is open!"),
    (PRINCIPLE, "При поиске", f"{PRINCIPLE} When to use: При поиске."),
    ("Click  the\nsize", "At 9 a.m.", "Click the size. Use when at 9 a.m."),
    ("选择尺寸。", "ALL", "选择尺寸。 When to use: ALL."),
    ("", "At the search bar.", "At the search bar."), ("", "", "The title"), ("Click.", "Click.", "Click."),
    ("# PDF\n\n```\ncode\n```\nRead it. Then more.", "On a PDF", "Read it. Use when on a PDF."),
    ("# PDF\n\nRead it.", "Extract text from PDF files. Use when somebody names a PDF.",
     "Extract text from PDF files. Use when somebody names a PDF."),
    ("Do this:\n1. Look.\n2. Click.", "At the shop", "Do this: 1. Look. 2. Click. Use when at the shop."),
    ("odd \x00\x1b[1m\x85text", "at\x07 it", "odd [1m text. Use when at it."),
])
def test_the_description_says_what_and_when(principle, when, description):
    """Bug: `At the search bar.` is all that an agent sees of a skill when it starts, and it never opens it."""
    assert skillmd.described("The title", principle, when) == description


@pytest.mark.parametrize("principle, when", [("word " * 400, "At the shop."), ("Click.", "when " * 400),
                                             ("word " * 400, "when " * 400), ("x" * 2000, "y" * 2000)])
def test_a_long_description_keeps_both(principle, when):
    """Bug: more than 1,024 characters are refused, and what is cut off the end says when to use the skill."""
    description = skillmd.described("The title", principle, when)
    assert 500 < len(description) <= 1024
    assert principle.split()[0][:100] in description and when.split()[-1][:100].lower() in description


ODD = {"license": "MIT", "compatibility": "Python", "allowed-tools": ["Read", "Bash(x: y)"], "date": "2026-01-02",
       "confidence": 0.8, "name": "theirs", "description": ["theirs"], "none": None, "---": "----",
       "metadata": {"author": "me", "version": 1.5, "text": "1.5", "yes": True, "list": [1, "a", None],
                    "title": "theirs", "category": "productivity", "bank": "Chase", "json": "j", "extra": "e",
                    "digest": "d", "x" * 2000: 1, "---": "--- three", "half": "\ud83d", "": "empty"}}


@pytest.mark.parametrize("extra", [
    ODD, {"license": ["MIT"], "compatibility": "", "allowed-tools": "Read Bash"}, {"compatibility": "x" * 501},
    {"allowed-tools": []}, {"allowed-tools": ["Read", 3]}, {"license": "line\nbreak"}, {"metadata": {}},
    {"metadata": "a"}, {"metadata": [1]}, {"metadata": {"metadata": {}}}, {},
], ids=lambda extra: ascii(extra)[:30])
def test_further_fields_come_back_as_they_were(tmp_path, extra):
    """Bug: a field beyond the specification makes agents refuse the file, or a number comes back as a text."""
    bank = SkillBank([Skill("a", "Title", "Do this.", "At noon.", extra)])
    bank.save_folders(tmp_path)
    agents_take(tmp_path)
    assert SkillBank.load(tmp_path) == bank
    SkillBank.load(tmp_path).save_folders(tmp_path / "again")
    assert SkillBank.load(tmp_path / "again") == bank


@pytest.mark.parametrize("principle, when", [
    ("", ""), (" blanks ", " when "), ("\n\nlines\n", "\n"), ("a\r\nb\r", "a\rb"), ("--- x\n---\ny", "--- x\n---"),
    ("\x00\x07\x85\u2028\ufeff", "\x00\x07\x85\u2028\ufeff"), ("# Heading\n\n- list", "x" * 3000),
    ("💰 你好", "💰: # 你好"),
])
def test_texts_come_back_as_they_were(tmp_path, principle, when):
    """Bug: blanks at the ends or a carriage return are lost in the body, and the bank that is read is another one."""
    bank = SkillBank([Skill("a", "Title", principle, when)])
    bank.save_folders(tmp_path)
    agents_take(tmp_path)
    assert SkillBank.load(tmp_path) == bank


@pytest.mark.parametrize("before, after, read", [
    ("Click it.\n", "Click twice.\n", ("Click twice.", "At noon.")),
    ("Click it. Use when at noon.", "Click it, friend. Use when at noon.", ("Click it.", "At noon.")),
    ("Click it. Use when at noon.", "In the morning.", ("Click it.", "In the morning.")),
], ids=["body", "wording", "when"])
def test_what_a_person_changes_is_read(tmp_path, before, after, read):
    """Bug: what stands in metadata hides the change that a person made in the text above or below it."""
    SkillBank([Skill("a", "Title", "Click it.", "At noon.")]).save_folders(tmp_path)
    file = tmp_path / "title" / "SKILL.md"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    bank = SkillBank.load(tmp_path)
    assert (bank.skills()[0].principle, bank.skills()[0].when_to_apply) == read
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank and after in file.read_text()


def test_broken_fields_of_ours_are_named(tmp_path):
    """Bug: somebody cuts a line of JSON in two, and the skill silently loses its further fields."""
    SkillBank([Skill("a", "Title", "Click it.", "At noon.", {"confidence": 0.8})]).save_folders(tmp_path)
    file = tmp_path / "title" / "SKILL.md"
    file.write_text(re.sub("  extra: .*", '  extra: "{"', file.read_text()))
    with pytest.raises(ValueError, match="SKILL.md: extra in its metadata") as error:
        SkillBank.load(tmp_path)
    assert "\n" not in str(error.value)


def test_files_of_earlier_versions_are_read(tmp_path):
    """Bug: folders that were written before when_to_apply stood in metadata lose their families or their fields."""
    old = ("---\nname: \"title\"\ndescription: \"At noon.\"\n\"date\": \"2026-01-02\"\nmetadata:\n  \"model\": \"x\"\n"
           "  \"version\": 1.5\n  skill_id: \"dyn_001\"\n  category: \"footwear\"\n  title: \"Title\"\n  order: 0\n"
           "  bank: \"0123456789ab\"\n---\n\nClick it.\n")
    (tmp_path / "title").mkdir()
    (tmp_path / "title" / "SKILL.md").write_text(old)
    bank = SkillBank.load(tmp_path)
    extra = {"date": "2026-01-02", "metadata": {"model": "x", "version": 1.5}}
    assert bank.task_specific_skills == {"footwear": [Skill("dyn_001", "Title", "Click it.", "At noon.", extra)]}
    bank.save_folders(tmp_path)
    assert SkillBank.load(tmp_path) == bank
    assert yaml.safe_load((tmp_path / "title" / "SKILL.md").read_text().split("---")[1])["description"] == (
        "Click it. Use when at noon.")

"""
Skill banks on disk: SkillRL's and SkillMaster's JSON, checked place by place, and folders of SKILL.md files.

Everything here works on plain dicts in the JSON format; skillbank.py makes a SkillBank of them. The method is not here.
"""

import copy
import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from lib.files import one_line, write_atomic

SKILL = ("skill_id", "title", "principle", "when_to_apply")
BANK = {"general_skills": list, "task_specific_skills": dict, "common_mistakes": list, "metadata": dict}


@dataclass(frozen=True)
class Source:
    """Where a bank comes from: tells its SKILL.md files from those of other banks, and from those written by hand."""

    bank: str  # the identity of the bank, which stands in every file that it writes
    files: frozenset = frozenset()  # the SKILL.md files that it was read from


def fields_of(data, skill) -> dict:
    """What a SkillBank is made of, from a checked dict; skill: makes one skill of SKILL's fields and the others."""
    def skills(items):
        return [skill(*(item[k] for k in SKILL), {k: v for k, v in item.items() if k not in SKILL}) for item in items]

    return {"general_skills": skills(data.get("general_skills", [])),
            "task_specific_skills": {f: skills(v) for f, v in data.get("task_specific_skills", {}).items()},
            "common_mistakes": data.get("common_mistakes", []), "metadata": data.get("metadata", {}),
            "extra": {k: v for k, v in data.items() if k not in BANK}}


def as_dict(bank) -> dict:
    """A SkillBank in the JSON format."""
    def row(skill):
        return {**{k: getattr(skill, k) for k in SKILL}, **copy.deepcopy(skill.extra)}

    return {
        "general_skills": [row(s) for s in bank.general_skills],
        "task_specific_skills": {f: [row(s) for s in v] for f, v in bank.task_specific_skills.items()},
        "common_mistakes": bank.common_mistakes,
        **({"metadata": bank.metadata} if bank.metadata else {}),
        **bank.extra,
    }


def read(path):
    """(the bank in a JSON file or a directory of SKILL.md folders, as a checked dict; its Source).

    ValueError names the file and the place that is wrong.
    """
    path = Path(path)
    if path.is_dir():
        data = read_folders(path)
    else:
        try:
            data = json.loads(path.read_text(encoding="utf-8-sig"))  # Notepad's BOM is no error
        except FileNotFoundError as error:
            raise ValueError(f"{path}: no such skill bank") from error
        except (ValueError, RecursionError) as error:  # not JSON, not even text, or [[[[...
            raise ValueError(f"{path} is not JSON ({error}); a skill bank is a JSON object") from error
    check(data, path)
    return data, Source(bank_of(path), frozenset(file.resolve() for file in path.rglob("SKILL.md")))


def check(data, where):
    """Raise ValueError, naming the place, unless data is a skill bank."""

    def need(ok, place, what):
        if not ok:
            raise ValueError(f"{where}: {place} {what}")

    need(isinstance(data, dict), "the top level", f"must be an object, is a {type(data).__name__}")
    need({"general_skills", "task_specific_skills"} & data.keys(), "general_skills, task_specific_skills:",
         "neither is there; is it a skill bank?")
    for name, kind in BANK.items():
        need(isinstance(data.get(name, kind()), kind), name, f"must be a {'list' if kind is list else 'object'}")
    lists = {"general_skills": data.get("general_skills", [])}
    lists |= {f"task_specific_skills.{k}": v for k, v in data.get("task_specific_skills", {}).items()}
    seen = {}
    for place, skills in lists.items():
        need(isinstance(skills, list), place, "must be a list of skills")
        for i, skill in enumerate(skills):
            here = f"{place}[{i}]"
            need(isinstance(skill, dict), here, f"must be an object, is a {type(skill).__name__}")
            for name in SKILL:
                need(isinstance(skill.get(name), str), here, f"has no text {name!r} (a skill has {', '.join(SKILL)})")
                need(not re.search("[\ud800-\udfff]", skill[name]), here, f"has half a surrogate pair in {name!r}")
            first = seen.setdefault(skill["skill_id"], here)
            need(first == here, here, f"has the skill_id {skill['skill_id']!r} of {first}; ids must differ")


# ---- Folders of SKILL.md files --------------------------------------------------------------------------------------

OURS = ("skill_id", "category", "title", "order", "bank")  # what we write into a file's metadata


def quote(value) -> str:
    """A value as YAML on one line: a JSON string is one, once the characters that YAML does not take are escaped."""
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}",
                  json.dumps(value, ensure_ascii=False, default=str))


def write_folders(path, data, source=None) -> Source:
    """Write each skill of a bank as <path>/<slug>/SKILL.md: name = slug of the title, description = when_to_apply.

    source: of the bank; None: it was never read nor written, and gets an identity now. A file that is there already is
    written over if it has the title of a skill, or if the skill was read from it; it is deleted if this bank wrote it
    and has no such skill any more. No other file is touched. Returns the source.
    """
    path, source = Path(path), source or Source(uuid.uuid4().hex[:12])
    taken: set = set()
    there = {file: head_of(file) for file in sorted(path.rglob("SKILL.md"))}
    lists = [("general", data["general_skills"]), *data["task_specific_skills"].items()]
    for order, (category, skill) in enumerate((category, skill) for category, skills in lists for skill in skills):
        same = (file for file, head in there.items() if file not in taken and (
            title_of(head) == skill["title"]
            or file.resolve() in source.files and "bank" not in metadata_of(head)
            and id_of(path, file, head) == skill["skill_id"]))
        file = next(same, None) or free_place(path, skill["title"], {*there, *taken})
        taken.add(file)
        extra = {key: value for key, value in skill.items() if key not in (*SKILL, "metadata")}
        kept = skill.get("metadata") if isinstance(skill.get("metadata"), dict) else {}
        mine = dict(zip(OURS, (skill["skill_id"], category, skill["title"], order, source.bank)))
        write_atomic(file, "\n".join([
            "---", f"name: {quote(file.parent.name)}", f"description: {quote(skill['when_to_apply'])}",
            *(f"{quote(key)}: {quote(value)}" for key, value in extra.items()), "metadata:",
            *(f"  {key if key in OURS else quote(key)}: {quote(value)}" for key, value in {**kept, **mine}.items()),
            "---", "", skill["principle"], "",
        ]))
    for file, head in there.items():
        if file not in taken and metadata_of(head).get("bank") == source.bank:  # a skill whose title changed has moved
            file.unlink()
    return source


def free_place(path, title, taken):
    """<path>/<slug of the title>/SKILL.md, with a number where another skill's file is there."""
    base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:64] or "skill"
    for n in range(1, len(taken) + 2):
        file = path / (base if n == 1 else f"{base[:60]}-{n}") / "SKILL.md"
        if file not in taken and not file.exists():
            return file
    raise AssertionError("more names than files, so one is free")


def head_of(file):
    """The front matter of a SKILL.md, {} where it cannot be read: then the file is somebody else's."""
    try:
        return read_file(file)[0]
    except (ValueError, OSError):
        return {}


def metadata_of(head) -> dict:
    return head["metadata"] if isinstance(head.get("metadata"), dict) else {}


def title_of(head) -> str:
    """The title of a skill in a file: ours, or made from the name."""
    return str(metadata_of(head).get("title") or str(head.get("name", "")).replace("-", " ").capitalize())


def id_of(path, file, head) -> str:
    """The skill's id: ours, or made from its folder's name, so that it stays the same when another skill is added."""
    return str(metadata_of(head).get("skill_id") or "md_" + "_".join(file.relative_to(path).parts[:-1]))


def read_file(file):
    """(front matter, body) of a SKILL.md. ValueError names the file, and YAML's own reason and line."""
    import yaml  # comes with transformers; other people's front matter is real YAML

    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    match = re.match(r"---\s*\n(.*?)\n---\s*\n?(.*)", text, re.S)
    if not match:
        raise ValueError(f"{file}: needs a front matter with name and description between two --- lines")
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__)
        where = f", line {mark.line + 2}" if mark else ""  # the first line is ---
        raise ValueError(f"{file}{where}: its front matter is not YAML ({' '.join(reason.split())}); a text with a "
                         "colon wants quotes") from None
    except (ValueError, RecursionError) as error:  # an impossible date, [[[[...
        raise ValueError(f"{file}: its front matter is not YAML ({one_line(error)})") from None
    if not isinstance(head, dict) or not head.get("name") or head.get("description") is None:
        raise ValueError(f"{file}: needs a front matter with name and description between two --- lines")
    return head, match[2]


def read_folders(path):
    """The bank in <path>/**/SKILL.md, ours or anyone's: skills without our metadata are general ones, titled by name.

    What else stands in the front matter is kept in the skill, and written back.
    """
    path = Path(path)
    files = sorted(path.rglob("SKILL.md"))
    if not files:
        raise ValueError(f"{path}: no */SKILL.md there")
    found, owner = [], {}  # (order, number, category, skill): the newest skill of a list is its last one
    for number, file in enumerate(files, 1):
        head, body = read_file(file)
        kept = metadata_of(head)
        skill = {
            "skill_id": id_of(path, file, head),
            "title": title_of(head), "principle": body.strip(), "when_to_apply": str(head["description"]),
            **{str(key): value for key, value in head.items() if key not in ("name", "description", "metadata")},
        }
        if rest := {str(key): value for key, value in kept.items() if key not in OURS}:
            skill["metadata"] = rest
        skill = json.loads(json.dumps(skill, default=str))  # YAML has dates, JSON has none
        first = owner.setdefault(skill["skill_id"], file)
        if first != file:
            raise ValueError(f"{file}: has the skill_id {skill['skill_id']!r} of {first}; change one of them")
        order = kept.get("order") if isinstance(kept.get("order"), int) else len(files)
        found.append((order, number, str(kept.get("category") or "general"), skill))
    data = {"general_skills": [], "task_specific_skills": {}}
    for *_, category, skill in sorted(found, key=lambda entry: entry[:2]):
        (data["general_skills"] if category == "general"
         else data["task_specific_skills"].setdefault(category, [])).append(skill)
    return data


def bank_of(path) -> str:
    """The identity of a bank that is loaded from here: the one that its files name, else the place itself."""
    path = Path(path)
    if path.is_dir():
        banks = {metadata_of(head_of(file)).get("bank") for file in path.rglob("SKILL.md")} - {None}
        if len(banks) == 1:
            return str(banks.pop())
    return hashlib.sha1(str(path.resolve()).encode()).hexdigest()[:12]

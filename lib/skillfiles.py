"""
Skill banks on disk: SkillRL's and SkillMaster's JSON, checked place by place, and folders of SKILL.md files.

Everything here speaks the JSON format's plain dicts; skillbank.py makes a SkillBank of them. Nobody must read this to
learn the method.
"""

import json
import re
from pathlib import Path

from lib.files import write_atomic

SKILL = ("skill_id", "title", "principle", "when_to_apply")
BANK = {"general_skills": list, "task_specific_skills": dict, "common_mistakes": list, "metadata": dict}


def plain(text: str) -> str:
    """Lower case, white space collapsed: two texts that are equal after this count as the same."""
    return " ".join(text.lower().split())


def read(path):
    """The bank in a JSON file or a directory of SKILL.md folders, as a checked dict. ValueError says what is wrong."""
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
    return data


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


def write_folders(path, data):
    """Write each skill of a bank as <path>/<slug>/SKILL.md: name = slug of the title, description = when_to_apply."""

    def quote(text):
        # A JSON string is a YAML string, once the few characters that YAML does not take raw are escaped too.
        return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}",
                      json.dumps(text, ensure_ascii=False))

    slugs = set()
    lists = [("general", data["general_skills"]), *data["task_specific_skills"].items()]
    for order, (category, skill) in enumerate((category, skill) for category, skills in lists for skill in skills):
        slug = base = re.sub(r"[^a-z0-9]+", "-", skill["title"].lower()).strip("-")[:64] or "skill"
        n = 1
        while slug in slugs:
            n += 1
            slug = f"{base[:60]}-{n}"
        slugs.add(slug)
        write_atomic(Path(path) / slug / "SKILL.md", "\n".join([
            "---", f"name: {quote(slug)}", f"description: {quote(skill['when_to_apply'])}", "metadata:",
            f"  skill_id: {quote(skill['skill_id'])}", f"  category: {quote(category)}",
            f"  title: {quote(skill['title'])}", f"  order: {order}", "---", "", skill["principle"], "",
        ]))
    ids = [f"\n  skill_id: {quote(skill['skill_id'])}\n" for _, skills in lists for skill in skills]
    for file in Path(path).glob("*/SKILL.md"):  # a skill whose title changed has moved; what is not ours stays
        if file.parent.name not in slugs and any(i in file.read_text(encoding="utf-8", errors="replace") for i in ids):
            file.unlink()


def read_folders(path):
    """The bank in <path>/*/SKILL.md, ours or anyone's: skills without our metadata are general ones, titled by name."""
    import yaml  # comes with transformers; other people's front matter is real YAML

    files = sorted(Path(path).glob("*/SKILL.md"))
    if not files:
        raise ValueError(f"{path}: no */SKILL.md there")
    found = []  # (order, number, category, skill): the newest skill of a list is its last one
    for number, file in enumerate(files, 1):
        try:
            match = re.match(r"---\s*\n(.*?)\n---\s*\n?(.*)", file.read_text(encoding="utf-8-sig"), re.S)
            head = yaml.safe_load(match[1]) if match else None
        except (yaml.YAMLError, ValueError, RecursionError):  # not YAML, or not even text
            head = None
        if not isinstance(head, dict) or not head.get("name") or head.get("description") is None:
            raise ValueError(f"{file}: needs a front matter with name and description between two --- lines")
        kept = head.get("metadata") if isinstance(head.get("metadata"), dict) else {}
        skill = {
            "skill_id": str(kept.get("skill_id") or f"md_{number:03d}"),
            "title": str(kept.get("title") or str(head["name"]).replace("-", " ").capitalize()),
            "principle": match[2].strip(), "when_to_apply": str(head["description"]),
        }
        order = kept.get("order") if isinstance(kept.get("order"), int) else len(files)
        found.append((order, number, str(kept.get("category") or "general"), skill))
    data = {"general_skills": [], "task_specific_skills": {}}
    for *_, category, skill in sorted(found, key=lambda entry: entry[:2]):
        (data["general_skills"] if category == "general"
         else data["task_specific_skills"].setdefault(category, [])).append(skill)
    return data

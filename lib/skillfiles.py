"""
Skill banks on disk: SkillRL's and SkillMaster's JSON, checked place by place, and folders of SKILL.md files.

Everything here works on plain dicts in the JSON format; skillbank.py makes a SkillBank of them. The method is not here.
skillmd.py reads and writes one SKILL.md; here is which files are a bank's, and which of them it may write over.
"""

import copy
import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from lib import skillmd
from lib.files import nested, one_line, write_atomic
from lib.skillmd import SKILL, SkillFile

BANK = {"general_skills": list, "task_specific_skills": dict, "common_mistakes": list, "metadata": dict}
DEEPEST = skillmd.DEPTH + 10  # levels of JSON that can be copied and written in the middle of a run


@dataclass(frozen=True)
class Source:
    """Where a bank comes from: tells its SKILL.md files from those of other banks, and from what people wrote."""

    bank: str  # the identity of the bank, which stands in every file that it writes
    files: dict = field(default_factory=dict)  # SKILL.md file -> digest of what was read from it, or written there
    part: bool = False  # read from folders, which may hold a part of a bank: what it lacks is not to be deleted
    left: tuple = ()  # files that the last writing left alone, as a person has changed them since

    def __deepcopy__(self, memo):
        return self


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
    """(the bank of a path as a checked dict, its Source). ValueError names the file and the place that is wrong.

    path: a JSON file; a run directory, whose newest checkpoint has one; a directory of skill folders; one SKILL.md.
    """
    path = Path(path)
    single = path.name.lower() == "skill.md" and path.is_file()
    file = None if single else json_file(path)
    if file is None:
        found = [skillmd.read(file) for file in ([path] if single else skill_files(path))]
        data = bank_in(found, path.parent if single else path)
        banks = {skill.bank for skill in found} - {None}
        bank = banks.pop() if len(banks) == 1 and not single else identity(path)
        files = {skill.place: skillmd.digest(skill.text) for skill in found}
        if not single and (rest := digest_of(path / REST)):
            files[str((path / REST).resolve())] = rest
        source = Source(bank, files, part=True)
    else:
        try:
            data = json.loads(file.read_text(encoding="utf-8-sig"))  # Notepad's BOM is no error
        except FileNotFoundError as error:
            raise ValueError(f"{file}: no such skill bank") from error
        except (ValueError, RecursionError) as error:  # not JSON, not even text, or [[[[...
            raise ValueError(f"{file} is not JSON ({error}); a skill bank is a JSON object") from error
        source = Source(identity(file))
    check(data, path if file is None else file)
    return data, source


def json_file(path: Path) -> Path | None:
    """The JSON file that a path means: itself, or a run's or a checkpoint's skills.json. None: it has skill folders."""
    latest = path / "latest"
    if latest.is_file() and (path / "checkpoints").is_dir():
        checkpoint = path / "checkpoints" / latest.read_text(encoding="utf-8", errors="replace").strip()
        if not checkpoint.is_dir():
            raise ValueError(f"{latest} names {checkpoint.name!r}, and there is no such checkpoint; restore it, or "
                             "name a skills.json")
        return checkpoint / "skills.json"
    if not path.is_dir():
        return path
    return path / "skills.json" if (path / "skills.json").is_file() and not skill_files(path) else None


def identity(path: Path) -> str:
    """The identity of the bank in a file or a folder: its place. All checkpoints of a run have the run's."""
    place = path.resolve()
    if place.name == "skills.json" and place.parent.parent.name == "checkpoints":
        place = place.parent.parent.parent / "skills.json"
    return hashlib.sha1(str(place).encode("utf-8", "backslashreplace")).hexdigest()[:12]


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
    need(not data.get("task_specific_skills", {}).get("general"), "task_specific_skills.general",
         "is no family; move its skills to general_skills")
    for name in data.keys() - {"general_skills", "task_specific_skills"}:
        need(not nested(data[name], DEEPEST), name, f"is nested deeper than {skillmd.DEPTH} levels")
    lists = {"general_skills": data.get("general_skills", [])}
    lists |= {f"task_specific_skills.{k}": v for k, v in data.get("task_specific_skills", {}).items()}
    seen = {}
    for place, skills in lists.items():
        need(isinstance(skills, list), place, "must be a list of skills")
        for i, skill in enumerate(skills):
            here = f"{place}[{i}]"
            need(isinstance(skill, dict), here, f"must be an object, is a {type(skill).__name__}")
            need(not nested(skill, DEEPEST), here, f"is nested deeper than {skillmd.DEPTH} levels")
            for name in SKILL:
                need(isinstance(skill.get(name), str), here, f"has no text {name!r} (a skill has {', '.join(SKILL)})")
                need(not re.search("[\ud800-\udfff]", skill[name]), here, f"has half a surrogate pair in {name!r}")
            first = seen.setdefault(skill["skill_id"], here)
            need(first == here, here, f"has the skill_id {skill['skill_id']!r} of {first}; ids must differ")


# ---- Folders of SKILL.md files --------------------------------------------------------------------------------------

REST = ".skillbank.json"  # what a bank has beside its skills, see `write_rest`
PASSED_BY = {".git", ".hg", ".svn", ".venv", "node_modules", "__pycache__"}
BESIDE = re.compile(r"evals/[a-z]+\.json")  # what is written beside a SKILL.md
FOLDERS = 100_000  # at most: a link may lead to a whole disk


def skill_files(path: Path) -> list[Path]:
    """The SKILL.md of each skill folder in a directory and below, sorted.

    Links are followed, and each folder is entered once, so that links may run in a circle. What is below a skill's
    folder is that skill's own.
    """
    files, links, seen = [], [Path(path)], set(Path(path).resolve().parents)  # a link to one of them is a circle
    limit = len(seen) + FOLDERS
    while links:
        todo = [links.pop(0)]
        while todo:
            folder = todo.pop()
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            if len(seen) > limit:
                raise ValueError(f"{path}: more than {FOLDERS:,} folders; name the one that holds the skills")
            file = folder / "SKILL.md"
            if file.is_file():
                if file.resolve() not in seen:
                    files.append(file)
                seen.add(file.resolve())
                continue
            below = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name not in PASSED_BY]
            links += [entry for entry in below if entry.is_symlink()]  # later: a folder itself comes before its links
            todo += [entry for entry in below if not entry.is_symlink()]
    return sorted(files)


def bank_in(found: list[SkillFile], root: Path) -> dict:
    """The bank of some SKILL.md files, ours or anyone's: skills without our metadata are general ones, titled by name.

    What else stands in the front matter is kept in the skill, and written back.
    """
    if not found:
        run = (root / "config.json").is_file() and (root / "metrics.jsonl").is_file()
        raise ValueError(f"{root}: " + ("a run without a checkpoint yet" if run else "no */SKILL.md there"))
    data: dict = {"general_skills": [], "task_specific_skills": {}}
    owner: dict = {}
    # The newest skill of a list is its last one.
    for one in sorted(found, key=lambda one: len(found) if one.order is None else one.order):
        skill = one.skill(root)
        first = owner.setdefault(skill["skill_id"], one.file)
        if first != one.file:
            first, second = sorted([first, one.file])
            raise ValueError(f"{second}: has the skill_id {skill['skill_id']!r} of {first}; change one of them")
        (data["general_skills"] if one.category == "general"
         else data["task_specific_skills"].setdefault(one.category, [])).append(skill)
    for rest in read_rest(root).values():
        for family in rest["families"]:
            data["task_specific_skills"].setdefault(family, [])
        for key, value in rest["fields"].items():
            data[key] = data[key] + value if isinstance(data.get(key), list) and isinstance(value, list) else value
    return data


def read_rest(root: Path) -> dict[str, dict]:
    """{bank: {"families": those without a skill, "fields": what it has beside its skills}} in a directory."""
    file = root / REST
    if not file.is_file():
        return {}
    try:
        banks = json.loads(file.read_text(encoding="utf-8"))
        for rest in banks.values():
            if not isinstance(rest["families"], list) or not all(isinstance(name, str) for name in rest["families"]):
                raise ValueError("families must be a list of texts")
            if rest["fields"].keys() & {"general_skills", "task_specific_skills"}:
                raise ValueError("skills stand in SKILL.md files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: is not what was written there ({one_line(error)}); restore it, or delete it"
                         ) from None
    return banks


def write_rest(root: Path, data: dict, source: Source) -> None:
    """Keep what a bank has beside its skills: families without one, common mistakes, metadata, fields of others."""
    file = root / REST
    fields = {key: value for key, value in data.items()
              if key not in ("general_skills", "task_specific_skills") and (value or key not in BANK)}
    empty = [family for family, skills in data["task_specific_skills"].items() if not skills]
    read = source.files.get(str(file.resolve()))
    before = {} if read and read == digest_of(file) else read_rest(root)  # what was read is in the bank by now
    after = {**before, source.bank: {"families": empty, "fields": fields}}
    if not empty and not fields:
        del after[source.bank]
    if after:
        write_atomic(file, json.dumps(after, indent=1, ensure_ascii=False) + "\n")
    else:
        file.unlink(missing_ok=True)


def write_folders(path, data, source=None, notes=None) -> Source:
    """Write each skill of a bank as <path>/<slug of its title>/SKILL.md. Returns the bank's source.

    source: of the bank; None: it was never read nor written, and gets an identity now. notes: what goes along with a
    skill, {skill_id: (further texts for its metadata, {file in its folder: JSON object})}.

    A file that is there already is written over if this bank wrote it or was read from it, and nobody has changed it
    since; those that somebody has changed are .left as they are. When a skill of ours gets another title its folder
    moves, with all that is in it. A file is deleted if this bank wrote it and has no such skill any more. No other file
    is touched.
    """
    path, source = Path(path), source or Source(uuid.uuid4().hex[:12])
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; name a directory for the skill folders")
    there = [skillmd.look(file) for file in skill_files(path)] if path.exists() else []
    jobs, left = [], []
    done: set[str] = set()
    lists = [("general", data["general_skills"]), *data["task_specific_skills"].items()]
    entries = [(category, skill) for category, skills in lists for skill in skills]
    find, free = finder(there, path, source, {skill["skill_id"] for _, skill in entries}), namer()
    for order, (category, skill) in enumerate(entries):
        old = find(skill, done)
        if old is None:
            if (path / "SKILL.md").exists():
                raise ValueError(f"{path}: is the folder of one skill, what lies in it is the skill's own; name the "
                                 "folder above it")
            jobs.append(Job(skill, category, order, None, free(path, skill["title"])))
            continue
        done.add(old.place)
        if not current(old, source):
            left.append(old.file)
            continue
        folder = old.file.parent
        moved = moves(old, skill["title"], path)
        jobs.append(Job(skill, category, order, old, free(folder.parent, skill["title"]) if moved else folder))
    files = dict(source.files)
    for job in jobs:
        file, text, more = job.write(source.bank, (notes or {}).get(job.skill["skill_id"]))
        if job.old and not Path(job.old.place).exists():  # its folder has moved
            files.pop(job.old.place, None)
        files[file] = skillmd.digest(text)
        left += more
    for one in there:
        if one.bank == source.bank and one.place not in done and not one.found and one.at_home and (
                not source.part or one.place in source.files):
            if current(one, source):
                remove(one)
                files.pop(one.place, None)
            else:
                left.append(one.file)
    write_rest(path, data, source)
    rest = str((path / REST).resolve())
    if rest in files:
        files[rest] = digest_of(path / REST)
    return replace(source, files=files, left=tuple(left))


def finder(there: list[SkillFile], root: Path, source: Source, ids: set):
    """find(skill, done) -> the file that is a skill's, of those that are there and not done; None where there is none.

    It is the one that this bank wrote or read for the skill, or wrote for one of its title that is not in the bank any
    more (ids: those that are). A skill of the same id and title that another bank wrote is taken for it, too: the bank
    has been copied or has moved, and with both the folder could not be read.
    """
    there = sorted(there, key=lambda one: one.at_home)  # the last one counts: not a copy that somebody made
    mine = [one for one in there if one.bank == source.bank or one.place in source.files]
    by_id = {one.skill_id(root): one for one in mine}
    by_title = {one.title: one for one in mine if one.bank == source.bank and one.skill_id(root) not in ids}
    twins = {(one.skill_id(root), one.title): one for one in there if one.bank and not one.found}

    def find(skill, done):
        key, title = skill["skill_id"], skill["title"]
        some = (by_id.get(key), by_title.get(title), twins.get((key, title)))
        return next((one for one in some if one and one.place not in done), None)

    return find


def namer():
    """free(parent, title) -> <parent>/<slug of the title>, with a number where something is there or comes there."""
    tried: dict = {}  # (parent, slug) -> the last number
    given = set()

    def free(parent, title):
        key = parent, skillmd.slug(title)
        while True:
            tried[key] = tried.get(key, 0) + 1
            folder = parent / skillmd.slug(title, tried[key])
            if folder not in given and (not os.path.lexists(folder) or is_empty(folder)):
                given.add(folder)
                return folder

    return free


def current(one: SkillFile, source: Source) -> bool:
    """Is a file as a bank wrote it, or as this bank read it? Then nothing is lost when it is written over."""
    return one.intact or source.files.get(one.place) == skillmd.digest(one.text)


def moves(one: SkillFile, title: str, root: Path) -> bool:
    """Does a folder move when its skill gets this title? Not where somebody else has named it, or links to it."""
    folder, was = one.file.parent, skillmd.slug(one.title)
    number = re.search("-([0-9]{1,9})$", folder.name)
    named = folder.name == was or number is not None and folder.name == skillmd.slug(one.title, int(number[1]))
    return named and skillmd.slug(title) != was and not one.found and folder != root and not folder.is_symlink()


@dataclass
class Job:
    """One skill that is to be written."""

    skill: dict
    category: str
    order: int
    old: SkillFile | None  # its file until now
    folder: Path  # where it goes

    def __post_init__(self):
        texts = {key: self.skill[key] for key in ("principle", "when_to_apply")}
        self.ours = self.old.metadata if self.old and self.old.bank else {}
        # Is it the same text as before? Then what was measured of it still holds.
        self.same = bool(self.ours) and self.old.title == self.skill["title"] and self.old.texts() == texts

    def write(self, bank: str, note) -> tuple[str, str, list[Path]]:
        """(its SKILL.md, the text that is in it now, the files beside it that were left alone)."""
        if self.old and self.folder != self.old.file.parent:
            if self.folder.exists():
                self.folder.rmdir()  # it is empty
            os.rename(self.old.file.parent, self.folder)
        kept = {key: self.ours[key] for key in skillmd.MEASURED if key in self.ours} if self.same else {}
        measured, contents = note or (kept, {})
        written, left = self.write_beside(contents, clear=bool(note) or not self.same)
        top, further = skillmd.fields(self.skill)
        metadata = {"skill_id": self.skill["skill_id"], "title": self.skill["title"], "category": self.category,
                    "order": str(self.order), "bank": bank, "when_to_apply": self.skill["when_to_apply"], **measured}
        if skillmd.newlines(self.skill["principle"]).strip() != self.skill["principle"]:
            metadata["principle"] = self.skill["principle"]
        if self.old and self.old.found:
            metadata["origin"] = "found"
        if written:
            metadata["files"] = skillmd.as_json(written)
        text = skillmd.render(self.folder.name, self.description(), top, {**metadata, **further},
                              self.skill["principle"])
        file = (self.folder / "SKILL.md").resolve()  # the file itself, where a link leads to it
        write_atomic(file, text)
        return str(file), skillmd.newlines(text), left

    def description(self) -> str:
        """What a person wrote, as long as it is what the skill says; else made of the skill's texts."""
        old, when = self.old, self.skill["when_to_apply"]
        if old and old.head and (old.found or not old.intact) and old.texts()["when_to_apply"] == when:
            if skillmd.is_text(old.head["description"], skillmd.DESCRIPTION):
                return old.head["description"]
        return skillmd.described(self.skill["title"], self.skill["principle"], when)

    def write_beside(self, contents: dict, clear: bool) -> tuple[dict, list[Path]]:
        """({file: digest} of what we have beside SKILL.md now, the files that are somebody's and were left alone).

        clear: what we wrote there before is of no use any more.
        """
        written, left = written_beside(self.ours), []
        for name in list(written) if clear else ():
            if name not in contents:
                forget(self.folder / name, written.pop(name))
        for name, content in contents.items():
            file = self.folder / name
            text = rows_of({"skill_name": self.folder.name, **content})
            if os.path.lexists(file) and digest_of(file) not in (written.get(name), skillmd.digest(text)):
                left.append(file)
                written.pop(name, None)
            else:
                write_atomic(file, text)
                written[name] = skillmd.digest(text)
        return written, left


def rows_of(content: dict) -> str:
    """JSON with a row for each field, and for each item of a list."""
    fields = []
    for key, value in content.items():
        text = skillmd.as_json(value)
        if isinstance(value, list) and any(isinstance(item, dict | str) for item in value):
            text = "[\n  " + ",\n  ".join(map(skillmd.as_json, value)) + "\n ]"
        fields.append(f"{json.dumps(key)}: {text}")
    return "{\n " + ",\n ".join(fields) + "\n}\n"


def written_beside(metadata: dict) -> dict[str, str]:
    """{file: digest} of what we wrote beside a SKILL.md with this metadata."""
    said = skillmd.from_json(metadata.get("files"))
    return {name: digest for name, digest in said.items() if BESIDE.fullmatch(name)} if isinstance(said, dict) else {}


def remove(one: SkillFile) -> None:
    """Delete a file that this bank wrote, and what it wrote beside it. What others put into the folder stays."""
    one.file.unlink()
    for name, said in written_beside(one.metadata).items():
        forget(one.file.parent / name, said)
    if is_empty(one.file.parent):
        one.file.parent.rmdir()


def forget(file: Path, said: str) -> None:
    """Delete a file of ours if it still is as it was written."""
    if digest_of(file) == said:
        file.unlink()
        if is_empty(file.parent):
            file.parent.rmdir()


def is_empty(folder: Path) -> bool:
    """An empty directory? A link to one is somebody's, and is not."""
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def digest_of(file: Path) -> str | None:
    """The digest of a text file; None where it cannot be read."""
    try:
        return skillmd.digest(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

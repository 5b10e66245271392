"""One SKILL.md file: read from anybody, and written as the agents that read them want it.

    ---
    name: products-search-kind-plus-qualities
    description: "For products, search the kind together with its qualities. Use when at the search bar."
    metadata:
      skill_id: "dyn_003"
      when_to_apply: "At the search bar."
      ...
    ---

    For products, search the kind together with its qualities.

The rules are those of the Agent Skills specification and of its validator, skills-ref: a name of lower-case letters,
digits and single hyphens, which is its folder's; a description of up to 1,024 characters; beside these license,
compatibility, allowed-tools and metadata, whose values are strings. What else a skill has goes into metadata, and comes
back from there as it was.
"""

import hashlib
import json
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lib.files import one_line

SKILL = ("skill_id", "title", "principle", "when_to_apply")
MEASURED = ("utility", "probes", "world", "model", "iteration")  # what a run knows of a skill
# What we write into a file's metadata. bank: whose file it is; principle: where the body cannot hold it; extra, others,
# json: the skill's further fields, see `fields`; files: what we wrote beside SKILL.md, and its digests; origin: "found"
# where somebody else's file was there first; digest: of all the rest of the file.
OURS = ("skill_id", "title", "category", "order", "bank", "when_to_apply", "principle", *MEASURED, "extra", "others",
        "json", "files", "origin", "digest")
NAME, DESCRIPTION, COMPATIBILITY = 64, 1024, 500  # characters at most
DEPTH, VALUES, LETTERS = 40, 10_000, 1_000_000  # of a front matter: levels, values and characters, aliases written out


# ---- Reading --------------------------------------------------------------------------------------------------------


@dataclass
class SkillFile:
    """A SKILL.md that was read. `head` is {} where its front matter cannot be read: then it is somebody else's."""

    file: Path
    text: str
    head: dict  # the front matter; name and description are texts, whatever YAML makes of `no`
    body: str

    @cached_property
    def place(self) -> str:
        """The file itself, whichever links lead to it."""
        return str(self.file.resolve())

    @property
    def metadata(self) -> dict:
        return self.head["metadata"] if isinstance(self.head.get("metadata"), dict) else {}

    @property
    def bank(self) -> str | None:
        """The bank that wrote the file; None: it is somebody else's."""
        bank = self.metadata.get("bank")
        return bank if isinstance(bank, str) and re.fullmatch("[0-9a-f]{12}", bank) else None

    @property
    def found(self) -> bool:
        """Was the file there before any bank wrote into it?"""
        return self.bank is None or self.metadata.get("origin") == "found"

    @property
    def at_home(self) -> bool:
        """Does it lie in the folder that it was written into? A copy does not."""
        return self.head.get("name") == self.file.parent.name

    @cached_property
    def intact(self) -> bool:
        """Is it as a bank wrote it? Not where a person has changed it since. Older files cannot tell: they are."""
        said = self.metadata.get("digest")
        return self.bank is not None and (said is None or digest(DIGEST.sub("", self.text, count=1)) == said)

    @property
    def title(self) -> str:
        """The skill's title: ours, or the one that the file has, or made from its name."""
        for given in (self.metadata.get("title"), self.head.get("title")):
            if is_label(given) and (given or self.bank):
                return str(given)
        return self.head.get("name", "").replace("-", " ").capitalize()

    def skill_id(self, root: Path) -> str:
        """Ours, or made from the path of its folder, so that it stays the same when another skill is added."""
        given = self.metadata.get("skill_id")
        if is_label(given) and (given != "" or self.bank):
            return str(given)
        return "md_" + "_".join(self.file.relative_to(root).parts[:-1] or (self.file.parent.resolve().name,))

    @property
    def category(self) -> str:
        """The list it belongs to. Another's category, such as a marketplace's, is not a family of games."""
        category = self.metadata.get("category")
        return category if self.bank and isinstance(category, str) else "general"

    @property
    def order(self) -> int | None:
        """Its place in the bank. None where nobody said."""
        order = str(self.metadata.get("order"))
        return int(order) if self.bank and re.fullmatch("[0-9]{1,9}", order) else None

    def texts(self) -> dict:
        """principle and when_to_apply. What a person has changed in a file of ours is taken as it stands there."""
        principle, description = self.body.strip(), self.head["description"]
        given, when = (self.metadata.get(key) if self.bank else None for key in ("principle", "when_to_apply"))
        if isinstance(given, str) and newlines(given).strip() == principle:
            principle = given
        if not isinstance(when, str):
            return {"principle": principle, "when_to_apply": description}
        use, said = when_to_use(when), " ".join(description.split())
        same = self.intact or said == described(self.title, principle, when) or bool(use) and said.endswith(use)
        return {"principle": principle, "when_to_apply": when if same else description}

    def skill(self, root: Path) -> dict:
        """The skill in the JSON format. ValueError where our own fields have been broken."""
        full = self.bank is not None and bool({"when_to_apply", "digest"} & self.metadata.keys())
        if self.bank:
            known = list(OURS if full else OURS[:5])  # older files of ours have no more
        else:
            known = [key for key in OURS[:2] if is_label(self.metadata.get(key))]
        kept = {key: value for key, value in self.metadata.items() if key not in known}
        extra = {key: value for key, value in self.head.items() if key not in ("name", "description", "metadata")}
        if not self.metadata and self.head.get("metadata") not in (None, {}):
            extra["metadata"] = self.head["metadata"]  # a text or a list, where the specification wants a mapping
        if extra.get("title") == self.title:
            del extra["title"]
        kept |= {key: extra.pop(key) for key in SKILL if key in extra}
        if full:
            for key in self.stored("json", list):
                if isinstance(key, str) and isinstance(kept.get(key), str):
                    kept[key] = from_json(kept[key])
            extra |= self.stored("extra", dict)
            kept |= self.stored("others", dict)
        return {"skill_id": self.skill_id(root), "title": self.title, **self.texts(), **extra,
                **({"metadata": kept} if kept else {})}

    def stored(self, key, kind):
        """What stands in our metadata as JSON; an empty list or dict where nothing does."""
        value = from_json(self.metadata[key]) if key in self.metadata else kind()
        if not isinstance(value, kind):
            raise ValueError(f"{self.file}: {key} in its metadata is not the JSON that was written there; restore it, "
                             "or delete the line")
        return value


def read(file: Path) -> SkillFile:
    """Read a SKILL.md. ValueError names the file, and YAML's own reason and line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    rows = text.split("\n")
    end = next((n for n, row in enumerate(rows) if n and row.rstrip() == "---"), 0)
    head = front_matter("\n".join(rows[1:end]), file) if end and rows[0].rstrip() == "---" else {}
    if not head.get("name") or head.get("description") is None:
        raise ValueError(f"{file}: needs a front matter with name and description between two --- lines")
    return SkillFile(file, text, head, "\n".join(rows[end + 1:]))


def look(file: Path) -> SkillFile:
    """The same, with an empty head where the file cannot be read."""
    try:
        return read(file)
    except (ValueError, OSError):
        return SkillFile(file, "", {}, "")


class TooMuch(ValueError):
    """A front matter that is no skill's."""


def front_matter(text: str, file: Path) -> dict:
    """The front matter of `file` as plain values; {} where it is no mapping. ValueError, one line, where it is no YAML.

    YAML's aliases can write gigabytes in 600 bytes, or a list that contains itself: the tree is measured before
    anything is made of it. name and description are taken as they are written: YAML 1.1 reads `no` as false.
    """
    import yaml  # comes with transformers; other people's front matter is real YAML

    wrong = "its front matter is not YAML ({}); a text with a colon wants quotes"
    try:
        loader = yaml.SafeLoader(text)
        root = compose(loader)
        if not isinstance(root, yaml.MappingNode):
            return {}
        weigh(root, {}, set())
        loader.flatten_mapping(root)
        head: dict = {}
        for key, node in root.value:
            name, nothing = text_of(key), node.tag.endswith(":null")
            if name == "name":  # somebody may call a skill null, but not ~
                head[name] = "" if nothing and node.value == "~" else text_of(node)
            elif name == "description":
                head[name] = None if nothing else text_of(node)
            else:
                head[name] = value_of(loader, node)
        return head
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__)
        where = f"{file}, line {mark.line + 2}" if mark else str(file)  # the first line is ---
        raise ValueError(f"{where}: {wrong.format(' '.join(reason.split()))}") from None
    except TooMuch as error:
        raise ValueError(f"{file}: its front matter {error}; a skill's has a few lines") from None
    except Exception as error:  # an impossible date, [[[[..., and what PyYAML trips over in `!!int ""`
        raise ValueError(f"{file}: {wrong.format(one_line(error))}") from None


def compose(loader):
    """The tree of a YAML text, no deeper and no larger than a skill's may be: on [[[[... PyYAML takes seconds."""
    node_of, level, count = loader.compose_node, 0, 0

    def limited(parent, index):
        nonlocal level, count
        level, count = level + 1, count + 1
        if level > DEPTH:
            raise TooMuch(f"is nested deeper than {DEPTH} levels")
        if count > VALUES:
            raise TooMuch(f"has more than {VALUES:,} values")
        node = node_of(parent, index)
        level -= 1
        return node

    loader.compose_node = limited
    return loader.get_single_node()


def weigh(node, known, above):
    """(values, characters, levels) of a node once its aliases are written out. TooMuch where that is no skill's.

    known: {id of a node: its weight}; above: the ids of the nodes that it stands in.
    """
    if id(node) in above:
        raise TooMuch("has an alias that stands in what it is an alias of")
    if id(node) not in known:
        leaf = isinstance(node.value, str)
        children = [part for item in (() if leaf else node.value)
                    for part in (item if isinstance(item, tuple) else (item,))]
        weights = [weigh(child, known, above | {id(node)}) for child in children]
        values, letters, levels = zip(*weights) if weights else ((), (), ())
        known[id(node)] = 1 + sum(values), sum(letters) + len(node.value) * leaf, 1 + max(levels, default=0)
    values, letters, levels = known[id(node)]
    if values > VALUES or letters > LETTERS and len(known) < values:  # a long text that stands there once may be long
        raise TooMuch(f"has {values:,} values with {letters:,} characters once its aliases are written out")
    if levels > DEPTH:
        raise TooMuch(f"is nested deeper than {DEPTH} levels")
    return known[id(node)]


def text_of(node) -> str:
    """A node as a text: a scalar as it is written, a list or a mapping as a person would say it."""
    if isinstance(node.value, str):
        return node.value
    parts = [": ".join(filter(None, map(text_of, item))) if isinstance(item, tuple) else text_of(item)
             for item in node.value]
    parts = [part.strip() for part in parts if part.strip()]
    return " ".join(part if part[-1] in ".!?:;" else f"{part};" for part in parts).removesuffix(";")


def value_of(loader, node):
    """A node as a value that JSON has, too: dates, bytes, infinities and endless numbers stay as they are written."""
    if isinstance(node.value, str):
        value = loader.construct_object(node)
        plain = (value is None or isinstance(value, str) or isinstance(value, float) and math.isfinite(value)
                 or isinstance(value, int) and value.bit_length() < 1000)
        return value if plain else node.value
    if node.id == "mapping":
        loader.flatten_mapping(node)
        return {text_of(key): value_of(loader, item) for key, item in node.value}
    return [value_of(loader, item) for item in node.value]


# ---- Writing --------------------------------------------------------------------------------------------------------

DIGEST = re.compile('^  digest: "[0-9a-f]*"\n', re.M)
DOCUMENT = re.compile(r"^ {0,3}(#{1,6} |```|\|)", re.M)  # a text with headings, code or tables
# How a text that says when a skill applies begins: those go on from "Use", those from "Use when".
AFTER_USE = re.compile(r"(when|whenever|before|after|while|during|if|for|to|as|once|until|unless|always|every|with|"
                       r"without|only|where|wherever)\b", re.I)
AFTER_WHEN = re.compile(r"(at|on|in|inside|within|under|near|you|there|it|nothing|[a-z]{3,}ing)\b", re.I)
RESERVED = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # YAML 1.1 does not read these as texts


def newlines(text: str) -> str:
    """A text as files give it back: whichever line ends it has, they are newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def digest(text: str) -> str:
    return hashlib.sha1(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


def quote(value: str) -> str:
    """A text as YAML on one line: a JSON string is one, once the characters that YAML does not take are escaped.

    Neither may three hyphens stand in a front matter: some programs take them for its end, skills-ref too.
    """
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]|-(?=--)",
                  lambda m: f"\\u{ord(m[0]):04x}", json.dumps(value, ensure_ascii=False))


def as_json(value) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def from_json(text):
    """The value of a JSON text; what is none stays as it is."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text


def slug(title: str, number: int = 1) -> str:
    """A name that agents take, made of a title; number: of the skills that would have the same one."""
    letters = unicodedata.normalize("NFKD", title.casefold())  # é is e and an accent
    base = re.sub("[^a-z0-9]+", "-", "".join(c for c in letters if not unicodedata.combining(c))).strip("-")
    tail = "" if number == 1 else f"-{number}"
    return (base[:NAME - len(tail)].strip("-") or "skill") + tail


def when_to_use(when: str) -> str:
    """When a skill applies, as a sentence; "" where nothing is said."""
    text = printable(when)
    lower = text[:1].lower() + text[1:]
    if re.match(r"(use|apply)\b", lower):
        return ended(text)
    if AFTER_USE.match(text):
        return ended(f"Use {lower}")
    if AFTER_WHEN.match(text):
        return ended(f"Use when {lower}")
    return ended(f"When to use: {text}") if text else ""


def described(title: str, principle: str, when: str) -> str:
    """The description: what to do, and when. An agent sees no more of a skill until it opens it."""
    rule, use = printable(principle), when_to_use(when)
    if "\n" in principle.strip() and (len(rule) > 600 or DOCUMENT.search(principle)):  # somebody's page
        if len(when.split()) > 7:  # which has a description of its own
            return cut(printable(when), DESCRIPTION)
        prose = re.sub("```.*?(```|$)", "", principle, flags=re.S).splitlines()
        rule = next((row for row in prose if re.match(r"\s*\w", row)), rule)
        rule = re.split(r"(?<=[.!?]) ", printable(rule))[0]
    if not rule or rule == printable(when):
        return cut(printable(when) or printable(title) or "A skill without a text.", DESCRIPTION)
    use = cut(use, max(DESCRIPTION // 2, DESCRIPTION - 1 - len(ended(rule))))
    return f"{cut(ended(rule), DESCRIPTION - 1 - len(use))} {use}".strip()


def printable(text: str) -> str:
    """A text on one line, without the characters that nobody sees."""
    return " ".join(re.sub("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]", "", text).split())


def ended(text: str) -> str:
    """A text as a sentence: with an end."""
    return text if not text or text.rstrip("\"')]»”’")[-1:] in tuple(".!?:;…。！？।") else f"{text}."


def cut(text: str, room: int) -> str:
    """A text that is too long, cut after a word."""
    if len(text) <= room:
        return text
    short = text[:room - 1]
    return (short.rsplit(" ", 1)[0] if " " in short[room // 2:] else short).rstrip() + "…"


def fields(skill: dict) -> tuple[dict, dict]:
    """(what stands at the top of the front matter, what stands in its metadata) of a skill's further fields.

    Texts of `metadata` stay as they are. Its other values are JSON, and `json` says which; others: those whose names
    are taken; extra: what the specification has no place for at the top.
    """
    extra = {key: value for key, value in skill.items() if key not in SKILL}
    top: dict = {}
    for key, fits in (("license", is_text), ("compatibility", lambda value: is_text(value, COMPATIBILITY)),
                      ("allowed-tools", lambda value: is_text(value) or isinstance(value, list) and value
                       and all(map(is_text, value)))):
        if fits(extra.get(key)):
            top[key] = extra.pop(key)
    kept = extra.pop("metadata") if isinstance(extra.get("metadata"), dict) and extra["metadata"] else {}
    others = {key: value for key, value in kept.items() if key in OURS or len(key) > 100}
    kept = {key: value for key, value in kept.items() if key not in others}
    typed = [key for key, value in kept.items() if not isinstance(value, str)]
    metadata = {key: as_json(value) if key in typed else value for key, value in kept.items()}
    metadata |= {key: as_json(value) for key, value in (("json", typed), ("extra", extra), ("others", others)) if value}
    return top, metadata


def is_label(value) -> bool:
    """A text or a number, as a title or an id may be written."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def is_text(value, most: int = 10_000) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= most


def render(name: str, description: str, top: dict, metadata: dict, body: str) -> str:
    """The text of a SKILL.md."""
    plain = re.fullmatch("[a-z][a-z0-9-]*", name) and name not in RESERVED and "--" not in name
    head = ["---", f"name: {name if plain else quote(name)}", f"description: {quote(description)}"]
    for key, value in top.items():
        if isinstance(value, str):
            head.append(f"{key}: {quote(value)}")
        else:  # not [in, brackets]: skills-ref takes a stricter YAML
            head += [f"{key}:", *(f"  - {quote(item)}" for item in value)]
    head.append("metadata:")
    head += [f"  {key if key in OURS else quote(key)}: {quote(value)}" for key, value in metadata.items()]
    tail = ["---", "", body, ""]
    return "\n".join([*head, f'  digest: "{digest(newlines(chr(10).join(head + tail)))}"', *tail])

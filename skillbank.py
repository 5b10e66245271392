"""
The skill bank: what the policy has written down, what its prompt shows, and the three tools that edit the bank.

A skill is a title, a principle and when to apply it. General skills and the skills of the task's family stand in the
prompt from the first step on. After the episode the policy is asked for a review, which is exactly one tool call:

    <think>The shoe had the wrong size.</think>
    <tool_call>{"name": "propose_skill", "arguments": {"category": "footwear", "title": "Choose the size first",
    "principle": "Click every option the task names before buy now.", "when_to_apply": "On a product page.",
    "evidence": "Score 0.67: the size was not chosen."}}</tool_call>

This file turns that text into an edit of a bank, and into the shaping part of the review's reward S = U + shaping.
probes.py measures U. Difference from the released code: it shows the first k skills in the order of the file, so a
later one is never shown and its utility is noise. Here skills are ranked, and the newest one is always shown.
"""

import copy
import json
import re
from dataclasses import dataclass, field
from typing import Any

from lib import skillfiles
from lib.answers import braces_in, call_in, has_thought, tagged, without_thoughts
from lib.files import valid_text, write_atomic
from lib.texts import content, plain

# Tool -> its required string arguments, in the order the prompt names them.
TOOLS = {
    "propose_skill": ("category", "title", "principle", "when_to_apply", "evidence"),
    "update_skill": ("skill_id", "title", "principle", "when_to_apply", "reason"),
    "keep_skill": ("reason",),
}
# What each status pays, as in the released code: a duplicate is a valid call less 0.5. Ours is not_found (theirs 0.1).
SHAPING = {"added": 0.1, "updated": 0.1, "kept": 0.1, "not_found": -0.4, "duplicate": -0.4, "invalid_arguments": -1.0,
           "unknown_tool": -1.5, "parse_error": -2.0}
# Verbs of world actions. A review that calls one of them as a tool has confused acting with reviewing.
WORLD_ACTIONS = {"search", "click", "buy", "go", "open", "close", "take", "put", "move", "clean", "heat", "cool", "use",
                 "slice", "examine", "inventory", "look"}
TEXT = skillfiles.SKILL[1:]  # title, principle, when_to_apply: what an edit writes
MAX_TEXT = 400  # characters of an argument: long skills would leave no room for the task in the context
ROOM = 100  # an update may make a skill twice as long, and so many characters more: in more, a second one could hide
# What a skill must not hold: the protocol's tags, roles, control tokens, another skill's head, characters not seen.
MARKUP = re.compile(r"</?(think|action|tool_call|system|user|assistant)\b[^<>]*>|<\|.*?\|>|\[/?INST\]|<</?SYS>>"
                    r"|^\s*(system|user|assistant)\s*:|^\s*\[\w+\] \S.*:"
                    r"|[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]", re.I | re.M)


@dataclass
class Skill:
    skill_id: str
    title: str
    principle: str
    when_to_apply: str
    extra: dict = field(default_factory=dict)  # fields of other tools' files, kept as they were

    def line(self):
        """The skill as it stands in a prompt: in one line, so that it cannot look like two, or like a task."""
        return " ".join(f"[{self.skill_id}] {self.title}: {self.principle} ({self.when_to_apply})".split())


@dataclass
class SkillBank:
    """General skills and skills per family; in a list the last one is the newest. No prompt shows common_mistakes."""

    general_skills: list = field(default_factory=list)
    task_specific_skills: dict = field(default_factory=dict)
    common_mistakes: list = field(default_factory=list)
    metadata: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)  # fields of other tools' files, kept as they were
    source: skillfiles.Source | None = field(default=None, compare=False)  # the files that it was loaded from

    @classmethod
    def load(cls, path) -> "SkillBank":
        """From a JSON file as SkillRL has it, or a directory of SKILL.md folders. ValueError names what is wrong."""
        data, source = skillfiles.read(path)
        bank = cls.from_dict(data)
        bank.source = source
        return bank

    @classmethod
    def from_dict(cls, data):
        return cls(**skillfiles.fields_of(data, Skill))

    def to_dict(self):
        return skillfiles.as_dict(self)

    def save(self, path):
        """Write the JSON file; a kill leaves the old one or the new one."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def save_folders(self, path):
        """Write each skill as <path>/<slug of its title>/SKILL.md; what others wrote there stays."""
        self.source = skillfiles.write_folders(path, self.to_dict(), self.source)

    def skills(self):
        """Every skill, general ones first."""
        return self.general_skills + [s for skills in self.task_specific_skills.values() for s in skills]

    def category(self, skill_id: str | None) -> str:
        """The family whose list has the skill of that id, else "general"."""
        return next((family for family, skills in self.task_specific_skills.items()
                     if any(skill.skill_id == skill_id for skill in skills)), "general")

    def find(self, skill_id):
        """The skill of that id. KeyError where there is none."""
        return {skill.skill_id: skill for skill in self.skills()}[skill_id]

    def retrieve(self, goal, family, k=3):
        """The skills to show for a task's text: up to k general ones, then up to k of its family.

        Ranked by shared content words, then newest first. The last place is the newest skill's: an edit that no prompt
        shows has no effect, and its probes would measure noise.
        """
        shown = []
        for skills in (self.general_skills, self.task_specific_skills.get(family, [])):
            ranked = sorted(range(len(skills)), key=lambda i: (-similarity(goal, skills[i]), -i))[:k]
            if skills and k > 0 and len(skills) - 1 not in ranked:
                ranked[-1] = len(skills) - 1
            shown += [skills[i] for i in ranked]
        return shown

    def remove(self, ids):
        """Take the skills of these ids out of the bank. Their ids are not given again."""
        self.metadata["last_id"] = self._last_id()
        for skills in (self.general_skills, *self.task_specific_skills.values()):
            skills[:] = [skill for skill in skills if skill.skill_id not in ids]

    def apply(self, name, arguments, family, task=None) -> "Edit":
        """Carry out one tool call for an episode of this family.

        The edit's status is added, updated, kept, duplicate (what it writes is there already), not_found, markup (tags,
        roles, control characters), invalid_arguments or unknown_tool. Only the first two change the bank. Never raises.
        """
        name = valid_text(name) if isinstance(name, str) else None
        given = arguments if isinstance(arguments, dict) else {}
        values = clean(name, given)
        edit = Edit("invalid_arguments", name, values or given, self, task=task, family=family)
        if name not in TOOLS:
            edit.status = "unknown_tool"
        elif values:
            edit.status = self._carry_out(edit)
        return edit

    def tried(self, name, arguments, family, task=None) -> "Edit":
        """`apply` on a copy: this bank stays as it is, the edit's .bank is the changed one."""
        return copy.deepcopy(self).apply(name, arguments, family, task)

    def _carry_out(self, edit) -> str:
        """Change the bank as a call with clean arguments asks; returns the status."""
        if edit.name == "keep_skill":
            return "kept"
        text = {key: edit.arguments[key] for key in TEXT}
        if any(map(MARKUP.search, text.values())):
            return "markup"
        if edit.name == "propose_skill":
            if edit.arguments["category"] not in ("general", edit.family):
                return "invalid_arguments"
            if any(same_text(vars(skill), text) for skill in self.skills()):
                return "duplicate"
            edit.skill_id = f"dyn_{self._last_id() + 1:03d}"
            self._list(edit.arguments["category"]).append(Skill(edit.skill_id, **text))
            return "added"
        named = edit.arguments["skill_id"]
        by_id = any(skill.skill_id == named for skill in self.skills())  # a title may look like another's id
        skill = next((skill for skill in self.skills() if named == (skill.skill_id if by_id else skill.title)), None)
        if skill is None:
            return "not_found"
        if sum(map(len, text.values())) > 2 * len(skill.line()) + ROOM:
            return "invalid_arguments"
        if any(same_text(vars(other), text) for other in self.skills() if other is not skill) or all(
                plain(value) == plain(getattr(skill, key)) for key, value in text.items()):  # it changes nothing
            return "duplicate"
        # An updated skill becomes the newest of its list, so that every probe's prompt shows it.
        mine = self._list(self.category(skill.skill_id))
        mine.append(Skill(skill.skill_id, **text, extra=skill.extra))
        mine.remove(skill)
        edit.skill_id = edit.arguments["skill_id"] = skill.skill_id  # by id or by title, both are the same edit
        return "updated"

    def _list(self, category):
        return self.general_skills if category == "general" else self.task_specific_skills.setdefault(category, [])

    def _last_id(self) -> int:
        """The highest number n below 10^9 of an id dyn_n, here or removed, whose successor n + 1 is free; else 0."""
        ids = [*(skill.skill_id for skill in self.skills()), f"dyn_{self.metadata.get('last_id', 0)}"]
        taken = {int(m[1]) for one in ids if (m := re.fullmatch(r"dyn_([0-9]{1,4000})", one))}
        return max((n for n in taken if n < 10**9 and n + 1 not in taken), default=0)


@dataclass(eq=False)
class Edit:
    """The call of one review: what it asks of the bank, what came of it, and what its probes measured."""

    status: str  # SkillBank.apply's, or parse_error
    name: str | None  # the tool
    arguments: dict  # of a valid call the tool's own, as stripped valid strings; else as they were given
    bank: SkillBank  # the bank with this edit
    skill_id: str | None = None  # of the skill concerned
    error: str = ""  # why a review could not be read
    task: Any = None  # the episode's
    family: str = ""
    probes: list[int] | None = None  # tasks; None: probes.probe chooses them
    before: list[float] = field(default_factory=list)  # scores without the edit, one per probe
    after: list[float] = field(default_factory=list)  # and with it
    utility: float = 0.0
    confirmed: float | None = None  # utility on fresh probes, where probes.confirm asked for it

    @property
    def changed(self) -> bool:
        """Does it change the bank? Only then is it probed and committed."""
        return self.status in ("added", "updated")

    @property
    def category(self) -> str:
        """The list that the skill is in: "general", or a family."""
        return self.arguments["category"] if self.name == "propose_skill" else self.bank.category(self.skill_id)

    @property
    def identity(self) -> tuple:
        """The place and the text it writes. Edits that agree in both are the same edit, whoever wrote them."""
        target = self.skill_id if self.name == "update_skill" else self.category
        return self.name, target, *(self.arguments[key] for key in TEXT)


def clean(name: str | None, arguments: dict) -> dict:
    """The arguments that a tool asks for, as stripped valid strings; {} where one is missing, empty or too long."""
    wanted = TOOLS.get(name or "", ())
    texts = [valid_text(arguments[key]).strip() for key in wanted if isinstance(arguments.get(key), str)]
    fits = len(texts) == len(wanted) and all(0 < len(text) <= MAX_TEXT for text in texts)
    return dict(zip(wanted, texts)) if fits else {}


def same_text(a: dict, b: dict) -> bool:
    """Are two skills duplicates? Title or principle are equal, up to case and white space."""
    return plain(a["title"]) == plain(b["title"]) or plain(a["principle"]) == plain(b["principle"])


def similarity(goal, skill):
    """Share of the skill's content words that the task text has, in [0, 1]."""
    mine = content(f"{skill.title} {skill.principle} {skill.when_to_apply}")
    return len(mine & content(goal)) / max(len(mine), 1)


# ---- The review -----------------------------------------------------------------------------------------------------


def skills_prompt(skills):
    """The part of the system message that shows the retrieved skills."""
    return "\n".join(["Your skills:"] + [skill.line() for skill in skills]) if skills else "Your skills: none yet."


def review_prompt(family, won, score, steps, limit):
    """The user message that ends an episode and asks for the review. The trajectory itself stands above it."""
    outcome = "SUCCESS" if won else "FAILURE"
    calls = [f'- {name}: {", ".join(arguments)}' for name, arguments in TOOLS.items()]
    return "\n".join([
        f"The episode is over: {outcome}, score {score:.2f}, {steps} of {limit} steps. Family: {family}.",
        f"Now review it instead of acting. Call exactly one tool; arguments are texts of up to {MAX_TEXT} characters:",
        *calls,
        f"Rules: category is {family} or general. Propose a rule that would help on other {family} tasks, not this "
        "one's answer. Update a shown skill by its id if it is wrong or vague. Keep if there is nothing to change.",
        'Format: <think>what decided the outcome</think><tool_call>{"name": tool, "arguments": {argument: text}}'
        "</tool_call>",
    ])


def tool_call(name, arguments):
    """The text of a call, as the format above wants it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}</tool_call>"


def parse_tool_call(text: str) -> tuple:
    """Read the tool call in a review: (name, arguments, None), or (None, None, what is wrong). Never raises."""
    found = tagged(text, "tool_call")
    if len(found) > 1:
        return None, None, f"{len(found)} tool calls where exactly one is asked for"
    # Without <tool_call> tags the outermost {...} after the thought; shaping() takes 0.5 off for it.
    body = call_in(found[0]) if found else braces_in(without_thoughts(text))
    try:
        call = json.loads(body, strict=False)
        arguments = call["arguments"]
        if isinstance(arguments, str):  # some models quote the inner object
            arguments = json.loads(arguments, strict=False)
        name = call["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return None, None, f"no readable tool call ({type(error).__name__})"
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None, None, "name must be a text and arguments an object"
    return name, arguments, None


def review(text: str, bank: SkillBank, family: str, task=None) -> Edit:
    """Parse a review and apply its call on a copy of the bank; status parse_error, and why, where it has none."""
    name, arguments, error = parse_tool_call(text)
    if error:
        return Edit("parse_error", None, {}, bank, error=error, task=task, family=family)
    return bank.tried(name, arguments, family, task)


def shaping(text: str, edit: Edit, not_found: float = SHAPING["not_found"]) -> float:
    """The review's reward before its utility: the call's status and the form of the text."""
    reward = {**SHAPING, "not_found": not_found, "markup": SHAPING["invalid_arguments"]}[edit.status]
    name = edit.name or ""
    verb = re.split(r"[\W_]+", name.lower())[0]
    if edit.status == "unknown_tool" and verb in WORLD_ACTIONS and not name.endswith("_skill"):
        reward -= 3.0
    if not has_thought(text):
        reward -= 0.5
    if not tagged(text, "tool_call"):
        reward -= 0.5
    if any(isinstance(value, str) and re.fullmatch(r"[.…\s]+|<[^<>]*>", value) for value in edit.arguments.values()):
        reward -= 1.5  # a placeholder where a text should stand
    return reward


def commit(bank: SkillBank, edits: list[Edit], rule: str = "positive") -> list[Edit]:
    """The one place where a bank changes: carry edits with measured .utility over; returns those that it took.

    positive: those with U > 0, the best of each task and of each updated skill, returned best first; none: nothing (the
    released training); all: every valid edit, in their order. Duplicates are dropped.
    """
    if rule == "none":
        return []
    if rule == "all":
        return [edit for edit in edits if enters(bank, edit)]
    if rule != "positive":
        raise ValueError(f"commit rule {rule!r}: choose positive, none or all")
    chosen: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: -edit.utility):
        free = edit.utility > 0 and not any(rivals(edit, better) for better in chosen)
        if free and bank.tried(edit.name, edit.arguments, edit.family).changed:
            chosen.append(edit)
    # The worst enters first, so that the best is the newest of its list, as it was probed.
    return [edit for edit in reversed(chosen) if enters(bank, edit)][::-1]


def enters(bank, edit) -> bool:
    """Carry one edit over; False where the bank does not take it."""
    made = bank.apply(edit.name, edit.arguments, edit.family)
    edit.skill_id = made.skill_id if made.changed else edit.skill_id
    return made.changed


def rivals(a, b) -> bool:
    """Can only one of two edits enter the bank? They come from one task, change one skill, or write the same text."""
    one_skill = a.name == b.name == "update_skill" and a.skill_id == b.skill_id
    one_task = a.task is not None and a.task == b.task
    return one_task or one_skill or same_text(a.arguments, b.arguments)

"""
The worlds as the policy sees them, and the one `rollout` that plays every episode: training, probes and evaluation.

An episode is ONE growing chat. A real one, made-up products, one skill in the bank:

    system     You shop in a text web store. Each turn answer <think>one short thought</think><action>one action
               </action>. Actions: ... Your skills: [dyn_001] Choose the size first: Click every option the ...
    user       Task: Find me slip resistant men's loafers with color: brown, and price lower than 70.00 dollars
    assistant  <think>search the kind</think><action>search[slip resistant men's loafers]</action>
    user       [back to search]
               Page 1 (Total results: 50) [next >]
               Vancil Mens Casual Leather Loafers $33.99 [b07s7hdc88] ...
    assistant  <think>cheap enough</think><action>click[b07s7hdc88]</action>
               ...
    user       Bought b07s7hdc88 with {"color": "brown"}.
               The episode is over: SUCCESS, score 1.00, 4 of 15 steps. Family: footwear. Now review it ...
    assistant  <think>...</think><tool_call>{"name": "propose_skill", ...}</tool_call>

So the review reads the trajectory from the cache, and acting and reviewing are one policy on one token sequence. Ids
are kept as sampled and never re-tokenised; each carries what it is (forced, acting, reviewing) and the sampler's
log-probability, which is all that dualadv_grpo.py needs. The released code re-prompts every turn from scratch with a
window of history, and shows skills only from the second step on, which hides them from the first search.
"""

import re
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Protocol

from tqdm import tqdm

from dualadv_grpo import ACT, FORCED, REVIEW
from policy import Session
from skillbank import review, review_prompt, skills_prompt
from worlds.memory import rows_that_fit
from worlds.pddl import GameError

# ---- What a world is ------------------------------------------------------------------------------------------------


class Game(Protocol):
    """One episode of a world, being played."""

    page: str  # what the agent sees now, in full
    done: bool
    won: bool
    score: float  # in [0, 1]

    def step(self, action: str) -> str: ...  # do it; returns the next user message, short where nothing changed


class Env(Protocol):
    """A world as tasks (integers) with families. The training split is always at hand, for the probes."""

    source: str  # whose games these are, in two words: every printed score says it
    limit: int  # steps of an episode
    kl: float  # the paper's beta for this world
    rules: str  # head of the system message
    tasks: list  # of the split asked for
    train_tasks: list
    dev_tasks: list  # held out, for evaluation during training

    def family(self, task: int) -> str: ...
    def goal(self, task: int) -> str: ...  # the task's text
    def name(self, task: int) -> str: ...  # which game it is, for result files
    def start(self, task: int) -> Game: ...  # GameError for a file that turns out to be no game
    def project(self, text: str) -> tuple: ...  # assistant text -> (action, valid)
    def demonstrations(self, count: int, seed: int) -> list: ...  # chats of scripted players, for the cold start
    def corpus(self) -> list: ...  # the world's own text, for the tokenizer of `tiny`
    def describe(self) -> str: ...  # one line: whose games these are; the same for every split and filter of them


def make(name, split="train", data=None, seed=0, human_goals=False, winnable_only=False):
    """Open a world. split: train, dev or test. ValueError, OSError or ImportError, one line, if it cannot be had."""
    from worlds import household, shopping  # not above: they import this file

    if name == "webshop":
        return shopping.WebShopEnv(split, data, seed, human_goals, winnable_only)
    if name == "alfworld":
        if human_goals or winnable_only:
            raise ValueError("--human_goals and --winnable_only are WebShop's; ALFWorld has one kind of goal")
        return household.HouseholdEnv(split, data, seed)
    raise ValueError(f"--env {name}: there is no such world; choose webshop or alfworld")


def project(text, tail):
    """What the released wrapper does to an answer: (action, valid).

    The text between the action tags, lower-cased; without them the last `tail` characters, which are invalid but
    still sent to the world. Valid also needs a thought, and no CJK character anywhere.
    """
    match = re.search(r"<action>(.*?)</action>", text, re.S)
    action = (match[1] if match else text[-tail:]).strip().lower()
    thought = re.search(r"<think>.*?</think>", text, re.S)
    return action, bool(match and thought and not re.search(r"[\u4e00-\u9fff]", text))


# ---- Episodes -------------------------------------------------------------------------------------------------------


@dataclass
class Sampling:
    """How episodes are sampled."""

    temperature: float = 1.0
    act_tokens: int = 256  # at most per action turn
    review_tokens: int = 512  # at most per review
    context: int = 8192  # tokens of one transcript before old turns are dropped
    rows: int = 64  # episodes played at once
    top_k: int = 3  # skills shown, of the general ones and of the family's each


@dataclass
class Segment:
    """A stretch of transcript on which the policy was sampled: one entry per token in each list."""

    ids: list = field(default_factory=list)
    kind: list = field(default_factory=list)  # FORCED, ACT or REVIEW
    logp: list = field(default_factory=list)  # the sampler's log-probability; 0 where forced
    turns: list = field(default_factory=list)  # where each assistant turn begins

    def hear(self, ids):
        self.ids += ids
        self.kind += [FORCED] * len(ids)
        self.logp += [0.0] * len(ids)

    def say(self, ids, logp, kind):
        self.turns.append(len(self.ids))
        self.ids += ids
        self.kind += [kind] * len(ids)
        self.logp += logp


Turn = namedtuple("Turn", "text action valid reply")  # what the policy said, and what the world answered


@dataclass
class Episode:
    task: int
    family: str
    key: int  # names its random stream
    shown: list  # the retrieved skills
    opening: tuple  # system and first user message, for people to read
    segments: list = field(default_factory=list)
    turns: list = field(default_factory=list)
    won: bool = False
    score: float = 0.0
    review: str = ""
    edit: dict = None  # skillbank.review's result, on a copy of the bank

    @property
    def steps(self):
        return len(self.turns)

    @property
    def reward(self):
        """R of README, method 3: 10 for the win, -0.5 for each invalid action."""
        return 10.0 * self.won - 0.5 * sum(not turn.valid for turn in self.turns)

    def transcript(self):
        """The episode as a person reads it."""
        lines = [f"=== task {self.task} ({self.family})", *self.opening]
        for turn in self.turns:
            lines += [f"--- policy{'' if turn.valid else ' (invalid)'}", turn.text, "--- world", turn.reply]
        lines += [f"--- {'won' if self.won else 'lost'}, score {self.score:.2f}, {self.steps} steps"]
        return "\n".join(lines + (["--- review", self.review] if self.review else []))


def opening(env, task, game, shown):
    """The two messages before the policy speaks: (system, user)."""
    return f"{env.rules}\n{skills_prompt(shown)}", f"Task: {env.goal(task)}\n{game.page}"


def rollout(policy, env, tasks, bank, group=1, seed=0, how=None, with_review=True, keys=None, desc="rollout"):
    """Play each task `group` times; with_review asks for the skill review at the end of each episode.

    bank: a SkillBank, or a list with one per task. keys: the random stream of each episode (task-major); default: its
    number. Returns len(tasks) * group Episodes in order. What an episode draws depends on (seed, key) and its own
    transcript, not on what is played beside it.
    """
    how = how or Sampling()
    most = room(policy, env, how)
    banks = bank if isinstance(bank, list) else [bank] * len(tasks)
    played = []  # (Episode, Game, its bank, opening ids)
    for i in range(len(tasks) * group):
        task, mine = tasks[i // group], banks[i // group]
        shown = mine.retrieve(env.goal(task), env.family(task), how.top_k)
        game = env.start(task)
        while len(ids := policy.chat.opening(*opening(env, task, game, shown))) > most and shown:
            shown = shown[:-1]  # too many words in the bank for this context: fewer skills are shown
        if len(ids) > most:
            raise GameError(f"task {task}: {len(ids)} tokens of task and first page, room for {most}; raise --context")
        episode = Episode(task, env.family(task), keys[i] if keys else i, shown, opening(env, task, game, shown))
        played.append((episode, game, mine, ids))
    # Episodes with the same opening lie side by side, so that they share one prefill; memory bounds how many at once.
    order = sorted(range(len(played)), key=lambda i: (played[i][3], i))
    context = min(how.context, policy.model.cfg.max_len)
    rows = rows_that_fit(policy, max(min(how.rows, len(order)), 1), context, Session.PREFILL)
    with tqdm(total=len(played), desc=desc, leave=False, disable=None) as bar:
        for start in range(0, len(order), rows):
            play([played[i] for i in order[start:start + rows]], policy, env, seed, how, with_review, bar)
    return [episode for episode, *_ in played]


def room(policy, env, how):
    """How many tokens an opening may have, so that the review and an answer fit behind it. ValueError if too few."""
    context, answer = min(how.context, policy.model.cfg.max_len), max(how.act_tokens, how.review_tokens)
    question = len(policy.chat.encode(review_prompt("a_family_name", False, 0.0, env.limit, env.limit)))
    most = context - answer - question - 100  # 100: the chat template, the notes on what was dropped
    task = max(env.train_tasks, key=lambda task: len(env.goal(task)))
    needed = len(policy.chat.opening(*opening(env, task, env.start(task), [])))
    if needed > most:
        raise ValueError(f"a context of {context} tokens is too short: the task takes up to {needed}, the review's "
                         f"question {question}, an answer {answer}; raise --context or lower --review_tokens")
    return most


def play(wave, policy, env, seed, how, with_review, bar):
    """Play a wave of episodes together in one Session."""
    context = min(how.context, policy.model.cfg.max_len)
    session = Session(policy, len(wave), context, seed)
    openings = {}
    for i, (*_, ids) in enumerate(wave):
        openings.setdefault(tuple(ids), []).append(i)
    session.feed(range(len(openings)), [list(ids) for ids in openings])
    live = {}  # conversation -> what it plays
    for first, members in enumerate(openings.values()):
        for row, i in zip(session.fork([first], len(members))[0], members):
            live[row] = wave[i]
            session.keys[row] = wave[i][0].key
            wave[i][0].segments.append(Segment())
            wave[i][0].segments[0].hear(wave[i][3])
    reviewing = set()
    while live:
        rows = sorted(live)
        limits = [how.review_tokens if row in reviewing else how.act_tokens for row in rows]
        heard = {}  # conversation -> ids of the next user message
        for row, (ids, logp) in zip(rows, session.sample(rows, limits, temperature=how.temperature)):
            episode, game, bank, _ = live[row]
            episode.segments[-1].say(ids, logp, REVIEW if row in reviewing else ACT)
            text = policy.chat.decode(ids[:-1] if ids[-1] in policy.stop else ids)
            if row in reviewing:
                episode.review = text
                episode.edit = review(text, bank, episode.family)
                del live[row]
                bar.update()
                continue
            action, valid = env.project(text)
            reply = game.step(action)
            episode.turns.append(Turn(text, action, valid, reply))
            if not game.done and episode.steps < env.limit:
                heard[row] = hear(session, row, policy.chat, episode, reply, game.page, "", how.act_tokens)
                continue
            episode.won, episode.score = game.won, game.score
            if with_review:
                reviewing.add(row)
                ask = "\n" + review_prompt(episode.family, game.won, game.score, episode.steps, env.limit)
                heard[row] = hear(session, row, policy.chat, episode, reply, game.page, ask, how.review_tokens)
            else:
                del live[row]
                bar.update()
        session.feed(list(heard), list(heard.values()))


def hear(session, row, chat, episode, reply, page, ask, answer):
    """Append a user message, reply + ask, to the transcript and return the ids to feed.

    Where it and an answer would not fit, the oldest turns after the task are dropped (the message says how many), the
    rest is read anew, and the episode goes on in a second segment, in which all that was said before counts as forced:
    it is trained in the first. There `page` stands for the reply, since "Same page." may refer to what was dropped.
    """
    old = episode.segments[-1]
    ids = chat.turn(reply + ask, old.ids[-1])
    if len(old.ids) + len(ids) + answer <= session.max_len:
        old.hear(ids)
        return ids
    opening = old.ids[:old.turns[0]]
    for dropped in range(1, len(old.turns) + 1):
        start = old.turns[dropped] if dropped < len(old.turns) else len(old.ids)
        note = f"[{episode.steps - len(old.turns) + dropped} earlier turns dropped]\n"
        head = opening + old.ids[start:]
        ids = chat.turn(note + page + ask, head[-1])
        # A quarter stays free, or every turn from here on would read everything anew.
        if len(head) + len(ids) + answer <= session.max_len * 3 // 4:
            break
    words = chat.encode(page)
    keep = len(words)
    while keep and len(head) + len(ids) + answer > session.max_len:  # one page alone is too long: cut its middle
        keep = max(keep - max(len(head) + len(ids) + answer - session.max_len, 8), 0)
        left, right = chat.decode(words[:keep // 2]), chat.decode(words[len(words) - (keep - keep // 2):])
        ids = chat.turn(f"{note}{left} [... {len(words) - keep} tokens cut ...] {right}{ask}", head[-1])
    new = Segment(turns=[turn - start + len(opening) for turn in old.turns[dropped:]] or [len(opening)])
    new.hear(head + ids)
    episode.segments.append(new)
    session.reset(row)
    return new.ids

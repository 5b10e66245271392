"""
The worlds as the policy sees them, and the one `rollout` that plays every episode: training, probes and evaluation.

An episode is ONE growing chat. One of a scripted shopper in the made-up shop, with one skill in the prompt:

    system     You shop in a text web store. Each turn answer <think>one short thought</think><action>one action
               </action>. Actions: ... Your skills: [dyn_020] Footwear: pick all options: Before buying footwear, ...
    user       Task: Find me water resistant men's loafers with arch support, non slip, and price lower than 70.00 ...
    assistant  <think>I want men's loafers.</think><action>search[men's loafers]</action>
    user       [back to search]
               Page 1 (Total results: 50) [next >]
               Jasprick water resistant men's loafers with arch support $44.15 [b0desakigu] ...
    assistant  <think>I need a price lower than 70.00. So ... [b0desakigu].</think><action>click[b0desakigu]</action>
               ...
    user       Bought b0desakigu with {}.
               The episode is over: SUCCESS, score 1.00, 3 of 15 steps. Family: footwear. Now review it ...
    assistant  <think>...</think><tool_call>{"name": "keep_skill", ...}</tool_call>

So the review reads the trajectory from the KV cache, and one policy acts and reviews on one token sequence. Token ids
are kept as sampled and are never re-tokenised. Each carries its job (given, acting, reviewing) and the sampler's
log-probability: that is all dualadv_grpo.py needs.

Differences from the released code: it builds a new prompt every turn, with a window of history; it shows skills only
from the second step on, so the first search is made without them; it lists every clickable text a second time.
"""

import re
from collections import namedtuple
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tqdm import tqdm

import worlds
from dualadv_grpo import ACT, FORCED, REVIEW
from lib.context import add_reply
from lib.context import drop_oldest as drop_oldest
from lib.memory import rows_that_fit
from policy import Policy, Session
from skillbank import SkillBank, review, review_prompt, skills_prompt
from worlds import GameError

# ---- What a world is ------------------------------------------------------------------------------------------------


class Game(Protocol):
    """One episode of a world, being played."""

    page: str  # what the agent sees now, in full
    observation: str  # the page in the engine's own words; scripted players read it
    done: bool
    won: bool
    score: float  # in [0, 1]

    def step(self, action: str) -> str: ...  # do it; returns the next user message, short where nothing changed


class Player(Protocol):
    """Writes the transcripts of the cold start by script; worlds/players.py has one that obeys skills."""

    mistaken: bool  # its last turn was a mistake: the transcript shows it, training skips it

    def act(self, observation: str) -> tuple: ...  # -> (thought, action)
    def review(self, won: bool, score: float, steps: int) -> tuple: ...  # -> (thought, tool, arguments)


class Env(Protocol):
    """A world as tasks (integers) that belong to families. worlds/README.md shows how to write one."""

    home: str  # the folder in worlds/ whose tiny/ belongs to this data
    known: str  # what a `tiny` must have been trained on
    source: str  # the data in two or three words, printed with every score
    limit: int  # steps of an episode
    kl: float  # the paper's beta for this world
    tail: int  # of an answer without action tags, so many last characters are sent to the game
    rules: str  # beginning of the system message
    tasks: list[int]  # of the split that was asked for
    train_tasks: list[int]  # probes are chosen from these, whatever the split
    dev_tasks: list[int]  # held out, for evaluation during training
    options: dict  # flags of its own: {name: (default, help)}
    graded: bool  # has its score values between 0 and 1?
    aliases: dict  # other people's names of its families: {theirs: ours}
    ways: object  # worlds.players.Ways: the habits of its scripted players
    corpus_chats: int  # so many transcripts train the tokenizer of a new `tiny`

    def family(self, task: int) -> str: ...
    def goal(self, task: int) -> str: ...  # the task's text
    def name(self, task: int) -> str: ...  # which game it is, for result files
    def start(self, task: int) -> Game: ...  # GameError if it cannot be played
    def player(self, game: Game, task: int, skills: list, rng) -> Player: ...  # for the cold start
    def vocabulary(self) -> list[str]: ...  # texts beyond the transcripts, for the same tokenizer
    def describe(self) -> str: ...  # one line about the data; the same for every split and option


def make(name: str, split: str = "train", data: str | None = None, seed: int = 0, **options) -> Env:
    """Open a world. split: train, dev or test. ValueError, OSError or ImportError, one line, if it cannot be opened."""
    world = worlds.load(name)
    if unknown := {option for option, value in options.items() if value} - world.options.keys():
        raise ValueError(f"--{min(unknown)}: --env {name} has no such option")
    return world(split, data, seed, **{option: options[option] for option in options.keys() & world.options.keys()})


def project(text: str, tail: int) -> tuple[str, bool]:
    """The released wrapper's reading of an answer: (action, valid).

    The action is the text between the action tags, lower-cased. Without tags it is the last `tail` characters: they
    are sent to the game, and count as invalid. A valid answer also has a thought, and no CJK character anywhere.
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
    act_tokens: int = 256  # at most, per action turn
    review_tokens: int = 512  # at most, per review
    context: int = 8192  # tokens of one transcript before its oldest turns are dropped
    rows: int = 64  # episodes played at once
    top_k: int = 3  # skills shown: so many general ones, and so many of the task's family


@dataclass
class Segment:
    """A stretch of transcript on which the policy was sampled: one entry per token in the first four lists."""

    ids: list[int] = field(default_factory=list)
    job: list[int] = field(default_factory=list)  # FORCED, ACT or REVIEW
    logp: list[float] = field(default_factory=list)  # the sampler's log-probability; 0 where forced
    turn: list[int] = field(default_factory=list)  # number of the turn that sampled it; -1 where forced
    starts: list[int] = field(default_factory=list)  # where each assistant turn begins

    def add_given(self, ids):
        """Append tokens of the prompt or of the world."""
        self._add(ids, FORCED, [0.0] * len(ids), -1)

    def add_sampled(self, ids, job, logp, turn):
        """Append one assistant turn of the policy."""
        self.starts.append(len(self.ids))
        self._add(ids, job, logp, turn)

    def _add(self, ids, job, logp, turn):
        self.ids += ids
        self.job += [job] * len(ids)
        self.logp += logp
        self.turn += [turn] * len(ids)


Turn = namedtuple("Turn", "page text valid reply")  # the page shown, the policy's text, the world's reply


@dataclass
class Episode:
    """One episode: what was played, every token of it, and the review."""

    task: int
    family: str
    key: int  # names its random stream
    shown: list  # the retrieved skills
    messages: tuple  # the system and the first user message, for people to read
    segments: list[Segment] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    won: bool = False
    score: float = 0.0
    review: str = ""
    edit: Any = None  # skillbank.review's result, on a copy of the bank; None without a review

    @property
    def steps(self) -> int:
        return len(self.turns)

    def rewards(self, graded: bool = False) -> list[float]:
        """r of each turn: -0.5 if it was invalid, and on the last one 10 for a win (graded: 10 times the score)."""
        end = 10.0 * (self.score if graded else self.won)
        return [-0.5 * (not turn.valid) + end * (i == self.steps) for i, turn in enumerate(self.turns, 1)]

    @property
    def reward(self) -> float:
        """R = 10 won - 0.5 * (number of invalid actions)."""
        return sum(self.rewards())

    def sampled(self, job: int) -> int:
        """How many tokens were sampled to act (ACT) or to review (REVIEW)."""
        return sum(segment.job.count(job) for segment in self.segments)

    def transcript(self) -> str:
        """The episode as a person reads it."""
        lines = [f"=== task {self.task} ({self.family})", *self.messages]
        for turn in self.turns:
            lines += [f"--- policy{'' if turn.valid else ' (invalid)'}", turn.text, "--- world", turn.reply]
        lines += [f"--- {'won' if self.won else 'lost'}, score {self.score:.2f}, {self.steps} steps"]
        return "\n".join(lines + (["--- review", self.review] if self.review else []))


def first_messages(env: Env, task: int, game: Game, shown: list) -> tuple[str, str]:
    """The two messages before the policy's first turn: (system, user)."""
    return f"{env.rules}\n{skills_prompt(shown)}", f"Task: {env.goal(task)}\n{game.page}"


def rollout(policy: Policy, env: Env, tasks: list[int], bank: SkillBank | list[SkillBank], group: int = 1,
            seed: int = 0, sampling: Sampling | None = None, with_review: bool = True, keys: list[int] | None = None,
            desc: str = "rollout", tell=None) -> list[Episode]:
    """Play each task `group` times; with_review asks for the skill review at the end of each episode.

    bank: one for all tasks, or a list with one per task. keys: the random stream of each episode (task-major); by
    default its number. tell: called with an Episode after each of its turns, and after its review. Returns
    len(tasks) * group Episodes in order. What an episode draws depends on (seed, key) and on its own transcript, not on
    the episodes that are played at the same time.
    """
    sampling = sampling or Sampling()
    most = prompt_limit(policy, env, sampling)
    banks = bank if isinstance(bank, list) else [bank] * len(tasks)
    played = []  # (Episode, Game, its bank, token ids of its first messages)
    for i in range(len(tasks) * group):
        task, mine = tasks[i // group], banks[i // group]
        shown = mine.retrieve(env.goal(task), env.family(task), sampling.top_k)
        game = env.start(task)
        while len(ids := policy.chat.opening(*first_messages(env, task, game, shown))) > most and shown:
            shown = shown[:-1]  # too many words in the bank for this context: fewer skills are shown
        if len(ids) > most:
            raise GameError(f"task {task}: {len(ids)} tokens of task and first page, room for {most}; raise --context")
        messages = first_messages(env, task, game, shown)
        played.append((Episode(task, env.family(task), keys[i] if keys else i, shown, messages), game, mine, ids))
    # Episodes with the same first messages are neighbours, so that they share one prefill. Memory bounds how many are
    # played at once.
    order = sorted(range(len(played)), key=lambda i: (played[i][3], i))
    sampling = replace(sampling, context=context_of(policy, sampling))
    rows = rows_that_fit(policy, max(min(sampling.rows, len(order)), 1), sampling.context, Session.PREFILL)
    sampling, wave = replace(sampling, rows=rows), len(order) or 1 if policy.flows else rows
    with tqdm(total=len(played), desc=desc, leave=False, disable=None) as bar:
        for start in range(0, len(order), wave):
            play([played[i] for i in order[start:start + wave]], policy, env, seed, sampling, with_review, bar, tell)
    return [episode for episode, *_ in played]


def context_of(policy: Policy, sampling: Sampling) -> int:
    """Tokens of one transcript: what was asked for, or what the model can read if that is less."""
    return min(sampling.context, policy.model.cfg.max_len)


def prompt_limit(policy: Policy, env: Env, sampling: Sampling) -> int:
    """How many tokens the first messages may have, so that an answer and the review fit, too. ValueError if too few."""
    context, answer = context_of(policy, sampling), max(sampling.act_tokens, sampling.review_tokens)
    question = len(policy.chat.encode(review_prompt("a_family_name", False, 0.0, env.limit, env.limit)))
    most = context - answer - question - 100  # 100: the chat template, and the note on dropped turns
    task = max(env.train_tasks, key=lambda task: len(env.goal(task)))
    needed = len(policy.chat.opening(*first_messages(env, task, env.start(task), [])))
    if needed > most:
        raise ValueError(f"a context of {context} tokens is too short: the task takes up to {needed}, the review's "
                         f"question {question}, an answer {answer}; raise --context or lower --review_tokens")
    return most


def begin(session, free, some):
    """Begin some of rollout's (Episode, Game, bank, prompt ids) in free conversations: {conversation: which}."""
    prompts: dict = {}  # token ids -> what begins with them
    for one in some:
        prompts.setdefault(tuple(one[3]), []).append(one)
    for c in free:
        session.reset(c)
    session.feed(free[:len(prompts)], [list(ids) for ids in prompts])
    begun = {}
    for first, members in zip(free, prompts.values()):
        for c, one in zip(session.fork([first], len(members))[0], members):
            begun[c] = one
            session.keys[c], session.turn[c] = one[0].key, 0
            one[0].segments.append(Segment())
            one[0].segments[0].add_given(one[3])
    return begun


def play(wave, policy, env, seed, sampling, with_review, bar, tell=None):
    """Play some of rollout's (Episode, Game, bank, prompt ids), in their order, sampling.rows at a time in one Session.

    On a GPU, which many rows fill, they flow: those that have finished their turn hear the world's reply while the
    others still draw, and the next episodes begin in the rows of those that are over. A CPU reads fastest all at once.
    """
    rows, waiting = min(sampling.rows, len(wave)), wave
    session, live, reviewing = Session(policy, rows, sampling.context, seed), {}, set()  # live: conversation -> plays
    session.flow = policy.flows
    while waiting or live:
        if waiting:
            free = [c for c in range(rows) if c not in live]
            live |= begin(session, free, waiting[:len(free)])
            waiting = waiting[len(free):]
        active = sorted(live)
        limits = [sampling.review_tokens if c in reviewing else sampling.act_tokens for c in active]
        replies = {}  # conversation -> ids of the next user message
        for c, turn in zip(active, session.sample(active, limits, temperature=sampling.temperature)):
            if turn is None:
                continue
            (ids, logp), (episode, game, bank, _) = turn, live[c]
            episode.segments[-1].add_sampled(ids, REVIEW if c in reviewing else ACT, logp, episode.steps)
            text = policy.chat.decode(ids[:-1] if ids[-1] in policy.stop else ids)
            if c in reviewing:
                episode.review = text
                episode.edit = review(text, bank, episode.family)
                reviewing.remove(c)
                del live[c]
                bar.update()
            else:
                page, (action, valid) = game.page, project(text, env.tail)
                reply = game.step(action)
                episode.turns.append(Turn(page, text, valid, reply))
                episode.won, episode.score = game.won, game.score
            if tell:
                tell(episode)
            if c not in live:
                continue
            if not game.done and episode.steps < env.limit:
                replies[c] = add_reply(session, c, episode, reply, game.page, "", sampling.act_tokens)
            elif with_review:
                reviewing.add(c)
                question = "\n" + review_prompt(episode.family, game.won, game.score, episode.steps, env.limit)
                replies[c] = add_reply(session, c, episode, reply, game.page, question, sampling.review_tokens)
            else:
                del live[c]
                bar.update()
        session.feed(list(replies), list(replies.values()))

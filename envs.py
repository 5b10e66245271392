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

So the review reads the trajectory from the KV cache, and one policy acts and reviews on one token sequence. Ids are
kept as sampled; each carries its job (given, acting, reviewing) and the sampler's log-probability. The released
code builds a new prompt every turn, with a window of history, and shows skills from the second step on.
"""

import re
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tqdm import tqdm

import worlds
from dualadv_grpo import ACT, FORCED, REVIEW
from lib import distributed
from lib.answers import action_in, has_thought
from lib.context import cut_middle, drop_oldest, what_fits
from lib.memory import rows_that_fit
from policy import Policy, Session
from skillbank import Edit, SkillBank, review, review_prompt, skills_prompt
from worlds import Game, GameError


class Env(Protocol):
    """What a rollout needs of a world: tasks (integers) in families. worlds.World has the rest, worlds.Game a game."""

    limit: int  # steps of an episode
    kl: float  # beta, the weight of the KL where --kl is not given; of WebShop and ALFWorld the paper's
    tail: int  # of an answer without action tags, so many last characters are sent to the game
    rules: str  # beginning of the system message
    source: str  # the data in two or three words, printed with every score
    tasks: list[int]  # of the split that was asked for
    train_tasks: list[int]  # probes are chosen from these, whatever the split
    dev_tasks: list[int]  # held out, for evaluation during training

    def family(self, task: int) -> str: ...
    def goal(self, task: int) -> str: ...  # the task's text
    def start(self, task: int) -> Game: ...  # GameError if it cannot be played
    def describe(self) -> str: ...  # one line about the data; the same for every split and option


def make(name: str, split: str = "train", data: str | None = None, seed: int = 0, **options) -> Env:
    """Open a world. split: train, dev or test. ValueError, OSError or ImportError, one line, if it cannot be opened."""
    return worlds.open_world(name, split, data, seed, options)


def project(text: str, tail: int) -> tuple[str, bool]:
    """An answer as the released wrapper reads it, but never an action that a thought mentions: (action, valid).

    The action is the text between the action tags, lower-cased; without tags the last `tail` characters, which count as
    invalid. A valid answer also has a thought, and no CJK character anywhere.
    """
    found = action_in(text)
    action = (text[max(len(text) - tail, 0):] if found is None else found).strip().lower()
    return action, found is not None and has_thought(text) and not re.search(r"[\u4e00-\u9fff]", text)


@dataclass
class Sampling:
    """How episodes are sampled."""

    temperature: float = 1.0
    act_tokens: int = 256  # at most, per action turn
    review_tokens: int = 512  # at most, per review
    context: int = 8192  # tokens of one transcript before its oldest turns are dropped
    rows: int = 64  # episodes played at once
    top_k: int = 3  # skills shown: so many general ones, and so many of the task's family
    outcomes: bool = False  # nobody reads what is said: of games of other processes the fields in SAID are None


@dataclass
class Segment:
    """A stretch of transcript on which the policy was sampled: one entry per token in the first four lists."""

    ids: list[int] = field(default_factory=list)
    job: list[int] = field(default_factory=list)  # FORCED, ACT or REVIEW
    logp: list[float] = field(default_factory=list)  # the sampler's log-probability; 0 where forced
    turn: list[int] = field(default_factory=list)  # number of the turn that sampled it; -1 where forced
    starts: list[int] = field(default_factory=list)  # where each assistant turn begins

    @classmethod
    def of(cls, ids, starts=()) -> "Segment":
        """A segment that begins with given ids; starts: where assistant turns begin among them."""
        segment = cls(starts=list(starts))
        segment.add_given(ids)
        return segment

    def add_given(self, ids):
        """Append tokens of the prompt or of the world."""
        self.add(ids, [FORCED] * len(ids), [0.0] * len(ids), [-1] * len(ids))

    def add_sampled(self, ids, job, logp, turn):
        """Append one assistant turn of the policy."""
        self.starts.append(len(self.ids))
        self.add(ids, [job] * len(ids), logp, [turn] * len(ids))

    def add(self, ids, job, logp, turn):
        self.ids += ids
        self.job += job
        self.logp += logp
        self.turn += turn


Turn = namedtuple("Turn", "page text valid reply after", defaults=("",))  # page, after: in full, before and then
SAID = "messages", "ids", "logp", "turn", "starts", "page", "text", "reply", "after"  # the long fields of an Episode


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
    edit: Edit | None = None  # what the review asks for, tried on a copy of the bank; None without a review

    @property
    def steps(self) -> int:
        return len(self.turns)

    def rewards(self, graded: bool = False) -> list[float]:
        """r of each turn: -0.5 if it was invalid, and on the last one 10 for a win (graded: 10 times the score)."""
        end = 10.0 * (self.score if graded else self.won)
        return [-0.5 * (not turn.valid) + end * (i == self.steps) for i, turn in enumerate(self.turns, 1)]


def first_messages(env: Env, task: int, game: Game, shown: list) -> tuple[str, str]:
    """The two messages before the policy's first turn: (system, user)."""
    return f"{env.rules}\n{skills_prompt(shown)}", f"Task: {env.goal(task)}\n{game.page}"


def rollout(policy: Policy, env: Env, tasks: list[int], bank: SkillBank | list[SkillBank], group: int = 1,
            seed: int = 0, sampling: Sampling | None = None, with_review: bool = True, keys: list[int] | None = None,
            desc: str = "rollout") -> list[Episode]:
    """Play each task `group` times; with_review asks for the skill review at the end of each episode.

    bank: one for all tasks, or a list with one per task. keys: the random stream of each episode (task-major), by
    default its number: an episode's draws depend on (seed, key) and on its own transcript, not on those beside it.
    """
    sampling = sampling or Sampling()
    most = prompt_limit(policy, env, sampling)
    banks = bank if isinstance(bank, list) else [bank] * len(tasks)
    mine = distributed.mine(len(tasks) * group)  # all of them, where torchrun did not start several processes
    plays = [prepare(policy, env, tasks[i // group], banks[i // group], keys[i] if keys else i, sampling.top_k, most)
             for i in mine]
    played = play(plays, policy, env, seed, sampling, with_review, desc)
    episodes = distributed.gather(dict(zip(mine, played)), ("edit", *SAID * sampling.outcomes))
    for i, episode in enumerate(episodes):  # the others send no banks: an edit follows from its text
        if with_review and episode.edit is None:
            episode.edit = review(episode.review, banks[i // group], episode.family, episode.task)
    return episodes


def prepare(policy: Policy, env: Env, task: int, bank: SkillBank, key: int, top_k: int, most: int) -> "Play":
    """A game before its first turn. Of a prompt over `most` tokens skills are left out, then the middle of the page."""
    game, family = env.start(task), env.family(task)

    def opening(shown):
        return policy.chat.opening(*first_messages(env, task, game, shown))

    shown = bank.retrieve(env.goal(task), family, top_k)
    ids = opening(shown)
    if len(ids) > most:  # the newest skill of a list is being probed: it is not the first to be left out
        newest = bank.general_skills[-1:] + bank.task_specific_skills.get(family, [])[-1:]
        shown = what_fits(shown, newest, lambda some: len(opening(some)) <= most)
        ids = opening(shown)
    system, user = first_messages(env, task, game, shown)
    if len(ids) > most:
        user = cut_middle(policy.chat, user, lambda text: len(policy.chat.opening(system, text)) - most)
        ids = policy.chat.opening(system, user)
    return Play(Episode(task, family, key, shown, (system, user), [Segment.of(ids)]), game, bank, ids)


def evaluate(policy: Policy, env: Env, bank: SkillBank, tasks: list[int], sampling: Sampling, seed: int = 0,
             desc: str = "eval") -> list[Episode]:
    """Play each task once with a bank that does not change. The random stream is the task's, whatever the bank."""
    return rollout(policy, env, tasks, bank, 1, seed, sampling, False, list(tasks), desc)


def prompt_limit(policy: Policy, env: Env, sampling: Sampling) -> int:
    """How many tokens the first messages may have, so that an answer and the review fit, too. ValueError if too few."""
    context = min(sampling.context, policy.model.cfg.max_len)
    answer = max(sampling.act_tokens, sampling.review_tokens)
    question = len(policy.chat.encode(review_prompt("a_family_name", False, 0.0, env.limit, env.limit)))
    most = context - answer - question - 100  # 100: the chat template, and the note on dropped turns
    task = max(env.train_tasks or env.tasks, key=lambda task: len(env.goal(task)))
    needed = len(policy.chat.opening(*first_messages(env, task, env.start(task), [])))
    if needed > most:
        raise ValueError(f"a context of {context} tokens is too short: a task takes {needed}, the review's "
                         f"question {question}, an answer {answer}; raise --context or lower --review_tokens")
    return most


@dataclass
class Play:
    """A game that is being played."""

    episode: Episode
    game: Any  # a Game; None where it is over and only the review is asked for
    bank: SkillBank  # the review's edit is tried on a copy of it
    prompt: list[int]  # ids of the transcript before the policy's first turn
    reviewing: bool = False  # the policy's next turn is the review

    def room(self, sampling: Sampling) -> int:  # most tokens of the policy's next turn
        return sampling.review_tokens if self.reviewing else sampling.act_tokens


def play(plays: list[Play], policy: Policy, env: Env, seed: int, sampling: Sampling, with_review: bool,
         desc: str) -> list[Episode]:
    """Play what rollout or review_again has prepared, as many games at a time as the memory holds; the Episodes.

    On a GPU, which many rows fill, they flow: who has finished a turn hears the world's reply while others still draw,
    and the next episode begins in a row that is free. A CPU reads fastest all at once: wave follows wave.
    """
    context = min(sampling.context, policy.model.cfg.max_len)
    rows = rows_that_fit(policy, max(min(sampling.rows, len(plays)), 1), context, Session.PREFILL)
    # Equal prompts are neighbours, so that they share one prefill.
    waiting = [plays[i] for i in sorted(range(len(plays)), key=lambda i: (plays[i].prompt, i))]
    live: dict[int, Play] = {}  # conversation -> the game that is played there
    session: Session | None = None
    with tqdm(total=len(plays), desc=desc, leave=False, disable=None) as bar:
        while waiting or live:
            if session is None:
                session = Session(policy, min(rows, len(waiting)), context, seed)
                session.flow = policy.flows
            if waiting and (policy.flows or not live):
                free = [c for c in range(len(session.ids)) if c not in live]
                live |= begin(session, free, waiting[:len(free)])
                waiting = waiting[len(free):]
            active = sorted(live)
            limits = [live[c].room(sampling) for c in active]
            messages = {}  # conversation -> ids of the next user message
            for c, turn in zip(active, session.sample(active, limits, temperature=sampling.temperature)):
                if turn is None:  # it flows, and has not finished its turn
                    continue
                ids, logp = turn
                one, episode = live[c], live[c].episode
                segment = episode.segments[-1]
                segment.add_sampled(ids, REVIEW if one.reviewing else ACT, logp, episode.steps)
                said = answer(one, policy.chat.answer(ids, policy.stop), env, with_review)
                if said is None:
                    del live[c]
                    bar.update()
                    continue
                messages[c] = go_on(policy.chat, episode, *said, one.game.page, context, one.room(sampling))
                if episode.segments[-1] is not segment:
                    session.reset(c)
            session.feed(list(messages), list(messages.values()))
            if not live and not policy.flows:
                session = None  # the memory of one wave is free before the next one begins
    return [one.episode for one in plays]


def begin(session: Session, free: list[int], some: list[Play]) -> dict[int, Play]:
    """Begin some games in free conversations: {conversation: game}. Equal prompts are read once."""
    prompts: dict = {}  # token ids -> what begins with them
    for one in some:
        prompts.setdefault(tuple(one.prompt), []).append(one)
    for c in free:
        session.reset(c)
    session.feed(free[:len(prompts)], [list(ids) for ids in prompts])
    begun = {}
    for first, members in zip(free, prompts.values()):
        for c, one in zip(session.fork([first], len(members))[0], members):
            begun[c] = one
            session.keys[c] = one.episode.key
            session.turn[c] = one.episode.steps
    return begun


def answer(one: Play, text: str, env: Env, with_review: bool) -> tuple[str, str] | None:
    """What the policy's turn does: (the world's reply, the review's question or ""), or None at the episode's end."""
    episode = one.episode
    if one.reviewing:
        episode.review = text
        episode.edit = review(text, one.bank, episode.family, episode.task)
        return None
    game, page = one.game, one.game.page
    action, valid = project(text, env.tail)
    reply = game.step(action)
    episode.turns.append(Turn(page, text, valid, reply, game.page))
    episode.won, episode.score = game.won, game.score
    if not game.done and episode.steps < env.limit:
        return reply, ""
    one.reviewing = with_review
    return (reply, question_of(episode, env)) if with_review else None


def question_of(episode: Episode, env: Env) -> str:
    return "\n" + review_prompt(episode.family, episode.won, episode.score, episode.steps, env.limit)


def go_on(chat, episode: Episode, reply: str, question: str, page: str, context: int, room: int) -> list[int]:
    """Append the user message `reply + question` to an episode's transcript; returns the ids to feed.

    room: tokens to leave free for the next turn. Where these do not fit the context, the oldest turns after the task
    are dropped (the message says how many), and the episode goes on in a new segment, which is read anew. All that was
    sampled before counts as given there. It shows `page`, not the reply: "Same page." may refer to a dropped turn.
    """
    old = episode.segments[-1]
    ids = chat.turn(reply + question, old.ids[-1])
    if len(old.ids) + len(ids) + room <= context:
        old.add_given(ids)
        return ids
    prompt = old.ids[:old.starts[0]]

    def transcript(dropped, start, text=page):
        kept = prompt + old.ids[start:]
        note = f"[{episode.steps - len(old.starts) + dropped} earlier turns dropped]\n"
        return kept + chat.turn(note + text + question, kept[-1])

    # A quarter stays free, or every later turn would read everything anew.
    most = context * 3 // 4 - room
    dropped, start = drop_oldest(old.starts, len(old.ids), lambda *kept: len(transcript(*kept)) <= most)
    text = cut_middle(chat, page, lambda text: len(transcript(dropped, start, text)) + room - context)
    starts = [begin - start + len(prompt) for begin in old.starts[dropped:]] or [len(prompt)]
    episode.segments.append(Segment.of(transcript(dropped, start, text), starts))
    return episode.segments[-1].ids


def review_again(policy: Policy, env: Env, episodes: list[Episode], banks: list[SkillBank], seed: int = 0,
                 sampling: Sampling | None = None, ask: Callable[[Episode, Env], str] = question_of) -> list[Episode]:
    """Ask for the reviews of episodes that are over, each on its bank; ask: makes the question, as `question_of` does.

    Returns new Episodes; only their reviews count as sampled. With the rollout's seed and sampling they are as then.
    """
    sampling = sampling or Sampling()
    mine, plays = distributed.mine(len(episodes)), []
    for episode, bank in [list(zip(episodes, banks, strict=True))[i] for i in mine]:
        # The transcript up to the end of the last action.
        old = next(segment for segment in reversed(episode.segments) if ACT in segment.job)
        end = len(old.job) - old.job[::-1].index(ACT)
        again = replace(episode, segments=[Segment.of(old.ids[:end], [i for i in old.starts if i < end])], review="",
                        edit=None)
        last = episode.turns[-1]
        context = min(sampling.context, policy.model.cfg.max_len)
        go_on(policy.chat, again, last.reply, ask(episode, env), last.after, context, sampling.review_tokens)
        del again.segments[:-1]
        plays.append(Play(again, None, bank, list(again.segments[0].ids), reviewing=True))
    return distributed.gather(dict(zip(mine, play(plays, policy, env, seed, sampling, True, "reviews"))))


def reprompt(policy: Policy, env: Env, episode: Episode, shown: list) -> list[Segment]:
    """The same sampled tokens behind another prompt: the episode's segments as if `shown` had been its skills.

    The log-probabilities stay the sampler's, under the prompt that it read; `dualadv_grpo.score` gives those under this
    one, `per_token([replace(episode, segments=...)], [a])` the advantages. GameError: the model cannot read so much.
    """
    system, _ = first_messages(env, episode.task, env.start(episode.task), shown)
    prompt = policy.chat.opening(system, episode.messages[1])
    old = episode.segments[0].starts[0]  # where its prompt ended
    segments = []
    for segment in episode.segments:
        moved = Segment.of(prompt, [start - old + len(prompt) for start in segment.starts])
        moved.add(segment.ids[old:], segment.job[old:], segment.logp[old:], segment.turn[old:])
        if len(moved.ids) > policy.model.cfg.max_len:
            raise GameError(f"task {episode.task}: with these skills a transcript of {len(moved.ids)} tokens, the "
                             f"model reads {policy.model.cfg.max_len}; show fewer skills")
        segments.append(moved)
    return segments

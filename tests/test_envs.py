"""Tests of envs.py: what the policy reads, what is recorded, what an episode is paid."""

import copy

import pytest
import torch

import envs
import policy as policies
from dualadv_grpo import ACT, FORCED, REVIEW
from envs import Sampling, project, rollout
from lib.chat import CHATML, Chat
from policy import Session, logprobs
from skillbank import Skill, SkillBank, shaping, tool_call
from tools.coldstart import demonstrations
from worlds.webshop import world as shopping

OPENS = CHATML.replace("assistant\n'", "assistant\n<think>\n'")
SHORT = Sampling(act_tokens=12, review_tokens=16, context=3000)


@pytest.fixture(scope="module")
def policy(random_tiny):
    return policies.load(random_tiny)


def bank_with(family, title="Check the size", principle="Pick the size the task names."):
    return SkillBank(task_specific_skills={family: [Skill("dyn_001", title, principle, "On a product page.")]})


class Puppet(policies.Session):
    """A Session whose conversation 0 says what it is told, token for token; log-probabilities are made up."""

    lines = []

    def sample(self, rows, max_new, stop=None, temperature=1.0):
        out = []
        for row in rows:
            ids = self.policy.chat.encode(self.lines[self.turn[row]]) + [self.policy.chat.end]
            self.ids[row] += ids
            self.length[row] = len(self.ids[row]) - 1
            self.turn[row] += 1
            out.append((ids, [-1.0] * len(ids)))
        return out


def puppet_rollout(monkeypatch, policy, env, task, lines, bank=None, how=SHORT):
    monkeypatch.setattr(envs, "Session", Puppet)
    monkeypatch.setattr(Puppet, "lines", lines)
    monkeypatch.setattr(Puppet, "_read", lambda self, batch: [self.length.__setitem__(r, len(self.ids[r]) - 1)
                                                              for r in batch])
    return rollout(policy, env, [task], bank or SkillBank(), sampling=how)[0]


# ---- What the policy reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, action, valid", [
    ("<think>a</think><action>Search[Red Shoes]</action>", "search[red shoes]", True),
    ("<think>a</think>\n<action> click[buy now] </action> and more", "click[buy now]", True),
    ("<action>click[buy now]</action>", "click[buy now]", False),  # no thought
    ("<think>a</think> I will click[< prev]", "i will click[< prev]", False),  # no tags: the last 20 characters
    ("<think>\u9009\u62e9</think><action>click[a]</action>", "click[a]", False),  # CJK
    ("<think>a<action>click[a]</action>", "click[a]", False),  # thought never closed
    ("", "", False),
    ("I need boots.</think><action>search[boots]</action>", "search[boots]", True),  # the prompt opened the thought
    ("<think>Or <action>click[buy now]</action>? No.</think><action>search[a]</action>", "search[a]", True),
    ("<think>Or <action>click[buy now]</action>?</think>", "now]</action>?</think>"[-20:], False),
    ("<think>Or <action>click[buy now]</action>? I am not sure about", "i am not sure about"[-20:], False),
])
def test_project(text, action, valid):
    """Invalid answers must still reach the world: dropping them would make their episodes shorter."""
    assert project(text, tail=20) == (action, valid)


def test_a_world_may_send_nothing_of_an_answer_without_tags():
    """Bug: text[-0:] is the whole text, so a world that wants none of it gets all of it."""
    assert project("I would rather not", tail=0) == ("", False)


# ---- What is recorded -----------------------------------------------------------------------------------------------


def test_a_demonstration_and_a_rollout_are_the_same_tokens(env, policy, monkeypatch):
    """If the cold start formats its chats in any other way than the rollout, the policy is trained on another task.

    A puppet says what a scripted shopper said; prompts, pages, review prompt and every id must come out equal.
    """
    seen = set()
    for chat in demonstrations(env, 12, seed=3):
        task = next(t for t in env.train_tasks if f"Task: {env.goal(t)}\n" in chat[1]["content"])
        shown = [line for line in chat[0]["content"].splitlines() if line.startswith("[dyn_")]
        skills = []
        for line in shown:  # "[id] title: principle (when)" with a title that may hold a colon itself
            head, when = line[:-1].rsplit(" (", 1)
            title, principle = head[10:].rsplit(": ", 1)
            skills.append(Skill(line[1:8], title, principle, when))
        bank = SkillBank(task_specific_skills={env.family(task): skills})
        if [s.line() for s in bank.retrieve(env.goal(task), env.family(task))] != shown:
            continue  # the demonstration shows its skills in another order than retrieval would
        lines = [m["content"] for m in chat if m["role"] == "assistant"]
        episode = puppet_rollout(monkeypatch, policy, env, task, lines, bank, Sampling(context=4096, act_tokens=64,
                                                                                       review_tokens=128))
        ids, said = policy.chat.transcript(chat)
        assert len(episode.segments) == 1 and episode.segments[0].ids == ids
        assert [kind != FORCED for kind in episode.segments[0].job] == said
        assert episode.review == lines[-1] and episode.edit.status != "parse_error"
        assert [turn.valid for turn in episode.turns] == [True] * (len(lines) - 1)
        seen.add(episode.won)
    assert seen == {True, False}  # both kinds of ending were compared


@pytest.mark.upstream
@pytest.mark.parametrize("won, valid, reward", [(True, [True], 10.0), (True, [True, False], 9.5),
                                                (False, [False, True, False], -1.0), (False, [], 0.0)])
def test_the_reward_is_the_papers(won, valid, reward):
    """R = 10 won - 0.5 per invalid action, whatever the graded score. A fork may pay something else."""
    turns = [envs.Turn("page", "text", ok, "reply") for ok in valid]
    episode = envs.Episode(0, "a", 0, [], ("system", "user"), turns=turns, won=won, score=0.75)
    assert sum(episode.rewards()) == reward


def test_a_won_and_a_sloppy_episode(env, policy, monkeypatch):
    """Bug: an episode counts as won when its score is below 1, or an answer without tags as valid."""
    chats = demonstrations(env, 40, seed=5)
    for won in (True, False):
        chat = next(c for c in chats if ("SUCCESS" in c[-2]["content"]) == won)
        task = next(t for t in env.train_tasks if f"Task: {env.goal(t)}\n" in chat[1]["content"])
        lines = ["no tags at all"] + [m["content"] for m in chat if m["role"] == "assistant"]
        episode = puppet_rollout(monkeypatch, policy, env, task, lines, how=Sampling(context=4096, act_tokens=64,
                                                                                     review_tokens=128))
        assert episode.won == won and [turn.valid for turn in episode.turns].count(False) == 1
        assert episode.steps == len(lines) - 1 and (episode.score == 1.0) == won
        assert episode.turns[0].page == env.start(task).page  # the page that the first answer saw


def test_recorded_log_probabilities_are_the_models(env, policy):
    """The ratio of the update is exp(new - recorded): it must be 1 before the first step, on act and review tokens."""
    episodes = rollout(policy, env, env.train_tasks[:2], bank_with("footwear"), group=2, sampling=SHORT)
    for episode in episodes:
        for segment in episode.segments:
            assert len(segment.ids) == len(segment.job) == len(segment.logp)
            mask = torch.tensor([segment.job]) != FORCED
            logp = logprobs(policy.model, torch.tensor([segment.ids]), mask)
            assert torch.allclose(logp, torch.tensor([segment.logp]), atol=2e-4)
        assert {ACT, REVIEW} <= {kind for segment in episode.segments for kind in segment.job}
        assert episode.steps == env.limit or episode.score > 0  # a random policy buys nothing: all steps are played


def test_every_sampled_token_knows_its_turn(env, policy):
    """Bug: a step-level advantage needs a search over runs of tokens, or pays the review for the last action."""
    for episode in rollout(policy, env, env.train_tasks[:2], SkillBank(), sampling=SHORT):
        segment, = episode.segments
        assert len(segment.turn) == len(segment.ids)
        for job, turn in zip(segment.job, segment.turn):
            assert (turn == -1) == (job == FORCED) and (turn == episode.steps) == (job == REVIEW)
        for number, turn in enumerate(episode.turns):
            ids = [token for token, mine in zip(segment.ids, segment.turn) if mine == number]
            assert policy.chat.decode([token for token in ids if token not in policy.stop]) == turn.text


def test_skills_stand_in_the_prompt_from_the_first_step(env, policy):
    """The released WebShop prompt omits the skills at step 1, which hides them from the first search query."""
    task = env.train_tasks[0]
    bank = bank_with(env.family(task))
    episode = rollout(policy, env, [task], bank, sampling=SHORT, with_review=False)[0]
    first = episode.segments[0].ids[:episode.segments[0].starts[0]]
    assert bank.skills()[0].line() in policy.chat.decode(first) and episode.shown == bank.skills()
    assert episode.review == "" and episode.edit is None


def test_an_episode_does_not_depend_on_its_neighbours(env, policy, monkeypatch):
    """Probes are paired and runs are resumed on this: same seed, same key, same transcript, whoever plays beside."""
    monkeypatch.setattr(env, "limit", 2)
    tasks = env.train_tasks[:3]
    together = rollout(policy, env, tasks, SkillBank(), seed=7, sampling=SHORT, keys=[5, 6, 7])
    for rows in (1, 2):
        how = Sampling(act_tokens=12, review_tokens=16, context=3000, rows=rows)
        apart = rollout(policy, env, tasks, SkillBank(), seed=7, sampling=how, keys=[5, 6, 7])
        assert [[s.ids for s in e.segments] for e in apart] == [[s.ids for s in e.segments] for e in together]
    alone = rollout(policy, env, tasks[1:2], SkillBank(), seed=7, sampling=SHORT, keys=[6])
    assert [s.ids for s in alone[0].segments] == [s.ids for s in together[1].segments]
    other = rollout(policy, env, tasks[1:2], SkillBank(), seed=8, sampling=SHORT, keys=[6])
    assert [s.ids for s in other[0].segments] != [s.ids for s in alone[0].segments]


def test_a_cold_start_opens_a_thought_once(env, random_tiny, monkeypatch):
    """Bug: it trains on `<think><think>`, or on other tokens than those of a rollout with such a template."""
    thinker = policies.load(random_tiny)
    thinker.tokenizer.chat_template = OPENS
    thinker.chat = Chat(thinker.tokenizer)
    chat = next(chat for chat in demonstrations(env, 12, seed=3) if "Your skills: none" in chat[0]["content"])
    task = next(t for t in env.train_tasks if f"Task: {env.goal(t)}\n" in chat[1]["content"])
    lines = [m["content"].removeprefix("<think>") for m in chat if m["role"] == "assistant"]
    how = Sampling(context=4096, act_tokens=64, review_tokens=128)
    episode = puppet_rollout(monkeypatch, thinker, env, task, lines, how=how)
    ids, said = thinker.chat.transcript(chat)
    assert episode.segments[0].ids == ids and [job != FORCED for job in episode.segments[0].job] == said
    assert all(turn.valid for turn in episode.turns)


@pytest.mark.parametrize("given", [OPENS, OPENS.replace("<think>\n", "<think>")], ids=["Qwen3 and R1", "V3.1"])
def test_a_template_that_opens_the_thought(given, env, random_tiny, monkeypatch):
    """Bug: each turn of DeepSeek-R1's distillates and of Qwen3-Thinking costs 0.5, each review loses its thought."""
    thinker = policies.load(random_tiny)
    thinker.tokenizer.chat_template = given
    thinker.chat = Chat(thinker.tokenizer)
    lines = ["I look.</think><action>search[shoes]</action>",
             "Or <action>click[buy now]</action>?</think><action>click[back to search]</action>",
             "I could <action>click[buy now]</action>, but"] * (env.limit // 3)
    call = tool_call("keep_skill", {"reason": "fine"})
    how = Sampling(act_tokens=40, review_tokens=60, context=3000)
    episode = puppet_rollout(monkeypatch, thinker, env, env.train_tasks[0], [*lines, f"It was fine.</think>{call}"],
                             how=how)
    assert [turn.valid for turn in episode.turns] == [True, True, False] * (env.limit // 3)
    assert episode.turns[0].text.startswith("<think>") and episode.turns[1].reply.startswith("The search page.")
    assert episode.edit.status == "kept" and shaping(episode.review, episode.edit) == pytest.approx(0.1)
    segment = episode.segments[0]
    for start in segment.starts:  # each turn is sampled behind an open thought
        assert thinker.chat.decode(segment.ids[:start]).endswith("assistant\n" + thinker.chat.opened)
    text = thinker.chat.decode(segment.ids)
    assert text.count("<think>Or ") + text.count("<think>\nOr ") == env.limit // 3, "old thoughts stay"


# ---- Long transcripts -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_rows_that_flow_play_the_same_episodes_in_fewer_steps(env, tiny, monkeypatch):
    """Bug: a row waits for the longest turn of the others, or a turn that goes on later draws other numbers."""
    how, rows, drawn = Sampling(1.0, 96, 60, 3072, rows=3, top_k=4), [], Session._draw

    def count(session, active, *rest):
        rows.append(len(active))
        return drawn(session, active, *rest)

    def play(flow):
        rows.clear()
        monkeypatch.setattr(tiny, "flows", flow)
        monkeypatch.setattr(Session, "_draw", count)
        episodes = rollout(tiny, env, env.train_tasks[:2], SkillBank(), group=2, sampling=how)
        return [[segment.ids for segment in episode.segments] for episode in episodes], len(rows), sum(rows)

    monkeypatch.setattr(env, "limit", 5)
    (waits, steps, tokens), (flows, fewer, same) = play(False), play(True)
    assert waits == flows and tokens == same and fewer < 0.85 * steps, (steps, fewer)


def test_a_transcript_that_outgrows_the_context_goes_on_in_a_second_segment(env, policy, monkeypatch):
    """Nothing may crash, nothing may be cut silently, and no sampled token may be trained twice or not at all."""
    task = env.train_tasks[0]
    lines = ["<think>look</think><action>search[shoes]</action>", "<think>back</think><action>click[back to search]"
             "</action>"] * 7 + ["<think>last</think><action>search[boots]</action>", "<think>done</think>"]
    how = Sampling(act_tokens=40, review_tokens=40, context=900)
    episode = puppet_rollout(monkeypatch, policy, env, task, lines, how=how)
    assert episode.steps == env.limit and len(episode.segments) > 1 and episode.review == lines[-1]
    opening = policy.chat.opening(*episode.messages)
    said = []
    for segment in episode.segments:
        assert len(segment.ids) <= how.context and segment.ids[:len(opening)] == opening
        said += [i for i, kind in zip(segment.ids, segment.job) if kind != FORCED]
    assert said == [i for line in lines for i in policy.chat.encode(line) + [policy.chat.end]]
    for segment in episode.segments[1:]:
        assert "earlier turns dropped]" in policy.chat.decode(segment.ids)
        assert segment.job[:len(opening)] == [FORCED] * len(opening)
    # The real sampler too: random answers, same bookkeeping, and the model agrees with what was recorded.
    monkeypatch.undo()
    monkeypatch.setattr(env, "limit", 8)
    how = Sampling(act_tokens=30, review_tokens=24, context=600)
    episode = rollout(policy, env, [task], SkillBank(), sampling=how)[0]
    assert len(episode.segments) > 1
    for segment in episode.segments:
        mask = torch.tensor([segment.job]) != FORCED
        logp = logprobs(policy.model, torch.tensor([segment.ids]), mask)
        assert torch.allclose(logp, torch.tensor([segment.logp]), atol=2e-4)


def test_one_page_longer_than_the_context_is_cut_in_its_middle_and_says_so(env, policy, monkeypatch):
    """Real product pages can be longer than a small context; the review prompt behind them must survive whole."""
    task = env.train_tasks[0]
    monkeypatch.setattr(shopping, "brackets", lambda shop, observation: "word " * 3000 + "[the end]")
    lines = ["<think>a</think><action>search[x]</action>"] * env.limit + ["<think>b</think>"]
    monkeypatch.setattr(shopping.ShopGame, "page", "start", raising=False)
    game = env.start(task)
    game.page = "The search page."
    monkeypatch.setattr(env, "start", lambda task: game)
    episode = puppet_rollout(monkeypatch, policy, env, task, lines, how=Sampling(act_tokens=30, review_tokens=30,
                                                                                context=1000))
    texts = [policy.chat.decode(segment.ids) for segment in episode.segments]
    assert all(len(segment.ids) <= 1000 for segment in episode.segments)
    assert any("tokens cut ...]" in text and "[the end]" in text for text in texts)
    assert "Call exactly one tool" in texts[-1] and episode.review == "<think>b</think>"


def test_a_first_page_longer_than_the_one_that_was_measured_is_cut_in_its_middle(env, policy, monkeypatch):
    """Bug: the check before a run measures one game, and hours later a larger room ends the run."""
    how, start = Sampling(act_tokens=30, review_tokens=30, context=1000), env.start
    measured = max(env.train_tasks, key=lambda task: len(env.goal(task)))
    task = next(task for task in env.train_tasks if env.goal(task) != env.goal(measured))
    long = start(task)
    long.page = "word " * 3000 + "[the end]"
    monkeypatch.setattr(env, "start", lambda one: long if one == task else start(one))
    bank = SkillBank([Skill("dyn_001", "Title", "A principle.", "Always.")])
    lines = ["<think>a</think><action>search[x]</action>"] * env.limit + ["<think>b</think>"]
    episode = puppet_rollout(monkeypatch, policy, env, task, lines, bank, how)
    first = policy.chat.decode(episode.segments[0].ids)
    assert "tokens cut ...]" in first and "[the end]" in first and env.goal(task) in first
    assert episode.messages[1] in first and all(len(segment.ids) <= 1000 for segment in episode.segments)
    assert episode.review == "<think>b</think>"


def test_a_context_too_short_for_the_task_is_refused_with_the_numbers(env, policy):
    """It used to fail in the middle of an episode, after minutes."""
    with pytest.raises(ValueError, match="--context") as error:
        how = Sampling(act_tokens=64, review_tokens=64, context=300)
        rollout(policy, env, env.train_tasks[:1], SkillBank(), sampling=how)
    assert "300" in str(error.value) and "\n" not in str(error.value)


# ---- Stored episodes ------------------------------------------------------------------------------------------------


def sampled(segments):
    """(id, job, log-probability, turn) of each sampled token."""
    return [row for segment in segments for row in zip(segment.ids, segment.job, segment.logp, segment.turn) if row[1]]


def test_a_review_that_is_asked_for_again_is_the_same_review(env, policy, monkeypatch):
    """Bug: the question stands elsewhere than in a rollout, draws other numbers, or the turns are trained twice."""
    monkeypatch.setattr(env, "limit", 4)
    bank = bank_with(env.family(env.train_tasks[0]))
    episodes = rollout(policy, env, env.train_tasks[:2], bank, group=2, seed=5, sampling=SHORT, keys=[9, 8, 7, 6])
    before = [(len(e.segments[0].ids), e.review) for e in episodes]
    again = envs.review_again(policy, env, episodes, [bank] * 4, 5, SHORT)
    for old, new in zip(episodes, again, strict=True):
        assert new.review == old.review and new.edit.status == old.edit.status and new.turns == old.turns
        assert new.segments[0].ids == old.segments[0].ids and ACT not in new.segments[0].job
        mine, theirs = (sampled(segments) for segments in (new.segments, old.segments))
        theirs = [row for row in theirs if row[1] == REVIEW]
        assert [(i, job, turn) for i, job, _, turn in mine] == [(i, job, turn) for i, job, _, turn in theirs]
        assert [row[2] for row in mine] == pytest.approx([row[2] for row in theirs], abs=1e-4)
    assert [(len(e.segments[0].ids), e.review) for e in episodes] == before, "the stored episodes stay as they were"
    other, = envs.review_again(policy, env, episodes[:1], [bank], 6, SHORT, lambda episode, env: "Anything else?")
    assert other.review != episodes[0].review and "Anything else?" in policy.chat.decode(other.segments[0].ids)


@pytest.mark.parametrize("context", [560, 620])
def test_a_review_is_asked_for_again_behind_what_a_full_context_left(context, env, policy, monkeypatch):
    """Bug: where turns were dropped behind a "Same page.", the rollout's review reads the page, this one nothing."""
    monkeypatch.setattr(env, "limit", 8)
    bank = bank_with(env.family(env.train_tasks[0]))
    how = Sampling(1.0, 16, 24, context)
    episodes = rollout(policy, env, env.train_tasks[:2], bank, group=2, seed=3, sampling=how)
    dropped = [episode for episode in episodes if ACT not in episode.segments[-1].job]
    assert dropped and any(episode.turns[-1].reply == "Same page." for episode in dropped)
    before = copy.deepcopy(episodes)
    for old, new in zip(episodes, envs.review_again(policy, env, episodes, [bank] * 4, 3, how), strict=True):
        assert new.review == old.review and len(new.segments) == 1
        assert new.segments[0].ids == old.segments[-1].ids and new.segments[0].starts == old.segments[-1].starts
        assert [job for job in new.segments[0].job if job != FORCED] == [REVIEW] * old.segments[-1].job.count(REVIEW)
    assert [vars(e) | {"edit": 0} for e in episodes] == [vars(e) | {"edit": 0} for e in before]
    long = next(e for e in episodes if len(e.segments) > 1)
    assert envs.reprompt(policy, env, long, long.shown) == long.segments, "and the same prompt changes none of them"


def test_another_prompt_leaves_what_was_sampled(env, policy, monkeypatch):
    """Bug: behind a longer prompt a token moves to another turn, or the prompt is not the one that a rollout makes."""
    monkeypatch.setattr(env, "limit", 3)
    task = env.train_tasks[0]
    bank = bank_with(env.family(task))
    plain, skilled = (rollout(policy, env, [task], some, sampling=SHORT)[0] for some in (SkillBank(), bank))
    assert envs.reprompt(policy, env, plain, []) == plain.segments
    moved, = envs.reprompt(policy, env, plain, bank.skills())
    assert sampled([moved]) == sampled(plain.segments)
    assert moved.ids[:moved.starts[0]] == skilled.segments[0].ids[:skilled.segments[0].starts[0]]
    assert [job for i, job in enumerate(moved.job) if i in moved.starts] == [ACT, ACT, ACT, REVIEW]
    with pytest.raises(ValueError, match="show fewer skills"):
        envs.reprompt(policy, env, plain, bank.skills() * 400)

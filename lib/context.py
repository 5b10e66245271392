"""A transcript that grows beyond the context: which turns are dropped, and what is read anew."""


def add_reply(session, c, episode, reply, page, question, answer):
    """Append the user message `reply + question` to the transcript of conversation c; returns the ids to feed.

    answer: tokens to leave free for the policy's next turn. Where these do not fit, the oldest turns after the task are
    dropped (the message says how many), the rest is read anew, and the episode goes on in a second segment. All that
    was sampled before counts as given there: it is trained in the first segment. The second one shows `page` instead
    of the reply, since "Same page." may refer to a turn that was dropped.
    """
    old, chat = episode.segments[-1], session.policy.chat
    ids = chat.turn(reply + question, old.ids[-1])
    if len(old.ids) + len(ids) + answer <= session.max_len:
        old.add_given(ids)
        return ids
    prompt, end = old.ids[:old.starts[0]], len(old.ids)

    def user_message(dropped, start, text):
        note = f"[{episode.steps - len(old.starts) + dropped} earlier turns dropped]\n"
        return chat.turn(note + text + question, (prompt + old.ids[start:])[-1])

    def total(dropped, start, text=page):
        return len(prompt) + end - start + len(user_message(dropped, start, text)) + answer

    # A quarter stays free, or every later turn would read everything anew.
    most = session.max_len * 3 // 4
    dropped, start = drop_oldest(old.starts, end, lambda dropped, start: total(dropped, start) <= most)
    words, text = chat.encode(page), page
    keep = len(words)
    # One page alone is too long: cut its middle.
    while keep and (excess := total(dropped, start, text) - session.max_len) > 0:
        keep = max(keep - max(excess, 8), 0)
        left, right = chat.decode(words[:keep // 2]), chat.decode(words[len(words) - (keep - keep // 2):])
        text = f"{left} [... {len(words) - keep} tokens cut ...] {right}"
    new = type(old)(starts=[begin - start + len(prompt) for begin in old.starts[dropped:]] or [len(prompt)])
    new.add_given(prompt + old.ids[start:] + user_message(dropped, start, text))
    episode.segments.append(new)
    session.reset(c)
    return new.ids


def drop_oldest(starts: list[int], end: int, fits) -> tuple[int, int]:
    """Drop as few of the oldest turns as possible: (how many, where the first one that is kept begins).

    starts: where each assistant turn of a transcript of `end` tokens begins. fits(dropped, start) says if that is
    enough; if it never is, all are dropped and start = end.
    """
    for dropped, start in enumerate([*starts[1:], end][:len(starts)], 1):
        if fits(dropped, start):
            return dropped, start
    return len(starts), end

"""Chat templates: how messages become token ids, and files of chats for the cold start."""

import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path

from tokenizers import AddedToken

from lib.files import one_line, valid_text

# The template of `tiny`, and of a checkpoint that has none: ChatML, whose end of turn is the tokenizer's eos.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Templates that write today's date get this one, Llama 3's own default: a run must not depend on the day, neither where
# it is resumed tomorrow nor where it is compared with a run of last week.
DAY = datetime(2024, 7, 26)
OTHER_DAY = datetime(2031, 12, 6, 17, 48, 9)  # nothing of it is the same
# At the end of what a template writes before an answer.
EMPTY_THOUGHT = re.compile(r"(<think>\s*)?</think>\s*$")
OPEN_THOUGHT = re.compile(r"<think>(?!.*</think>).*", re.S)


@cache
def say_date():
    """Printed once in a program."""
    print(f"the chat template writes the date: it is always {DAY:%d %b %Y} here, so that a run does not depend on the "
          "day", flush=True)


class Chat:
    """The checkpoint's chat template, cut into the pieces between messages.

    A transcript grows by appending ids, so the template cannot be rendered anew each turn. We render it once around
    marks and keep what stands between them. Pieces are the template's own text and may hold control tokens; messages
    are tokenised as plain text, so that `<|im_end|>` in a product's title stays eleven characters.

    Some templates open the thought in front of an answer (DeepSeek-R1, Qwen3-Thinking). `opened` is that text, else "";
    the template does not write it before the answers of the past, but in our transcripts it stays where it was.
    """

    def __init__(self, tokenizer, where="tokenizer"):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            if tokenizer.eos_token is None:
                raise ValueError(f"{where}: no chat template and no eos token; choose an instruction-tuned checkpoint")
            tokenizer.chat_template = CHATML
        # A SentencePiece tokenizer puts a blank before every text. In the middle of a chat there is none.
        self.blank = self._ids("a") != self._middle("a")
        probe = [{"role": role, "content": f"{role}MARK{i}"}
                 for i, role in enumerate(("system", "user", "assistant", "user"))]
        try:
            # bare (user) reply (assistant) between (user) reply (assistant) ...
            bare, reply, between, prompt = self._split(probe[1:])
            reply = EMPTY_THOUGHT.sub("", reply)  # some give one to each answer of the past
            more = prompt.removeprefix(reply) if prompt.startswith(reply) else ""
            more = more if more.strip() else ""
            self.bare, self.reply, self.between = self._own(bare, first=True), self._own(reply), self._own(between)
            self._note_date(probe[1:])
        except Exception as error:  # jinja and the templates themselves have many
            raise ValueError(f"{where}: the chat template does not render a plain chat ({one_line(error)}); "
                             "choose an instruction-tuned checkpoint") from error
        try:
            system, user, *_ = self._split(probe)  # begin[0] (system) begin[1] (user) ...
            self.begin = self._own(system, first=True), self._own(user)
            self._note_date(probe)
        except Exception:  # it refuses the system role with an exception of its own, or leaves the text out:
            self.begin = None  # then the system text becomes the head of the first user message
        # The first control token after an assistant turn ends it (Llama 2 has a blank before); without one, eos does.
        control = set(tokenizer.added_tokens_decoder)
        blank = next((n for n, i in enumerate(self.between) if self.decode([i]).strip()), len(self.between))
        if not control & set(self.between[blank:blank + 1]):
            if tokenizer.eos_token_id is None:
                raise ValueError(f"{where}: no control token ends an assistant turn, and there is no eos token")
            self.between, blank = [tokenizer.eos_token_id] + self.between, 0
        self.between = self.between[blank:]
        self.end = self.between[0]
        self.opened = ""
        if self.blank:
            self._compare(where, more)
        if more:
            self.reply = self._own(reply + more)
        found = OPEN_THOUGHT.search(reply + more)
        self.opened = found[0] if found else ""

    def _split(self, chat):
        """The template's own text before each message, and after the last."""
        pieces, text = [], self._render(chat)
        for message in chat:
            piece, found, text = text.partition(message["content"])
            if not found:
                raise ValueError("it leaves out a message")
            pieces.append(piece)
        return [*pieces, text]

    def _own(self, piece, first=False):
        """The ids of a text of the template; first: nothing stands before it."""
        self._make_special(piece)
        return self._middle(piece) if self.blank and not first else self._ids(piece)

    def _render(self, chat, day=DAY):
        template = self.tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = calendar(template, day) + template
        return self.tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False,
                                                  add_generation_prompt=True, date_string=f"{day:%d %b %Y}")

    def _note_date(self, chat):
        if self._render(chat) != self._render(chat, OTHER_DAY):
            say_date()

    def _make_special(self, piece):
        """Mark the template's added tokens as special, so that their names in a message stay text.

        Not those of thoughts: messages speak of thoughts, and answers hold them.
        """
        added = {i: token for i, token in self.tokenizer.added_tokens_decoder.items()
                 if not token.special and token.content not in ("<think>", "</think>")}
        for i in added.keys() & set(self._ids(piece)):
            token = AddedToken(added[i].content, special=True, normalized=False)
            self.tokenizer.add_tokens([token], special_tokens=True)

    def _compare(self, where, more):
        """ValueError where a chat grown message by message is not what the template as a whole is tokenised to."""
        chat = [{"role": "user", "content": "what is the price?"}, {"role": "assistant", "content": "it is low."},
                {"role": "user", "content": "go on."}]
        if self.begin:
            chat.insert(0, {"role": "system", "content": "be brief."})
        ids, _ = self.transcript(chat[:-1])
        ids = ids + self.turn(chat[-1]["content"], self.end)
        if ids != self._ids(self._render(chat).removesuffix(more)):
            raise ValueError(f"{where}: its SentencePiece tokenizer reads a chat differently from its messages one by "
                             "one, so transcripts would not be what it was trained on; choose another checkpoint")

    def _ids(self, text, **options):
        return self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]

    def _middle(self, text, **options):
        """The ids of a text that follows another text: those after an anchor, where they are not part of it."""
        for anchor in ("\n", "\x01", "|") if text else ():
            head = self._ids(anchor, **options)
            ids = self._ids(anchor + text, **options)
            if ids[:len(head)] == head:
                return ids[len(head):]
        return self._ids(text, **options)

    def encode(self, text):
        """Plain text -> ids; the names of the template's control tokens are text, too, half a surrogate pair is ?."""
        ids = self._middle if self.blank else self._ids
        return ids(valid_text(text), split_special_tokens=True)

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def answer(self, ids, stop):
        """The text of a turn of the policy, the thought that the prompt opened included; stop: ids that end turns."""
        return self.opened + self.decode(ids[:-1] if ids[-1] in stop else ids)

    def opening(self, system, user):
        """Ids from the very start up to where the assistant begins to speak; system "" stands for none."""
        if system and self.begin:
            return self.begin[0] + self.encode(system) + self.begin[1] + self.encode(user) + self.reply
        return self.bare + self.encode(f"{system}\n\n{user}" if system else user) + self.reply

    def turn(self, user, last):
        """Ids from the end of an assistant turn to the start of the next; `last` is the turn's last token.

        Where the turn was cut off by its limit the end token is forced here; where it was drawn it is there already.
        """
        return self.between[last == self.end:] + self.encode(user) + self.reply

    def transcript(self, messages):
        """A whole chat [{"role", "content"}] -> (ids, sampled): sampled is True on assistant tokens and their end.

        Except those of a message with "weight": 0 (as in OpenAI's format), a mistake that is shown and not learned.
        """
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = [m for m in messages if m["role"] != "system"]  # user, assistant, user, ...
        ids = self.opening(system, turns[0]["content"])
        sampled = [False] * len(ids)
        for i in range(1, len(turns), 2):
            mine = self.encode(self._behind_prompt(turns[i]["content"])) + [self.end]
            given = self.turn(turns[i + 1]["content"], self.end) if i + 1 < len(turns) else []
            ids = ids + mine + given
            sampled += [turns[i].get("weight", 1) != 0] * len(mine) + [False] * len(given)
        return ids, sampled

    def _behind_prompt(self, content):
        """An assistant's message as it goes on where the prompt has opened its thought."""
        if not self.opened:
            return content
        before, begins, rest = content.partition("<think>")
        if begins and not before.strip():
            return rest.lstrip("\n")
        return content if "</think>" in content else f"\n</think>\n\n{content}"


def calendar(template, day):
    """A macro to put before a chat template, in the place of transformers' strftime_now: it says what day it is.

    (apply_chat_template turns a function among its arguments into text.)
    """
    codes = re.findall(r"%[-_]?[aAbBcCdDeFfgGhHIjklmMnpPrRStTuUVwWxXyYzZ%]", template)
    table = json.dumps({code: day.strftime(code) for code in sorted(set(codes), reverse=True)})
    return ("{% macro strftime_now(form) %}{% set said = namespace(text=form) %}{% for code, value in " + table
            + ".items() %}{% set said.text = said.text.replace(code, value) %}{% endfor %}{{ said.text }}"
            "{% endmacro %}\n")


def read_chats(path):
    """A JSON-lines file of {"messages": [...]} chats; system (optional), then user and assistant by turns.

    "weight": 0 in an assistant's message shows it and does not train it.
    """
    chats = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), 1):  # splitlines() knows too many ends
        if not line.strip():
            continue
        try:
            chat = json.loads(line.decode("utf-8-sig"))["messages"]
            roles = [m["role"] for m in chat]
            parts = [m["role"] for m in chat if isinstance(m["content"], list)]
            other = [m["role"] for m in chat if not isinstance(m["content"], str)]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: is not UTF-8 ({error.reason}); save the file as UTF-8") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: not {{\"messages\": [{{role, content}}]}} ({error})") from error
        if other:
            what = "a list of parts" if parts else "no text"
            raise ValueError(f"{path}, line {number}: the content of a message by {other[0]} is {what}; it must be one "
                             "string")
        turns = roles[roles[:1] == ["system"]:]
        if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            raise ValueError(f"{path}, line {number}: after an optional system message user and assistant must "
                             f"alternate and end with assistant; roles are {roles}")
        if any(m.get("weight", 1) not in (0, 1) for m in chat):
            raise ValueError(f"{path}, line {number}: a message's \"weight\" must be 0 or 1")
        chats.append(chat)
    if not chats:
        raise ValueError(f"{path}: no chats there; one JSON object per line")
    return chats

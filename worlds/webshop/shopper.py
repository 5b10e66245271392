"""The scripted shopper of the made-up and of the real shop: its transcripts are the cold start of a small model.

HABITS are nine ways to shop: four help, two do nothing much, three harm. A `Shopper` knows its goal, reads pages as an
agent does, and follows a habit nearly always if a skill in its prompt names it, else only sometimes. From its
transcripts a model learns to obey the skills in its prompt, and to review an episode: badly on purpose, so that
something is left to learn. (The paper starts from a 7B model that can do both; the shoppers are ours.) One episode, in
which the prompt shows the skill "Footwear: pick all options" and nothing else:

    Find me water resistant women's ankle boots with arch support, non slip with size: 8, and width: medium, and ...
    I want women's ankle boots: water resistant, arch support, non slip.
                                            search[women's ankle boots water resistant, arch support, non slip]
    I compare titles. So water resistant women's ankle boots with arch support $169.37 to $211.71 [b0bagubami].
                                            click[b0bagubami]
    Footwear: pick all options. The task names size: 8.              click[8]
    Footwear: pick all options. The task names width: medium.        click[medium]
    I buy it now.                                                    click[buy now]     score 0.83, it is too dear
    The score was 0.83 after 5 steps. The title matters.
        propose_skill {"title": "Products: match the title", "principle": "Open only products whose title ...

Measured with the useful skills, none, and the harmful ones in the prompt (success, 321-400 goals): made up .88, .40,
.01; made up with human goals .87, .49, .10. `RealShopper` on 200 goals of the real 1,000 products: .67, .27, .02.
"""

import re
from collections import namedtuple

from worlds.players import BASE, Habit, Player, Ways
from worlds.webshop.catalogue import ASSORTMENT
from worlds.webshop.shop import NO_LIMIT

PAGES, STEPS = 2, 15  # pages of results the shopper looks at per search (the shop has at most five); moves per episode
# How often a shopper of real data clicks what the page of results lacks, and how often it calls an option there that
# the product lacks: a model will, so it should see how to go on.
SLIP, MISREAD = 0.04, 0.4

# The words of the skills. A comment tells what a shopper does without the habit.
HABITS = (
    Habit("search", "useful",  # without: the bare kind, and the wanted product is anywhere among its like
          ("{family}: search kind plus qualities", "{family}: name qualities in the search"),
          ("For {family}, search the kind together with its qualities, not the kind alone.",
           "Put the wanted qualities of {family} into the search words, beside the kind."),
          "At the search bar.", "The search words matter."),
    Habit("match", "useful",  # without: the first result, whatever it is
          ("{family}: match the title", "{family}: read titles first"),
          ("Open only {family} whose title names the wanted qualities, else turn the page.",
           "Compare {family} titles with the task and skip those that do not fit."),
          "On a page of results.", "The title matters."),
    Habit("price", "useful",  # without: lookalikes that cost too much
          ("{family}: check the price", "{family}: stay below the limit"),
          ("Skip {family} that cost more than the price limit.",
           "Compare each price of {family} with the limit before opening a result."),
          "On a page of results.", "The price limit matters."),
    Habit("options", "useful",  # without: one option at most
          ("{family}: pick all options", "{family}: choose each named option"),
          ("Before buying {family}, click every option that the task names.",
           "Choose each color, size or style named in the task before you buy {family}."),
          "On a product page.", "The options matter."),
    Habit("read", "neutral",  # costs two moves and tells the shopper nothing that it uses
          ("{family}: read the features", "{family}: look into the details"),
          ("Read the features page of {family} before buying.",
           "Open the features of {family} once and read them."),
          "On a product page.", "Details may matter."),
    Habit("plan", "neutral",  # changes the thought, not the move
          ("{family}: say the goal", "{family}: begin with a plan"),
          ("Say in one line which {family} you want before you search.",
           "Begin each {family} task with a short plan."),
          "At the search bar.", "A plan may help."),
    Habit("first", "harmful",
          ("{family}: buy the first", "{family}: take the top result"),
          ("Open the first result for {family} and buy it at once.",
           "Do not compare {family}; the top result is right as it is, so buy it."),
          "On a page of results.", "Comparing takes long."),
    Habit("dear", "harmful",
          ("{family}: take the dearest", "{family}: high price, high quality"),
          ("Open the most expensive result for {family}.",
           "Choose {family} with the highest price, as it is the finest."),
          "On a page of results.", "Price shows quality."),
    Habit("skip", "harmful",
          ("{family}: leave options alone", "{family}: buy without options"),
          ("Do not click options of {family}; the shop picks them.",
           "Buy {family} right away and save the moves for options."),
          "On a product page.", "Options take moves."),
)
SPOKEN = {"general": "products", "other": "other goods", "beauty_health": "beauty goods", "home_decor": "home decor"}
WAYS = Ways(HABITS, ASSORTMENT, SPOKEN)
# In the real shop titles seldom name the wanted qualities, but the search index holds every option, and few products
# have all that a task names. "kind plus options" as the search, then the first result that has them: .84 of 300
# training goals; "kind plus qualities": .32; .94 can be won at all.
REAL_HABITS = (
    Habit("search", "useful",  # without: the bare kind
          ("{family}: search kind plus options", "{family}: name options in the search"),
          ("For {family}, search the kind together with the options that the task names, not the kind alone.",
           "Put the named color, size or style of {family} into the search words, beside the kind."),
          "At the search bar.", "The search words matter."),
    Habit("match", "useful",  # without: buys what lacks an option
          ("{family}: see that all options are there", "{family}: go back if an option is missing"),
          ("Leave {family} that do not offer every option the task names.",
           "Go back to the results when {family} lack a named option."),
          "On a product page.", "The product must have the options."),
    *HABITS[2:],
)
REAL_WAYS = Ways(REAL_HABITS, ASSORTMENT, SPOKEN)

# ---- The shopper ----------------------------------------------------------------------------------------------------

Result = namedtuple("Result", "asin title price tag")
ASIN = re.compile("[A-Z0-9]{10}")


class Shopper(Player):
    """Plays one episode of any catalogue: `act` until done, then `review`.

    shop: a WebShop on the goal (only its goals and available_actions are used).
    """

    ways = WAYS
    titles = True  # a title names what a product has

    def __init__(self, shop, goal_index, family, skills, rng, base=BASE):
        super().__init__(shop, family, skills, rng, base)
        self.shop = shop
        self.goal = shop.goals[goal_index]
        wanted = self.goal["goal_options"]
        named = wanted if isinstance(wanted, dict) else {}  # people name values without their group
        self.options = [value.lower() for value in (named.values() or wanted)]
        # In the task's words, so that a model finds the value after the same words: "size: 8".
        self.said = {value.lower(): f"{name}: {value.lower()}" for name, value in named.items()}
        self.moves, self.searches, self.page = 0, 0, 1
        self.opened = None  # the Result on whose page we are, or were
        self.rejected, self.chosen, self.left_open, self.read = set(), [], [], False

    def act(self, observation):
        """-> (thought, action) for the page in `observation`."""
        self.moves += 1
        actions = self.shop.available_actions()
        clickables = actions["clickables"]
        if actions["has_search_bar"]:
            return self._search()
        if "buy now" in clickables:
            return self._item(clickables)
        if "next >" in clickables:
            return self._results(observation, clickables)
        return "I have read it.", "click[< prev]"

    def _search(self):
        kind, qualities = self.goal["query"], ", ".join(self.goal["attributes"])
        self.searches, self.page = self.searches + 1, 1
        if self.searches > 1:  # the index knows option values, too; titles that a page shows do not
            return "I search again with the options.", f"search[{kind} {qualities} {' '.join(self.options)}]"
        thought = self.because("plan", f"My plan: find {kind}, compare, buy. ") if "plan" in self.habits else ""
        if "search" in self.habits:
            return thought + self.because("search", f"I want {kind}: {qualities}."), f"search[{kind} {qualities}]"
        return thought + f"I want {kind}.", f"search[{kind}]"

    def _results(self, observation, clickables):
        found = results(observation, clickables)
        fresh = [r for r in found if r.asin not in self.rejected] or found
        if not fresh:
            return "Nothing is here.", "click[back to search]"
        if "first" in self.habits:
            return self._open(fresh[0], self.because("first", "I open the top result."))
        if "dear" in self.habits:
            best = max(fresh, key=lambda result: result.price)
            return self._open(best, self.because("dear", "I take the dearest."))
        fits, limit = fresh, self.goal["price_upper"]
        if self.titles and "match" in self.habits:
            fits = [result for result in fits if self._fit(result) == 1]
        if "price" in self.habits:
            fits = [result for result in fits if result.price <= limit]
        if fits:
            thoughts = [self.because("match", "I compare titles.")] if self.titles and "match" in self.habits else []
            if "price" in self.habits and limit < NO_LIMIT:
                thoughts.append(self.because("price", f"I need a price lower than {limit:.2f}."))
            return self._open(fits[0], " ".join(thoughts) or "I try this one.")
        key = "match" if self.titles and "match" in self.habits else "price"
        thought = self.because(key, "None here fits.")
        if self.page < PAGES and self._time():
            self.page += 1
            return thought, "click[next >]"
        if self.searches == 1 and self._time():
            return thought, "click[back to search]"
        return self._open(max(fresh, key=self._fit) if self.titles else fresh[0], "None fits, so I take this one.")

    def _item(self, clickables):
        missing = [value for value in self.options if value not in clickables]
        if missing and "match" in self.habits and self._time():
            self.rejected.add(self.opened.asin)
            lack = self.said.get(missing[0], missing[0])
            return self.because("match", f"It lacks {lack}, so I go back."), "click[< prev]"
        if "read" in self.habits and not self.read and self._time():
            self.read = True
            return self.because("read", "I look at the features."), "click[features]"
        wanted = self.options if "options" in self.habits else self.options[:1]
        for value in [] if self.habits & {"skip", "first"} else wanted:
            if value in clickables and value not in self.chosen:
                self.chosen.append(value)
                return self.because("options", f"The task names {self.said.get(value, value)}."), f"click[{value}]"
        self.left_open = [value for value in self.options if value in clickables and value not in self.chosen]
        rash = [key for key in ("skip", "first") if key in self.habits]
        return self.because(rash[0], "I buy it now.") if rash else "I buy it now.", "click[buy now]"

    def _fit(self, result):
        """Share of the right title's words, without the brand, which no task names: so lookalikes fit, too."""
        words = self.goal["name"].lower().split()[1:]
        return sum(word in result.title.lower().split() for word in words) / max(1, len(words))

    def _open(self, result, thought):
        self.opened, self.chosen = result, []
        # The line as it stands on the page, without the brand: a model that copies it finds the id at its end.
        line = f"{' '.join(result.title.split()[1:][-8:])} {result.tag}".strip()
        return f"{thought} So {line} [{result.asin}].", f"click[{result.asin}]"

    def _time(self):
        """Are there moves left for a detour (2), one more product (1), its options and buying (1)?"""
        return self.moves + 4 + len(self.options) <= STEPS

    def blame(self):
        if self.left_open:
            return "options"
        if self.opened and self.opened.price > self.goal["price_upper"]:
            return "price"
        if self.titles and self.opened and self._fit(self.opened) < 1:
            return "match"
        return "search"


class RealShopper(Shopper):
    """A shopper of the real catalogue. It knows no more than the task and the pages say.

    reading: how often a thought on a product's page begins with exercises, see `_exercises`.
    """

    ways = REAL_WAYS
    titles = lacking = False

    def __init__(self, *args, reading=0.0):
        super().__init__(*args)
        self.reading = reading
        self.misread: list = []  # options that the page lacks and that were called there

    def act(self, observation):
        self.mistaken = False
        return super().act(observation)

    def _search(self):
        # As the task says it, "color: navy, and size: 8": a small model copies best what stands behind the same words.
        kind, named = self.goal["query"], ", and ".join(self.said.get(value, value) for value in self.options)
        task = self.goal["instruction_text"].lower()
        if kind not in task:  # people seldom use the shop's own word: then all that they say is searched for
            kind = task.split(", and price")[0]
        self.searches, self.page = self.searches + 1, 1
        if self.searches > 1:
            return "I search again with the qualities.", f"search[{kind} {' '.join(self.goal['attributes'])} {named}]"
        thought = self.because("plan", f"My plan: find {kind}, compare, buy. ") if "plan" in self.habits else ""
        if "search" in self.habits:
            wish = f"{kind} with {named}" if named else kind
            return thought + self.because("search", f"I want {wish}."), f"search[{wish}]"
        return thought + f"I want {kind}.", f"search[{kind}]"

    def _open(self, result, thought):
        if self._time() and self.rng.random() < SLIP:
            self.mistaken = True
            if self.rng.random() < 0.5:
                return "I buy it now.", "click[buy now]"
            other = self.rng.choice(list(self.shop.products)).lower()
            self.mistaken = other not in self.shop.available_actions()["clickables"]  # what is there would open
            result = result._replace(asin=other) if self.mistaken else result
        if not self.mistaken:
            self.opened, self.chosen, self.misread = result, [], []
        line = f"{' '.join(shown(result.title).split()[-2:])} {result.tag}".strip()
        return f"{thought} So {line} [{result.asin}].", f"click[{result.asin}]"

    def _item(self, clickables):
        missing = [value for value in self.options if value not in clickables]
        self.lacking = bool(missing)
        clicked = [value for value in self.chosen if value in self.misread]
        if clicked and self._time():  # "Not on this page."
            return self._leave([], clicked[0])
        if "match" not in self.habits or self.chosen:
            thought, action = super()._item([*clickables, *self.misread])
            self.mistaken = action in [f"click[{value}]" for value in self.misread]
            return thought, action
        # One option after the other, with the comma that follows it in the task: a small model copies "8, " as it
        # stands there, and the one word after it tells whether the page has it.
        seen = self._exercises(clickables) if self.rng.random() < self.reading else []
        if self._time() and not self.habits & {"skip", "first"} and self.rng.random() < MISREAD:
            self.misread = missing
        self.mistaken, there = bool(self.misread), [*clickables, *self.misread]
        for value in self.options:
            if value not in there and self._time():
                return self._leave(seen, value)
            seen.append(f"{self.said.get(value, value)}, {'here' if value in there else 'missing'}.")
        thought, action = super()._item(there)
        return self.because("match", f"{' '.join(seen)} {thought}"), action

    def _leave(self, seen, value):
        """Back to the results, as the product lacks `value`; seen: what was said of other options."""
        self.rejected.add(self.opened.asin)
        lacking = f"{self.said.get(value, value)}, missing."
        return self.because("match", f"{' '.join([*seen, lacking])} I go back."), "click[< prev]"

    def _exercises(self, clickables):
        """Three options that the page has or not, one as often as the other: an episode asks that seldom."""
        here, seen = self.shop.products[self.opened.asin.upper()], []
        for _ in range(3):
            other = self.rng.choice(list(self.shop.products.values()))
            named = [(name, value) for name, values in (here if self.rng.random() < 0.5 else other).options.items()
                     for value in values]
            if named:
                name, value = self.rng.choice(named)
                seen.append(f"{name}: {value}, {'here' if value in clickables else 'missing'}.")
        return seen

    def blame(self):
        key = super().blame()
        return "match" if key == "search" and self.lacking else key


TITLE = 10  # words of a title that a page of results shows; the product's own page has all


def shown(title):
    """What a page of results shows of a title: a tenth of the real ones has more than 30 words."""
    return " ".join(title.split()[:TITLE])


def results(observation, clickables):
    """The products of a results page in page order. Titles and prices may be missing; asins are clickable."""
    found = []
    for part in observation.split("[SEP]"):
        part = part.strip().strip("'")  # prompts quote the parts, the shop does not
        if ASIN.fullmatch(part) and part.lower() in clickables:
            found.append(Result(part.lower(), "", 0.0, ""))
        elif found and re.fullmatch(r"\$[\d.]+( to \$[\d.]+)?", part):
            found[-1] = found[-1]._replace(price=float(part.split(" to ")[0][1:]), tag=part)
        elif found:
            found[-1] = found[-1]._replace(title=part)
    return found

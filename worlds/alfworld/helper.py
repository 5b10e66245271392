"""The scripted player of ALFWorld's games, real and generated: its transcripts are the cold start of a small model."""

import re

from worlds import GameError
from worlds.players import Habit, Player, Ways

HABITS = (
    Habit("likely", "useful",  # without: place after place as the room lists them
          ("{family}: search likely places", "{family}: think where things are kept"),
          ("In {family}, look first where such a thing may be kept.",
           "Search places that can hold the thing before others in {family}."),
          "While looking for a thing.", "The order of the search matters."),
    Habit("open", "useful",  # without: what is closed stays closed
          ("{family}: open what is closed", "{family}: look inside"),
          ("In {family}, open each closed place that you come to.",
           "Do not pass a closed place in {family}: open it and look inside."),
          "At a closed place.", "Things may be inside of closed places."),
    Habit("once", "useful",  # without: back to places that were searched
          ("{family}: search each place once", "{family}: do not go back"),
          ("In {family}, never search a place twice.",
           "Keep in mind which places were searched in {family} and skip them."),
          "While looking for a thing.", "Going back costs turns."),
    Habit("treat", "useful",  # without: put down as it is
          ("{family}: prepare the thing first", "{family}: mind what is asked of the thing"),
          ("In {family}, clean, heat, cool or light the thing as asked before all else.",
           "Do to the thing what is asked in {family}, then put it down."),
          "With the thing in hand.", "The thing has to be prepared."),
    Habit("look", "neutral",  # costs a turn
          ("{family}: look around first", "{family}: begin with a look"),
          ("Begin {family} with a look around.", "Look around once before {family}."),
          "At the start.", "A look may help."),
    Habit("plan", "neutral",  # changes the thought, not the move
          ("{family}: say the goal", "{family}: begin with a plan"),
          ("Say the goal of {family} before the first move.", "Begin {family} with a short plan."),
          "At the start.", "A plan may help."),
    Habit("any", "harmful",
          ("{family}: take what comes first", "{family}: anything will do"),
          ("In {family}, take the first thing that you see.", "Any thing will do in {family}, so take the nearest."),
          "While looking for a thing.", "The search takes long."),
    Habit("closed", "harmful",
          ("{family}: leave closed places closed", "{family}: open nothing"),
          ("In {family}, open nothing; it takes turns.", "Pass all closed places in {family}."),
          "At a closed place.", "Opening takes turns."),
    Habit("hurry", "harmful",
          ("{family}: put it down at once", "{family}: skip what is extra"),
          ("In {family}, bring the thing to its place at once, as it is.",
           "Save the turns for cleaning, heating or cooling in {family}."),
          "With the thing in hand.", "Extra work takes turns."),
)
SPOKEN = {"general": "all tasks", "pick_and_place_simple": "placing tasks", "look_at_obj_in_light": "lamp tasks",
          "pick_clean_then_place_in_recep": "cleaning tasks", "pick_heat_then_place_in_recep": "heating tasks",
          "pick_cool_then_place_in_recep": "cooling tasks", "pick_two_obj_and_place": "pair tasks"}
WAYS = Ways(HABITS, [family for family in SPOKEN if family != "general"], SPOKEN)
STATIONS = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
BASE = 0.6  # how often a player has a useful habit that no skill names
MISTAKE = 0.05  # how often a player reaches for a thing that is not there: a model will, so it should see how to go on
AGAIN = 0.3  # without the habit "once": how often a search goes where it has been
GOAL = re.compile(r"(?:look at|examine) (?:the |a )?(?P<seen>\w+) (?:under|with) the (?P<lamp>\w+)"
                  r"|.*?(?:a clean|a hot|a cool|a cold|some|two|a) (?P<thing>\w+) (?:and put (?:it|them) )?(?:in|on) "
                  r"(?P<place>\w+)")


class Helper(Player):
    """Plays one episode of a household game: `act` until it is done, then `review`.

    It knows the task's words and which kind of place can hold which kind of thing. Where things are it reads on the
    pages. game: a HouseholdGame. reading: how often a thought begins with exercises, see `_exercises`.
    """

    ways = WAYS

    def __init__(self, game, family, skills, rng, base=BASE, reading=0.0):
        super().__init__(game, family, skills, rng, base)
        self.reading = reading
        engine = game.engine
        # Players repeat the task in their thoughts: a small model copies best from its own recent words. A search
        # thought is "I look for egg 1. Here it is." or "I look for egg elsewhere.": after the token "egg " one more,
        # which is the one that follows "egg " on the page or "elsewhere", tells whether the thing is there.
        self.task = f"I have to {game.task}."
        goal = GOAL.match(game.task)
        if not goal:
            raise GameError(f"{engine.game.path}: the scripted player does not understand {game.task!r}")
        self.thing, self.goal = goal["thing"] or goal["seen"], goal["place"] or goal["lamp"]
        self.job = next((job for job in STATIONS if f"_{job}_" in family), "use" if goal["lamp"] else None)
        names, kinds = engine.game.entities, {}
        for thing, kind in engine.facts["objecttype"]:
            kinds.setdefault(names[thing].name.split()[0], kind)
        holds = {place for place, kind in engine.facts["cancontain"] if kind == kinds.get(self.thing)}
        rooms = sorted(engine.facts["receptacleatlocation"])  # the order in which the room lists them
        self.places = [names[place].name for place, _ in rooms]
        self.likely = {names[place].name for place, kind in engine.facts["receptacletype"] if kind in holds}
        fits = {kind for place, kind in engine.facts["cancontain"] if place == f"{self.goal}type"}
        self.kinds = sorted(kinds)
        self.welcome = {kind for kind, type_ in kinds.items() if type_ in fits}  # what the goal's place can hold
        self.searched, self.back = [], None  # back: where the first of a pair was, and maybe the second is
        self.lamp = None  # the place where the task's lamp was seen
        self.pair = "two_obj" in family
        self.round, self.moves, self.brought = 1, 0, set()  # brought: things that were put down
        self.here, self.held, self.ready = None, None, False
        self.quoted = set()  # habits whose skill was quoted: once is enough, later thoughts see it
        self.passed = self.found = self.unready = self.again = False  # what a review may blame

    def because(self, key, text):
        quote = key not in self.quoted
        self.quoted.add(key)
        return super().because(key, text) if quote else text

    def act(self, observation):
        """-> (thought, command)."""
        self.moves, self.mistaken = self.moves + 1, False
        commands = self.game.engine.commands
        begin = ""
        if observation == "Nothing happens.":
            begin = f"Nothing happened. {self.task} "
        elif self.moves == 1:
            begin = f"{self.task} "
            if "plan" in self.habits:
                begin += self.because("plan", f"My plan: find {self.thing}, bring it to {self.goal}. ")
            if "look" in self.habits:
                return begin + self.because("look", "I look around."), "look"
        elif self.job == "use" and self.here and not self.lamp and re.search(rf"\b{self.goal} \d", observation):
            self.lamp = self.here  # said aloud: a small model finds its own words again, not a page of long ago
            begin = f"I see {self.goal} at {self.here}. "
        if self.here and self.rng.random() < self.reading:
            begin += self._exercises(observation)
        thought, command = self._carry(commands) if self.held else self._search(commands)
        if command.startswith("go to "):
            self.here = command[6:]
            if command not in commands:  # the player stands there already: both places share a location
                command = f"examine {self.here}"
        return begin + thought, command

    def _exercises(self, page):
        """Three search thoughts about things that are on the page or not, one as often as the other.

        In an episode a search meets its thing once. A small model that sees no more than that learns late to look.
        """
        line, text = page.partition("you see")[2].partition("\n")[0], ""
        listed = dict(reversed(re.findall(r"\b([a-z]+) (\d+)", line)))  # of several of a kind the first
        for _ in range(3):
            kind = self.rng.choice(sorted(listed) if listed and self.rng.random() < 0.5 else self.kinds)
            text += f"I look for {kind} {listed[kind]}. " if kind in listed else f"I look for {kind} elsewhere. "
        return text

    def _search(self, commands):
        """Find the thing, or any thing at all, among what the page of this place shows."""
        takes = [re.fullmatch(r"take (.+) from (.+)", command) for command in commands if command.startswith("take ")]
        takes = [take for take in takes if take[1] not in self.brought and take[2] == self.here]
        takes.sort(key=lambda take: self.game.page.find(take[1]))  # as the page lists them
        if takes and self.rng.random() < MISTAKE:
            thing = self.rng.choice([self.thing, self.rng.choice(self.kinds)])
            wrong = f"{thing} {self.rng.randint(1, 3)}"
            command = f"take {wrong} from {takes[0][2]}"
            if command not in commands:
                self.mistaken = True
                return f"I look for {wrong}. Here it is. {self.task.replace(self.thing, thing)}", command
        for take in takes:
            if take[1].split()[0] == self.thing and (self.job or take[2].split()[0] != self.goal):
                self.held, self.found, self.back = take[1], True, take[2] if self.pair and not self.brought else None
                return f"I look for {self.held}. Here it is. {self.task}", take[0]
        for take in takes if "any" in self.habits else ():
            if self.job == "use" or take[1].split()[0] in self.welcome and take[2].split()[0] != self.goal:
                self.held = take[1]
                took = self.because("any", f"I take {self.held}. {self.task}")
                return f"I look for {self.thing} elsewhere. {took}", take[0]
        if self.back and self.brought:
            place, self.back = self.back, None
            return f"I look for {self.thing} elsewhere. Back.", f"go to {place}"
        return self._explore(commands, self.thing, self.likely)

    def _explore(self, commands, thing, likely):
        """Go to the next place, or open the one in front."""
        if self.here and f"open {self.here}" in commands:
            if "closed" not in self.habits and ("open" in self.habits or self.round > 1):
                return self.because("open", f"It is closed. I open {self.here}."), f"open {self.here}"
            self.passed = True
        left = [place for place in self.places if place not in self.searched]
        if not left:  # from the beginning: something was closed, or missed
            self.searched, left, self.round = [], self.places, self.round + 1
        if self.searched and "once" not in self.habits and self.rng.random() < AGAIN:
            place, self.again = self.rng.choice(self.searched), True
            return f"I look for {thing} elsewhere. Again.", f"go to {place}"
        habit = "once" if "once" in self.habits and self.round == 1 else ""
        if "likely" in self.habits and any(place in likely for place in left):
            habit, left = "likely", [place for place in left if place in likely]
        self.searched.append(left[0])
        return f"I look for {thing} elsewhere. {self.because(habit, '')}".strip(), f"go to {left[0]}"

    def _carry(self, commands):
        """With a thing in hand: prepare it, bring it to its place."""
        job = f"{self.job} {self.held} with "
        if self.job == "use":
            lamp = next((command for command in commands if command.startswith(f"use {self.goal}")), None)
            if lamp and not self.ready:
                self.ready = True
                return f"I look for {lamp[4:]}. Here it is.", lamp
            if self.ready:  # the light was on, and it was not the thing
                return self._put(commands)
            if self.lamp and self.here != self.lamp:
                return f"I saw {self.goal} at {self.lamp}.", f"go to {self.lamp}"
            return self._explore(commands, self.goal, set(self.places))
        if self.job and not self.ready and "treat" in self.habits and "hurry" not in self.habits:
            if do := next((command for command in commands if command.startswith(job)), None):
                self.ready = True
                return self.because("treat", f"I {self.job} {self.held}."), do
            station = next((place for place in self.places if place.split()[0] == STATIONS[self.job]), None)
            if self.here == station:  # nothing that can be cleaned, heated or cooled
                self.ready = True
            elif station:
                return self.because("treat", f"I have to {self.job} {self.held}."), f"go to {station}"
        self.unready = bool(self.job) and not self.ready
        if self.here.split()[0] == self.goal:
            return self._put(commands)
        place = next((place for place in self.places if place.split()[0] == self.goal), self.places[0])
        thought = f"I bring {self.held}."
        return self.because("hurry", thought) if "hurry" in self.habits else thought, f"go to {place}"

    def _put(self, commands):
        """Put down what is held, here or, where that cannot be, somewhere else."""
        puts = [command for command in commands if command.startswith((f"move {self.held} ", f"put {self.held} "))]
        puts.sort(key=lambda command: self.here not in command)  # two places may share a location
        if puts:
            held, self.held, self.ready = self.held, None, False
            self.brought.add(held)
            return f"I put {held} down.", puts[0]
        if f"open {self.here}" in commands:
            return f"I open {self.here}.", f"open {self.here}"
        place = self.rng.choice([place for place in self.places if place != self.here])
        return f"{self.held} cannot stay here.", f"go to {place}"

    def blame(self):
        if self.found and self.unready:
            return "treat"
        if self.passed:
            return "open"
        return "once" if self.again else "likely"

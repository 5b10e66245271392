"""A text game from PDDL and a grammar: what TextWorld's PddlEnv does for ALFWorld, in plain Python.

A game.tw-pddl is JSON. `pddl_domain` and `pddl_problem` say what is true, what each action needs and changes, and when
the game is won; `grammar` says how commands and answers read. The stock engine grounds all of it with fast-downward
(about a second a game), steps a C++ library, and derives the text of every command again at every step (85 ms). Here
nothing is grounded: which actions apply is a join over the facts that hold, as a database answers a query, and the text
of an action is derived once. So there is no planner, no compiler, no environment object to pool and nothing to cache on
disk; starting a game again copies a few small sets. What it answers is the stock's text, character for character
(tests/worlds/test_pddl.py plays both).

PDDL: typed, `and or not imply exists forall =` in conditions, `and not forall when` in effects; costs are ignored.
"""

import ast
import json
import re
from collections import Counter, defaultdict, namedtuple
from contextlib import contextmanager
from functools import lru_cache
from itertools import product

from worlds import GameError

Entity = namedtuple("Entity", "id name type definite indefinite")
Rule = namedtuple("Rule", "name parameters types clauses effects")  # an action; types: of its variables, names first
Effect = namedtuple("Effect", "bound condition atom adds")  # for all `bound`, when `condition`: the atom holds, or not
Literal = namedtuple("Literal", "kind body")  # is | not: an atom, equal | differ: two terms, none: (variables, clauses)
Step = namedtuple("Step", "kind body new fixed")  # of a join; new, fixed: [(place in a fact, variable or object)]


@contextmanager
def blaming(path, what):
    """Whatever goes wrong inside is the fault of a part of the file: GameError."""
    try:
        yield
    except GameError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, SyntaxError, RuntimeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise GameError(f"{path}: {what} is broken: {reason}") from None


# ---- Reading PDDL ---------------------------------------------------------------------------------------------------


def parse(text):
    """Nested lists of lower-case words, as PDDL knows no case. ValueError where the parentheses do not match."""
    stack = [[]]
    for token in re.findall(r"[()]|[^\s();]+", re.sub(r";[^\n]*", "", text.lower())):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) > 1:
            stack[-2].append(stack.pop())
        elif token == ")":
            raise ValueError("a ) too many")
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError(f"{len(stack) - 1} ( are never closed")
    return stack[0]


def typed(words):
    """["a", "b", "-", "t", "c"] -> [("a", "t"), ("b", "t"), ("c", "object")].

    ALFRED's domain has "?l - location, ?r - ..." in one place. As in fast-downward that is a type "location,", of which
    there is no object: so one can examine what one holds, not what one sees. Games are played as they are.
    """
    pairs, names, words = [], [], iter(words)
    for word in words:
        if word == "-":
            kind = next(words, None)
            if not isinstance(kind, str):
                raise ValueError(f"no type stands behind the - of {' '.join(map(str, names))}")
            pairs += [(name, kind) for name in names]
            names = []
        else:
            names.append(word)
    return pairs + [(name, "object") for name in names]


def sections(text, *wanted):
    """{":init": [...], ...} of a domain or problem; a list each, as there are many ":action"s. wanted: must be there.
    """
    if not isinstance(text, str):
        raise ValueError(f"it is a {type(text).__name__}, not PDDL")
    found, parts = defaultdict(list), parse(text)
    if len(parts) != 1 or parts[0][:1] != ["define"]:
        raise ValueError("it is not one (define ...)")
    for section in parts[0][2:]:
        found[section[0]].append(section[1:])
    for section in wanted:
        if section not in found:
            raise ValueError(f"it has no {section}")
    return found


class Formula:
    """Turns conditions into clauses: alternatives, each a list of Literals over numbered variables and objects."""

    def __init__(self, parameters, arities):
        self.types = [kind for _, kind in parameters]  # of each variable; quantifiers add theirs
        self.names = {name: i for i, (name, _) in enumerate(parameters)}
        self.arities = arities  # predicate -> how many arguments it was declared with

    def term(self, word, names):
        if not word.startswith("?"):
            return word
        if word not in names:
            raise ValueError(f"unknown variable {word}")
        return names[word]

    def atom(self, predicate, arguments, names):
        if self.arities.get(predicate) != len(arguments):
            raise ValueError(f"({' '.join([predicate, *arguments])}) does not fit the declared predicates")
        return (predicate, *(self.term(word, names) for word in arguments))

    def bind(self, words, names):
        """Fresh variables for a quantifier: (their numbers, the extended names)."""
        new = {}
        for name, kind in typed(words):
            new[name] = len(self.types)
            self.types.append(kind)
        return list(new.values()), {**names, **new}

    def clauses(self, condition, names=None, positive=True):
        """Disjunctive normal form of a condition, or of its negation."""
        names = self.names if names is None else names
        if not condition:
            return [[]] if positive else []
        head, *rest = condition
        if head == "not":
            return self.clauses(rest[0], names, not positive)
        if head == "imply":
            return self.clauses(["or", ["not", rest[0]], rest[1]], names, positive)
        if head in ("and", "or"):
            parts = [self.clauses(part, names, positive) for part in rest]
            if (head == "and") == positive:
                return [sum(choice, []) for choice in product(*parts)]
            return sum(parts, [])
        if head in ("exists", "forall"):
            new, inner = self.bind(rest[0], names)
            if (head == "exists") == positive:
                return self.clauses(rest[1], inner, positive)
            return [[Literal("none", (new, self.clauses(rest[1], inner, head == "exists")))]]
        if head == "=":
            return [[Literal("equal" if positive else "differ", tuple(self.term(word, names) for word in rest))]]
        return [[Literal("is" if positive else "not", self.atom(head, rest, names))]]

    def effects(self, effect, names=None, bound=(), condition=None):
        """An action's effect as a flat list of Effects."""
        names = self.names if names is None else names
        head, *rest = effect or ["and"]
        if head == "and":
            return [found for part in rest for found in self.effects(part, names, bound, condition)]
        if head == "forall":
            new, inner = self.bind(rest[0], names)
            return self.effects(rest[1], inner, (*bound, *new), condition)
        if head == "when":
            return self.effects(rest[1], names, bound, self.clauses(rest[0], names))
        if head in ("increase", "assign", "decrease"):  # costs concern planners
            return []
        adds = head != "not"
        head, *rest = effect if adds else rest[0]
        return [Effect(bound, condition, self.atom(head, rest, names), adds)]


@lru_cache(maxsize=8)
def domain(text):
    """(supertype of each type, {predicate: arity}, [Rule]) of a PDDL domain; ValueError if it is none."""
    found, rules = sections(text, ":predicates", ":action"), []
    supertypes = dict(pair for section in found[":types"] for pair in typed(section))
    for kind in supertypes:
        line = [kind]
        while (kind := supertypes.get(kind)) not in (None, "object"):
            line.append(kind)
            if line.count(kind) > 1:
                raise ValueError(f"the type {kind} is its own supertype")
    arities = {name: len(typed(arguments)) for name, *arguments in found[":predicates"][0]}
    for name, *body in found[":action"]:
        part = dict(zip(body[::2], body[1::2]))
        if odd := set(part) - {":parameters", ":precondition", ":effect"}:
            raise ValueError(f"the action {name} has a part {min(odd)}")
        formula = Formula(typed(part.get(":parameters", [])), arities)
        parameters = [name.strip("?") for name in formula.names]
        clauses, effects = formula.clauses(part.get(":precondition")), formula.effects(part.get(":effect"))
        rules.append(Rule(name, parameters, formula.types, clauses, effects))
    return supertypes, arities, rules


# ---- Joins ----------------------------------------------------------------------------------------------------------


def variables(literal):
    """The numbered variables that a literal needs to be known, or makes known."""
    if literal.kind == "none":
        own, clauses = literal.body
        return {v for clause in clauses for inner in clause for v in variables(inner)} - set(own)
    return {term for term in literal.body[literal.kind in ("is", "not"):] if isinstance(term, int)}


def plan(clause, types, known, sizes, wanted=()):
    """[Step] that finds every binding of a clause: tests as early as their variables allow, small relations first.

    types: of all variables; known: those that have a value already; sizes: predicate -> number of facts; wanted:
    variables that must have a value in the end, even if the clause does not speak of them.
    """
    left, known, steps = list(clause), set(known), []
    while left or not known.issuperset(wanted):
        literal = next((literal for literal in left if variables(literal) <= known), None)
        scans = [literal for literal in left if literal.kind == "is"]
        if not literal and not scans:  # a variable that no positive literal binds: try every object of its type
            variable = min({v for literal in left for v in variables(literal)}.union(wanted) - known)
            steps.append(Step("each", types[variable], [(0, variable)], []))
            known.add(variable)
            continue
        if not literal:  # fewest unknown, then joined to what is known, then fewest facts
            literal = min(scans, key=lambda one: (len(variables(one) - known), not variables(one) & known,
                                                  sizes.get(one.body[0], 0)))
        left.remove(literal)
        if literal.kind == "none":
            own, clauses = literal.body
            steps.append(Step("none", [plan(inner, types, known, sizes) for inner in clauses], [], []))
        elif new := variables(literal) - known:
            places = list(enumerate(literal.body[1:]))
            steps.append(Step("scan", literal.body[0], [(i, v) for i, v in places if v in new],
                              [(i, term) for i, term in places if term not in new]))
            steps[-1].new.sort(key=lambda place: place[1])
            known |= new
        else:
            named = literal.kind in ("is", "not")
            steps.append(Step(literal.kind, literal.body[0] if named else None, [],
                              list(enumerate(literal.body[named:]))))
    return steps


def solve(steps, values, state, types, i=0):
    """Yield once for each way to fill `values` (a list, by variable; filled in place) so that all steps hold."""
    if i == len(steps):
        yield
        return
    kind, body, new, fixed = steps[i]
    fixed = [(place, values[term] if isinstance(term, int) else term) for place, term in fixed]
    if kind == "scan":
        for fact in state.facts[body]:
            for place, value in fixed:
                if fact[place] != value:
                    break
            else:
                for place, variable in new:
                    values[variable] = fact[place]
                for place, variable in new:  # of the right type; and one variable may stand in two places
                    if values[variable] != fact[place] or fact[place] not in state.game.members[types[variable]]:
                        break
                else:
                    yield from solve(steps, values, state, types, i + 1)
        return
    if kind == "each":
        for name in state.game.members[body]:
            values[new[0][1]] = name
            yield from solve(steps, values, state, types, i + 1)
        return
    terms = tuple([value for _, value in fixed])
    if kind == "is":
        holds = terms in state.facts[body]
    elif kind == "not":
        holds = state.relaxed or terms not in state.facts[body]
    elif kind == "none":
        holds = state.relaxed or not any(True for inner in body for _ in solve(inner, values, state, types))
    else:
        holds = (terms[0] == terms[1]) == (kind == "equal")
    if holds:
        yield from solve(steps, values, state, types, i + 1)


# ---- Text -----------------------------------------------------------------------------------------------------------

BLOCK = re.compile(r'\s*(?:action\s+(\w+)\s*\{|(\})|(\w+)\s*::\s*(?:"""(.*?)"""|"(.*?)")\s*;)', re.S)
SYMBOL = re.compile(r"(\[?)\{(?:#([^#]+)#|([^|\[\]{}\n<>]+))(?:\|([^;|{}\n\[\]#]+))?\}(\]?)"  # {what | for which}
                    r"|#([\w()/!<>\-\s,.]+)#"  # another rule
                    r'|"([^;|"<>\[\]#{}]*)"|([^;|"<>\[\]#{}]+)')  # plain text
PREDICATE = re.compile(r"\s*([\w-]+)\(([^()]*)\)\s*(?:&|$)")


class Grammar:
    """The texts of a game: rules with conditions, derived against the facts of a State (TextWorld's textgen)."""

    def __init__(self, text):
        self.rules, self.templates, self.feedback = {}, {}, {}
        action, at, text = None, 0, text.rstrip()
        while at < len(text):
            block = BLOCK.match(text, at)
            if not block:
                raise ValueError(f"it cannot be read at {text[at:at + 40].strip()!r}")
            name, closes, key, long, short = block.groups()
            if name or closes:
                action = name and name.lower()
            elif key == "grammar":
                for rule, choices in json.loads(re.sub(r"(?m)^\s*#.*$", "", long or short)).items():
                    self.rules.setdefault(rule, []).extend((c.get("condition", ""), c["rhs"]) for c in choices)
            elif key in ("template", "feedback"):
                getattr(self, "templates" if key == "template" else key)[action] = short
            at = block.end()
        if "intro" not in self.rules:
            raise ValueError("it has no rule intro")
        for condition, text in [choice for choices in self.rules.values() for choice in choices] + [
                ("", text) for text in (*self.templates.values(), *self.feedback.values())]:
            query(condition)
            for kind, body, given in symbols(text):
                query(given or "")
                if kind in ("each", "list") and body[0] != "#":
                    expression(body)

    def derive(self, text, state, names):
        """Text with its rules and expressions replaced. names: {(name, type): object} of what it may speak of."""
        return "".join(self._derive(kind, body, given, state, names) for kind, body, given in symbols(text))

    def _derive(self, kind, body, given, state, names):
        if kind == "text":
            return body
        if kind == "rule":
            for condition, text in self.rules.get(body, ()):
                if not condition or any(True for _ in assignments(condition, state, names)):
                    return self.derive(text, state, names)
            raise ValueError(f"no rule says {body} here")
        found = assignments(given, state, names) if given else [names]
        texts = [self.derive(body, state, each) if body[0] == "#" else evaluate(body, state.game, each)
                 for each in found]
        if kind == "each":
            return "".join(texts)
        if not texts:
            return self.derive("#list_empty#", state, names)
        comma, last = (self.derive(f"#list_{name}separator#", state, names) for name in ("", "last_"))
        return last.join([comma.join(texts[:-1]), texts[-1]] if texts[1:] else texts)


@lru_cache(maxsize=1000)
def symbols(text):
    """[(kind, body, given)]: text | rule | each (expression for all that is given) | list (the same, with commas)."""
    found, at = [], 0
    while at < len(text):
        if at == 0 or text[at - 1] == "\n":  # the stock parser takes blanks there for a comment
            at += len(text[at:]) - len(text[at:].lstrip())
        symbol = SYMBOL.match(text, at)
        if not symbol or symbol[1] and not symbol[5]:  # what is no symbol ends the text, as in the stock parser
            break
        opened, rule, code, given, closed, name, quoted, plain = symbol.groups()
        if rule or code:
            found.append(("list" if opened else "each", f"#{rule}#" if rule else code.strip(), given))
            at = symbol.end() - (bool(closed) and not opened)
            continue
        found.append(("rule", name, None) if name else ("text", (quoted or plain or "").replace("\\n", "\n"), None))
        at = symbol.end()
    return found


@lru_cache(maxsize=1000)
def query(text):
    """"p(a:t, b:u) & q(b:u)" -> [("p", [("a", "t"), ("b", "u")]), ("q", [("b", "u")])]."""
    found, at = [], 0
    while at < len(text.rstrip()):
        predicate = PREDICATE.match(text, at)
        if not predicate:
            raise ValueError(f"{text.strip()!r} is no query")
        places = [argument.strip().partition(":") for argument in predicate[2].split(",") if argument.strip()]
        found.append((predicate[1], [(name, kind or name) for name, _, kind in places]))
        at = predicate.end()
    return found


def assignments(text, state, names, i=0):
    """`names` extended in every way in which a query holds, in the order of the facts. Two names are two objects."""
    atoms = query(text)
    if i == len(atoms):
        yield names
        return
    predicate, places = atoms[i]
    state.asked.add(predicate)
    for fact in sorted(state.facts.get(predicate, ())):
        more, used = dict(names), set(names.values())
        for place, name in zip(places, fact):
            if place in more:
                if more[place] != name:
                    break
            elif name in used or name not in state.game.members[place[1]]:
                break
            else:
                more[place] = name
                used.add(name)
        else:
            yield from assignments(text, state, more, i + 1)


@lru_cache(maxsize=1000)
def expression(code):
    """The little Python that grammars use: names, their fields, strings, + and or. Anything else is refused.

    Returns a function: {name: Entity} -> text.
    """
    def compiled(node):
        if isinstance(node, ast.Constant):
            return lambda entities: node.value
        if isinstance(node, ast.Name):
            return lambda entities: entities[node.id]
        if isinstance(node, ast.Attribute) and node.attr in Entity._fields and isinstance(node.value, ast.Name):
            return lambda entities: getattr(entities[node.value.id], node.attr)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = compiled(node.left), compiled(node.right)
            return lambda entities: left(entities) + right(entities)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            values = [compiled(value) for value in node.values]
            return lambda entities: next((v for v in (value(entities) for value in values) if v), "")
        raise ValueError(f"{code!r} is not supported")

    return compiled(ast.parse(code.strip(), mode="eval").body)


def evaluate(code, game, names):
    value = expression(code)({name: game.entities[value] for (name, _), value in names.items()})
    return value.name if isinstance(value, Entity) else str(value)


def names_of(ids):
    """{id: name} as ALFWorld's Demangler gives them: kinds are numbered down from their count in the order of ids."""
    kinds = {}
    for id_ in sorted(ids):
        kind = id_.split("_bar_", 1)[0] + "basin" * ("basin" in id_) if "_bar_" in id_ else None
        kinds[id_] = kind
    counts, named = Counter(kinds.values()), {}
    for id_, kind in kinds.items():
        named[id_] = f"{kind} {counts[kind]}" if kind else f"{id_} "
        counts[kind] -= 1
    return named


# ---- Games ----------------------------------------------------------------------------------------------------------


class GameFile:
    """A game file, read and checked once; `start()` plays it any number of times, side by side."""

    def __init__(self, data, path):
        """data: the game's JSON. path: what errors call it. GameError if it cannot be played or won."""
        self.path = path
        with blaming(path, "the game"):
            texts = data["pddl_domain"], data["grammar"], data["pddl_problem"]
        with blaming(path, "its domain"):
            self.supertypes, self.arities, self.rules = domain(texts[0])
        with blaming(path, "its grammar"):
            self.grammar = Grammar(texts[1])
            for rule in self.rules:
                if not (rule.name in self.grammar.templates and rule.name in self.grammar.feedback):
                    raise ValueError(f"it has no template and feedback for the action {rule.name}")
        with blaming(path, "its problem"):
            self._read(sections(texts[2], ":objects", ":init", ":goal"))
            if not self._reachable():
                raise GameError(f"{path}: its goal cannot be reached, whatever one does")

    def _read(self, problem):
        objects = dict(pair for section in problem[":objects"] for pair in typed(section))
        self.members = defaultdict(set)  # type -> its objects, those of its subtypes, too
        for name, kind in objects.items():
            while kind not in (None, "object"):
                self.members[kind].add(name)
                kind = self.supertypes.get(kind)
            self.members["object"].add(name)
        self.facts = defaultdict(set)  # predicate -> what it holds of at the start
        goal = Formula([], self.arities)
        for predicate, *arguments in problem[":init"][0]:
            if predicate != "=":  # costs
                self.facts[predicate].add(goal.atom(predicate, arguments, {})[1:])
        named = {name for facts in self.facts.values() for fact in facts for name in fact}
        if named - set(objects):
            raise ValueError(f"it has a fact about {min(named - set(objects))}, which is no object of it")
        said = names_of(named)
        self.entities = {name: Entity(name, said.get(name, name), kind, "the", "a") for name, kind in objects.items()}
        self.dynamic = {prefix + effect.atom[0] for rule in self.rules for effect in rule.effects
                        for prefix in ("", "not_")}
        sizes = {predicate: len(facts) for predicate, facts in self.facts.items()}
        self.plans = [[plan(clause, rule.types, (), sizes, range(len(rule.parameters))) for clause in rule.clauses]
                      for rule in self.rules]
        clauses = goal.clauses(problem[":goal"][0][0])
        self.goal_types, self.goal = goal.types, [plan(clause, goal.types, (), sizes) for clause in clauses]
        self.useless, self.commands = {}, {}  # per action: is it a no-op, and its text

    def start(self):
        return State(self)

    def _reachable(self):
        """Can the goal be reached if no fact ever became false? Every action is tried, in rounds."""
        state, before = State(self, relaxed=True), -1
        while not state.is_won() and before < sum(map(len, state.facts.values())):
            before = sum(map(len, state.facts.values()))
            for rule, arguments in state.moves():
                for predicate, *fact in state.effects(rule, arguments)[0]:
                    state.facts[predicate].add(tuple(fact))
        return state.is_won()


class State:
    """One episode of a GameFile: `feedback` is the last answer, `commands` what can be done, `won` that the goal holds.

    relaxed: negative conditions always hold, and it is not played but explored, see GameFile._reachable.
    """

    def __init__(self, game, relaxed=False):
        self.game, self.relaxed = game, relaxed
        self.facts = defaultdict(set, game.facts)
        for predicate in game.dynamic:
            self.facts[predicate] = set(self.facts[predicate])
        self.asked = set()  # predicates that a text has looked at
        if not relaxed:
            with blaming(game.path, "its grammar"):
                self.feedback = game.grammar.derive("#intro#", self, {})
                self._look()

    def step(self, command):
        """Carry out a command; one that is not admissible changes nothing. Returns the feedback."""
        with blaming(self.game.path, "its grammar"):
            return self._step(command)

    def _step(self, command):
        move = self._moves.get(command.strip())
        if move is None:
            self.feedback = "Nothing happens."
            return self.feedback
        adds, deletes = self.effects(*move)
        for predicate, *fact in deletes:
            self.facts[predicate].discard(tuple(fact))
            self.facts["not_" + predicate].add(tuple(fact))  # texts ask for these
        for predicate, *fact in adds:
            self.facts[predicate].add(tuple(fact))
            self.facts["not_" + predicate].discard(tuple(fact))
        rule, arguments = move
        grammar = self.game.grammar
        self.feedback = grammar.derive(grammar.feedback[rule.name], self, self._names(rule, arguments))
        self._look()
        return self.feedback

    def is_won(self):
        values = [None] * len(self.game.goal_types)
        return any(True for steps in self.game.goal for _ in solve(steps, values, self, self.game.goal_types))

    def _look(self):
        self.won, self._moves = self.is_won(), {}  # command -> the action that it names
        for rule, arguments in self.moves():
            command = self._command(rule, arguments)
            before = self._moves.get(command)
            if before is None or before[0] is rule and arguments < before[1]:  # facts are sets: no order to rely on
                self._moves[command] = rule, arguments
        self.commands = sorted(self._moves)

    def _names(self, rule, arguments):
        return dict(zip(zip(rule.parameters, rule.types), arguments))

    def _command(self, rule, arguments):
        """The text of an action; kept where it depends on nothing that can change."""
        text = self.game.commands.get((rule.name, arguments))
        if text is None:
            self.asked.clear()
            text = self.game.grammar.derive(self.game.grammar.templates[rule.name], self, self._names(rule, arguments))
            if not self.asked & self.game.dynamic:
                self.game.commands[rule.name, arguments] = text
        return text

    def moves(self):
        """[(Rule, arguments)] of every action that applies, once each; not those that change nothing."""
        found = {}
        for rule, plans in zip(self.game.rules, self.game.plans):
            for i, steps in enumerate(plans):
                values = [None] * len(rule.types)
                for _ in solve(steps, values, self, rule.types):
                    arguments = tuple(values[:len(rule.parameters)])
                    if self.relaxed or not self._useless(rule, i, arguments, values):
                        found[rule.name, arguments] = rule, arguments
        return list(found.values())

    def _useless(self, rule, i, arguments, values):
        """Is the action a no-op: are its effects already among its i-th conditions? Fast-downward drops such actions.

        The answer does not depend on the state, so it is kept.
        """
        key = rule.name, i, arguments
        if key not in self.game.useless:
            adds, deletes = self.effects(rule, values)
            has = {kind: [self._ground(body, values) for k, body in rule.clauses[i] if k == kind]
                   for kind in ("is", "not")}
            self.game.useless[key] = (
                all(effect.condition is None for effect in rule.effects)
                and all(atom in has["is"] for atom in adds) and all(atom in has["not"] for atom in deletes))
        return self.game.useless[key]

    def effects(self, rule, arguments):
        """(atoms that become true, atoms that become false); an atom that is both becomes true."""
        values, changes = [*arguments, *[None] * len(rule.types)], {True: [], False: []}
        for effect in rule.effects:
            for choice in product(*(sorted(self.game.members[rule.types[v]]) for v in effect.bound)):
                for variable, name in zip(effect.bound, choice):
                    values[variable] = name
                if self.relaxed or effect.condition is None or self._holds(effect, rule, values):
                    changes[effect.adds].append(self._ground(effect.atom, values))
        return changes[True], [atom for atom in changes[False] if atom not in changes[True]]

    def _holds(self, effect, rule, values):
        known = {*range(len(rule.parameters)), *effect.bound}
        return any(True for clause in effect.condition
                   for _ in solve(plan(clause, rule.types, known, {}), values, self, rule.types))

    @staticmethod
    def _ground(atom, values):
        return (atom[0], *(values[term] if isinstance(term, int) else term for term in atom[1:]))

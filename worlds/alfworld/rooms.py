"""ALFWorld games of all six families from nothing: real rooms, real rules, real words; made-up places of things.

The real games are a download, and making more of them takes the AI2-THOR simulator. But the alfworld package brings the
PDDL domain, the grammar, the goals with their sentences and the receptacles of all 120 rooms. `game(family, seed)` puts
objects where they may be. It knows where everything is, so it writes the walkthrough, too, without a planner. Only the
package's data files are read (`pip install --no-deps alfworld` is enough); nothing is imported.

    Your task is to: put a hot plate in shelf.
    > go to countertop 2                You arrive at countertop 2. On the countertop 2, you see ..., and a plate 1.
    > take plate 1 from countertop 2    You pick up the plate 1 from the countertop 2.
    > go to microwave 1                 You arrive at microwave 1. The microwave 1 is closed.
    > heat plate 1 with microwave 1     You heat the plate 1 using the microwave 1.
    > go to shelf 3                     You arrive at shelf 3. On the shelf 3, you see a statue 2.
    > move plate 1 to shelf 3           You move the plate 1 to the shelf 3.

Not as in ALFRED: a thing lies in any kind of receptacle that may hold it, by the weights in USUAL; everything but
SCENERY can be taken or used. A score on these games is no ALFWorld score. `write` makes a folder of them that the
stock AlfredTWEnv loads like a real one.

Real files carry their grammar, and not all have the same words: see DIALECTS. A game draws its own.
"""

import importlib.util
import json
import random
import re
from collections import namedtuple
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from lib.files import write_atomic
from worlds.alfworld.pddl import names_of

RECEPTACLES = 30  # in a room at most, one of each kind at least; real rooms have 8 to 54
KINDS = 22  # of objects in a game at most ...
COPIES = 3  # ... and so many of each; one more of what a family wants two of
# How often a thing lies there, beside what else may hold it: of each kind of receptacle, not of each receptacle.
USUAL = {"CounterTop": 3.0, "Cabinet": 2.0, "StoveBurner": 2.0, "DiningTable": 1.5, "Desk": 1.5, "Drawer": 1.5,
         "Fridge": 1.5, "Shelf": 1.5, "GarbageCan": 0.5, "Microwave": 0.5}

FAMILIES = ("pick_and_place_simple", "look_at_obj_in_light", "pick_clean_then_place_in_recep",
            "pick_heat_then_place_in_recep", "pick_cool_then_place_in_recep", "pick_two_obj_and_place")
TOOLS = {"pick_clean_then_place_in_recep": ("clean", "SinkBasin"),  # command, kind of receptacle it is done with
         "pick_heat_then_place_in_recep": ("heat", "Microwave"),
         "pick_cool_then_place_in_recep": ("cool", "Fridge")}
UNSEEN = (10, 219, 308, 424)  # ALFRED's valid_unseen: a kitchen, a living room, a bedroom, a bathroom
LAMP = "DeskLamp"
# no list of the package has lamps
LAMP_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable")
OPENABLE = ("Cabinet", "Drawer", "Fridge", "Microwave", "Safe")  # all closed at the start
UNLISTED = {"StoveBurner": 4, "Shelf": 3}  # how many, of kinds that a room has but its layout does not place; else one
SPOKEN = ("KnifeType - otype", "ButterKnifeType - otype", "SinkBasinType - rtype", "MicrowaveType - rtype",
          "FridgeType - rtype")  # the domain's actions name them, so every problem must declare them
# What stands about and cannot be taken, and where; the package lists no places for them.
SCENERY = {"HousePlant": ("CounterTop", "SideTable", "CoffeeTable", "DiningTable", "Shelf"),
           "PaperTowelRoll": ("CounterTop", "Shelf", "GarbageCan"), "Television": ("TVStand", "Dresser", "CoffeeTable"),
           "WateringCan": ("CoffeeTable", "SideTable", "Shelf")}
# How the package's grammar turns into that of other downloads, in four steps that a game may take or not.
STEPS = {
    "loc": [(r"You arrive at \{r\.name\}", "You arrive at {lend.name}")],  # "You arrive at loc 26."
    "put": [(r'"move \{o\} to \{r\}"', '"put {o} in/on {r}"'),
            (r"You move the \{o\.name\} to the \{r\.name\}", "You put the {o.name} in/on the {r.name}")],
    "take": [("You pick up the", "You take the")],
    "bare": [(r"The \{r\.name\} is open\. In it, you see", "In {r.name}, you see"), (r"\b[Tt]he (?=[{\[])", ""),
             (r"\{(\w+)\.indefinite \+ ' ' \+ ", "{"), (r"\{[or]\.indefinite\} ", ""),
             (r"\(in/on (\{r\.name\})\)\}", r"(in/on \1)"), (r"\(it is (?=open|closed)", "(is "),
             (r"facing \[\{r\.name \|", "facing [{#overview_with_state(r)# |")],  # "On cabinet 4, you see bowl 1."
}
# json_2.1.2, which the package downloads; json_2.1.1; files without "the".
DIALECTS = {"package": (), "older": ("loc", "put"), "no articles": tuple(STEPS)}
MIXED = 0.25  # share of games that take each step or not, so that no combination of words is new
MARK = "made_up"  # in all files written here, and in the name of their folders
SEEN_SEEDS = 1_000_000  # valid_seen begins here: rooms of train, other games

Room = namedtuple("Room", "receptacles objects")  # {id: location}, kinds of objects


def game(family, seed, unseen=False, even=False):
    """The content of a game.tw-pddl, the same for the same arguments everywhere. unseen: in one of UNSEEN, else never.

    "walkthrough" wins on its last command. The target never starts in a receptacle of the goal's kind. even: tasks name
    each kind of receptacle as often as any other. Else a room is drawn first, and few rooms have a safe.
    """
    return _make(family, seed, unseen, even)[1]


def write(directory, train=100, valid_seen=20, valid_unseen=20, families=FAMILIES):
    """Write so many games of each family in ALFWorld's folders below `directory`. -> paths of the game files

    Only earlier games of ours are written over. FileExistsError if there are real games in the directory.
    """
    root = Path(directory) / "json_2.1.1"
    for trial in root.glob("*/*/trial_*"):
        if MARK not in trial.name:
            raise FileExistsError(f"{trial} is no made-up game: give made-up games a directory of their own")
    paths = []
    splits = (("train", train, 0), ("valid_seen", valid_seen, SEEN_SEEDS), ("valid_unseen", valid_unseen, 0))
    for split, games, first in splits:
        for family in families:
            for seed in range(first, first + games):
                (obj, recep, scene), content = _make(family, seed, split == "valid_unseen")
                folder = root / split / f"{family}-{obj}-None-{recep}-{scene}" / f"trial_{MARK}_{seed:06}"
                folder.mkdir(parents=True, exist_ok=True)
                lit = recep == LAMP
                about = {"task_id": folder.name, "task_type": family, "scene": {"scene_num": scene},
                         "pddl_params": {"object_target": obj, "object_sliced": False, "mrecep_target": "",
                                         "parent_target": "" if lit else recep, "toggle_target": recep if lit else ""}}
                _save(folder / "traj_data.json", about)  # first: the stock looks for this one, then for the game
                paths.append(_save(folder / "game.tw-pddl", content))
    return paths


def words():
    """Every kind of thing and place that the package knows, with a number as on a page: ["egg 1", "loc 2", ...]."""
    kinds = [kind.lower() for kind in _data().kinds] + ["loc"]
    return [f"{kind} {number}" for number, kind in enumerate(kinds)]


def _save(path, content):
    data = json.dumps(content).encode()
    there = path.read_bytes() if path.exists() else None
    if there is not None and MARK.encode() not in there:
        raise FileExistsError(f"{path} is no made-up game and will not be written over: name another directory")
    if there != data:
        write_atomic(path, data)  # a reader, or a second writer, never sees half a file
    return path


# ---- What the package knows -----------------------------------------------------------------------------------------


@cache
def _package():
    """Its folder. Not by importing it: that creates ~/.cache/alfworld and sets ALFWORLD_DATA."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no ALFWorld games at hand, and the alfworld package, whose files it takes to make some, is "
                          "not installed: pip install --no-deps alfworld")
    return Path(spec.submodule_search_locations[0])


@cache
def _data():
    """Domain, grammar, goals, scenes, which kinds of receptacle may hold which kind of object, and so on."""
    modules = []
    for name in ("constants", "goal_library"):  # plain tables both, they import nothing
        spec = importlib.util.spec_from_file_location(f"alfworld_{name}", _package() / "gen" / f"{name}.py")
        modules.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    constants, library = modules
    homes = {LAMP: LAMP_STANDS, **SCENERY}
    movable = set(constants.MOVABLE_RECEPTACLES)
    for recep in sorted(set(constants.VAL_RECEPTACLE_OBJECTS) - movable):  # sets: sorted wherever order could matter
        for obj in constants.VAL_RECEPTACLE_OBJECTS[recep]:
            homes[obj] = (*homes.get(obj, ()), recep)
    able = {name.lower(): kinds for name, kinds in sorted(constants.VAL_ACTION_OBJECTS.items())}  # heatable: ...
    able.update(toggleable={LAMP}, pickupable=set(homes) - {LAMP, *SCENERY}, isReceptacleObject=movable)
    return SimpleNamespace(domain=(_package() / "data" / "alfred.pddl").read_text(encoding="utf-8"),
                           grammar=(_package() / "data" / "alfred.twl2").read_text(encoding="utf-8"),
                           goals=library.gdict, kinds=list(constants.OBJECTS), scenes=sorted(constants.SCENE_NUMBERS),
                           homes=homes, able=able,
                           fixed={recep for kinds in homes.values() for recep in kinds})


@cache
def _room(scene):
    """The same in all games of the scene: ALFRED's receptacles and where one stands to use them, thinned."""
    layouts = _package() / "gen" / "layouts"
    places = json.loads((layouts / f"FloorPlan{scene}-openable.json").read_text())
    kinds = json.loads((layouts / f"FloorPlan{scene}-objects.json").read_text())
    rng = random.Random(f"alfworld room {scene}")
    standing = {_pddl(id): _pddl(f"loc|{round(4 * x)}|{round(4 * z)}|{turn // 90}|{tilt}")  # 4: in steps of 25 cm
                for id, (x, z, turn, tilt) in sorted(places.items())}
    for kind in sorted((set(kinds) & _data().fixed) - {_kind(id) for id in standing}):
        for _ in range(UNLISTED.get(kind, 1)):
            standing[_thing(kind, standing, rng)] = _location(standing.values(), rng)
    ids = list(standing)
    rng.shuffle(ids)
    first = {_kind(id): id for id in ids}  # one of each kind, so that thinning takes no goal away
    kept = [*first.values(), *(id for id in ids if id not in first.values())][:RECEPTACLES]
    return Room({id: standing[id] for id in sorted(kept)},
                [kind for kind in sorted(kinds) if set(_data().homes.get(kind, ())) & set(first)])


@cache
def _goals(family, scene):
    """{object: [receptacles]}, both kinds, that the family can ask for in this room; empty if it cannot ask at all."""
    room, data = _room(scene), _data()
    kinds = {_kind(id) for id in room.receptacles}
    verb, tool = TOOLS.get(family, ("", None))
    goals = {}
    for obj in room.objects:
        homes = sorted(kinds & set(data.homes[obj]))
        if obj == LAMP or obj in SCENERY or tool and not (tool in kinds and obj in data.able[f"{verb}able"]):
            continue
        if family == "look_at_obj_in_light":
            goals[obj] = [LAMP] if LAMP in room.objects else []
        elif len(homes) > 1:  # it must start elsewhere
            goals[obj] = [recep for recep in homes if recep != tool]
    return {obj: receps for obj, receps in goals.items() if receps}


# ---- One game -------------------------------------------------------------------------------------------------------


def _make(family, seed, unseen, even=False):
    """-> (object, receptacle, scene) that the folder is named after, content of the game file"""
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}: it is one of {', '.join(FAMILIES)}")
    rng, data, two = random.Random(f"alfworld game {family} {seed} {bool(unseen)}"), _data(), "pick_two" in family
    scenes = [scene for scene in data.scenes if (scene in UNSEEN) == bool(unseen) and _goals(family, scene)]
    if even:
        scene, obj, recep = _evenly(rng, [(scene, obj, recep) for scene in scenes
                                          for obj, receps in _goals(family, scene).items() for recep in receps])
    else:
        scene = rng.choice(scenes)
        obj = rng.choice(list(_goals(family, scene)))
        recep = rng.choice(_goals(family, scene)[obj])
    room = _room(scene)

    by_kind = {}  # kind of receptacle -> all of it in the room
    for id in room.receptacles:
        by_kind.setdefault(_kind(id), []).append(id)
    place = {}  # object -> receptacle
    kinds = [obj, LAMP] if recep == LAMP else [obj]
    others = [kind for kind in room.objects if kind not in kinds]
    for kind in kinds + rng.sample(others, min(KINDS - len(kinds), len(others))):
        # By kind: ten cabinets together hold no more than one countertop.
        homes = [home for home in by_kind if home in data.homes[kind] and not (kind == obj and home == recep)]
        for _ in range(1 if kind == LAMP else rng.randint(1, COPIES) + (two and kind == obj)):
            home, = rng.choices(homes, [USUAL.get(home, 1.0) for home in homes])
            place[_thing(kind, place, rng)] = rng.choice(by_kind[home])

    targets = rng.sample(sorted(id for id in place if _kind(id) == obj), 2 if two else 1)
    end = rng.choice(sorted(id for id in (*room.receptacles, *place) if _kind(id) == recep))
    tools = [id for id in room.receptacles if family in TOOLS and _kind(id) == TOOLS[family][1]]
    walkthrough = _walk(family, targets, room, place, end, rng.choice(tools) if tools else None)
    steps = DIALECTS[rng.choice(list(DIALECTS))]
    if rng.random() < MIXED:
        steps = [step for step in STEPS if rng.random() < 0.5]
    if "put" in steps:
        walkthrough = [re.sub("^move (.+) to ", r"put \1 in/on ", command) for command in walkthrough]
    words = {"obj": obj.lower(), "recep": recep.lower(), "toggle": recep.lower()}
    sentence = rng.choice(data.goals[family]["templates"]).format(**words)
    goal = data.goals[family]["pddl"].format(obj=obj, recep=recep, toggle=recep).replace("#", "-")
    problem = _problem(f"{MARK}_{family}_{seed}", room, place, _location(room.receptacles.values(), rng), goal)
    return (obj, recep, scene), {
        "pddl_domain": data.domain, "grammar": _grammar(tuple(steps)).replace("UNKNOWN GOAL", sentence),
        "pddl_problem": problem, "solvable": True, "walkthrough": walkthrough}


def _evenly(rng, goals):
    """One of some (scene, object, receptacle): each kind of receptacle is as likely as any other, then each object."""
    for word in (2, 1):
        chosen = rng.choice(sorted({goal[word] for goal in goals}))
        goals = [goal for goal in goals if goal[word] == chosen]
    return rng.choice(goals)


@cache
def _grammar(steps):
    """The package's grammar with some of STEPS taken."""
    grammar = _data().grammar
    for step in steps:
        for before, after in STEPS[step]:
            grammar = re.sub(before, after, grammar)
    return grammar


def dialect(grammar):
    """Whose words a game file's grammar speaks: one of DIALECTS, or "mixed"."""
    taken = tuple(step for step, sign in (("loc", "arrive at {lend.name}"), ("put", '"put {o} in/on {r}"'),
                                          ("take", "You take "), ("bare", "On {r.name}, you see")) if sign in grammar)
    return next((name for name, steps in DIALECTS.items() if steps == taken), "mixed")


def _walk(family, targets, room, place, end, tool):
    """The commands that win, made with full knowledge of the room. end: a thing of the goal's kind, maybe the lamp."""
    spoken = names_of([id.lower() for id in (*room.receptacles, *place)])
    names = {id: spoken[id.lower()] for id in (*room.receptacles, *place)}
    commands, here, opened = [], None, set()
    for target in targets:
        stops = [(place[target], True, f"take {names[target]} from {names[place[target]]}")]  # where, into it?, what
        if tool:
            stops.append((tool, False, f"{TOOLS[family][0]} {names[target]} with {names[tool]}"))
        if end in place:
            stops.append((place[end], False, f"use {names[end]}"))
        else:
            stops.append((end, True, f"move {names[target]} to {names[end]}"))
        for where, inside, command in stops:
            if room.receptacles[where] != here:  # some share a location: one stands at both and cannot go
                commands.append(f"go to {names[where]}")
                here = room.receptacles[where]
            if inside and _kind(where) in OPENABLE and where not in opened:
                commands.append(f"open {names[where]}")
                opened.add(where)
            commands.append(command)
    return commands


def _problem(name, room, place, start, goal):
    """PDDL as in the real games, less what a room does not have."""
    data, things = _data(), sorted(place.items())
    rtypes = sorted({_kind(id) for id in room.receptacles})
    otypes = sorted({_kind(id) for id in place})
    declared = dict.fromkeys([  # no name twice
        "agent1 - agent", *SPOKEN, *(f"{kind}Type - rtype" for kind in rtypes),
        *(f"{kind}Type - otype" for kind in otypes), *(f"{id} - object" for id, _ in things),
        *(f"{id} - receptacle" for id in room.receptacles),
        *(f"{location} - location" for location in sorted({start, *room.receptacles.values()}))])
    facts = [f"atLocation agent1 {start}"]
    facts += [f"canContain {recep}Type {obj}Type" for recep in rtypes for obj in otypes if recep in data.homes[obj]]
    for id, location in room.receptacles.items():
        facts += [f"receptacleType {id} {_kind(id)}Type", f"receptacleAtLocation {id} {location}"]
        facts += [f"openable {id}"] if _kind(id) in OPENABLE else []
    for id, home in things:
        kind = _kind(id)
        facts += [f"objectType {id} {kind}Type", f"inReceptacle {id} {home}",
                  f"objectAtLocation {id} {room.receptacles[home]}"]
        facts += [f"{able} {id}" for able, kinds in data.able.items() if kind in kinds]
    lines = ["", f"(define (problem {name})", "(:domain alfred)", "(:objects", *declared, ")",
             "(:init", *(f"({fact})" for fact in facts), ")"]
    return "\n".join(lines) + goal  # which brings the last parenthesis along


# ---- Names and places -----------------------------------------------------------------------------------------------


def _pddl(id):
    """AI2-THOR's "Egg|+00.12|+00.90|-01.50" as ALFWorld writes it."""
    return id.replace("|", "_bar_").replace("+", "_plus_").replace("-", "_minus_").replace(".", "_dot_")


def _kind(id):
    """"Egg_bar_..." -> "Egg"; but "Sink_bar_..._bar_SinkBasin" -> "SinkBasin"."""
    parts = id.split("_bar_")
    return parts[4] if len(parts) == 5 else parts[0]


def _thing(kind, taken, rng):
    """A new id. Its coordinates are made up: all that an agent gets to see of them is the number."""
    x, y, z = (rng.randint(-300, 300) / 100 for _ in range(3))
    basin = f"|{kind}" if kind.endswith("Basin") else ""  # Sink|x|y|z|SinkBasin, or the stock names it sinkbasinbasin
    id = _pddl(f"{kind.removesuffix('Basin')}|{x:+06.2f}|{y:+06.2f}|{z:+06.2f}{basin}")
    return id if id not in taken else _thing(kind, taken, rng)


def _location(taken, rng):
    """A new one, as for the agent to start at: with a receptacle there, the intro would not list the room."""
    location = _pddl(f"loc|{rng.randint(-20, 20)}|{rng.randint(-20, 20)}|{rng.randrange(4)}|30")
    return location if location not in taken else _location(taken, rng)

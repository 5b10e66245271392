"""Records as few bytes, to send them to other processes: a transcript of 4,000 tokens takes 44 KB and its text.

A list of numbers is pickled number by number, which is large and slow. Here the long lists in the fields of dataclasses
go as arrays, each of the smallest type that holds its numbers exactly.
"""

import dataclasses
import io
import pickle
from array import array

LONG = 16  # numbers in a list that is worth an array


class Packer(pickle.Pickler):
    """A pickler for dataclasses and named tuples; leave: fields that are not sent, and are None where they arrive."""

    def __init__(self, file, leave):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.leave = frozenset(leave)

    def reducer_override(self, thing):
        if isinstance(thing, tuple) and hasattr(thing, "_fields") and not self.leave.isdisjoint(thing._fields):
            return type(thing), tuple(None if name in self.leave else getattr(thing, name) for name in thing._fields)
        if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
            return NotImplemented
        fields = {name: None if name in self.leave else packed(value) for name, value in vars(thing).items()}
        return restored, (type(thing), fields)


def dumps(thing, leave=()) -> bytes:
    """A thing as bytes, which pickle.loads reads."""
    file = io.BytesIO()
    Packer(file, leave).dump(thing)
    return file.getvalue()


def packed(values):
    """A long list of whole numbers, or of floats, as the smallest array that holds them exactly; else as it is."""
    if type(values) is not list or len(values) < LONG:
        return values
    for code in {int: "bhiq", float: "fd"}.get(type(values[0]), ""):
        try:
            small = array(code, values)
        except (TypeError, OverflowError):  # something else among them; a larger number
            continue
        if small.tolist() == values:
            return small
    return values


def restored(kind, fields):
    """The dataclass again. Nobody's field is an array by itself."""
    thing = kind.__new__(kind)
    vars(thing).update({name: value.tolist() if isinstance(value, array) else value for name, value in fields.items()})
    return thing

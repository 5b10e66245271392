"""Small runs of train.py, and how they end."""

import pytest

SMALL = ("--tasks 1 --group 2 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --context 1500 "
         "--probes 1 --lr 1e-3 --steps 1").split()

# Of a fork at the parcel counter, where games are short.
COUNTER = ("--env counter --model tiny --tasks 2 --group 4 --probes 1 --confirm 1 --eval_every 0 --save_every 1 "
           "--lr 1e-3").split()


def ends(call, *arguments):
    """What a call ends the program with: (the line, exit status)."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    code = stop.value.code
    return (code, 1) if isinstance(code, str) else ("", code)


def die(*rest, **more):
    raise KeyboardInterrupt

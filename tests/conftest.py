"""What has to happen before any test module is imported."""

import os
import signal
import sys

import pytest

import tests.real  # noqa: F401 (it takes variables away)

# Threads that do not spin for long, as in train.py: on busy cores the tests would be ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# A shell starts what runs in its background deaf to Ctrl-C, which a test sends.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread():
    """A tiny model's operations are too small to share: two threads on a busy machine wait for each other."""
    import torch  # after the variable above is set

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_tiny(tmp_path_factory):
    """A random tiny policy on disk, so that not every run trains a tokenizer."""
    import envs
    import policy as policies
    from tools.coldstart import corpus

    path = tmp_path_factory.mktemp("models") / "random"
    policies.load("tiny", text=corpus(envs.make("webshop"))[-300:]).save(path)
    return str(path)


@pytest.fixture(scope="session")
def train_in_process(random_tiny):
    """run(flags, steps of an episode, run directory, *more flags): train.py in this process, with a random policy."""
    import train

    def run(flags, limit, out, *more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("worlds.webshop.world.World.limit", limit)
            patch.setattr(sys, "argv", ["train.py", "--model", random_tiny, *flags, "--out", str(out), *more])
            train.main()

    return run


@pytest.fixture(scope="session")
def env():
    """The made-up shop, for tests that do not change it; a module may have an `env` of its own."""
    import envs

    return envs.make("webshop")


@pytest.fixture(scope="session")
def tiny():
    """The shipped model of the made-up shop, for tests that do not train it; a module may have a `tiny` of its own."""
    import policy as policies

    return policies.load("tiny")


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """pair(name) -> (transformers' model, our policy) of one random checkpoint on disk, made once."""
    import policy as policies
    from lib import models
    from tests.small import CONFIGS, shaken

    tokenizer, made = models.tiny(["a few words to train on"], vocab=270)[2], {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            model = shaken(CONFIGS[name])
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = model, policies.load(str(folder))
        return made[name]

    return make

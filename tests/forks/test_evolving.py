"""Evolving-RL: candidates of one episode compete in the same tasks."""

import math

import pytest

from forks.evolving import writing


def test_candidates_are_compared_with_those_of_their_own_episode():
    """Bug: an unreadable candidate has no reward at all, so writing nothing is as good as the mean."""
    rates, advantages = writing([0, 0, 1, 1, 3, 3], [True, True, True, False, False, False], 4, 2)
    assert rates == [1.0, 0.5, 0.0, 0.0]
    assert advantages == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0], abs=1e-5)
    assert writing([], [], 2, 2) == ([0.0, 0.0], [0.0, 0.0])


@pytest.mark.slow
def test_candidates_of_one_episode_are_different_draws(play_fork):
    """Bug: all candidates have the episode's random stream, so eight of them are one."""
    run, _ = play_fork("evolving", "--steps", "1", "--candidates", "4", "--temperature", "1.5")
    edits = (run / "edits.jsonl").read_text().splitlines()
    assert len({line.split('"arguments"')[1] for line in edits}) > 1

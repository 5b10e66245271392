"""What the bench counts must be what a step reads."""

from studies import bench


def test_slots_are_counted_as_a_card_reads_them():
    """Bug: spans are changed for a saving that is none, or left alone for one that is there."""
    half = bench.slots_read([1000] * 32 + [200] * 32)
    assert half == {"now": 64 * 1024, "2^n spans": 64 * 1024, "two groups": 32 * 1024 + 32 * 256,
                    "lengths": 32 * 1008 + 32 * 208}
    assert bench.slots_read([1100] * 48)["2^n spans"] == 48 * 2048
    assert bench.slots_read([1000] * 32)["two groups"] == 32 * 1024, "equal rows gain nothing"
    assert bench.slots_read([1000]) == {"now": 1024, "2^n spans": 1024, "two groups": 1024, "lengths": 1008}

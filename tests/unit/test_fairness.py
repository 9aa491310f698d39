"""Jobs share an engine evenly."""

from __future__ import annotations

from menura.pipeline.engine import Fairness, Share


def served(shares: dict[str, Share], seconds: float, rounds: int) -> dict[str, float]:
    """Serve whoever has the least turn, as the engine does, in segments of `seconds`."""
    had = dict.fromkeys(shares, 0.0)
    for _ in range(rounds):
        name = min(shares, key=lambda name: shares[name].turn)
        shares[name].serve(seconds)
        had[name] += seconds
    return had


def test_two_long_jobs_get_the_same() -> None:
    fairness = Fairness()
    shares = {"a": Share(fairness), "b": Share(fairness)}
    had = served(shares, 20, 101)
    assert abs(had["a"] - had["b"]) <= 20


def test_one_who_comes_later_has_no_claim_to_what_was_before() -> None:
    fairness = Fairness()
    long = Share(fairness)
    for _ in range(500):
        long.serve(20)
    late = Share(fairness)
    had = served({"long": long, "late": late}, 20, 40)
    assert abs(had["long"] - had["late"]) <= 40


def test_a_short_job_waits_for_one_segment_at_most() -> None:
    fairness = Fairness()
    long = Share(fairness)
    for _ in range(7):
        long.serve(20)
        short = Share(fairness)
        assert served({"long": long, "short": short}, 20, 2)["short"] >= 20
        short.end()


def test_a_stream_of_short_jobs_starves_no_long_one() -> None:
    fairness = Fairness()
    long, had_s, given_s = Share(fairness), 0.0, 0.0
    short = [Share(fairness) for _ in range(5)]
    for _ in range(2000):
        first = min([*short, long], key=lambda share: share.turn)
        if first is long:
            long.serve(20)
            had_s += 20
        else:
            first.serve(5)
            first.end()
            short[short.index(first)] = Share(fairness)
        given_s = fairness.served_s
    assert had_s > 0.8 * given_s

from itertools import product

from chexjax.data.verdict import Verdict


def test_the_worse_status_holds_and_reasons_stand_once() -> None:
    order = ("ok", "doubtful", "refused")
    for (i, a), (j, b) in product(enumerate(order), repeat=2):
        both = Verdict(a, ("x", "y")) + Verdict(b, ("y", "z"))
        assert both.status == order[max(i, j)]
        assert both.reasons == ("x", "y", "z")


def test_nothing_said_changes_nothing() -> None:
    one = Verdict("doubtful", ("lateral view",))
    assert Verdict() + one == one + Verdict() == one

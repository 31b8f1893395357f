"""An answer does not depend on what runs beside it."""

import batch_invariance


def test_answers_are_the_same_in_company(address, model):
    compared, different = batch_invariance.check(address.url, model, [2, 9, 40], longest=120)
    assert compared > 12
    assert different == []

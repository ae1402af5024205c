from mocodet.common.report.numbers import between, fixed, signed


def test_fixed_and_signed():
    assert [fixed(value) for value in (1.25, -0.04, -3.0)] == ["1.2", "0.0", "−3.0"]
    assert [signed(value) for value in (1.25, -0.04, -3.0, 0.0, 0.06)] == ["+1.2", "0.0", "−3.0", "0.0", "+0.1"]
    assert signed(0.04, 2) == "+0.04"
    assert between(-0.04, 1.26) == "[−0.04, +1.3]"

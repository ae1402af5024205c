from tests.rehearsal.versions import lower_bounds, outcomes


def test_lower_bounds():
    required = [
        "torch>=2.10",
        "numpy",
        "tqdm>4.29.0",
        'shapely>=1.8,<9; extra == "cityscapes"',
        'ruff>=1; extra == "dev"',
    ]
    assert lower_bounds(required) == ["torch==2.10", "shapely==1.8"]


def test_outcomes__an_error_is_a_failure(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="0.1">'
        '<testcase name="test_a"><failure message="assert 0"/></testcase></testsuite></testsuites>'
    )
    assert outcomes(report) == {"passed": 4, "failed": 3, "skipped": 3}
